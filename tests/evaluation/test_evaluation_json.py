"""An evaluation as JSON, written and read."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from loss_attention.errors import InputError
from loss_attention.evaluation.measuring import evaluate
from loss_attention.evaluation.metric import Evaluation


def test_json_round_trip(worked) -> None:
    model, data, train = worked
    found = evaluate(model, data, train=train)
    text = json.dumps(found.to_json(), allow_nan=False)
    assert Evaluation.from_json(json.loads(text)) == found
    assert Evaluation.from_json(json.loads(text)).per_image is None
    assert found.per_class["accuracy"] == {"class 0": 2 / 3, "class 1": 1.0}
    assert json.loads(text)["metrics"][5] == {
        "name": "patch_f1",
        "label": "patch F1",
        "value": found.value("patch_f1"),
        "unit": "",
        "higher_is_better": True,
        "range": [0, 1],
        "baselines": dict(found["patch_f1"].baselines),
        "group": "localisation: patches and pixels",
    }
    assert set(json.loads(text)) == {
        "format_version",
        "split",
        "images",
        "boxed_images",
        "masked_images",
        "metrics",
        "per_class",
        "thresholds",
        "held_out",
        "confusion",
        "map",
        "locality",
    }
    assert json.loads(text)["confusion"] == {
        "class 0": {"class 0": 2, "class 1": 1},
        "class 1": {"class 1": 2},
    }


def test_a_file_that_does_not_name_its_map_is_of_evidence(worked) -> None:
    model, data, _ = worked
    values = evaluate(model, data, map="margin").to_json()
    assert Evaluation.from_json(values).map == values.pop("map") == "margin"
    assert Evaluation.from_json({**values, "format_version": 4}).map == "evidence"


def test_undefined_values_are_null_in_json(worked) -> None:
    model, data, _ = worked
    assert data.boxes is not None
    undefined = evaluate(model, dataclasses.replace(data, box_labels=torch.full((5, 2), -1)))
    text = json.dumps(undefined.to_json(), allow_nan=False)
    assert Evaluation.from_json(json.loads(text)) == undefined
    assert json.loads(text)["metrics"][-1]["value"] is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda values: {},
        lambda values: {**values, "metrics": [{"name": "accuracy"}]},
        lambda values: {**values, "metrics": 3},
        lambda values: {**values, "extra": 3},
    ],
)
def test_json_that_is_no_evaluation(worked, spoil) -> None:
    model, data, _ = worked
    with pytest.raises(InputError, match="not an evaluation that loss-attention wrote"):
        Evaluation.from_json(spoil(evaluate(model, data).to_json()))


def test_json_of_a_newer_version(worked) -> None:
    model, data, _ = worked
    with pytest.raises(InputError, match="format 6, this version reads up to 5"):
        Evaluation.from_json({**evaluate(model, data).to_json(), "format_version": 6})
