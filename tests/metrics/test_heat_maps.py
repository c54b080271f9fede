from __future__ import annotations

import pytest
import torch
from sklearn.metrics import average_precision_score

from loss_attention.metrics.localisation import (
    count_pixels,
    energy_pointing,
    near_object,
    pixel_average_precision,
    pixels_in_boxes,
    pointing_hits,
    scaled_maps,
)

NAN = float("nan")


def test_only_what_speaks_for_the_class_is_scaled() -> None:
    maps = torch.tensor([[[-2.0, 1.0], [4.0, 0.0]], [[-1.0, -2.0], [0.0, -3.0]]])
    assert scaled_maps(maps).tolist() == [[[0, 0.25], [1, 0]], [[0, 0], [0, 0]]]


def test_pixels_count_by_their_middle() -> None:
    boxes = torch.tensor(
        [[[1.0, 0.0, 3.0, 2.0], [NAN] * 4], [[0.6, 0.0, 1.5, 1.0], [3.0, 1.4, 4.0, 2.0]]]
    )
    found = pixels_in_boxes(boxes, height=2, width=4)
    assert found.int().tolist() == [
        [[0, 1, 1, 0], [0, 1, 1, 0]],
        [[0, 0, 0, 0], [0, 0, 0, 1]],
    ]


@pytest.mark.parametrize("within", [1, 2, 3, 16])
def test_near_is_by_the_distance_to_the_nearest_pixel(within: int) -> None:
    inside = torch.rand(4, 9, 11, generator=torch.Generator().manual_seed(0)) > 0.97
    inside[0], inside[1] = False, True
    found = near_object(inside, within)
    for one, object_ in zip(found, inside, strict=True):
        pixels = object_.nonzero().tolist()
        for y in range(9):
            for x in range(11):
                near = any((y - v) ** 2 + (x - u) ** 2 <= within**2 for v, u in pixels)
                assert one[y, x] == near
    assert not found[0].any()
    assert found[1].all()


def test_share_inside_is_of_the_positive_part() -> None:
    maps = torch.tensor([[[3.0, 1.0, -9.0]], [[-1.0, 0.0, -2.0]], [[5.0, 5.0, 5.0]]])
    inside = torch.tensor([[[True, False, True]], [[True, True, True]], [[True, False, False]]])
    assert energy_pointing(maps, inside).tolist() == pytest.approx([3 / 4, 0, 1 / 3])


@pytest.mark.parametrize(
    ("row", "inside", "hit"),
    [
        ([0.0, 2.0, 1.0], [False, True, False], True),
        ([0.0, 2.0, 1.0], [True, False, True], False),
        ([1.0, 1.0, 1.0], [False, True, False], True),  # points at the middle
        ([1.0, 1.0, 1.0], [True, False, True], False),
        ([1.0, 1.0, 0.0], [False, True, False], True),  # of two as near, the later
        ([3.0, 0.0, 3.0], [False, True, False], False),  # never at a pixel that is not highest
        ([-1.0, 0.0, -1.0], [True, True, True], False),  # points nowhere
    ],
)
def test_pointing_game(row: list[float], inside: list[bool], hit: bool) -> None:
    for turn in (lambda values: values, lambda values: values.transpose(1, 2)):
        found = pointing_hits(turn(torch.tensor([[row]])), turn(torch.tensor([[inside]])))
        assert found.tolist() == [hit]


def test_pointing_is_argmax_where_one_pixel_is_highest() -> None:
    maps, inside = torch.rand(50, 6, 7), torch.rand(50, 6, 7) < 0.4
    expected = [inside[i].flatten()[maps[i].flatten().argmax()].item() for i in range(50)]
    assert pointing_hits(maps, inside).tolist() == expected
    assert 5 < sum(expected) < 45


def test_pixel_average_precision_is_scikit_learns() -> None:
    masks = torch.rand(6, 9, 8) < 0.3
    maps = (torch.rand(6, 9, 8) + 0.5 * masks) / 1.5
    steps = (maps * 1000).floor().clamp(max=999)
    counts = count_pixels(maps[:4], masks[:4]) + count_pixels(maps[4:], masks[4:])
    expected = average_precision_score(masks.flatten().numpy(), steps.flatten().numpy())
    assert pixel_average_precision(counts) == pytest.approx(expected, abs=1e-9)
    assert 0.4 < expected < 0.9


def test_pixel_average_precision_by_hand() -> None:
    # From the top: 2 of 2 on the object, then 1 of 2, then 1 of 4.
    maps = torch.tensor([[[1.0, 1.0, 0.6, 0.6, 0.0, 0.0, 0.0, 0.0]]])
    masks = torch.tensor([[[1, 1, 1, 0, 0, 1, 0, 0]]], dtype=torch.bool)
    found = pixel_average_precision(count_pixels(maps, masks))
    assert found == pytest.approx(2 / 4 * 1 + 1 / 4 * 3 / 4 + 1 / 4 * 4 / 8)
    assert pixel_average_precision(count_pixels(maps, ~masks & False)) is None
    constant = pixel_average_precision(count_pixels(torch.ones(1, 1, 8), masks))
    assert constant == pytest.approx(4 / 8)
