"""Patch and capsule weights against the equations, their properties, gradients and extremes."""

from __future__ import annotations

from collections.abc import Callable

import jaxtyping
import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from loss_attention.attention import capsule_weights, patch_weights

THRESHOLDS = [0.0, 0.1, 0.5, 0.9]
HUGE = float(np.float32(1e30))
thresholds = st.floats(0.0, 1.0)


def random_logits(*shape: int, seed: int = 0) -> Tensor:
    """Logits whose rows differ in length, so that thresholds have something to drop."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, generator=generator, dtype=torch.float64)
    lengths = torch.rand(*shape[:-1], 1, generator=generator, dtype=torch.float64)
    return values * lengths**2


def any_logits(dimensions: int) -> st.SearchStrategy[np.ndarray]:
    """Float32 arrays up to 1e30, with zeros, repeated and subnormal values."""
    return hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=dimensions, max_dims=dimensions, min_side=1, max_side=5),
        elements=st.floats(-HUGE, HUGE, width=32),
    )


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("shape", [(1, 2, 1), (3, 5, 4), (4, 36, 10)])
def test_patch_weights_are_equation_5(shape: tuple[int, ...], threshold: float) -> None:
    logits = random_logits(*shape)
    expected = np.stack([reference.patch_weights(image, threshold) for image in logits.numpy()])

    exact = patch_weights(logits, threshold)
    single = patch_weights(logits.float(), threshold)

    assert exact.dtype == torch.float64
    assert single.dtype == torch.float32
    np.testing.assert_allclose(exact.numpy(), expected, rtol=0, atol=1e-14)
    np.testing.assert_allclose(single.numpy(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("shape", [(1, 1, 2, 1), (2, 3, 5, 4), (2, 8, 36, 10)])
def test_capsule_weights_are_equation_6(shape: tuple[int, ...], threshold: float) -> None:
    logits = random_logits(*shape)
    if shape[1] > 1:  # several capsules even out; a weak patch keeps the threshold at work
        logits[:, :, 0] *= 0.01
    expected = [reference.capsule_weights(image, threshold) for image in logits.numpy()]

    patches, capsules = capsule_weights(logits, threshold)
    single_patches, single_capsules = capsule_weights(logits.float(), threshold)

    assert (single_patches.dtype, single_capsules.dtype) == (torch.float32, torch.float32)
    for result, single, known in [
        (patches, single_patches, np.stack([patch for patch, _ in expected])),
        (capsules, single_capsules, np.stack([capsule for _, capsule in expected])),
    ]:
        np.testing.assert_allclose(result.numpy(), known, rtol=0, atol=1e-14)
        np.testing.assert_allclose(single.numpy(), known, rtol=0, atol=2e-6)


def test_capsules_of_dropped_patches_weigh_nothing() -> None:
    logits = random_logits(3, 4, 6, 5)
    logits[:, :, 2] *= 1e-3
    patches, capsules = capsule_weights(logits, threshold=0.5)
    assert (patches[:, 2] == 0).all()
    assert (capsules[:, :, 2] == 0).all()
    kept = patches > 0
    assert (capsules.sum(dim=1)[kept] > 0).all()


def test_one_capsule_channel_without_threshold_is_the_convolutional_attention() -> None:
    logits = random_logits(3, 7, 4)
    patches, capsules = capsule_weights(logits.unsqueeze(1), threshold=0.0)
    torch.testing.assert_close(patches, patch_weights(logits, threshold=0.0))
    torch.testing.assert_close(capsules.squeeze(1), patches)


@given(any_logits(3), thresholds)
def test_patch_weights_are_shares(logits: np.ndarray, threshold: float) -> None:
    weights = patch_weights(torch.from_numpy(logits), threshold)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(len(weights)), rtol=0, atol=1e-5)


@given(any_logits(4), thresholds)
def test_capsule_weights_are_shares(logits: np.ndarray, threshold: float) -> None:
    patches, capsules = capsule_weights(torch.from_numpy(logits), threshold)
    ones = torch.ones(len(patches))
    assert (patches >= 0).all()
    assert (capsules >= 0).all()
    torch.testing.assert_close(patches.sum(dim=1), ones, rtol=0, atol=1e-5)
    torch.testing.assert_close(capsules.sum(dim=(1, 2)), ones, rtol=0, atol=1e-5)


@given(st.integers(0, 2**32), st.integers(1, 9), st.floats(0.0, 0.95), st.floats(-20.0, 20.0))
def test_the_scale_of_all_logits_changes_no_weight(
    seed: int, patches: int, threshold: float, exponent: float
) -> None:
    scale = 10.0**exponent
    logits = random_logits(2, patches, 3, seed=seed).float()
    weights = patch_weights(logits, threshold)
    torch.testing.assert_close(patch_weights(scale * logits, threshold), weights, rtol=0, atol=1e-5)
    # A power of two rounds nothing, so that not even a capsule at the threshold flips.
    exact = 2.0 ** round(exponent)
    capsules = logits.reshape(1, 2, patches, 3)
    before = capsule_weights(capsules, threshold)
    after = capsule_weights(exact * capsules, threshold)
    torch.testing.assert_close(after, before, rtol=0, atol=0)


@settings(max_examples=15)
@given(st.integers(0, 2**32), st.floats(0.0, 0.9))
def test_gradients_of_patch_weights_agree_with_finite_differences(
    seed: int, threshold: float
) -> None:
    logits = _away_from_the_threshold(random_logits(2, 4, 3, seed=seed), threshold)
    mask = torch.tensor([[True, True, True, True], [True, False, True, True]])
    assert torch.autograd.gradcheck(lambda p: patch_weights(p, threshold), (logits,))
    assert torch.autograd.gradcheck(lambda p: patch_weights(p, 0.0, mask), (logits,))


@settings(max_examples=15)
@given(st.integers(0, 2**32), st.floats(0.0, 0.9))
def test_gradients_of_capsule_weights_agree_with_finite_differences(
    seed: int, threshold: float
) -> None:
    flat = random_logits(2, 6, 3, seed=seed)
    logits = flat.reshape(2, 2, 3, 3)
    shares = capsule_weights(logits, 0.0)[0]
    if ((shares - threshold / 3).abs() < 1e-3).any():
        logits = logits * torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64).reshape(1, 1, 3, 1)
    assert torch.autograd.gradcheck(
        lambda p: capsule_weights(p, threshold), (logits.requires_grad_(),)
    )


def _away_from_the_threshold(logits: Tensor, threshold: float) -> Tensor:
    """Lengthen rows whose share lies on the kink of Eq. 5b, or that are too short to differ."""
    shares = patch_weights(logits, 0.0)
    on_kink = ((shares - threshold / logits.shape[1]).abs() < 1e-3) | (shares < 1e-3)
    return (logits + on_kink.unsqueeze(2) * 3.0).requires_grad_()


EXTREMES = {
    "zeros": torch.zeros(2, 5, 3),
    "one patch": torch.tensor([[[3.0, -4.0]], [[0.0, 0.0]]]),
    "huge": torch.full((2, 5, 3), 1e30),
    "huge beside small": torch.tensor([[[1e30, -1e30], [1.0, 1.0], [0.0, 0.0]]]),
    "bfloat16 at 1e4": torch.full((2, 5, 3), 1e4, dtype=torch.bfloat16),
    "bfloat16 with signs": torch.tensor([[[1e4, -1e4], [1e-4, 0.0]]], dtype=torch.bfloat16),
    "tiny": torch.full((2, 5, 3), 1e-30),
    "subnormal": torch.tensor([[[1e-45, 0.0], [-1e-42, 1e-43]]]),
    "equal patches": torch.ones(1, 36, 10),
}


@pytest.mark.parametrize("threshold", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("name", EXTREMES)
def test_extremes_give_finite_weights_and_gradients(name: str, threshold: float) -> None:
    logits = EXTREMES[name]
    by_capsule = logits.unsqueeze(1).expand(-1, 2, -1, -1)
    calls: list[tuple[Tensor, Callable[[Tensor], tuple[Tensor, ...]]]] = [
        (logits, lambda p: (patch_weights(p, threshold),)),
        (by_capsule, lambda p: capsule_weights(p, threshold)),
    ]
    for values, weigh in calls:
        leaf = values.clone().requires_grad_()
        for weights in weigh(leaf):
            assert weights.dtype == torch.float32
            assert weights.isfinite().all()
            sums = weights.flatten(1).sum(dim=1)
            torch.testing.assert_close(sums, torch.ones_like(sums))
            varied = torch.linspace(-1, 1, weights.numel()).reshape(weights.shape)
            (gradient,) = torch.autograd.grad((varied * weights).sum(), leaf, retain_graph=True)
            assert gradient.isfinite().all()


def test_without_any_evidence_weights_are_uniform() -> None:
    zeros = torch.zeros(2, 4, 3, requires_grad=True)
    weights = patch_weights(zeros, 0.1)
    assert weights.tolist() == [[0.25] * 4] * 2
    weights[0, 0].backward()
    assert not zeros.grad.any()  # type: ignore[union-attr]
    mask = torch.tensor([[True, True, False, False], [True] * 4])
    assert patch_weights(zeros, 0.1, mask).tolist() == [[0.5, 0.5, 0.0, 0.0], [0.25] * 4]


def test_a_single_patch_has_weight_one() -> None:
    for threshold in (0.0, 0.5, 1.0):
        assert patch_weights(torch.tensor([[[0.3, -2.0]]]), threshold).tolist() == [[1.0]]


def test_threshold_one_keeps_only_patches_above_the_average() -> None:
    logits = torch.tensor([[[1.0], [2.0], [6.0]]])  # shares 1/9, 2/9 and 6/9; the average is 3/9
    assert patch_weights(logits, 1.0).tolist() == [[0.0, 0.0, 1.0]]


@pytest.mark.parametrize("count", [3, 7, 36, 49])
def test_a_threshold_that_would_drop_every_patch_drops_none(count: int) -> None:
    equal = torch.full((1, count, 10), 0.7)
    expected = torch.full((1, count), 1 / count)
    torch.testing.assert_close(patch_weights(equal, 1.0), expected)
    patches, capsules = capsule_weights(equal.reshape(1, 1, count, 10), 1.0)
    torch.testing.assert_close(patches, expected)
    torch.testing.assert_close(capsules.squeeze(1), expected)


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.floats(0.0, 0.95),
    st.sampled_from([float("nan"), float("inf"), -1e30, 0.0, 5.0]),
    st.integers(0, 2**32),
)
def test_a_masked_bag_weighs_as_the_bag_without_its_filler(
    sizes: list[int], threshold: float, filler: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    longest = max(sizes) + 1
    logits = torch.full((len(sizes), longest, 3), filler, dtype=torch.float64)
    mask = torch.zeros(len(sizes), longest, dtype=torch.bool)
    for bag, size in enumerate(sizes):  # the real patches lie anywhere among the filler
        places = torch.randperm(longest, generator=generator)[:size]
        mask[bag, places] = True
    logits[mask] = random_logits(int(mask.sum()), 3, seed=seed)
    logits.requires_grad_()

    weights = patch_weights(logits, threshold, mask)

    assert (weights[~mask] == 0).all()
    for bag in range(len(sizes)):
        alone = patch_weights(logits[bag, mask[bag]].unsqueeze(0), threshold)
        torch.testing.assert_close(weights[bag, mask[bag]], alone[0], rtol=0, atol=1e-13)
    varied = torch.linspace(-1, 1, weights.numel(), dtype=torch.float64).reshape(weights.shape)
    (gradient,) = torch.autograd.grad((varied * weights).sum(), logits)
    assert (gradient[~mask] == 0).all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("threshold", [-0.01, 1.01, float("nan"), float("inf")])
def test_a_threshold_outside_its_range_is_named(threshold: float) -> None:
    message = rf"threshold must be in \[0, 1\], got {threshold}"
    with pytest.raises(ValueError, match=message):
        patch_weights(torch.ones(1, 2, 3), threshold)
    with pytest.raises(ValueError, match=message):
        capsule_weights(torch.ones(1, 1, 2, 3), threshold)


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize("shape", [(2, 3), (1, 2, 3, 4), (1, 0, 3), (1, 2, 0)])
def test_a_wrong_shape_of_patch_logits_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"patch_logits must have shape") as caught:
        patch_weights(torch.ones(shape))
    assert str(shape) in str(caught.value)


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 0, 2, 3), (1, 2, 0, 3), (1, 2, 3, 0)])
def test_a_wrong_shape_of_capsule_logits_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"capsule_logits must have shape") as caught:
        capsule_weights(torch.ones(shape))
    assert str(shape) in str(caught.value)


@pytest.mark.usefixtures("no_shape_checks")
def test_a_wrong_mask_is_named() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 3\).*of \(2, 4\)"):
        patch_weights(torch.ones(2, 3, 1), mask=torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="bag 1 has no unmasked patch"):
        patch_weights(torch.ones(2, 2, 1), mask=torch.tensor([[True, False], [False, False]]))
    with pytest.raises(ValueError, match=r"torch\.float32"):
        patch_weights(torch.ones(1, 2, 1), mask=torch.ones(1, 2))


@pytest.mark.usefixtures("no_shape_checks")
def test_logits_of_an_integer_type_are_taken_as_numbers() -> None:
    weights = patch_weights(torch.tensor([[[3, 4], [0, 5]]]), 0.0)
    assert weights.tolist() == [[0.5, 0.5]]


def test_shapes_in_signatures_are_checked_here() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        patch_weights(torch.ones(2, 3))
