"""Boxes by the spread of a map, against NumPy and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from loss_attention.metrics import detection as module
from loss_attention.metrics.detection import REACHES, spread_boxes, spread_overlaps


def test_an_even_rectangle_is_framed_at_the_root_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REACHES", (math.sqrt(3), 2 * math.sqrt(3)))
    maps = torch.zeros(2, 30, 40)
    maps[0, 3:8, 10:22] = 0.25
    maps[1, 29, 0] = 9.0
    found = spread_boxes(maps)
    torch.testing.assert_close(found[0, 0], torch.tensor([10.0, 3.0, 22.0, 8.0]))
    # Twice as far to each side, as far as the image goes.
    torch.testing.assert_close(found[0, 1], torch.tensor([4.0, 0.5, 28.0, 10.5]))
    torch.testing.assert_close(found[1, 1], torch.tensor([0.0, 28.5, 1.5, 30.0]))


def test_mean_and_deviation_are_those_of_the_positive_part() -> None:
    maps = torch.randint(-3, 5, (3, 7, 9)).float()
    found = spread_boxes(100 * maps)
    for values, boxes in zip(maps.int().numpy(), found, strict=True):
        y, x = (
            np.repeat(place, values.clip(0).ravel()) for place in np.indices((7, 9)).reshape(2, -1)
        )
        for reach, box in zip(REACHES, boxes, strict=True):
            for place, side, low, high in ((x, 9, box[0], box[2]), (y, 7, box[1], box[3])):
                far = reach * np.sqrt(place.var() + 1 / 12)
                assert low == pytest.approx(max(0, place.mean() + 0.5 - far), abs=1e-5)
                assert high == pytest.approx(min(side, place.mean() + 0.5 + far), abs=1e-5)


def test_a_map_without_anything_positive_has_no_box() -> None:
    maps = torch.stack([torch.zeros(4, 4), -torch.ones(4, 4)])
    assert spread_boxes(maps).isnan().all()
    assert spread_overlaps(maps, torch.tensor([0.0, 0.0, 4.0, 4.0]).expand(2, 1, 4)).eq(0).all()


def test_overlap_is_that_with_the_true_box_that_fits_best() -> None:
    maps = torch.zeros(1, 20, 20)
    maps[:, 4:16, 4:16] = 1.0
    none, own, other = [math.nan] * 4, [4.0, 4.0, 16.0, 16.0], [0.0, 0.0, 2.0, 2.0]
    overlaps = spread_overlaps(maps, torch.tensor([[none, other, own]]))
    side = 2 * 1.7 * 12 / math.sqrt(12)  # a little less than 12
    assert overlaps.shape == (1, len(REACHES))
    assert overlaps[0, REACHES.index(1.7)].item() == pytest.approx(side**2 / 144)
    assert int(overlaps.argmax()) == REACHES.index(1.7)
