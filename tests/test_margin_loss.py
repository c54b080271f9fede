"""The margin loss of dynamic routing: by hand, against its equation, and its gradients."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch

from loss_attention.losses import loss_for, margin_loss, multi_label_loss, single_label_loss
from loss_attention.prediction import ImagePrediction


def margin_case() -> tuple[ImagePrediction, torch.Tensor, torch.Tensor]:
    """Lengths below, between and above the margins, for class indices and for 0/1 labels."""
    lengths = torch.tensor([[0.95, 0.05, 0.3], [0.5, 0.8, 0.1], [0.2, 0.99, 0.91]]).double()
    return ImagePrediction(lengths.logit()), torch.tensor([0, 2, 1]), torch.eye(3)[[0, 2, 1]]


def test_the_margin_loss_by_hand() -> None:
    prediction, labels, _ = margin_case()
    # In order: 0.3 - 0.1; 0.5 - 0.1, 0.8 - 0.1 and 0.9 - 0.1; 0.2 - 0.1 and 0.91 - 0.1.
    expected = (0.5 * 0.2**2 + 0.5 * 0.4**2 + 0.5 * 0.7**2 + 0.8**2 + 0.5 * (0.1**2 + 0.81**2)) / 3
    assert margin_loss(prediction, labels).item() == pytest.approx(expected)


def test_the_margin_loss_takes_any_number_of_labels() -> None:
    prediction, labels, matrix = margin_case()
    assert margin_loss(prediction, matrix).item() == margin_loss(prediction, labels).item()
    several = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1]])
    expected = reference.margin_loss(prediction.logits.sigmoid().numpy(), several.numpy())
    assert margin_loss(prediction, several).item() == pytest.approx(expected)
    assert margin_loss(prediction, several.bool()).item() == pytest.approx(expected)


def test_the_margin_loss_has_the_gradient_of_its_equation() -> None:
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 2, (4, 3))
    margin_loss(ImagePrediction(logits), labels).backward()
    assert logits.grad is not None
    table = logits.detach().numpy().copy()
    for place in np.ndindex(table.shape):
        sums = []
        for step in (1e-6, -1e-6):
            moved = table.copy()
            moved[place] += step
            sums.append(reference.margin_loss(1 / (1 + np.exp(-moved)), labels.numpy()))
        slope = (sums[0] - sums[1]) / 2e-6
        assert logits.grad[place].item() == pytest.approx(slope, abs=1e-8)


def test_the_margin_loss_names_what_it_cannot_take() -> None:
    prediction, labels, matrix = margin_case()
    with pytest.raises(ValueError, match=r"no patch regulariser, so gamma is 0, got 0\.1"):
        margin_loss(prediction, labels, gamma=0.1)
    with pytest.raises(ValueError, match="label 3 is outside the 3 classes"):
        margin_loss(prediction, labels + 1)
    with pytest.raises(ValueError, match=r"in \[0, 1\], got 2\.0"):
        margin_loss(prediction, 2 * matrix)


def test_each_objective_has_its_loss() -> None:
    assert loss_for("margin", multi_label=False) is loss_for("margin", multi_label=True)
    assert loss_for("margin", multi_label=True) is margin_loss
    assert loss_for("cross-entropy", multi_label=False) is single_label_loss
    assert loss_for("cross-entropy", multi_label=True) is multi_label_loss
