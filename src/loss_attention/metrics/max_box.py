"""MaxBoxAccV2: boxes around what a heat map shows above a threshold, over all thresholds at once.

Choe et al., Evaluation for Weakly Supervised Object Localization: Protocol, Metrics, and Datasets,
TPAMI 2022. As there, all connected groups of pixels above the threshold give a box, the best of
them counts, and the share of images is averaged over IoU of at least 0.3, 0.5 and 0.7, each with
its own threshold. The box of the largest group alone, the one answer that somebody who has no true
boxes can give, is measured beside it. Where their threshold is chosen on the reported images, that
is an oracle; here it is also chosen on held-out ones.

Unlike there, a map is cut at 50 shares of its maximum, what is negative in it counting as 0; they
stretch each map from its smallest to its greatest value and cut it at a thousand places.

In [0, 1], higher is better. Floors: the whole image, the best centred box.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loss_attention.geometry import box_iou
from loss_attention.metrics.groups import Groups, connected_groups

BOX_IOUS = (0.3, 0.5, 0.7)
THRESHOLDS = tuple(step / 50 for step in range(50))
"""Shares of a map's maximum; its pixels above one are boxed."""
MOST_CELLS = 1 << 22
"""Cells that are labelled at a time, which bounds the memory."""


class BoxOverlaps(NamedTuple):
    """The IoU of the boxes around maps with the true boxes, at every threshold."""

    best: Float[Tensor, "P T"]
    """Of whichever group's box overlaps most."""
    largest: Float[Tensor, "P T"]
    """Of the box of the group that covers most pixels."""


def box_overlaps(scaled: Float[Tensor, "P H W"], boxes: Float[Tensor, "P G 4"]) -> BoxOverlaps:
    """Return how well boxes around maps overlap with the true boxes, on the device of `boxes`.

    Args:
        scaled: maps in [0, 1], from `heat_maps.scaled_maps`. One with nothing above the threshold
            has no box, and an IoU of 0.
        boxes: the true boxes of the class that each map is of; NaN for "no box".
    """
    cells, x, y = _cells(scaled)
    area = (y.diff().unsqueeze(1) * x.diff()).unsqueeze(0)
    thresholds = torch.tensor(THRESHOLDS, dtype=cells.dtype, device=cells.device)
    most = max(1, MOST_CELLS // (len(thresholds) * area.numel()))
    parts = [
        _overlaps(maps, truth, thresholds, area, x, y)
        for maps, truth in zip(torch.split(cells, most), torch.split(boxes, most), strict=True)
    ]
    return BoxOverlaps(
        torch.cat([part.best for part in parts]), torch.cat([part.largest for part in parts])
    )


def count_overlaps(overlaps: Float[Tensor, "P T"]) -> Int[Tensor, "T 3"]:
    """Count the maps whose box overlaps by at least each of `BOX_IOUS`, for every threshold."""
    levels = torch.tensor(BOX_IOUS, dtype=overlaps.dtype, device=overlaps.device)
    return (overlaps.unsqueeze(2) >= levels).sum(dim=0)


def _overlaps(
    cells: Float[Tensor, "P h w"],
    boxes: Float[Tensor, "P G 4"],
    thresholds: Float[Tensor, " T"],
    area: Float[Tensor, "1 h w"],
    x: Float[Tensor, " across"],
    y: Float[Tensor, " down"],
) -> BoxOverlaps:
    masks = (cells.unsqueeze(1) > thresholds[:, None, None]).flatten(0, 1)
    groups = connected_groups(masks, area)
    x, y = x.cpu(), y.cpu()
    left, top, right, bottom = groups.cells.unbind(1)
    around = torch.stack([x[left], y[top], x[right], y[bottom]], dim=1)
    truth = boxes.cpu()[groups.owner // len(thresholds)]
    iou = box_iou(around.unsqueeze(1), truth).amax(dim=1)
    best = torch.zeros(len(masks)).scatter_reduce(0, groups.owner, iou, "amax")
    largest = torch.zeros(len(masks))
    first = _largest_of_each(groups)
    largest[groups.owner[first]] = iou[first]
    shape = (len(cells), len(thresholds))
    return BoxOverlaps(
        best.reshape(shape).to(boxes.device), largest.reshape(shape).to(boxes.device)
    )


def _largest_of_each(groups: Groups) -> Int[Tensor, " masks"]:
    """Return the index of each mask's largest group; of equal ones the first."""
    order = groups.total.argsort(descending=True, stable=True)
    order = order[groups.owner[order].argsort(stable=True)]
    return order[groups.owner[order].diff(prepend=torch.tensor([-1])) > 0]


def _cells(
    maps: Float[Tensor, "P H W"],
) -> tuple[Float[Tensor, "P h w"], Float[Tensor, " across"], Float[Tensor, " down"]]:
    """Merge neighbouring rows, and columns, that are equal in all maps.

    A map painted from patches has far fewer cells than pixels, and the same groups.

    Returns:
        The value of each cell, and where the cells begin and the last ones end, across and down.
    """
    height, width = maps.shape[1:]
    first = torch.ones(1, dtype=torch.bool, device=maps.device)
    rows = torch.cat([first, (maps[:, 1:] != maps[:, :-1]).any(dim=2).any(dim=0)])
    columns = torch.cat([first, (maps[:, :, 1:] != maps[:, :, :-1]).any(dim=1).any(dim=0)])
    y, x = rows.nonzero().squeeze(1), columns.nonzero().squeeze(1)
    edges = (torch.cat([x, x.new_tensor([width])]), torch.cat([y, y.new_tensor([height])]))
    return maps[:, y][:, :, x], edges[0].float(), edges[1].float()
