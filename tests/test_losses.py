"""Both losses and the ramp against Eqs. 1 to 3, 9 and 10, their gradients and extremes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from loss_attention.attention import patch_weights, pool_patches
from loss_attention.errors import InputError
from loss_attention.geometry import PatchGrid
from loss_attention.losses import (
    MOST_WEIGHT,
    Objective,
    balanced_weights,
    loss_for,
    multi_label_loss,
    ramp_up,
    single_label_loss,
)
from loss_attention.prediction import ImagePrediction, PatchPrediction


def predict(patch_logits: Tensor, weights: Tensor | None = None) -> PatchPrediction:
    """The prediction that a loss-attention model would make of these patch logits."""
    if weights is None:
        weights = patch_weights(patch_logits, threshold=0.1)
    grid = PatchGrid(1, patch_logits.shape[1], window=9, stride=4, height=9, width=9)
    logits = pool_patches(patch_logits.to(weights.dtype), weights)
    return PatchPrediction(logits, patch_logits, weights, grid, selection=0.0)


def random_case(seed: int = 0, batch: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Patch logits (B, 6, 4) in float64, class indices (B,) and 0/1 labels (B, 4)."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(batch, 6, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (batch,), generator=generator)
    matrix = torch.randint(2, (batch, 4), generator=generator)
    return logits, labels, matrix


@pytest.mark.parametrize("gamma", [0.0, 0.1, 2.0])
def test_single_label_loss_is_equation_9(gamma: float) -> None:
    logits, labels, _ = random_case()
    prediction = predict(logits)
    one_hot = np.eye(4)[labels.numpy()]
    expected = reference.single_label_loss(
        prediction.logits.numpy(), logits.numpy(), prediction.patch_weights.numpy(), one_hot, gamma
    )
    assert single_label_loss(prediction, labels, gamma).item() == pytest.approx(expected, abs=1e-13)
    single = predict(logits.float())
    assert single_label_loss(single, labels, gamma).item() == pytest.approx(expected, rel=1e-6)


def test_label_smoothing_is_of_the_image_and_not_of_its_patches() -> None:
    logits, labels, _ = random_case()
    prediction = predict(logits)
    z, p, alpha = (
        t.numpy() for t in (prediction.logits, prediction.patch_logits, prediction.patch_weights)
    )
    one_hot = np.eye(4)[labels.numpy()]
    of_patches = reference.single_label_loss(z, p, alpha, one_hot, 0.5)
    of_patches -= reference.single_label_loss(z, p, alpha, one_hot, 0.0)
    targets = reference.smoothed(one_hot, 0.2)
    of_images = np.mean([reference.cross_entropy(z[i], targets[i]) for i in range(len(z))])
    loss = loss_for("cross-entropy", multi_label=False, label_smoothing=0.2)
    assert loss(prediction, labels, 0.5).item() == pytest.approx(of_images + of_patches, abs=1e-13)


@pytest.mark.parametrize(
    ("objective", "multi_label", "named"),
    [("cross-entropy", True, "several labels an image"), ("margin", False, "the margin loss")],
)
def test_other_losses_have_no_smoothing(
    objective: Objective, multi_label: bool, named: str
) -> None:
    with pytest.raises(InputError, match=f"`label_smoothing` is for .* not for {named}"):
        loss_for(objective, multi_label=multi_label, label_smoothing=0.1)


def test_weights_of_classes_are_the_balanced_ones_of_scikit_learn() -> None:
    labels = torch.tensor([3, 0, 0, 1, 0, 3, 0])  # none of class 2
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels.numpy())
    found = balanced_weights(labels, 4)
    assert found[[0, 1, 3]].numpy() == pytest.approx(expected, rel=1e-6)
    assert found[2] == 1
    assert found[labels].mean().item() == pytest.approx(1, rel=1e-6)


def test_weights_of_positive_labels_even_out_positives_and_negatives_within_a_bound() -> None:
    labels = torch.zeros(100, 4, dtype=torch.uint8)
    labels[:10, 0] = 1
    labels[:1, 1] = 1
    labels[:99, 2] = 1
    assert balanced_weights(labels, 4).tolist() == pytest.approx([9, MOST_WEIGHT, 1 / 20, 1])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_a_weighted_image_counts_with_its_patches_as_often_as_its_weight_says(
    gamma: float, smoothing: float
) -> None:
    logits, labels, _ = random_case()
    times = torch.tensor([3, 1, 2, 5])
    repeated = torch.arange(5).repeat_interleave(times[labels])
    plain = loss_for("cross-entropy", multi_label=False, label_smoothing=smoothing)
    weighted = loss_for(
        "cross-entropy", multi_label=False, label_smoothing=smoothing, weights=times.double()
    )
    found = weighted(predict(logits), labels, gamma)
    expected = plain(predict(logits[repeated]), labels[repeated], gamma) * len(repeated) / 5
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    # A step may be taken in parts.
    parts = [weighted(predict(logits[i : i + 1]), labels[i : i + 1], gamma) for i in range(5)]
    assert torch.stack(parts).mean().item() == pytest.approx(found.item(), rel=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_weighted_positive_labels_are_equations_3_and_10_by_hand(gamma: float) -> None:
    logits, _, matrix = random_case()
    matrix[1] = 0
    weights = np.array([3.0, 1.0, 2.0, 5.0])
    prediction = predict(logits)
    p, alpha = logits.numpy(), prediction.patch_weights.numpy()
    expected = 0.0
    for i, image in enumerate(prediction.logits.numpy()):
        q = 1 / (1 + np.exp(-image))
        for k, present in enumerate(matrix[i].tolist()):
            expected -= weights[k] * np.log(q[k]) if present else np.log(1 - q[k])
        positive = [k for k, present in enumerate(matrix[i].tolist()) if present]
        for m in range(p.shape[1] if positive else 0):
            k = max(positive, key=lambda k: p[i, m, k])
            expected -= gamma * alpha[i, m] * weights[k] * np.log(1 / (1 + np.exp(-p[i, m, k])))
    loss = loss_for("cross-entropy", multi_label=True, weights=torch.tensor(weights))
    assert loss(prediction, matrix, gamma).item() == pytest.approx(expected / 5, rel=1e-12)


def test_the_margin_loss_has_no_weights() -> None:
    with pytest.raises(InputError, match="`balance` weights is for cross-entropy, not for the mar"):
        loss_for("margin", multi_label=False, weights=torch.ones(2))


@pytest.mark.parametrize("gamma", [0.0, 0.1, 2.0])
def test_multi_label_loss_is_equation_10(gamma: float) -> None:
    logits, _, matrix = random_case()
    matrix[1] = 0
    matrix[2] = 1
    prediction = predict(logits)
    expected = reference.multi_label_loss(
        prediction.logits.numpy(),
        logits.numpy(),
        prediction.patch_weights.numpy(),
        matrix.numpy(),
        gamma,
    )
    for labels in (matrix, matrix.bool(), matrix.to(torch.uint8), matrix.double()):
        loss = multi_label_loss(prediction, labels, gamma)
        assert loss.item() == pytest.approx(expected, abs=1e-13)
    single = predict(logits.float())
    assert multi_label_loss(single, matrix, gamma).item() == pytest.approx(expected, rel=1e-6)


def test_without_patches_the_losses_are_equations_1_to_3() -> None:
    logits, labels, matrix = random_case()
    z = logits[:, 0]
    one_hot, y = np.eye(4)[labels.numpy()], matrix.numpy()
    images = range(len(z))
    entropy = np.mean([reference.cross_entropy(z[i].numpy(), one_hot[i]) for i in images])
    binary = np.mean([reference.binary_cross_entropy(z[i].numpy(), y[i]) for i in images])
    prediction = ImagePrediction(z)
    assert single_label_loss(prediction, labels).item() == pytest.approx(entropy, abs=1e-14)
    assert multi_label_loss(prediction, matrix).item() == pytest.approx(binary, abs=1e-14)


def test_hand_computed_losses() -> None:
    # Two patches of equal length: weights 1/2 each, image logits (0, 0).
    prediction = predict(torch.tensor([[[2.0, 0.0], [-2.0, 0.0]]], dtype=torch.float64))
    patches = 0.5 * (math.log1p(math.exp(-2)) + math.log1p(math.exp(2)))
    loss = single_label_loss(prediction, torch.tensor([0]), gamma=1.0)
    assert loss.item() == pytest.approx(math.log(2) + patches)
    # Class 1 is the better label of the second patch: sigmoid(0) = 1/2 there.
    patches = 0.5 * (math.log1p(math.exp(-2)) + math.log(2))
    loss = multi_label_loss(prediction, torch.tensor([[1, 1]]), gamma=1.0)
    assert loss.item() == pytest.approx(2 * math.log(2) + patches)


def test_an_image_without_a_positive_label_adds_no_regulariser() -> None:
    logits, _, _ = random_case(batch=1)
    logits.requires_grad_()
    labels = torch.zeros(1, 4)
    plain = multi_label_loss(predict(logits), labels)
    regularised = multi_label_loss(predict(logits), labels, gamma=5.0)
    assert regularised.item() == plain.item()
    (gradient,) = torch.autograd.grad(regularised, logits)
    (plain_gradient,) = torch.autograd.grad(plain, logits)
    torch.testing.assert_close(gradient, plain_gradient, rtol=0, atol=0)


@settings(max_examples=4)
@given(st.integers(0, 2**32))
def test_gradients_agree_with_finite_differences(seed: int) -> None:
    """Of the whole objective: through the image logits, the patch logits and the weights."""
    logits, labels, matrix = random_case(seed, batch=2)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda p: single_label_loss(predict(p), labels, gamma=0.7), (logits,)
    )
    assert torch.autograd.gradcheck(
        lambda p: multi_label_loss(predict(p), matrix, gamma=0.7), (logits,)
    )


def test_the_regulariser_reaches_the_weights() -> None:
    logits, labels, matrix = random_case()
    matrix[:, 0] = 1
    weights = patch_weights(logits, 0.1).requires_grad_()
    prediction = predict(logits, weights)
    prediction.logits = prediction.logits.detach()  # leaves the regulariser's part alone

    (of_single,) = torch.autograd.grad(single_label_loss(prediction, labels, 0.3), weights)
    (of_multi,) = torch.autograd.grad(multi_label_loss(prediction, matrix, 0.3), weights)

    for i in range(5):
        for m in range(6):
            p = logits[i, m].numpy()
            single = -0.3 / 5 * reference.log_softmax(p)[labels[i]]
            positive = [reference.log_sigmoid(p[k]) for k in range(4) if matrix[i, k] == 1]
            assert of_single[i, m].item() == pytest.approx(single, abs=1e-14)
            assert of_multi[i, m].item() == pytest.approx(-0.3 / 5 * max(positive), abs=1e-14)


EXTREMES = {
    "zeros": torch.zeros(2, 5, 3),
    "huge": torch.full((2, 5, 3), 1e30),
    "huge with signs": 1e30 * torch.tensor([1.0, -1.0, 0.0]).expand(2, 5, 3),
    "one patch": torch.tensor([[[3.0, -4.0, 0.0]]] * 2),
    "bfloat16": torch.full((2, 5, 3), 1e4, dtype=torch.bfloat16),
    "bfloat16 with signs": 1e4
    * torch.tensor([1.0, -1.0, 0.0], dtype=torch.bfloat16).expand(2, 5, 3),
}


@pytest.mark.parametrize("name", EXTREMES)
def test_extremes_give_finite_losses_and_gradients(name: str) -> None:
    labels = torch.tensor([1, 2])
    matrix = torch.tensor([[0, 0, 0], [1, 0, 1]])
    for gamma in (0.0, 0.1):
        leaf = EXTREMES[name].clone().requires_grad_()
        for loss in (
            single_label_loss(predict(leaf), labels, gamma),
            multi_label_loss(predict(leaf), matrix, gamma),
        ):
            assert loss.isfinite()
            (gradient,) = torch.autograd.grad(loss, leaf)
            assert gradient.isfinite().all()


def test_ramp_is_the_published_formula() -> None:
    for length in (1, 12, 80):
        for epoch in range(200):
            expected = reference.ramp_up(epoch, length, 0.3)
            assert ramp_up(epoch, length, 0.3) == pytest.approx(expected, rel=1e-14)
    assert ramp_up(0) == 0.0
    assert ramp_up(40) == pytest.approx(0.1 * math.exp(-1.25))
    assert ramp_up(80) == ramp_up(1000) == 0.1


def test_a_ramp_of_no_length_is_at_its_maximum_after_the_start() -> None:
    assert ramp_up(0, length=0) == 0.0
    assert ramp_up(1, length=0, maximum=0.4) == 0.4


@pytest.mark.parametrize("name", ["epoch", "length", "maximum"])
def test_the_ramp_names_a_negative_argument(name: str) -> None:
    arguments = {"epoch": 1.0, "length": 80.0, "maximum": 0.1, name: -0.5}
    with pytest.raises(ValueError, match=f"{name} must be at least 0, got -0.5"):
        ramp_up(**arguments)


@pytest.mark.parametrize(("label", "named"), [(-1, "label -1"), (4, "label 4"), (99, "label 99")])
def test_a_label_outside_the_classes_is_named(label: int, named: str) -> None:
    logits, labels, _ = random_case()
    labels[3] = label
    with pytest.raises(ValueError, match=rf"{named} is outside the 4 classes 0\.\.3"):
        single_label_loss(predict(logits), labels)


@pytest.mark.parametrize("value", [-1.0, 1.5, 2.0, float("nan")])
def test_a_multi_label_value_outside_0_to_1_is_named(value: float) -> None:
    logits, _, matrix = random_case()
    labels = matrix.double()
    labels[2, 1] = value
    with pytest.raises(ValueError, match=rf"must be in \[0, 1\], got {value}"):
        multi_label_loss(predict(logits), labels)


@pytest.mark.usefixtures("no_shape_checks")
def test_labels_of_a_wrong_shape_or_type_are_named() -> None:
    logits, labels, matrix = random_case()
    prediction = predict(logits)
    with pytest.raises(ValueError, match=r"5 class indices .*shape \(3,\)"):
        single_label_loss(prediction, labels[:3])
    with pytest.raises(ValueError, match=r"5 class indices .*shape \(5, 4\)"):
        single_label_loss(prediction, matrix)
    with pytest.raises(ValueError, match=r"5 class indices .*torch\.float32"):
        single_label_loss(prediction, labels.float())
    with pytest.raises(ValueError, match=r"5 class indices .*torch\.bool"):
        single_label_loss(prediction, labels.bool())
    with pytest.raises(ValueError, match=r"shape \(5, 4\) of the logits, got \(5, 3\)"):
        multi_label_loss(prediction, matrix[:, :3])
    with pytest.raises(ValueError, match=r"shape \(5, 4\) of the logits, got \(5,\)"):
        multi_label_loss(prediction, labels)


def test_a_gamma_that_cannot_be_is_named() -> None:
    logits, labels, matrix = random_case()
    patches, image = predict(logits), ImagePrediction(logits[:, 0])
    with pytest.raises(ValueError, match=r"gamma must be at least 0, got -0\.1"):
        single_label_loss(patches, labels, gamma=-0.1)
    with pytest.raises(ValueError, match="gamma must be at least 0, got nan"):
        multi_label_loss(patches, matrix, gamma=math.nan)
    with pytest.raises(ValueError, match=r"gamma = 0\.1 needs patch logits"):
        single_label_loss(image, labels, gamma=0.1)
    with pytest.raises(ValueError, match=r"gamma = 0\.1 needs patch logits"):
        multi_label_loss(image, matrix, gamma=0.1)
