"""Bags of unequal size: what is masked counts for nothing, whatever it holds.

Each bag is compared with the equations in float64 NumPy on its real patches alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from loss_attention.attention import capsule_weights, patch_weights, pool_patches
from loss_attention.explanation import explain_prediction
from loss_attention.geometry import PatchGrid
from loss_attention.heads.capsules import pooled_capsules
from loss_attention.heads.patches import AttentionPooling, LossAttention, MeanPooling, pooled
from loss_attention.losses import margin_loss, multi_label_loss, single_label_loss
from loss_attention.prediction import (
    CapsulePrediction,
    PatchPrediction,
)

NAN, INF = float("nan"), float("inf")
FILLERS = [NAN, INF, -INF, 1e300, 0.0, 3.0]
MASK = torch.tensor(
    [[True, True, False, True, True], [False, False, True, False, False], [True] * 5]
)
LABELS = torch.tensor([1, 0, 2])
MATRIX = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 0]])


class Bags(NamedTuple):
    prediction: PatchPrediction
    logits: Tensor
    """The leaf that all of it was computed from, shape (B, [C,] M, K)."""
    real: list[np.ndarray]
    """The logits of each bag's real patches, float64, shape ([C,] M, K)."""


def filled(filler: float, *channels: int) -> tuple[Tensor, list[np.ndarray]]:
    """Logits (B, *channels, M, K) of unlike lengths, with filler where they are masked."""
    generator = torch.Generator().manual_seed(3)
    shape = (3, *channels, 5, 3)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64)
    logits *= torch.rand(shape[:-1], generator=generator, dtype=torch.float64).unsqueeze(-1) ** 2
    logits *= 3
    real = [logits[i][..., MASK[i], :].numpy().copy() for i in range(3)]
    masked = ~MASK.reshape(3, *[1] * len(channels), 5, 1)
    return logits.masked_fill(masked, filler).requires_grad_(), real


def grid() -> PatchGrid:
    return PatchGrid(1, 5, window=4, stride=2, height=4, width=12)


def bags(filler: float, threshold: float = 0.3, selection: float = 0.0) -> Bags:
    logits, real = filled(filler)
    weights = patch_weights(logits, threshold, MASK)
    pooled = pool_patches(logits, weights, MASK)
    return Bags(
        PatchPrediction(pooled, logits, weights, grid(), selection, mask=MASK), logits, real
    )


def lies(found: Tensor, expected: list[np.ndarray]) -> None:
    """Values of patches are the expected ones where they are real, and 0 elsewhere."""
    for i, values in enumerate(expected):
        np.testing.assert_allclose(found[i][..., MASK[i]].detach().numpy(), values, atol=1e-13)
        assert not found[i][..., ~MASK[i]].any()


def reach_the_real(held: Tensor, *modules: nn.Module) -> None:
    """Gradients are finite, and none is of what is masked."""
    for value in (held, *(parameter for module in modules for parameter in module.parameters())):
        assert value.grad is not None
        assert value.grad.isfinite().all()
    assert not held.grad[~MASK].any()


@pytest.mark.parametrize("filler", FILLERS)
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.9])
def test_weights_of_patches_and_capsules(filler: float, threshold: float) -> None:
    logits, real = filled(filler)
    lies(
        patch_weights(logits, threshold, MASK),
        [reference.patch_weights(p, threshold) for p in real],
    )
    logits, real = filled(filler, 4)
    patches, capsules = capsule_weights(logits, threshold, MASK)
    expected = [reference.capsule_weights(p, threshold) for p in real]
    lies(patches, [found for found, _ in expected])
    lies(capsules, [found for _, found in expected])


@given(st.integers(0, 2**32), st.floats(0.0, 0.95), st.sampled_from(FILLERS), st.integers(1, 4))
def test_masked_capsules_weigh_as_the_bag_without_its_filler(
    seed: int, threshold: float, filler: float, channels: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, channels, 6, 3, generator=generator, dtype=torch.float64)
    mask = torch.rand(2, 6, generator=generator) < 0.5
    mask[:, seed % 6] = True
    patches, capsules = capsule_weights(
        logits.masked_fill(~mask[:, None, :, None], filler), threshold, mask
    )
    for bag in range(2):
        alone = capsule_weights(logits[bag : bag + 1, :, mask[bag]], threshold)
        torch.testing.assert_close(patches[bag, mask[bag]], alone[0][0])
        torch.testing.assert_close(capsules[bag][:, mask[bag]], alone[1][0])
        assert not patches[bag, ~mask[bag]].any()
        assert not capsules[bag][:, ~mask[bag]].any()


def test_without_evidence_the_real_patches_share_alike() -> None:
    zeros = torch.zeros(3, 2, 5, 3)
    patches, capsules = capsule_weights(zeros, 0.1, MASK)
    expected = MASK / MASK.sum(dim=1, keepdim=True)
    torch.testing.assert_close(patches, expected)
    torch.testing.assert_close(capsules, (expected / 2).unsqueeze(1).expand(3, 2, 5))


@pytest.mark.parametrize("filler", FILLERS)
def test_pooled_logits_and_evidence(filler: float) -> None:
    found, _, real = bags(filler)
    weights = [reference.patch_weights(p, 0.3) for p in real]
    for i, (alpha, p) in enumerate(zip(weights, real, strict=True)):
        np.testing.assert_allclose(found.logits[i].detach().numpy(), alpha @ p, atol=1e-13)
    evidence = [alpha[:, None] * p for alpha, p in zip(weights, real, strict=True)]
    lies(found.evidence.transpose(1, 2), [each.T for each in evidence])
    lies(found.evidence_of(LABELS), [each[:, k] for each, k in zip(evidence, LABELS, strict=True)])


@pytest.mark.parametrize("filler", FILLERS)
@pytest.mark.parametrize("selection", [0.0, 0.5, 1.0])
def test_a_patch_is_selected_by_the_number_of_real_ones(filler: float, selection: float) -> None:
    found, _, real = bags(filler, threshold=0.0, selection=selection)
    for i, p in enumerate(real):
        expected = reference.patch_weights(p, 0.0) > selection / len(p)
        assert found.selected[i, MASK[i]].tolist() == expected.tolist()
        assert not found.selected[i, ~MASK[i]].any()


def test_a_mask_counts_even_where_weights_do_not_know_of_it() -> None:
    logits, real = filled(NAN)
    weights = torch.full((3, 5), 0.25, dtype=torch.float64).masked_fill(~MASK, NAN)
    found = PatchPrediction(
        pool_patches(logits, weights, MASK), logits, weights, grid(), 0.0, mask=MASK
    )
    for i, p in enumerate(real):
        np.testing.assert_allclose(found.logits[i].detach().numpy(), 0.25 * p.sum(0), atol=1e-13)
    assert torch.equal(found.selected, MASK)
    assert single_label_loss(found, LABELS, 0.5).isfinite()


@pytest.mark.parametrize("filler", FILLERS)
@pytest.mark.parametrize("gamma", [0.0, 0.7])
def test_losses_and_their_gradients(filler: float, gamma: float) -> None:
    one_hot = np.eye(3)[LABELS.numpy()]
    cases = (
        (single_label_loss, LABELS, reference.single_label_loss, one_hot),
        (multi_label_loss, MATRIX, reference.multi_label_loss, MATRIX.numpy()),
    )
    for loss, labels, known, y in cases:
        found, leaf, real = bags(filler)
        expected = np.mean(
            [
                known(
                    (reference.patch_weights(p, 0.3) @ p)[None],
                    p[None],
                    reference.patch_weights(p, 0.3)[None],
                    y[i : i + 1],
                    gamma,
                )
                for i, p in enumerate(real)
            ]
        )
        value = loss(found, labels, gamma)
        assert value.item() == pytest.approx(expected, abs=1e-12)
        value.backward()
        reach_the_real(leaf)
    found, leaf, _ = bags(filler)
    margin_loss(found, LABELS).backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("filler", FILLERS)
def test_capsules(filler: float) -> None:
    logits, real = filled(filler, 2)
    patches, capsules = capsule_weights(logits, 0.3, MASK)
    by_patch = logits.sum(dim=1)
    pooled = torch.einsum("bcm,bcmk->bk", capsules, logits.masked_fill(~MASK[:, None, :, None], 0))
    found = CapsulePrediction(pooled, by_patch, patches, grid(), 0.0, logits, capsules, mask=MASK)
    expected = []
    for p in real:
        _, alpha = reference.capsule_weights(p, 0.3)
        expected.append((alpha[..., None] * p).sum(axis=0))
    lies(found.evidence.transpose(1, 2), [each.T for each in expected])
    lies(found.evidence_of(LABELS), [e[:, k] for e, k in zip(expected, LABELS, strict=True)])
    torch.testing.assert_close(found.evidence.sum(dim=1), found.logits)
    single_label_loss(found, LABELS, 0.4).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def in_numpy(kind: str, h: np.ndarray, p: np.ndarray, weighing: nn.Module) -> np.ndarray:
    """The weights of a bag's real patches, from the equations."""
    if kind == "mean":
        return np.full(len(h), 1 / len(h))
    if kind == "loss-attention":
        return reference.patch_weights(p, 0.3)
    tables = [parameter.detach().numpy() for parameter in weighing.parameters()]
    if kind == "attention":
        return reference.attention_weights(h, tables[0], tables[1][0])
    return reference.attention_weights(h, tables[0], tables[2][0], tables[1])


WEIGHINGS = {
    "mean": MeanPooling,
    "attention": lambda: AttentionPooling(4, 3, gated=False),
    "gated-attention": lambda: AttentionPooling(4, 3, gated=True),
    "loss-attention": lambda: LossAttention(0.3),
}


@pytest.mark.parametrize("filler", [NAN, INF, 1e30])
@pytest.mark.parametrize("kind", WEIGHINGS)
def test_every_pooling_is_the_equations_on_the_real_instances(kind: str, filler: float) -> None:
    """From features and mask alone: there is no image and no grid."""
    features = torch.randn(3, 5, 4, dtype=torch.float64)
    classifier, weighing = nn.Linear(4, 3).double(), WEIGHINGS[kind]().double()
    W, b = (parameter.detach().numpy() for parameter in classifier.parameters())  # noqa: N806
    held = features.masked_fill(~MASK.unsqueeze(2), filler).requires_grad_()
    found = pooled(held, classifier, weighing, 0.9, MASK)
    weights, evidence = [], []
    for i in range(3):
        h = features[i, MASK[i]].numpy()
        p = h @ W.T + b
        weights.append(in_numpy(kind, h, p, weighing))
        evidence.append(weights[i][:, None] * p)
        np.testing.assert_allclose(found.logits[i].detach().numpy(), weights[i] @ p, atol=1e-13)
        assert found.selected[i, MASK[i]].tolist() == (weights[i] > 0.9 / len(h)).tolist()
    lies(found.patch_weights, weights)
    lies(found.evidence.transpose(1, 2), [each.T for each in evidence])
    assert found.grid is None
    assert not found.selected[~MASK].any()
    for loss, labels in ((single_label_loss, LABELS), (multi_label_loss, MATRIX)):
        loss(found, labels, 0.5).backward(retain_graph=True)
    reach_the_real(held, classifier, weighing)
    with pytest.raises(ValueError, match="is of a bag: its patches lie nowhere in an image"):
        explain_prediction(found)


@pytest.mark.parametrize("filler", [NAN, INF, 1e30])
def test_capsules_of_instances_are_the_equations_on_the_real_ones(filler: float) -> None:
    vectors = torch.randn(3, 5, 2, 4, dtype=torch.float64)
    classifier = nn.Linear(4, 3).double()
    W, b = (parameter.detach().numpy() for parameter in classifier.parameters())  # noqa: N806
    held = vectors.masked_fill(~MASK[:, :, None, None], filler).requires_grad_()
    found = pooled_capsules(held, classifier, 0.3, mask=MASK)
    weights, evidence = [], []
    for i in range(3):
        p = (vectors[i, MASK[i]].numpy() @ W.T + b).transpose(1, 0, 2)
        of_patches, of_capsules = reference.capsule_weights(p, 0.3)
        weights.append(of_patches)
        evidence.append((of_capsules[..., None] * p).sum(axis=0))
        np.testing.assert_allclose(
            found.logits[i].detach().numpy(), evidence[i].sum(axis=0), atol=1e-13
        )
    lies(found.patch_weights, weights)
    lies(found.evidence.transpose(1, 2), [each.T for each in evidence])
    single_label_loss(found, LABELS, 0.5).backward()
    assert all(
        each.grad is not None and each.grad.isfinite().all() for each in classifier.parameters()
    )
    assert held.grad is not None
    assert held.grad.isfinite().all()
    assert not held.grad[~MASK].any()


def test_an_explanation_shows_nothing_of_what_is_masked() -> None:
    found = explain_prediction(bags(NAN).prediction, 1)
    assert found.heat_maps.isfinite().all()
    assert found.patch_weights.isfinite().all()
    assert found.target_evidence is not None
    assert found.target_evidence.isfinite().all()
    assert found.boxes[1].tolist() == [4.0, 0.0, 8.0, 4.0]  # its one real patch


@pytest.mark.usefixtures("no_shape_checks")
def test_a_wrong_mask_is_named() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 3\).*of \(2, 4\)"):
        capsule_weights(torch.ones(2, 5, 3, 1), mask=torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="bag 1 has no unmasked patch"):
        capsule_weights(torch.ones(2, 3, 2, 1), mask=torch.tensor([[True] * 2, [False] * 2]))
    with pytest.raises(ValueError, match=r"shape \(2, 3\).*of \(2, 4\)"):
        pool_patches(torch.ones(2, 3, 1), torch.ones(2, 3), torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="bag 0 has no unmasked patch"):
        pool_patches(torch.ones(1, 2, 1), torch.ones(1, 2), torch.tensor([[False, False]]))
