"""Explanations against a case small enough to work out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from loss_attention.attention import pool_patches
from loss_attention.explanation import explain_prediction
from loss_attention.geometry import PatchGrid
from loss_attention.prediction import (
    CapsulePrediction,
    ImagePrediction,
    PatchPrediction,
    RoutedPrediction,
    on_cpu,
)
from loss_attention.quantities import MARGIN, ROUTING_WEIGHT

# Two windows of 2 x 2 pixels, one column apart, on an image of 2 x 3.
GRID = PatchGrid(rows=1, columns=2, window=2, stride=1, height=2, width=3)
PATCH_LOGITS = torch.tensor([[[4.0, -8.0], [0.0, 2.0]], [[1.0, 3.0], [5.0, 7.0]]])
WEIGHTS = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
LOGITS = torch.tensor([[1.0, -0.5], [1.0, 3.0]])
EVIDENCE = [[[1.0, -2.0], [0.0, 1.5]], [[1.0, 3.0], [0.0, 0.0]]]


def prediction(selection: float = 0.0) -> PatchPrediction:
    return PatchPrediction(LOGITS, PATCH_LOGITS, WEIGHTS, GRID, selection)


def test_pooling_and_evidence_add_up() -> None:
    assert pool_patches(PATCH_LOGITS, WEIGHTS).tolist() == LOGITS.tolist()
    assert prediction().evidence.tolist() == EVIDENCE
    assert prediction().evidence.sum(dim=1).tolist() == LOGITS.tolist()


def test_selected_patches_are_those_above_the_share_of_the_selection() -> None:
    assert prediction().selected.tolist() == [[True, True], [True, False]]
    # 0.5 / 2 patches = 0.25, and the first weight is not above it
    assert prediction(selection=0.5).selected.tolist() == [[False, True], [True, False]]


def test_the_predicted_class_is_explained_unless_told_otherwise() -> None:
    explanation = explain_prediction(prediction())
    assert explanation.target.tolist() == [0, 1]
    assert explanation.logits.tolist() == LOGITS.tolist()
    assert explanation.evidence.tolist() == EVIDENCE
    assert explanation.target_evidence.tolist() == [[1.0, 0.0], [3.0, 0.0]]
    assert explanation.patch_weights.tolist() == WEIGHTS.tolist()
    assert explanation.grid == GRID
    assert explanation.shown is MARGIN
    # Evidence 1 and 0 for class 0, and 3 and 0 for class 1; the middle column lies in both. Of the
    # other class it is -2 and 1.5, and 1 and 0.
    assert explanation.target_margin.tolist() == [[3.0, -1.5], [2.0, 0.0]]
    assert explanation.heat_maps.tolist() == [[[3.0, 1.5, 0.0]] * 2, [[2.0, 1.0, 0.0]] * 2]
    evidence = explain_prediction(prediction(), map="evidence")
    assert evidence.shown == ("evidence", "logit units", True)
    assert evidence.heat_maps.tolist() == [[[1.0, 0.5, 0.0]] * 2, [[3.0, 1.5, 0.0]] * 2]
    assert explanation.boxes.tolist() == [[0, 0, 3, 2], [0, 0, 2, 2]]


def test_one_class_or_one_an_image_can_be_explained() -> None:
    one = explain_prediction(prediction(), 1, map="evidence")
    assert one.target.tolist() == [1, 1]
    assert one.heat_maps[0].tolist() == [[-2.0, -0.25, 1.5]] * 2
    each = explain_prediction(prediction(), torch.tensor([1, 0]), map="evidence")
    assert each.target.tolist() == [1, 0]
    assert each.heat_maps[:, 0].tolist() == [[-2.0, -0.25, 1.5], [1.0, 0.5, 0.0]]


def test_where_nothing_is_selected_there_is_no_box() -> None:
    explanation = explain_prediction(prediction(selection=1.6))  # above 0.8: only weight 1.0
    assert explanation.boxes[0].isnan().all()
    assert explanation.boxes[1].tolist() == [0, 0, 2, 2]


def test_probabilities_are_a_softmax_or_sigmoids() -> None:
    single = explain_prediction(prediction()).probabilities[0]
    total = math.exp(1.0) + math.exp(-0.5)
    assert single.tolist() == pytest.approx([math.exp(1.0) / total, math.exp(-0.5) / total])
    multi = explain_prediction(prediction(), competing=False).probabilities[0]
    assert multi.tolist() == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.exp(0.5))])


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize(
    ("target", "named"),
    [
        (2, r"\[2, 2\]"),
        (-1, r"\[-1, -1\]"),
        (torch.tensor([0, 5]), r"\[0, 5\]"),
        (torch.tensor([0]), r"\[0\]"),
        (torch.tensor([0.0, 1.0]), r"\[0\.0, 1\.0\]"),
    ],
)
def test_a_target_that_is_no_class_is_named(target: int | torch.Tensor, named: str) -> None:
    with pytest.raises(ValueError, match=rf"2 class indices in 0\.\.1, got {named}"):
        explain_prediction(prediction(), target)


def test_a_prediction_without_patches_has_nothing_to_show() -> None:
    with pytest.raises(ValueError, match="no patches") as caught:
        explain_prediction(ImagePrediction(LOGITS))
    assert "\n" not in str(caught.value)


def test_evidence_of_capsules_is_theirs_and_not_the_patches_weight() -> None:
    # One image, two capsules in each of two patches, two classes.
    capsule_logits = torch.tensor([[[[1.0, 2.0], [4.0, 0.0]], [[3.0, -1.0], [8.0, 8.0]]]])
    capsule_weights = torch.tensor([[[0.5, 0.25], [0.25, 0.0]]])
    found = CapsulePrediction(
        torch.tensor([[2.25, 0.75]]),
        capsule_logits.sum(dim=1),
        torch.tensor([[0.9, 0.1]]),
        GRID,
        0.0,
        capsule_logits,
        capsule_weights,
    )
    # 0.5 x 1 + 0.25 x 3 and 0.5 x 2 - 0.25 x 1; then 0.25 x 4 and 0.
    assert found.evidence.tolist() == [[[1.25, 0.75], [1.0, 0.0]]]
    assert found.evidence.sum(dim=1).tolist() == found.logits.tolist()
    explanation = explain_prediction(found, map="evidence")
    assert explanation.evidence is not None
    assert explanation.evidence.tolist() == found.evidence.tolist()
    assert explanation.heat_maps.tolist() == [[[1.25, 1.125, 1.0]] * 2]


def routed(selection: float = 0.0) -> RoutedPrediction:
    return RoutedPrediction(
        logits=torch.tensor([[0.0, math.log(3.0)]]),
        votes=torch.tensor([[[0.25, -0.5], [0.75, 2.0]]]),
        class_weights=torch.tensor([[[0.875, 0.25], [0.125, 0.75]]]),
        patch_weights=torch.tensor([[0.25, 0.75]]),
        grid=GRID,
        selection=selection,
    )


def test_without_evidence_the_weights_of_the_class_are_shown_and_named() -> None:
    explanation = explain_prediction(routed(selection=1.0))
    assert explanation.evidence is None
    assert explanation.target_evidence is None
    assert explanation.shown is ROUTING_WEIGHT
    assert not explanation.shown.signed
    assert explanation.target.tolist() == [1]
    assert explanation.heat_maps.tolist() == [[[0.25, 0.5, 0.75]] * 2]
    assert explanation.selected.tolist() == [[False, True]]
    assert explanation.boxes.tolist() == [[1, 0, 3, 2]]
    # Of another class: its weights, and what is selected by them.
    other = explain_prediction(routed(selection=1.0), 0)
    assert other.patch_weights.tolist() == [[0.875, 0.125]]
    assert other.heat_maps.tolist() == [[[0.875, 0.5, 0.125]] * 2]
    assert other.boxes.tolist() == [[0, 0, 2, 2]]


def test_probabilities_of_class_capsules_are_shares_of_squares_or_lengths() -> None:
    # Inputs of length 1 and 3 ** 0.5: squashed to 1/2 and 3/4, and a quarter of 1 + 3 is 1.
    single = explain_prediction(routed()).probabilities[0]
    assert single.tolist() == pytest.approx([0.25, 0.75])
    multi = explain_prediction(routed(), competing=False).probabilities[0]
    assert multi.tolist() == pytest.approx([0.5, 0.75])
    assert routed().lengths[0].tolist() == pytest.approx([0.5, 0.75])


def test_predictions_of_every_kind_move_as_they_are() -> None:
    for one in (ImagePrediction(LOGITS), prediction(selection=0.5), routed()):
        moved = on_cpu(one)
        assert type(moved) is type(one)
        assert vars(moved) == vars(one)  # already there: the very tensors
