"""results/reliability.md: every part with its counts and what it stands on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fuzzing
from fuzz.harness import Tried
from fuzz.judging import Outcome
from pages import write_summary
from reliability import keep_part

SIGNALS: dict[str, Any] = {
    "title": "Signals",
    "about": "A run gets a signal in its second epoch.",
    "command": "python benchmarks/reliability.py signals",
    "seeds": [0, 1],
    "rows": [{"what": "SIGTERM", "tried": 1200, "good": 1199}],
}


def test_parts_are_kept_side_by_side_each_with_what_it_stands_on(tmp_path: Path) -> None:
    outcomes = (Outcome("ok", seconds=0.5), Outcome("told", "a line", peak=3 * 2**20))
    tried = [Tried("csv", 7, k, outcome) for k, outcome in enumerate((*outcomes, Outcome("slow")))]
    keep_part("signals", SIGNALS | {"rows": []}, tmp_path)
    keep_part("fuzz", fuzzing.fuzz_part({"csv": tried, "zip": tried[:2]}, seed=7), tmp_path)
    page = keep_part("signals", SIGNALS, tmp_path).read_text()
    assert "| Signals | 1,200 | 1,199 |\n| Hostile files | 5 | 4 |" in page
    assert (
        "| csv | 3 | 2 | 1 | 1 | 0.5 | 3 |\n| zip | 2 | 2 | 1 | 1 | 0.5 | 3 |\n| all | 5 | 4 |"
        in page
    )
    assert "`python benchmarks/reliability.py signals`, seeds 0, 1. Measured 20" in page
    assert "`python benchmarks/fuzzing.py --keep`, seed 7. Measured 20" in page
    for part in json.loads((tmp_path / "reliability.json").read_text())["parts"].values():
        assert part["hardware"]["vector_units"]
        assert f"torch {part['versions']['torch']}" in page
    write_summary(tmp_path)
    assert "1,203 of 1,205 ended as they should" in (tmp_path / "README.md").read_text()
