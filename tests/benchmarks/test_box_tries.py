"""What is tried with boxes around evidence, against cases worked by hand."""

from __future__ import annotations

import pytest
import torch
from boxes import (
    along_colours,
    as_shares,
    chosen_by_halves,
    correlations,
    framed_by,
    middle_boxes,
    tries,
)

import loss_attention as la
from loss_attention.data.sample import ImageSet


def test_each_half_chooses_for_the_other() -> None:
    # The first half (images 0 and 2) would choose the first column, the second half the second.
    right = torch.tensor([[1, 0], [0, 1], [1, 1], [1, 1]]).bool()
    assert chosen_by_halves(right) == pytest.approx(2 / 4)
    assert chosen_by_halves(torch.ones(5, 3).bool()) == 1.0


def test_evidence_goes_as_far_as_its_colour() -> None:
    images = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    images[..., 8:] = 255
    maps = torch.zeros(1, 16, 16)
    maps[0, 0, 0] = 4.0
    smooth = along_colours(maps, images)
    assert smooth.shape == maps.shape
    assert smooth[..., :8].min() > 0.01
    assert smooth[..., 8:].max() < 1e-10
    assert smooth[0, 0, 0] > smooth[0, 15, 7]
    assert along_colours(torch.ones(1, 9, 7), images[..., :9, :7]).allclose(torch.ones(1, 9, 7))


def test_nothing_positive_is_the_same_everywhere() -> None:
    maps = torch.tensor([[[-1.0, -2.0]], [[-1.0, 3.0]]])
    assert as_shares(maps).tolist() == [[[0.5, 0.5]], [[0.0, 1.0]]]


def squares(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps that are a square each, and its box."""
    generator = torch.Generator().manual_seed(0)
    maps, boxes = torch.zeros(count, 32, 32), torch.zeros(count, 4)
    for i in range(count):
        x, y, across, down = (int(torch.randint(4, 14, (), generator=generator)) for _ in range(4))
        maps[i, y : y + down, x : x + across] = 1.0
        boxes[i] = torch.tensor([x, y, x + across, y + down])
    return maps, boxes


def test_maps_that_are_the_object_frame_it_and_tell_all_of_it() -> None:
    maps, boxes = squares(12)
    assert framed_by(maps, boxes, middle_boxes((32, 32))) == [1.0, 1.0, 1.0]
    assert correlations(maps, boxes) == pytest.approx([1.0] * 4, abs=0.02)


def test_a_box_drawn_to_the_middle_needs_no_map() -> None:
    """Maps that point at a corner: a quarter of their box and three of the middle's still frame."""
    maps = torch.zeros(4, 32, 32)
    maps[:, :4, :4] = 1.0
    truth = torch.tensor([[4.0, 4.0, 28.0, 28.0]]).expand(4, 4)
    assert framed_by(maps, truth, middle_boxes((32, 32))) == [0.0, 0.0, 1.0]


def test_the_tables_of_a_model() -> None:
    torch.manual_seed(0)
    model = la.create_model(
        "vgg11_bn", num_classes=2, width=0.05, patch_kernel=5, class_names=("a", "b")
    ).eval()
    images = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8)
    labels = torch.tensor([0, 1] * 3)
    boxes = torch.tensor([2.0, 2.0, 14.0, 14.0]).expand(6, 1, 4)
    lines = tries(model, ImageSet(images, labels, ("a", "b"), boxes, labels.unsqueeze(1)))
    names = [line.split(" | ")[0] for line in lines]
    assert names[3:7] == names[-4:]
    assert lines[2] == "| none: the box in the middle | 1.000 | | |"
