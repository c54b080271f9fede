"""Grids, windows, boxes and painted maps against hand-computed values and pixel-by-pixel loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from loss_attention.geometry import (
    PatchGrid,
    box_area,
    box_iou,
    enclosing_boxes,
    inside_fraction,
    intersection_area,
    paint_patches,
    painted_on,
)

NO_BOX = [math.nan] * 4

small_boxes = st.tuples(*[st.integers(0, 7)] * 4).map(
    lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3]))
)


def pixels(box: tuple[int, int, int, int]) -> set[tuple[int, int]]:
    """The pixels in a box of whole coordinates, as a set to count with."""
    x0, y0, x1, y1 = box
    return {(x, y) for x in range(x0, x1) for y in range(y0, y1)}


def as_tensor(box: tuple[int, int, int, int]) -> torch.Tensor:
    return torch.tensor(box, dtype=torch.float32)


def test_patches_are_numbered_row_by_row() -> None:
    grid = PatchGrid(rows=2, columns=3, window=9, stride=4, height=13, width=17)
    assert grid.patches == 6
    assert grid.windows().tolist() == [
        [0, 0, 9, 9],
        [4, 0, 13, 9],
        [8, 0, 17, 9],
        [0, 4, 9, 13],
        [4, 4, 13, 13],
        [8, 4, 17, 13],
    ]


def test_windows_are_clipped_to_the_image() -> None:
    # 33 pixels at backbone stride 2: 17 places, 3 patches; the last spans 16..34 of 0..33.
    grid = PatchGrid(rows=1, columns=3, window=18, stride=8, height=17, width=33)
    assert grid.windows().tolist() == [[0, 0, 18, 17], [8, 0, 26, 17], [16, 0, 33, 17]]


@given(small_boxes, small_boxes)
def test_areas_and_iou_count_pixels(
    a: tuple[int, int, int, int], b: tuple[int, int, int, int]
) -> None:
    shared, union = len(pixels(a) & pixels(b)), len(pixels(a) | pixels(b))
    assert box_area(as_tensor(a)).item() == len(pixels(a))
    assert intersection_area(as_tensor(a), as_tensor(b)).item() == shared
    iou = box_iou(as_tensor(a), as_tensor(b)).item()
    assert iou == pytest.approx(shared / union if union else 0.0, rel=1e-6)


def test_boxes_broadcast_over_leading_axes() -> None:
    a = torch.tensor([[[0.0, 0, 2, 2]], [[0.0, 0, 4, 4]]])  # (2, 1, 4)
    b = torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6]])  # (3, 4)
    assert intersection_area(a, b).tolist() == [[4, 1, 0], [4, 4, 0]]
    torch.testing.assert_close(box_iou(a, b), torch.tensor([[1, 1 / 7, 0], [1 / 4, 1 / 4, 0]]))


def test_no_box_has_no_overlap() -> None:
    whole = torch.tensor([0.0, 0.0, 5.0, 5.0])
    assert box_iou(torch.tensor(NO_BOX), whole).item() == 0
    assert box_iou(whole, torch.tensor(NO_BOX)).item() == 0
    assert box_area(torch.tensor(NO_BOX)).isnan()
    assert box_area(torch.tensor([3.0, 3.0, 1.0, 5.0])).item() == 0  # inside out: empty


@given(st.lists(small_boxes, min_size=2, max_size=4), st.integers(1, 3))
def test_inside_fraction_counts_pixels(boxes: list[tuple[int, int, int, int]], batch: int) -> None:
    grid = PatchGrid(rows=2, columns=2, window=4, stride=3, height=6, width=7)
    windows = grid.windows()
    stacked = torch.stack([as_tensor(box) for box in boxes]).expand(batch, -1, -1).clone()
    stacked[0, -1] = math.nan
    fraction = inside_fraction(windows, stacked)
    assert fraction.shape == (batch, len(boxes), 4)
    for b in range(batch):
        for g, box in enumerate(boxes):
            for m in range(4):
                x0, y0, x1, y1 = (int(value) for value in windows[m])
                window = pixels((x0, y0, x1, y1))
                share = len(window & pixels(box)) / len(window)
                known = 0.0 if b == 0 and g == len(boxes) - 1 else share
                assert fraction[b, g, m].item() == pytest.approx(known)


def test_enclosing_boxes_hold_exactly_the_selected_windows() -> None:
    grid = PatchGrid(rows=3, columns=3, window=5, stride=4, height=12, width=13)
    selected = torch.zeros(4, 9, dtype=torch.bool)
    selected[0, [0, 5]] = True  # top left and the right of the middle row
    selected[1, 8] = True  # bottom right alone, clipped at 12 rows
    selected[2] = True
    boxes = enclosing_boxes(selected, grid.windows())
    assert boxes[:3].tolist() == [[0, 0, 13, 9], [8, 8, 13, 12], [0, 0, 13, 12]]
    assert boxes[3].isnan().all()


@pytest.mark.parametrize(
    "grid",
    [
        PatchGrid(rows=6, columns=6, window=9, stride=4, height=32, width=32),
        PatchGrid(rows=2, columns=3, window=9, stride=4, height=16, width=19),  # bare margins
        PatchGrid(rows=2, columns=3, window=18, stride=8, height=25, width=33),  # past the edges
        PatchGrid(rows=2, columns=2, window=2, stride=5, height=9, width=8),  # gaps between
        PatchGrid(rows=1, columns=1, window=3, stride=1, height=3, width=3),
    ],
    ids=str,
)
def test_painting_is_the_mean_over_the_windows_on_a_pixel(grid: PatchGrid) -> None:
    values = torch.randn(3, grid.patches, generator=torch.Generator().manual_seed(1))
    painted = paint_patches(values, grid)
    windows = grid.windows().numpy().astype(np.float64)
    for i in range(3):
        expected = reference.painted(values[i].double().numpy(), windows, grid.height, grid.width)
        np.testing.assert_allclose(painted[i].numpy(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "grid",
    [
        PatchGrid(rows=2, columns=3, window=9, stride=4, height=16, width=19),
        PatchGrid(rows=2, columns=3, window=18, stride=8, height=25, width=33),
        PatchGrid(rows=2, columns=2, window=2, stride=5, height=9, width=8),
    ],
    ids=str,
)
def test_what_is_painted_of_each_patch_on_some_pixels(grid: PatchGrid) -> None:
    generator = torch.Generator().manual_seed(1)
    some = torch.rand(2, grid.height, grid.width, generator=generator) < 0.3
    painted = painted_on(some, grid)
    windows = grid.windows().numpy().astype(np.float64)
    for m in range(grid.patches):
        one = reference.painted(np.eye(grid.patches)[m], windows, grid.height, grid.width)
        for i in range(2):
            assert painted[i, m].item() == pytest.approx(one[some[i].numpy()].sum(), rel=1e-6)


def test_a_patch_that_is_alone_keeps_its_value() -> None:
    grid = PatchGrid(rows=1, columns=2, window=2, stride=3, height=3, width=5)
    painted = paint_patches(torch.tensor([[7.0, -2.0]]), grid)
    assert painted.tolist() == [[[7, 7, 0, -2, -2], [7, 7, 0, -2, -2], [0, 0, 0, 0, 0]]]


def test_pixels_under_the_same_windows_are_equal_to_the_bit() -> None:
    """What looks for a greatest value, or for regions, must not see rounding."""
    grid = PatchGrid(rows=9, columns=11, window=7, stride=3, height=33, width=40)
    painted = paint_patches(torch.randn(4, 99), grid)
    windows = grid.windows().int().tolist()
    of_pixel: dict[tuple[int, ...], set[tuple[float, ...]]] = {}
    for y in range(33):
        for x in range(40):
            over = tuple(
                m for m, (x0, y0, x1, y1) in enumerate(windows) if y0 <= y < y1 and x0 <= x < x1
            )
            of_pixel.setdefault(over, set()).add(tuple(painted[:, y, x].tolist()))
    assert len(of_pixel) > 200
    assert all(len(values) == 1 for values in of_pixel.values())


def test_painting_in_inference_mode_and_then_with_gradients() -> None:
    grid = PatchGrid(rows=2, columns=2, window=3, stride=2, height=5, width=5)
    values = torch.randn(1, 4)
    with torch.inference_mode():
        wanted = paint_patches(values, grid)
    leaf = values.clone().requires_grad_()
    painted = paint_patches(leaf, grid)
    assert painted.detach().equal(wanted)
    painted.sum().backward()
    assert leaf.grad is not None
    # A corner window has 9 pixels: 4 alone, 4 shared by two, 1 shared by four.
    assert leaf.grad.tolist() == [[4 + 4 / 2 + 1 / 4] * 4]
