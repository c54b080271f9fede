"""Files of version 0.1, whose metrics and trivial baselines have other names, are still read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evaluation.canned import BASELINES, LOCAL

from loss_attention.errors import InputError
from loss_attention.evaluation.metric import OLD_NAMES, Evaluation
from loss_attention.paper.trainings import Ledger
from loss_attention.training.finished import object_threshold
from loss_attention.training.run_folder import RunFolder

STORED = Path(__file__).parents[1] / "fixtures" / "0.1"
SEVERAL_LABELS = [
    "mean_average_precision",
    "mean_average_precision_voc2007",
    "exact_match",
    "expected_calibration_error",
]


def stored(name: str) -> Any:
    return json.loads((STORED / name).read_text(encoding="utf-8"))


def test_an_evaluation_has_todays_names_and_its_values() -> None:
    old, found = stored("evaluation.json"), Evaluation.from_json(stored("evaluation.json"))
    assert [metric.value for metric in found.metrics] == [m["value"] for m in old["measures"]]
    names = [metric.name for metric in found.metrics]
    known = [name for name in LOCAL if name != "gt_known_loc_small"]  # younger than 0.1
    # As is the map that can be empty.
    local = ["pxap" if name == "empty_maps" else name for name in known]
    assert names == [*SEVERAL_LABELS, *local]
    assert not set(OLD_NAMES) & set(names)
    for metric, before in zip(found.metrics, old["measures"], strict=True):
        assert list(metric.baselines.values()) == list(before["floors"].values())
        assert not set(OLD_NAMES) & {metric.label, metric.group, *metric.baselines}
        assert metric.name not in local or list(metric.baselines) == BASELINES
    assert found["top1_loc_spread"].label == "Top-1 Loc (spread)"
    assert found["top1_loc_heat_map"].label == "Top-1 Loc (heat map)"
    assert list(found.thresholds.values()) == list(old["thresholds"].values())
    assert set(found.thresholds) <= set(names)
    assert set(found.held_out) <= set(names)
    assert Evaluation.from_json(found.to_json()) == found


def test_json_of_the_first_version_is_read() -> None:
    measure = {"name": "box_ap", "label": "box AP", "value": 0.5, "floors": {"whole image": 0.25}}
    rest = {"unit": "", "higher_is_better": True, "range": [0.0, 1.0]}
    old = {"split": "test", "images": 7, "boxed_images": 5, "measures": [{**measure, **rest}]}
    found = Evaluation.from_json({"format_version": 1, **old})
    assert (found.value("gt_known_loc_patches"), found["gt_known_loc_patches"].group) == (
        0.5,
        "localisation: boxes",
    )
    assert (found.images, found.thresholds, found.held_out) == (7, {}, {})


def test_a_class_may_be_called_what_a_metric_was() -> None:
    old = stored("evaluation.json")
    old["per_class"] = {"average_precision": {"edges": 0.5, "box_ap": 0.25}}
    assert Evaluation.from_json(old).per_class == old["per_class"]


@pytest.mark.parametrize("thresholds", [3, {"object_ap": 0.5}, None])
def test_what_is_damaged_is_refused(thresholds: object) -> None:
    old = stored("evaluation.json") | {"measures": [{"name": 3}], "thresholds": thresholds}
    with pytest.raises(InputError, match="not an evaluation that loss-attention wrote"):
        Evaluation.from_json(old)


def test_explain_finds_the_threshold_of_objects(tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text((STORED / "evaluation.json").read_text())
    expected = stored("evaluation.json")["thresholds"]["object_ap"]
    assert object_threshold(RunFolder(tmp_path)) == expected


def test_a_ledger_has_todays_names_and_its_values(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    path.write_text((STORED / "ledger.json").read_text())
    ledger = Ledger(path)
    before, record = stored("ledger.json")["records"][1], ledger.get("made-up", 1)
    assert record is not None
    assert record.metrics["gt_known_loc_patches"] == before["measures"]["box_ap"]
    assert list(record.metrics.values()) == list(before["measures"].values())
    assert list(record.baselines["gt_known_loc_patches"]) == BASELINES
    assert (
        record.baselines["gt_known_loc_patches"]["edges"]
        == (before["floors"]["box_ap"]["edge detector"])
    )
    assert not set(OLD_NAMES) & {*record.metrics, *record.baselines}
    ledger.add(record)
    assert Ledger(path).seeds("made-up") == ledger.seeds("made-up")
    text = path.read_text()
    assert '"measures"' not in text
    assert "box_ap" not in text
