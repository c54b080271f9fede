"""The margin against its equation in float64 NumPy, and what explanations show of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from heads.used import PATCH_HEADS, patches_of, used_model
from live_memory import LiveMemory

from loss_attention import prediction as predictions
from loss_attention.errors import InputError
from loss_attention.explanation import check_map, explain_prediction
from loss_attention.geometry import PatchGrid
from loss_attention.prediction import CapsulePrediction, PatchPrediction, margins
from loss_attention.quantities import CONTRAST, DIFFERENCE, EVIDENCE, MARGIN

GRID = PatchGrid(rows=1, columns=5, window=2, stride=2, height=2, width=10)


def patches(classes: int, mask: torch.Tensor | None = None, seed: int = 0) -> PatchPrediction:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 5, classes, generator=generator, dtype=torch.float64)
    weights = torch.rand(3, 5, generator=generator, dtype=torch.float64)
    weights[0, 0] = 0.0
    if mask is not None:
        weights = weights.masked_fill(~mask, 0.0)
    weights /= weights.sum(dim=1, keepdim=True)
    image = (weights.unsqueeze(2) * logits).sum(dim=1)
    return PatchPrediction(image, logits, weights, GRID, 0.0, mask=mask)


def by_hand(alpha: np.ndarray, p: np.ndarray) -> np.ndarray:
    """`alpha_m (p_mk - max over j != k of p_mj)` for one image, in loops."""
    margin = np.zeros(p.shape)
    for m in range(p.shape[0]):
        for k in range(p.shape[1]):
            rivals = [p[m, j] for j in range(p.shape[1]) if j != k]
            margin[m, k] = alpha[m] * (p[m, k] - max(rivals))
    return margin


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("at_once", [1, 50, 2**24])
def test_the_margin_is_its_equation(classes: int, at_once: int, monkeypatch) -> None:
    monkeypatch.setattr(predictions, "VALUES_AT_ONCE", at_once)
    one, target = patches(classes), torch.tensor([0, classes - 1, 1])
    alpha, p = one.patch_weights.numpy(), one.patch_logits.numpy()
    wanted = np.stack([by_hand(alpha[i], p[i]) for i in range(3)])
    np.testing.assert_allclose(one.margin, wanted, atol=1e-14)
    np.testing.assert_allclose(one.margin_of(target), wanted[np.arange(3), :, target], atol=1e-14)
    image, asked = torch.tensor([2, 0, 0]), torch.tensor([1, 1, 0])
    np.testing.assert_allclose(one.margin_at(image, asked), wanted[image, :, asked], atol=1e-14)


def test_of_two_classes_it_is_the_difference_and_of_one_the_evidence() -> None:
    two = patches(2)
    difference = two.evidence[..., 0] - two.evidence[..., 1]
    torch.testing.assert_close(two.margin, torch.stack([difference, -difference], dim=2))
    one = patches(1)
    assert one.margin.equal(one.evidence)
    assert one.margin_of(torch.zeros(3).long()).equal(one.evidence[..., 0])
    assert explain_prediction(one).target_margin.equal(one.evidence[..., 0])


def test_equal_first_classes_leave_no_margin() -> None:
    tied = torch.tensor([[2.0, 2.0, -1.0]])
    assert margins(tied).tolist() == [[0.0, 0.0, -3.0]]
    assert tied.tolist() == [[2.0, 2.0, -1.0]]  # left as it was


def test_the_sum_is_at_most_the_gap_of_the_logits() -> None:
    one = patches(5)
    gap = margins(one.logits)
    assert (one.margin.sum(dim=1) <= gap + 1e-12).all()
    assert (one.margin.sum(dim=1) < gap - 1e-3).any()
    # Class 4 is every patch's closest rival of the others: the sum is the gap itself.
    shared = one.patch_logits.clone()
    shared[..., 4] = 10.0
    logits = (one.patch_weights.unsqueeze(2) * shared).sum(dim=1)
    same = PatchPrediction(logits, shared, one.patch_weights, GRID, 0.0)
    torch.testing.assert_close(same.margin.sum(dim=1)[:, :4], margins(logits)[:, :4])


def test_masked_patches_have_no_margin_whatever_they_hold() -> None:
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[0, 2] = mask[2, 0] = mask[2, 3:] = False
    real = patches(4, mask)
    filled = PatchPrediction(
        real.logits,
        real.patch_logits.masked_fill(~mask.unsqueeze(2), float("nan")),
        real.patch_weights.masked_fill(~mask, float("nan")),
        GRID,
        0.0,
        mask=mask,
    )
    assert filled.margin[~mask].eq(0).all()
    assert filled.margin[mask].equal(real.margin[mask])
    target = torch.tensor([3, 0, 1])
    assert filled.margin_of(target).equal(filled.margin[torch.arange(3), :, target])


def test_the_margin_of_capsules_is_that_of_their_evidence() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 4, 5, 3, generator=generator, dtype=torch.float64)
    weights = torch.rand(2, 4, 5, generator=generator, dtype=torch.float64)
    one = CapsulePrediction(
        torch.einsum("bcm,bcmk->bk", weights, logits),
        logits.sum(dim=1),
        torch.full((2, 5), 0.2).double(),
        GRID,
        0.0,
        logits,
        weights,
    )
    evidence = np.einsum("bcm,bcmk->bmk", weights.numpy(), logits.numpy())
    wanted = np.stack([by_hand(np.ones(5), evidence[i]) for i in range(2)])
    np.testing.assert_allclose(one.margin, wanted, atol=1e-14)
    target = torch.tensor([2, 0])
    np.testing.assert_allclose(one.margin_of(target), wanted[[0, 1], :, target], atol=1e-14)


def test_very_many_classes_are_not_held_twice(monkeypatch) -> None:
    monkeypatch.setattr(predictions, "VALUES_AT_ONCE", 2**14)
    one = patches(20_000)
    size = one.patch_logits.nbytes
    with LiveMemory() as memory:
        margin = one.margin_of(torch.tensor([0, 5, 9]))
    assert margin.shape == (3, 5)
    assert memory.peak < 0.8 * size  # a patch of five at a time, three such tensors
    with LiveMemory() as memory:  # what is shown where the margin is empty
        contrast = one.map_of("contrast", torch.tensor([0, 5, 9]))
    assert memory.peak < 0.8 * size
    evidence = one.evidence.numpy()
    wanted = evidence[[0, 1, 2], :, [0, 5, 9]] - evidence.mean(axis=2)
    np.testing.assert_allclose(contrast, wanted, atol=1e-14)
    with LiveMemory() as memory:
        assert one.margin.shape == one.patch_logits.shape
    assert memory.peak < 1.1 * size


@pytest.mark.parametrize("head", PATCH_HEADS)
def test_every_head_with_evidence_has_a_margin(head: str) -> None:
    model, images = used_model(head=head), torch.rand(3, 3, 20, 24)
    explanation = model.explain(images)
    with torch.no_grad():
        evidence = patches_of(model, images).evidence.double().numpy()
    wanted = np.stack([by_hand(np.ones(len(one)), one) for one in evidence])
    np.testing.assert_allclose(explanation.margin, wanted, atol=1e-5)
    own = explanation.margin[torch.arange(3), :, explanation.target]
    torch.testing.assert_close(explanation.target_margin, own)
    assert explanation.no_margin.tolist() == (own <= 0).all(dim=1).tolist()


def explained(logits: list[list[float]], **asked):
    """One image of two patches of weight one half, on a grid without overlap."""
    p = torch.tensor([logits])
    grid = PatchGrid(1, 2, window=1, stride=1, height=1, width=2)
    one = PatchPrediction(p.mean(dim=1), p, torch.full((1, 2), 0.5), grid, 0.0)
    return explain_prediction(one, **asked)


DISPUTED = [[5.0, 10.0, -30.0], [5.0, -30.0, 10.0]]
"""The image is of class 0 and neither of its patches is; see docs/method.md."""


def test_the_positive_part_of_the_margin_is_shown() -> None:
    found = explained([[4.0, 1.0, 3.0], [0.0, 2.0, -8.0]])
    assert found.shown is found.shown_of(0) is MARGIN
    assert found.target_margin.tolist() == [[0.5, -1.0]]
    assert found.heat_maps.tolist() == [[[0.5, 0.0]]]
    assert not found.is_empty(0)


def test_contrast_is_shown_where_no_patch_puts_the_class_first() -> None:
    found = explained(DISPUTED)
    assert found.target.tolist() == [0]
    assert found.target_margin.tolist() == [[-2.5, -2.5]]
    assert found.is_empty(0)
    assert found.shown is MARGIN
    assert found.shown_of(0) is CONTRAST
    assert found.heat_maps.tolist() == [[[5.0, 5.0]]]  # (5 + 15 / 3) / 2


@pytest.mark.parametrize(
    ("name", "shown", "values"),
    [
        ("evidence", EVIDENCE, [2.5, 2.5]),
        ("contrast", CONTRAST, [5.0, 5.0]),
    ],
)
def test_another_map_is_shown_when_asked_for(name, shown, values) -> None:
    found = explained(DISPUTED, map=name)
    assert found.shown is found.shown_of(0) is shown
    assert found.heat_maps.tolist() == [[values]]
    assert not found.is_empty(0)
    assert found.no_margin.tolist() == [True]


def test_why_this_class_and_not_that_one() -> None:
    found = explained(DISPUTED, target=0, versus=1)
    assert found.shown is DIFFERENCE
    assert found.versus.tolist() == [1]
    assert found.heat_maps.tolist() == [[[-2.5, 17.5]]]
    assert found.heat_maps.sum() == found.logits[0, 0] - found.logits[0, 1]


def test_several_labels_have_no_rivals() -> None:
    found = explained(DISPUTED, competing=False)
    assert found.shown is EVIDENCE
    assert found.margin is found.target_margin is found.no_margin is None
    assert explained(DISPUTED, competing=False, map="evidence").shown is EVIDENCE
    assert explained(DISPUTED, competing=False, target=0, versus=2).heat_maps.shape == (1, 1, 2)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"map": "margin", "competing": False}, "`map` margin is for models of one label"),
        ({"map": "contrast", "competing": False}, "`map` contrast is for models of one label"),
        ({"map": "magin"}, "unknown map 'magin'; did you mean 'margin'"),
        ({"versus": 0}, "`versus` must be another class"),
        ({"target": 2, "versus": 2}, "`versus` must be another class"),
        ({"versus": 1, "map": "margin"}, "leave `map`"),
        ({"versus": 3}, r"class indices in 0\.\.2, got \[3\]"),
    ],
)
@pytest.mark.usefixtures("no_shape_checks")
def test_a_map_that_cannot_be_is_refused_in_one_line(asked, message) -> None:
    with pytest.raises(InputError, match=message) as caught:
        explained(DISPUTED, **asked)
    assert "\n" not in str(caught.value)


def test_a_head_without_evidence_has_no_such_map() -> None:
    check_map(None, has_evidence=False, competing=True)
    with pytest.raises(InputError, match="`map` needs a head with exact evidence"):
        check_map("margin", has_evidence=False, competing=True)
    with pytest.raises(InputError, match="`versus` needs a head with exact evidence"):
        check_map(None, has_evidence=False, competing=True, versus=True)
