"""Locality against a linear network in closed form, and what is exact of any network."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from loss_attention.geometry import PatchGrid
from loss_attention.metrics import locality
from loss_attention.metrics.locality import (
    Changes,
    Locality,
    LocalityCurve,
    changes_when_kept,
    kept_squares,
    locality_curve,
    sides_to_try,
)

HEIGHT, WIDTH, CLASSES = 12, 14, 4
# A kernel of 7 pixels, 2 of them before the window, which has 3: they share their middle.
KERNEL, STRIDE, PADDING, WINDOW = 7, 2, 2, 3
ROWS, COLUMNS = (
    (HEIGHT + 2 * PADDING - KERNEL) // STRIDE + 1,
    (WIDTH + 2 * PADDING - KERNEL) // STRIDE + 1,
)
GRID = PatchGrid(ROWS, COLUMNS, WINDOW, STRIDE, HEIGHT, WIDTH)


def as_vectors(cells: Tensor) -> Tensor:
    return cells.flatten(2).transpose(1, 2)


@pytest.fixture
def linear():
    """A linear network in double precision, images, others, and two patches of each."""
    weights = torch.randn(CLASSES, 2, KERNEL, KERNEL, dtype=torch.float64)
    images, others = torch.rand(2, 6, 2, HEIGHT, WIDTH, dtype=torch.float64)

    def vectors_of(some: Tensor) -> Tensor:
        return as_vectors(nn.functional.conv2d(some, weights, stride=STRIDE, padding=PADDING))

    patches = torch.randint(ROWS * COLUMNS, (6, 2))
    patches[0] = torch.tensor([0, ROWS * COLUMNS - 1])  # corners, where the square is clipped
    return weights, vectors_of, images, others, patches


def curve_of(vectors_of, images, others, patches, grid, sides) -> LocalityCurve:
    own = vectors_of(images)
    changes = changes_when_kept(vectors_of, images, others, own, patches, grid, sides)
    return locality_curve(changes, patches, grid, sides)


def test_a_linear_network_in_closed_form(linear) -> None:
    """Only what lies outside the square differs, so the vector changes by its weighted sum."""
    weights, vectors_of, images, others, patches = linear
    sides = sides_to_try(GRID)
    assert sides == (0, 3, 5, 7, 9, 11, 14)
    sides = (0, 1, *sides[1:])
    found = curve_of(vectors_of, images, others, patches, GRID, sides)
    w = weights.numpy()
    changed, kept, stays = (np.zeros(len(sides)) for _ in range(3))
    for x, y, numbers in zip(images.numpy(), others.numpy(), patches.numpy(), strict=True):
        for m in numbers:
            top, left = m // COLUMNS * STRIDE, m % COLUMNS * STRIDE
            middle = np.array([top, left]) + WINDOW / 2
            for s, side in enumerate(sides):
                p, before = np.zeros(CLASSES), np.zeros(CLASSES)
                for v in range(HEIGHT):
                    for u in range(WIDTH):
                        away = np.abs(np.array([v, u]) + 0.5 - middle).max()
                        inside = away < side / 2 or side == max(HEIGHT, WIDTH)
                        kept[s] += inside / (HEIGHT * WIDTH * patches.numel())
                        i, j = v - top + PADDING, u - left + PADDING
                        if 0 <= i < KERNEL and 0 <= j < KERNEL:
                            p += w[:, :, i, j] @ (x if inside else y)[:, v, u]
                            before += w[:, :, i, j] @ x[:, v, u]
                changed[s] += ((p - before) ** 2).sum()
                stays[s] += (p.argmax() == before.argmax()) / patches.numel()
    np.testing.assert_allclose(found.values, 1 - changed / changed[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.areas, kept, atol=1e-12)
    np.testing.assert_allclose(found.same_top_class, stays, atol=1e-12)
    assert found.values[0] == 0.0
    assert found.values[4:] == (1.0,) * 4  # from the receptive field of 7 pixels on
    assert 0 < found.values[2] < found.values[3] < 1
    assert stays[0] < 1


def test_it_is_exactly_one_once_the_square_covers_the_receptive_field() -> None:
    """A field of 9 pixels every 4, which lies half a pixel before the middle of its window."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, padding=1), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Conv2d(4, 3, 3, 2)).double()
    images, others = torch.rand(2, 5, 1, 28, 28, dtype=torch.float64)
    grid = PatchGrid(6, 6, window=6, stride=4, height=28, width=28)
    patches = torch.randint(36, (5, 3))
    patches[0] = torch.tensor([7, 14, 28])

    def vectors_of(some: Tensor) -> Tensor:
        return as_vectors(network(some))

    assert vectors_of(images).shape == (5, 36, 3)
    with torch.no_grad():
        sides = (0, 2, 4, 6, 8, 10, 12, 20, 28)
        found = curve_of(vectors_of, images, others, patches, grid, sides)
    # 4i - 2 to 4i + 7 (exclusive) around 4i + 3: a side of 2 * 5.
    assert found.values[5:] == (1.0,) * 4
    assert found.same_top_class[5:] == (1.0,) * 4
    assert found.values[0] == 0.0
    assert all(value < 1 for value in found.values[:5])
    assert found.r90 in sides[:6]
    assert found.windows == found.r90 / 6


def test_a_window_as_large_as_the_image_leaves_nothing_to_run() -> None:
    grid, images = PatchGrid(1, 1, window=8, stride=1, height=8, width=8), torch.rand(2, 3, 3, 8, 8)
    assert sides_to_try(grid) == (0, 8)

    def vectors_of(some: Tensor) -> Tensor:
        return some.mean(dim=(2, 3)).unsqueeze(1)

    patches = torch.zeros(3, 1, dtype=torch.int64)
    curve = curve_of(vectors_of, *images, patches, grid, sides_to_try(grid))
    assert curve.values == (0.0, 1.0)
    assert (curve.in_window, curve.r90, curve.windows) == (1.0, 8, 1.0)


@pytest.mark.parametrize("pixels", [1, 5 * HEIGHT * WIDTH, 1 << 30])
def test_how_many_run_together_changes_nothing(linear, pixels, monkeypatch) -> None:
    _, vectors_of, images, others, patches = linear
    sides = (0, 1, 3, 5, 7, 9, 11, 14)
    wanted = curve_of(vectors_of, images, others, patches, GRID, sides)
    own, seen, told = vectors_of(images), [], []
    monkeypatch.setattr(locality, "PIXELS_AT_ONCE", pixels)

    def watched(some: Tensor) -> Tensor:
        seen.append(len(some))
        return vectors_of(some)

    changes = changes_when_kept(watched, images, others, own, patches, GRID, sides, told.append)
    found = locality_curve(changes, patches, GRID, sides)
    np.testing.assert_allclose(found.values, wanted.values, atol=1e-12)
    # 6 images, 2 patches, 6 sides that are neither 0 nor all: nothing is run for those.
    assert seen == told
    assert sum(seen) == 6 + 6 * 2 * 6
    assert max(seen[1:]) == {1: 1, 5 * HEIGHT * WIDTH: 5, 1 << 30: 72}[pixels]


def test_squares_of_an_odd_window_and_an_even_side() -> None:
    grid = PatchGrid(1, 2, window=3, stride=3, height=3, width=9)
    boxes = kept_squares(grid, torch.tensor([0, 1, 1]), torch.tensor([1, 1, 2]))
    assert boxes.tolist() == [[1, 1, 2, 2], [4, 1, 5, 2], [3, 0, 5, 2]]
    # All of the image from its longer side on, wherever the patch lies.
    assert kept_squares(grid, torch.tensor([0]), torch.tensor([9])).tolist() == [[0, 0, 9, 3]]


@pytest.mark.parametrize(
    ("window", "size"),
    [(1, (5, 5)), (1, (320, 320)), (9, (32, 32)), (16, (224, 448)), (40, (32, 32))],
)
def test_sides_rise_from_none_to_all_and_hold_the_window(
    window: int, size: tuple[int, int]
) -> None:
    sides = sides_to_try(PatchGrid(1, 1, window, window, *size))
    assert sides[0] == 0
    assert sides[-1] == max(size)
    assert list(sides) == sorted(set(sides))
    assert min(window, max(size)) in sides
    assert all(side % 2 == window % 2 for side in sides[1:-1])
    assert len(sides) <= 20


def test_numbers_of_a_curve_by_hand() -> None:
    sides, grid = (0, 2, 4, 6, 8), PatchGrid(1, 2, window=4, stride=4, height=8, width=8)
    squared = torch.tensor([[[8, 6, 5, 1, 0]], [[12, 4, 5, 1, 0]]]).double()
    same = torch.tensor([[[0, 0, 1, 1, 1]], [[1, 0, 0, 1, 1]]]).bool()
    found = locality_curve(Changes(squared, same), torch.tensor([[0], [1]]), grid, sides)
    assert found.values == (0.0, 0.5, 0.5, 0.9, 1.0)
    assert (found.in_window, found.r90, found.windows) == (0.5, 6, 1.5)
    assert (found.same_in_window, found.same_top_class[0]) == (0.5, 0.5)
    # Squares of 4 in the upper corners, then of 5 x 5 that the image cuts; at 8 all of it.
    assert found.areas == (0.0, 4 / 64, 16 / 64, 25 / 64, 1.0)
    assert (found.even_in_window, found.even_r90) == (0.25, 8)


def test_vectors_that_never_change_have_no_locality() -> None:
    grid = PatchGrid(1, 1, window=2, stride=2, height=4, width=4)
    same = Changes(torch.zeros(3, 1, 3).double(), torch.ones(3, 1, 3).bool())
    found = locality_curve(same, torch.zeros(3, 1, dtype=torch.int64), grid, (0, 2, 4))
    assert (found.values, found.in_window, found.r90, found.windows) == ((), None, None, None)
    assert found.same_in_window == 1.0


def test_it_is_written_as_json_and_read(linear) -> None:
    _, vectors_of, images, others, patches = linear
    curve = curve_of(vectors_of, images, others, patches, GRID, sides_to_try(GRID))
    found = Locality(6, curve, curve)
    assert Locality.from_json(json.loads(json.dumps(dataclasses.asdict(found)))) == found
