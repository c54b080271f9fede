"""Images whose scores are worked out by hand."""

from __future__ import annotations

import pytest
import torch
from evaluation.canned import GRID, NONE, Canned, numbered, one_hot_logits

from loss_attention.data.sample import ImageSet
from loss_attention.prediction import PatchPrediction


@pytest.fixture
def worked() -> tuple[Canned, ImageSet, ImageSet]:
    """Five images of four patches, worked out by hand in `test_hand_worked_example`."""
    boxes = [
        [[0, 0, 8, 4], NONE],
        [[4, 4, 8, 8], [0, 0, 4, 4]],  # the second is of another class
        [NONE, NONE],  # nobody drew a box
        [[0, 0, 3, 8], NONE],
        [[0, 0, 8, 7], NONE],
    ]
    data = numbered(
        torch.tensor([0, 1, 0, 1, 0]),
        2,
        boxes=torch.tensor(boxes),
        box_labels=torch.tensor([[0, -1], [1, 0], [-1, -1], [1, -1], [0, -1]]),
    )
    patch_classes = [[0, 1, 0, 0], [1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 1]]
    weights = [[5, 3, 2, 0], [0, 0, 0, 10], [2.5] * 4, [4, 0, 6, 0], [2.5] * 4]
    answers = PatchPrediction(
        one_hot_logits([0, 1, 1, 1, 0]),
        one_hot_logits(patch_classes),
        torch.tensor(weights) / 10,
        GRID,
        selection=0.0,
    )
    # A training set of another size: its one box covers the middle quarter of either side.
    train = numbered(
        torch.tensor([0, 0, 1]),
        2,
        side=16,
        boxes=torch.tensor([[[6.0, 6.0, 10.0, 10.0]], [NONE], [NONE]]),
        box_labels=torch.tensor([[0], [-1], [-1]]),
    )
    return Canned(answers), data, train
