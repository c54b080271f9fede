"""What the table of guidance runs, and how it is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import guiding
import photos
import pytest
from benchmarks.stand_ins import write_json
from measuring import Finished


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The commands that are run; they write what the real ones would."""
    seen: list[tuple[str, ...]] = []

    def timed(_command: str, *words: str, **_: object) -> Finished:
        seen.append(words)
        evaluated = words[0] == "evaluate"
        out = Path(words[1] if evaluated else words[words.index("--out") + 1])
        guided = {"guided_by": "90 boxes"} if "guide-0.01" in out.name else {}
        baselines = {"centred box": 0.1, "uniform": None}
        metrics = [
            {"name": "accuracy", "value": 0.9, "baselines": {}},
            {"name": "gt_known_loc_small", "value": 0.2 + 0.1 * evaluated, "baselines": baselines},
        ]
        map = {"map": words[-1] if evaluated else "evidence"}
        if not evaluated:
            write_json(out / "run.json", source="tiny", parameters=1, train_seconds=2.0)
        write_json(out / "evaluation.json", images=5, metrics=metrics, **map, **guided)
        return Finished(3.0, 100.0, "")

    monkeypatch.setattr(photos, "timed", timed)
    monkeypatch.setattr(guiding, "timed", timed)
    monkeypatch.setattr(photos, "drawn_classes", lambda *_: ["cat", "dog"])
    return seen


@pytest.fixture
def runs(tmp_path: Path, commands) -> list[dict[str, Any]]:
    (tmp_path / "data" / "tiny-imagenet-200").mkdir(parents=True)
    place = photos.Place(tmp_path / "data", tmp_path / "lite0.pth", tmp_path / "runs", 5)
    given = guiding.parsed(
        ["--data-root", str(place.data_root), "--guide", "0.5", "--image-size", "128"]
    )
    found = [guiding.measured(fraction, 0, place, given) for fraction in (0.0, 0.01)]
    count = len(commands)
    assert guiding.measured(0.01, 0, place, given)["maps"] == found[1]["maps"]
    assert len(commands) == count  # nothing is done again
    return found


def test_each_fraction_is_trained_and_its_maps_measured(runs, commands) -> None:
    assert [words[0] for words in commands] == ["train", "evaluate"] * 2
    first, second = (words for words in commands if words[0] == "train")
    assert "--guide" not in first
    assert first[first.index("--image-size") + 1] == "128"
    assert second[second.index("--guide") + 1] == "0.5"
    assert second[second.index("--guide-fraction") + 1] == "0.01"
    for run in runs:
        assert run["maps"]["evidence"]["metrics"]["gt_known_loc_small"] == 0.2
        assert run["maps"]["margin"]["metrics"]["gt_known_loc_small"] == pytest.approx(0.3)


def test_the_page_says_in_each_row_what_guided(runs) -> None:
    numbers = {
        "command": "python benchmarks/guiding.py",
        "measured": "2026-01-01",
        "hardware": {"cpu": "a CPU", "cores": 2},
        "versions": {"torch": "2"},
        "vector_units": "AVX2",
        "weight": 0.5,
        "runs": runs,
    }
    text = guiding.page(numbers)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    guided = [line for line in rows if line.startswith("| boxes of 1%")]
    assert len(guided) == 3
    assert all("guided by 90 boxes" in line for line in guided)
    assert any(line.split("|")[-2].strip() == "0.300" for line in guided)
    assert any("trivial baseline: centred box" in line and "0.100" in line for line in rows)
    assert str(Path.home()) not in text
