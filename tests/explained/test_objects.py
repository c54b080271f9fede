"""Several boxes an image, from explanations whose numbers were put in by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from explained.test_files import CLASSES, make_model, read, save_image
from PIL import Image

import loss_attention as la
from loss_attention.data.decoding import read_image, to_tensor
from loss_attention.errors import InputError
from loss_attention.explained.described import describe
from loss_attention.explained.files import explain_files
from loss_attention.explained.objects import FoundObject
from loss_attention.explanation import explain_prediction
from loss_attention.geometry import PatchGrid
from loss_attention.prediction import PatchPrediction
from loss_attention.report.drawing import OBJECT
from loss_attention.training.finished import object_threshold
from loss_attention.training.run_folder import RunFolder

GRID = PatchGrid(2, 4, window=4, stride=2, height=6, width=10)
SAID = torch.tensor(
    [
        [  # of one class per row, for the 2 x 4 patches: two objects, one, none
            [4.0, 1.0, 0.0, 2.0, -5.0, 0.0, 0.0, 1.0],
            [0.0, 0.0, 2.0, 2.0, 0.0, 0.0, 0.0, -1.0],
            [-1.0, -1.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        ],
        [
            [-2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -2.0],
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.5],
        ],
    ]
).transpose(1, 2)


def prediction() -> PatchPrediction:
    """Every patch has an eighth of the weight, so its logit is eight times what it adds."""
    return PatchPrediction(SAID.sum(dim=1), 8 * SAID, torch.full((2, 8), 1 / 8), GRID, 0.5)


def test_objects_of_every_likely_class_by_hand() -> None:
    explanation = explain_prediction(prediction(), competing=False)
    first, second = la.find_objects(explanation, 0.0)
    sure = torch.sigmoid(torch.tensor([3.0, 3.0, 1.5])).double().tolist()
    assert [(one.class_index, one.box) for one in first] == [
        (1, (4, 0, 10, 4)),
        (0, (0, 0, 6, 4)),
        (0, (6, 0, 10, 6)),
    ]
    assert [one.share for one in first] == pytest.approx([1, 5 / 8, 3 / 8])
    assert [one.score for one in first] == pytest.approx(
        [sure[1], sure[0] * 5 / 8, sure[0] * 3 / 8]
    )
    assert [(one.class_index, one.box) for one in second] == [(2, (4, 2, 10, 6))]
    assert second[0].score == pytest.approx(sure[2])


def test_a_higher_threshold_leaves_weaker_patches_out() -> None:
    explanation = explain_prediction(prediction(), competing=False)
    first, second = la.find_objects(explanation, 0.6)
    assert [(one.class_index, one.box) for one in first] == [(1, (4, 0, 10, 4)), (0, (0, 0, 4, 4))]
    assert first[1].share == pytest.approx(4 / 8)
    assert [one.box for one in second] == [(4, 2, 8, 6)]


def test_the_class_asked_for_is_looked_for_however_unlikely() -> None:
    first, second = la.find_objects(explain_prediction(prediction(), 2, competing=False), 0.0)
    assert {one.class_index for one in first} == {0, 1}  # nothing speaks for 2
    assert {one.class_index for one in second} == {2}
    first, second = la.find_objects(explain_prediction(prediction(), 0), 0.0)
    assert {one.class_index for one in first} == {0}  # a softmax: neither is above a half
    assert {one.class_index for one in second} == {2}


@pytest.mark.parametrize("threshold", [-0.1, 1.0, float("nan")])
def test_thresholds_that_cannot_be(threshold: float) -> None:
    with pytest.raises(InputError, match="threshold must be at least 0 and below 1, got"):
        la.find_objects(explain_prediction(prediction()), threshold)


def test_less_likely_classes_are_looked_for_where_asked() -> None:
    explanation = explain_prediction(prediction(), competing=False)
    _, second = la.find_objects(explanation, 0.0, least_probability=0.1)
    assert {one.class_index for one in second} == {2}  # nothing speaks for 0 and 1
    first, _ = la.find_objects(explanation, 0.0, least_probability=0.99)
    assert {one.class_index for one in first} == {0}  # the explained one


def test_an_impossible_class_has_shares_all_the_same() -> None:
    sure = prediction()
    sure = replace(sure, logits=sure.logits + torch.tensor([-200.0, 0.0, 0.0]))
    first, _ = la.find_objects(explain_prediction(sure, 0), 0.0)
    found = [one for one in first if one.class_index == 0]
    assert [one.score for one in found] == [0, 0]
    assert [one.share for one in found] == pytest.approx([5 / 8, 3 / 8])


def test_objects_on_the_border_are_not_in_the_original() -> None:
    explanation = explain_prediction(prediction())
    found = [
        FoundObject(0, 0.5, 0.5, (0.0, 0.0, 4.0, 2.0)),
        FoundObject(1, 0.4, 0.4, (0.0, 0.0, 4.0, 4.0)),
    ]
    # 20 x 4 pixels become 10 x 2, two rows down.
    said = describe(explanation, 0, CLASSES, (20, 4), "pad", found)["objects"]["found"]
    assert [(one["class"], one["box"]) for one in said] == [("dog", [0, 0, 8, 4])]


def test_a_head_without_evidence_finds_none(tmp_path: Path) -> None:
    model = make_model(head="capsule-dynamic-routing")
    assert la.find_objects(model.explain(torch.rand(1, 3, 24, 24))) is None
    summary = explain_files(model, [save_image(tmp_path / "a.png")], tmp_path / "out")
    assert read(summary.written[0])["objects"] is None


def test_the_json_lists_them_in_pixels_of_the_original(tmp_path: Path) -> None:
    model, file = make_model(), save_image(tmp_path / "a.png", (240, 48))
    found = read(explain_files(model, [file], tmp_path / "out", object_threshold=0.3).written[0])
    explanation = model.explain(to_tensor(read_image(file, 3), (24, 24))[None])
    (expected,) = la.find_objects(explanation, 0.3)
    assert len(expected) >= 1
    assert found["objects"]["threshold"] == 0.3
    for one, other in zip(found["objects"]["found"], expected, strict=True):
        assert one["class"] == CLASSES[other.class_index]
        assert one["box"] == (np.array(other.box) * [10, 2, 10, 2]).tolist()
        assert (one["score"], one["share"]) == pytest.approx((other.score, other.share))
    assert "objects: connected patches" in found["units"]
    with Image.open(tmp_path / "out" / "a.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert (pixels == OBJECT.colour).all(axis=1).any()


def test_a_run_uses_the_threshold_that_its_evaluation_chose(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert object_threshold(run) is None
    for thresholds, expected in (
        (None, None),
        ({}, None),
        ({"detection_ap50": 0.3}, 0.3),
        ({"detection_ap50": "all"}, None),
        ({"detection_ap50": 2.0}, None),
    ):
        (tmp_path / "evaluation.json").write_text(json.dumps({"thresholds": thresholds}))
        assert object_threshold(run) == expected
