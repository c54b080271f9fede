"""Centred logits, and deletion against Grad-CAM: what is run once, and the tables of it."""

from __future__ import annotations

from pathlib import Path

import centring
import deletion
import measuring
import pytest
from benchmarks.stand_ins import write_json
from measuring import Finished

CURVE = "deletion_mean_patches"
EPG = {("centred", 0): 0.5, ("centred", 1): 0.75, ("printed", 0): 0.25, ("printed", 1): 0.75}


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The commands that are run; they write what the real ones would."""
    seen: list[tuple[str, ...]] = []

    def score(value: float, difference: dict | None = None) -> dict:
        found = {"value": value, "standard_error": 0.1, "count": 5}
        return found | ({} if difference is None else {"difference": difference})

    def timed(_command: str, *words: str) -> Finished:
        seen.append(words)
        out = Path(words[words.index("--out") + 1])
        if words[0] == "train":
            accuracy = {"name": "accuracy", "value": 0.99 + out.name.count("printed") / 1000}
            write_json(out / "evaluation.json", metrics=[accuracy], images=2000)
            return Finished(1.0, 1.0, "")
        run = Path(words[1]).name
        epg = EPG["printed" if "printed" in run else "centred", int(run[-1])]
        scores = {name: score(epg) for name in centring.METRICS.values()}
        told = {"value": -0.02, "interval": [-0.03, -0.01], "told_apart": True}
        open_ = {"value": 0.01, "interval": [-0.01, 0.03], "told_apart": False}
        curves = {"margin": score(0.3, told), "grad-cam": score(0.32)}
        names = (*centring.METHODS, *deletion.METHODS)
        methods = {name: {"scores": scores | {CURVE: score(0.33, open_)}} for name in names}
        methods |= {name: {"scores": scores | {CURVE: one}} for name, one in curves.items()}
        metrics = {CURVE: {"label": "deletion, mean, patches"}}
        write_json(out / "comparison.json", images=5, metrics=metrics, methods=methods)
        return Finished(1.0, 1.0, "")

    for module in (centring, measuring):
        monkeypatch.setattr(module, "timed", timed)
    return seen


def asked(tmp_path: Path, seeds: int):
    (tmp_path / "results").mkdir(exist_ok=True)
    words = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "results")]
    return centring.options("What is measured.", seeds, 5).parse_args(words)


def test_the_range_over_seeds_is_told_of_each_map(tmp_path: Path, commands) -> None:
    given = asked(tmp_path, 2)
    pages = centring.measure(given)
    assert [words[0] for words in commands] == ["train", "compare"] * 4
    assert "--no-centre" in commands[2]
    centring.measure(given)
    assert len(commands) == 8
    text = pages[1].read_text(encoding="utf-8")
    assert "| centred logits | evidence | 0.625 (0.500 to 0.750; 0.250) |" in text
    assert "| Eq. 5 as printed | margin | 0.500 (0.250 to 0.750; 0.500) |" in text
    assert "| Eq. 5 as printed | 0.9910 (0.9910 to 0.9910) | `loss-attention" in text
    assert str(tmp_path) not in text


def test_differences_from_grad_cam_have_their_intervals(tmp_path: Path, commands) -> None:
    given = asked(tmp_path, 1)
    centring.measure(given)
    commands.clear()
    pages = deletion.measure(given)
    assert [words[0] for words in commands] == ["compare"]  # the network is there
    deletion.measure(given)
    assert len(commands) == 1
    text = pages[1].read_text(encoding="utf-8")
    metric = "deletion, mean, patches: lower is better"
    assert f"| {metric} | margin | **-0.020 (-0.030 to -0.010)** |" in text
    assert f"| {metric} | contrast | +0.010 (-0.010 to +0.030) |" in text
    assert f"| {metric} | grad-cam | 0.320 |" in text
    assert "| margin | 0.500 |" in text
