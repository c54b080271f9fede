"""What was measured with version 0.1 is read with the names that metrics have now."""

from __future__ import annotations

import json
from pathlib import Path

from measuring import read_numbers

from loss_attention.evaluation.metric import OLD_NAMES, current_comparison

ROOT = Path(__file__).parents[2]


def test_a_comparison_has_todays_names_and_its_values() -> None:
    text = (ROOT / "tests" / "fixtures" / "0.1" / "comparison.json").read_text(encoding="utf-8")
    old, found = json.loads(text), current_comparison(json.loads(text))
    assert found["metrics"]["energy_pointing_game"]["label"] == "energy pointing game (EPG)"
    assert found["mosaics"] == {"grid_pointing_2x2": 3, "grid_pointing_3x3": 1}
    for method, before in old["methods"].items():
        now = found["methods"][method]
        assert now["trivial_baseline"] == before["floor"]
        assert list(now["scores"].values()) == list(before["figures"].values())
        assert set(now["scores"]) == set(found["metrics"])
    names = {*found["metrics"], *(metric["label"] for metric in found["metrics"].values())}
    assert not set(OLD_NAMES) & names
    assert current_comparison(found) == found


def test_the_results_of_the_repository_are_read() -> None:
    for path in sorted((ROOT / "results").glob("*.json")):
        for run in read_numbers(path).get("runs", []):
            assert not set(OLD_NAMES) & {metric["name"] for metric in run.get("metrics", ())}
            for metric in run.get("metrics", ()):
                assert not set(OLD_NAMES) & {metric["label"], metric["group"], *metric["baselines"]}
