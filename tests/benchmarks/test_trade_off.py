"""How local a patch can be: what is trained, what is not trained again, the table and picture."""

from __future__ import annotations

from pathlib import Path

import measuring
import pytest
import trade_off
from benchmarks.stand_ins import write_json
from measuring import Finished
from PIL import Image


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The commands that are run; they write what the real ones would."""
    seen: list[tuple[str, ...]] = []

    def timed(_command: str, *words: str) -> Finished:
        seen.append(words)
        out = Path(words[words.index("--out") + 1])
        seed = int(words[words.index("--seed") + 1])
        names = [name for name in trade_off.METRICS.values() if name != "window"]
        metrics = [{"name": name, "value": 0.9 + seed / 100} for name in names]
        locality = {"images": 64, "heaviest": {"window": 16}}
        write_json(out / "evaluation.json", metrics=metrics, locality=locality)
        return Finished(1.0, 1.0, "")

    monkeypatch.setattr(measuring, "timed", timed)
    return seen


def test_networks_are_trained_once_and_drawn(tmp_path: Path, commands) -> None:
    (tmp_path / "results").mkdir()
    words = ["--seeds", "2", "--only", "wider windows", "ResNet18", "--runs", str(tmp_path / "r")]
    given = trade_off.parsed([*words, "--out", str(tmp_path / "results")])
    written = trade_off.measure(given)
    assert [path.name for path in written] == ["trade-off.json", "trade-off.md", "trade-off.png"]
    assert len(commands) == 4
    command = "python benchmarks/trade_off.py --seeds 2 --only 'wider windows' ResNet18"
    assert f"`{command}`" in written[1].read_text()
    assert commands[0][:4] == ("train", "digits", "--patch-kernel", "5")
    trade_off.measure(given)
    assert len(commands) == 4
    text = written[1].read_text(encoding="utf-8")
    assert "| wider windows | 0.905 (0.900 to 0.910) |" in text
    assert (
        "| 16 (16 to 16) | 1 (1 to 1) | `loss-attention train digits --patch-kernel 5 --seed 0` |"
        in text
    )
    assert str(tmp_path) not in text
    with Image.open(written[2]) as picture:
        assert picture.size[0] > 600
