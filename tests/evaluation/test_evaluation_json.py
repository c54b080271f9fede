"""An evaluation as JSON, written and read."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from loss_attention.errors import InputError
from loss_attention.evaluation import Evaluation, evaluate


def test_json_round_trip(worked) -> None:
    model, data, train = worked
    found = evaluate(model, data, train=train)
    text = json.dumps(found.to_json(), allow_nan=False)
    assert Evaluation.from_json(json.loads(text)) == found
    assert Evaluation.from_json(json.loads(text)).per_image is None
    assert found.per_class["accuracy"] == {"class 0": 2 / 3, "class 1": 1.0}
    assert json.loads(text)["measures"][5] == {
        "name": "patch_f",
        "label": "patch F",
        "value": found.value("patch_f"),
        "unit": "",
        "higher_is_better": True,
        "range": [0, 1],
        "floors": dict(found["patch_f"].floors),
        "group": "where: patches and pixels",
    }
    assert set(json.loads(text)) == {
        "format_version",
        "split",
        "images",
        "boxed_images",
        "measures",
        "per_class",
        "thresholds",
        "held_out",
    }


def test_undefined_values_are_null_in_json(worked) -> None:
    model, data, _ = worked
    assert data.boxes is not None
    undefined = evaluate(model, dataclasses.replace(data, box_labels=torch.full((5, 2), -1)))
    text = json.dumps(undefined.to_json(), allow_nan=False)
    assert Evaluation.from_json(json.loads(text)) == undefined
    assert json.loads(text)["measures"][-1]["value"] is None


def test_json_of_the_first_version_is_read() -> None:
    measure = {"name": "box_ap", "label": "box AP", "value": 0.5, "floors": {"whole image": 0.25}}
    rest = {"unit": "", "higher_is_better": True, "range": [0.0, 1.0]}
    old = {"split": "test", "images": 7, "boxed_images": 5, "measures": [{**measure, **rest}]}
    found = Evaluation.from_json({"format_version": 1, **old})
    assert (found.value("box_ap"), found["box_ap"].group) == (0.5, "where: boxes")
    assert (found.images, found.thresholds, found.held_out) == (7, {}, {})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda values: {},
        lambda values: {**values, "measures": [{"name": "accuracy"}]},
        lambda values: {**values, "measures": 3},
        lambda values: {**values, "extra": 3},
    ],
)
def test_json_that_is_no_evaluation(worked, spoil) -> None:
    model, data, _ = worked
    with pytest.raises(InputError, match="not an evaluation that loss-attention wrote"):
        Evaluation.from_json(spoil(evaluate(model, data).to_json()))


def test_json_of_a_newer_version(worked) -> None:
    model, data, _ = worked
    with pytest.raises(InputError, match="format 4, this version reads up to 3"):
        Evaluation.from_json({**evaluate(model, data).to_json(), "format_version": 4})
