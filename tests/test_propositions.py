"""The paper's two propositions: lower bounds of the losses by the products of its patches."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from loss_attention.attention import patch_weights, pool_patches
from loss_attention.losses import multi_label_loss, single_label_loss
from loss_attention.prediction import ImagePrediction

cases = st.tuples(
    st.integers(0, 2**32),  # seed
    st.integers(1, 8),  # patches
    st.integers(2, 6),  # classes
    st.floats(-3.0, 2.0),  # power of ten: from indifferent to very sure
    st.floats(0.0, 1.0),  # threshold
)


def draw(case: tuple[int, int, int, float, float]) -> tuple[Tensor, Tensor, torch.Generator]:
    """Random patch logits (M, K) and their weights (M,)."""
    seed, patches, classes, power, threshold = case
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(patches, classes, generator=generator, dtype=torch.float64) * 10**power
    return logits, patch_weights(logits.unsqueeze(0), threshold)[0], generator


def image_prediction(logits: Tensor, weights: Tensor) -> ImagePrediction:
    return ImagePrediction(pool_patches(logits.unsqueeze(0), weights.unsqueeze(0)))


@given(cases)
def test_proposition_1_bounds_the_cross_entropy(
    case: tuple[int, int, int, float, float],
) -> None:
    logits, weights, generator = draw(case)
    label = int(torch.randint(logits.shape[1], (), generator=generator))
    loss = single_label_loss(image_prediction(logits, weights), torch.tensor([label])).item()
    bound = reference.single_label_bound(logits.numpy(), weights.numpy(), label)
    assert loss >= bound * (1 - 1e-12)


@given(cases)
def test_proposition_2_bounds_the_binary_cross_entropy(
    case: tuple[int, int, int, float, float],
) -> None:
    logits, weights, generator = draw(case)
    labels = torch.randint(2, (1, logits.shape[1]), generator=generator)
    loss = multi_label_loss(image_prediction(logits, weights), labels).item()
    bound = reference.multi_label_bound(logits.numpy(), weights.numpy(), labels[0].numpy())
    assert loss >= bound * (1 - 1e-12)


def test_the_bounds_are_met_by_a_sure_and_right_image() -> None:
    """Both losses approach their bounds, so an inequality that holds says something."""
    logits = torch.tensor([[9.0, -9.0], [10.0, -10.0]], dtype=torch.float64)
    weights = patch_weights(logits.unsqueeze(0), 0.1)[0]
    prediction = image_prediction(logits, weights)
    single = single_label_loss(prediction, torch.tensor([0])).item()
    multi = multi_label_loss(prediction, torch.tensor([[1, 0]])).item()
    p, alpha = logits.numpy(), weights.numpy()
    assert single == pytest.approx(reference.single_label_bound(p, alpha, 0), rel=1e-3)
    assert multi == pytest.approx(reference.multi_label_bound(p, alpha, np.array([1, 0])), rel=1e-3)
