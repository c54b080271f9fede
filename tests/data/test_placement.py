"""Pictures in images of another shape, and boxes there and back, against arithmetic by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loss_attention.data.placement import placement_of
from loss_attention.data.sample import to_image, to_original


@pytest.mark.parametrize(
    ("original", "size", "resize", "box"),
    [
        ((7, 5), None, "squash", (0, 0, 7, 5)),
        ((7, 5), None, "pad", (0, 0, 7, 5)),
        ((640, 480), (64, 64), "squash", (0, 0, 64, 64)),
        ((640, 480), (64, 64), "pad", (0, 8, 64, 56)),
        ((480, 640), (64, 64), "pad", (8, 0, 56, 64)),
        ((30, 30), (64, 64), "pad", (0, 0, 64, 64)),  # smaller ones grow
        ((100, 50), (40, 60), "pad", (0, 5, 60, 35)),
        ((1000, 1), (64, 64), "pad", (0, 31, 64, 32)),  # a pixel at least
    ],
)
def test_where_a_picture_lies(original, size, resize, box) -> None:
    assert placement_of(original, size, resize) == (*original, *box)


def test_a_padded_box_by_hand() -> None:
    # 640 x 480 in 64 x 64: a tenth of the size, 8 rows of border above and below.
    placements = torch.tensor([placement_of((640, 480), (64, 64), "pad")]).float()
    boxes = torch.tensor([[[100.0, 50.0, 640.0, 480.0], [float("nan")] * 4]])
    placed = to_image(boxes, placements)
    assert placed[0, 0].tolist() == pytest.approx([10, 13, 64, 56])
    assert placed[0, 1].isnan().all()
    assert to_original(placed, placements)[0, 0].tolist() == pytest.approx([100, 50, 640, 480])
    over_the_border = torch.tensor([[[0.0, 0.0, 64.0, 64.0], [3.0, 0.0, 5.0, 8.0]]])
    assert to_original(over_the_border, placements).tolist() == [[[0, 0, 640, 480], [30, 0, 50, 0]]]


@given(
    st.tuples(st.integers(1, 900), st.integers(1, 900)),
    st.tuples(st.integers(1, 99), st.integers(1, 99)),
    st.sampled_from(["squash", "pad"]),
)
def test_there_and_back(original, size, resize) -> None:
    width, height, x0, y0, x1, y1 = placement_of(original, size, resize)
    assert 0 <= x0 < x1 <= size[1]
    assert 0 <= y0 < y1 <= size[0]
    assert abs(x0 - (size[1] - x1)) <= 1  # in the middle
    assert abs(y0 - (size[0] - y1)) <= 1
    placements = torch.tensor([[width, height, x0, y0, x1, y1]]).float()
    boxes = torch.tensor([[[0.25 * width, 0.5 * height, float(width), float(height)]]])
    back = to_original(to_image(boxes, placements), placements)
    assert torch.allclose(back, boxes, rtol=1e-4, atol=1e-3)
