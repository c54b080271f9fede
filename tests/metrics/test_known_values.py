"""What constant answers reach on the real boxes of Tiny ImageNet, as it is known from elsewhere."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from loss_attention.geometry import PatchGrid
from loss_attention.metrics.localisation import (
    centred_box,
    correct_boxes,
    fit_centred_box,
    patches_in_boxes,
    pixels_in_boxes,
    pointing_hits,
)

SIDE = 64


@pytest.fixture(scope="module")
def boxes(shared_data: Path) -> Tensor:
    archive = shared_data / "tiny-imagenet-200" / "val.tar.xz"
    if not archive.exists():
        pytest.skip("needs ../shared/data/tiny-imagenet-200/val.tar.xz beside the repository")
    with tarfile.open(archive) as content:
        listing = next(member for member in content if member.name.endswith("_annotations.txt"))
        lines = content.extractfile(listing).read().decode().splitlines()
    pixels = torch.tensor([[float(value) for value in line.split("\t")[2:]] for line in lines])
    return (pixels + torch.tensor([0.0, 0.0, 1.0, 1.0])).unsqueeze(1)  # theirs are inclusive


def percent(hits: Tensor) -> float:
    return 100 * hits.double().mean().item()


def test_floors_of_tiny_imagenet(boxes: Tensor) -> None:
    count = len(boxes)
    every = torch.ones(count, 1, dtype=torch.bool)

    def frames(share: float) -> float:
        box = centred_box(share, share, SIDE, SIDE).expand(count, 4)
        return percent(correct_boxes(box, boxes, every))

    assert count == 10_000
    assert frames(1.0) == pytest.approx(51.7, abs=0.05)
    assert frames((SIDE - 12) / SIDE) == pytest.approx(57.05, abs=0.05)
    fitted = fit_centred_box(boxes, every, SIDE, SIDE)
    assert fitted is not None
    best = centred_box(*fitted, SIDE, SIDE).expand(count, 4)
    assert 57.05 < percent(correct_boxes(best, boxes, every)) < 60

    constant = torch.ones(500, SIDE, SIDE)
    hits = [pointing_hits(constant, pixels_in_boxes(b, SIDE, SIDE)) for b in boxes.split(500)]
    assert percent(torch.cat(hits)) == pytest.approx(78.9, abs=0.05)

    grid = PatchGrid(6, 6, window=18, stride=8, height=SIDE, width=SIDE)
    inside = patches_in_boxes(grid.windows(), boxes, every)
    assert percent(inside) == pytest.approx(59.5, abs=0.05)
