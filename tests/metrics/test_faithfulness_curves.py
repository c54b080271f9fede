"""Insertion and deletion against a linear model, whose curves are sums of sorted parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from loss_attention.geometry import PatchGrid
from loss_attention.metrics import faithfulness
from loss_attention.metrics.faithfulness import (
    Ends,
    blurred_fill,
    deletion_curve,
    insertion_curve,
    mean_fill,
    patch_order,
    pixel_order,
)

SHAPE = (4, 2, 6, 8)
GRID = PatchGrid(rows=2, columns=3, window=3, stride=2, height=6, width=8)  # a margin of 1


@pytest.fixture
def linear():
    """A linear score, images, a fill, and what each pixel exactly adds over the fill."""
    weights = torch.randn(SHAPE[1:])
    images, fill = torch.rand(SHAPE), torch.rand(SHAPE)
    parts = (weights * (images - fill)).sum(dim=1)
    return lambda x: (x * weights).sum(dim=(1, 2, 3)), images, fill, parts


def area(scores: np.ndarray, shares: np.ndarray) -> np.ndarray:
    middles = (scores[:, 1:] + scores[:, :-1]) / 2
    return (middles * np.diff(shares, axis=1)).sum(axis=1)


@pytest.mark.parametrize("steps", [48, 8])
def test_pixel_curves_of_a_linear_model(linear, steps: int) -> None:
    score, images, fill, parts = linear
    ordered = -np.sort(-parts.double().numpy().reshape(4, -1), axis=1)
    gone = np.cumsum(ordered, axis=1)[:, 48 // steps - 1 :: 48 // steps]
    gone = np.concatenate([np.zeros((4, 1)), gone], axis=1)
    shares = np.tile(np.linspace(0, 1, steps + 1), (4, 1))
    order = pixel_order(parts, steps)
    for curve, whole, sign in (
        (deletion_curve(score, images, fill, order), score(images), -1),
        (insertion_curve(score, images, fill, order), score(fill), 1),
    ):
        wanted = whole.double().numpy()[:, None] + sign * gone
        np.testing.assert_allclose(curve.scores, wanted, atol=1e-4)
        np.testing.assert_allclose(curve.changed, shares, atol=1e-12)
        np.testing.assert_allclose(curve.area, area(wanted, shares), atol=1e-4)


@pytest.mark.parametrize("pixels", [1, 3 * 4 * 6 * 8, 1 << 30])
def test_how_many_are_scored_together_changes_nothing(linear, pixels, monkeypatch) -> None:
    """One step at a time, three of the seven, or all; and the ends are not scored when known."""
    score, images, fill, parts = linear
    order = pixel_order(parts, 8)
    wanted = torch.stack(
        [score(torch.where((order <= step).unsqueeze(1), fill, images)) for step in range(9)], dim=1
    )
    seen = []
    monkeypatch.setattr(faithfulness, "PIXELS_AT_ONCE", pixels)
    ends = Ends(score(images), score(fill))

    def watched(batch: torch.Tensor) -> torch.Tensor:
        seen.append(len(batch) // len(images))
        return score(batch)

    deletion = deletion_curve(watched, images, fill, order, ends)
    assert seen == {1: [1] * 7, 3 * 4 * 6 * 8: [3, 3, 1], 1 << 30: [7]}[pixels]
    torch.testing.assert_close(deletion.scores, wanted)
    insertion = insertion_curve(score, fill, images, order, Ends(ends.fill, ends.images))
    torch.testing.assert_close(insertion.scores, wanted)


def test_the_exact_map_is_the_best_and_its_reverse_the_worst(linear) -> None:
    score, images, fill, parts = linear
    areas = {
        name: (
            deletion_curve(score, images, fill, pixel_order(maps)).area,
            insertion_curve(score, images, fill, pixel_order(maps)).area,
        )
        for name, maps in {"best": parts, "noise": torch.rand(4, 6, 8), "worst": -parts}.items()
    }
    assert (areas["best"][0] < areas["noise"][0]).all()
    assert (areas["noise"][0] < areas["worst"][0]).all()
    assert (areas["best"][1] > areas["noise"][1]).all()
    assert (areas["noise"][1] > areas["worst"][1]).all()


@pytest.mark.parametrize("steps", [6, 16, 3])
def test_patch_curves_by_hand(linear, steps: int) -> None:
    score, images, fill, parts = linear
    scores = torch.randn(4, 6)
    curve = deletion_curve(score, images, fill, patch_order(scores, GRID, steps))
    each = 6 // min(steps, 6)
    for i in range(4):
        gone, values, shares = np.zeros((6, 8), bool), [score(images)[i].item()], [0.0]
        for together in np.argsort(-scores[i].numpy()).reshape(-1, each):
            for m in together:
                y, x = m // 3 * 2, m % 3 * 2
                gone[y : y + 3, x : x + 3] = True
            values.append(values[0] - parts[i].numpy()[gone].sum())
            shares.append(gone.mean())
        values[-1], shares[-1] = score(fill)[i].item(), 1.0  # the margin goes with the last
        np.testing.assert_allclose(curve.scores[i], values, atol=1e-5)
        np.testing.assert_allclose(curve.changed[i], shares, atol=1e-12)
        # Over the share of pixels: the steps of overlapping windows are unequal.
        wanted = area(np.array([values]), np.array([shares]))[0]
        assert curve.area[i].item() == pytest.approx(wanted, abs=1e-5)


def test_equal_values_go_in_no_order_of_place() -> None:
    order = pixel_order(torch.zeros(1, 32, 32), steps=2)[0]
    assert int((order == 1).sum()) == 512
    for half in (order[:16], order[:, :16], order[16:], order[:, 16:]):
        assert 200 < int((half == 1).sum()) < 312
    grid = PatchGrid(rows=6, columns=1, window=2, stride=2, height=12, width=2)
    ranks = patch_order(torch.zeros(2, 6), grid)
    assert ranks[0].equal(ranks[1])
    assert ranks[0, ::2, 0].tolist() != [1, 2, 3, 4, 5, 6]
    assert ranks[0, ::2, 0].sort().values.tolist() == [1, 2, 3, 4, 5, 6]


def test_fills() -> None:
    images = torch.rand(2, 3, 24, 32)
    colour = torch.tensor([0.1, 0.2, 0.3]).reshape(3, 1, 1)
    assert mean_fill(images, colour)[1, :, 5, 7].tolist() == pytest.approx([0.1, 0.2, 0.3])
    blurred = blurred_fill(images)
    # SciPy pads with zeros: dividing by the blurred ones leaves the weights inside the image.
    for i, c in ((0, 0), (1, 2)):
        wide = {"sigma": 3.0, "mode": "constant", "truncate": 20.0}
        plain = images[i, c].double().numpy()
        wanted = ndimage.gaussian_filter(plain, **wide)
        wanted /= ndimage.gaussian_filter(np.ones_like(plain), **wide)
        np.testing.assert_allclose(blurred[i, c], wanted, atol=1e-6)
    np.testing.assert_allclose(blurred_fill(torch.full((1, 1, 9, 9), 0.7)), 0.7, rtol=1e-6)
