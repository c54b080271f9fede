from __future__ import annotations

import numpy as np
import pytest
import torch

from loss_attention.geometry import PatchGrid, paint_patches
from loss_attention.metrics import detection
from loss_attention.metrics.detection import (
    THRESHOLDS,
    box_overlaps,
    connected_groups,
    count_overlaps,
)
from loss_attention.metrics.localisation import scaled_maps

NAN = float("nan")


def flooded(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """Return the groups of a mask, by walking from pixel to pixel."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    groups = []
    while left:
        group, edge = set(), [min(left)]
        while edge:
            y, x = edge.pop()
            if (y, x) in left:
                left.remove((y, x))
                group.add((y, x))
                edge += [(y + j, x + i) for j in (-1, 0, 1) for i in (-1, 0, 1)]
        groups.append(group)
    return groups


def around(group: set[tuple[int, int]]) -> tuple[int, int, int, int]:
    y, x = zip(*group, strict=True)
    return min(x), min(y), max(x) + 1, max(y) + 1


def iou(a, b) -> float:
    across = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    down = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return across * down / (areas - across * down)


def test_groups_are_those_of_a_walk() -> None:
    masks, values = torch.rand(30, 6, 7) < 0.35, torch.rand(30, 6, 7)
    found = connected_groups(masks, values)
    expected = []
    for number, mask in enumerate(masks.numpy()):
        for group in flooded(mask):
            total = sum(float(values[number, y, x]) for y, x in group)
            expected.append((number, *around(group), round(total, 4)))
    rows = zip(found.owner.tolist(), found.cells.tolist(), found.total.tolist(), strict=True)
    assert sorted((o, *c, round(t, 4)) for o, c, t in rows) == sorted(expected)
    assert found.owner.tolist() == sorted(found.owner.tolist())
    assert len(expected) > 100


def test_no_cell_no_group() -> None:
    found = connected_groups(torch.zeros(2, 3, 4, dtype=torch.bool), torch.ones(1, 3, 4))
    assert (len(found.owner), found.cells.shape) == (0, (0, 4))


@pytest.mark.parametrize("painted", [False, True])
def test_overlaps_are_those_of_a_walk(painted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "MOST_CELLS", 5000)  # in several parts
    maps = torch.rand(12, 10, 13) ** 3
    if painted:
        grid = PatchGrid(3, 4, window=4, stride=3, height=10, width=13)
        maps = paint_patches(torch.randn(12, 12), grid)
    scaled = scaled_maps(maps)
    corner = torch.randint(0, 6, (12, 2, 2))
    boxes = torch.cat([corner, corner + torch.randint(2, 7, (12, 2, 2))], dim=2).float()
    boxes[::3, 1] = NAN
    best, largest = box_overlaps(scaled, boxes)
    for i in range(12):
        truth = [box for box in boxes[i].tolist() if box[0] == box[0]]
        for t, threshold in enumerate(THRESHOLDS):
            groups = flooded((scaled[i] > threshold).numpy())
            each = [max(iou(around(group), box) for box in truth) for group in groups]
            assert best[i, t].item() == pytest.approx(max(each, default=0.0), abs=1e-6)
            most = max(map(len, groups), default=0)
            tied = [v for v, g in zip(each, groups, strict=True) if len(g) == most] or [0.0]
            assert min(abs(largest[i, t].item() - value) for value in tied) < 1e-6
    assert (best > largest).any()


def test_the_largest_group_is_so_in_pixels_not_cells() -> None:
    scaled = torch.zeros(1, 4, 9)
    scaled[0, 0, [0, 2]] = 1.0  # two small ones on either side of a gap, which make cells narrow
    scaled[0, 1, 1] = 1.0  # their link: 3 pixels, 3 cells
    scaled[0, 3, 4:8] = 1.0  # 4 pixels, 1 cell
    assert box_overlaps(scaled, torch.tensor([[[4.0, 3.0, 8.0, 4.0]]])).largest[0, 0] == 1.0
    assert box_overlaps(scaled, torch.tensor([[[0.0, 0.0, 3.0, 2.0]]])).largest[0, 0] == 0.0
    assert box_overlaps(scaled, torch.tensor([[[0.0, 0.0, 3.0, 2.0]]])).best[0, 0] == 1.0


def test_a_map_of_nothing_has_no_box() -> None:
    best, largest = box_overlaps(torch.zeros(2, 5, 5), torch.tensor([[[0.0, 0.0, 5.0, 5.0]]] * 2))
    assert not best.any()
    assert not largest.any()
    empty = box_overlaps(torch.zeros(0, 5, 5), torch.zeros(0, 1, 4))
    assert empty.best.shape == (0, len(THRESHOLDS))


def test_overlap_counts_at_least_not_above() -> None:
    overlaps = torch.tensor([[0.5, 0.7], [0.3, 0.69], [0.29, 0.0]])
    assert count_overlaps(overlaps).tolist() == [[2, 1, 0], [2, 2, 1]]


def test_a_larger_map_and_a_higher_threshold_by_hand() -> None:
    # A hill: 1 in the middle, 0.5 around it; the box is the whole hill up to 0.5, then its top.
    scaled = torch.zeros(1, 7, 7)
    scaled[0, 1:6, 1:6] = 0.5
    scaled[0, 3, 3] = 1.0
    best, _ = box_overlaps(scaled, torch.tensor([[[1.0, 1.0, 6.0, 6.0]]]))
    below = [threshold < 0.5 for threshold in THRESHOLDS]
    assert best[0].tolist() == pytest.approx([1.0 if low else 1 / 25 for low in below])
