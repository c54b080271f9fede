"""Boxes made from a heat map: around groups above a threshold, by its spread, several an image.

Groups are connected cells; cells that touch by a side or a corner are connected (8-connectivity).

**MaxBoxAccV2**: boxes around what a heat map shows above a threshold, over all thresholds at once.
Choe et al., Evaluation for Weakly Supervised Object Localization: Protocol, Metrics, and Datasets,
TPAMI 2022. As there, all connected groups of pixels above the threshold give a box, the best of
them counts, and the fraction of images is averaged over IoU of at least 0.3, 0.5 and 0.7, each with
its own threshold. The box of the largest group alone, the one answer that somebody who has no true
boxes can give, is measured beside it. Where their threshold is chosen on the reported images, that
is an oracle; here it is also chosen on held-out ones. Unlike there, the thresholds of a map are 50
fractions of its maximum, what is negative in it counting as 0; they stretch each map from its
smallest to its greatest value and take a thousand thresholds.

**Spread boxes** lie where the mass of a heat map does and reach as far as it spreads; no threshold,
no groups. The box is centred on the mean location of what is positive, and reaches a number of
standard deviations to each side, along each axis by itself, as far as the image goes. That number,
one for all images, is to be chosen on held-out images. A threshold is decided by the map's single
highest value and by whether cells touch, and ends where the grid's cells do; the spread is decided
by all of the map, and the box may reach past the evidence, which lies on the telling part of an
object. The spread of a map that is constant in a rectangle gives that rectangle at a reach of the
square root of 3. The trivial baseline of equal weights is a centred box fitted to the held-out
images.

**Several boxes a class**, from a model that has only seen image labels, are scored as a detector's
are. The paper says that attention cannot tell several objects apart. Here connected groups of
patches are separate objects: each gives a box around its windows, with the image's probability of
the class times the group's fraction of the class's positive evidence as its score. Average
precision as COCO has it, at IoU of at least 0.5: detections of a class in falling order of score,
over all images; each takes the true box that it overlaps most with among those not yet taken;
precision is read at 101 recalls, of any later detection the highest. Lin et al., Microsoft COCO,
ECCV 2014, and the evaluation that comes with it. COCO's crowds are not true boxes, as there; but
what is found inside one counts as wrong, which it does not there. Its trivial baselines are a
constant box (whole image, best centred one) and groups of shuffled evidence or of edges, each with
the model's own probabilities.

All scores are in [0, 1], higher is better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from loss_attention.geometry import PatchGrid, box_iou


@dataclass(frozen=True)
class Groups:
    """The groups of N masks, one after the other; on the CPU.

    Attributes:
        owner: the mask that each group is in, rising, shape `(n,)`.
        cells: the smallest rectangle around it, `(x0, y0, x1, y1)` in cells, x1 and y1 exclusive,
            shape `(n, 4)`.
        total: the sum of the values of its cells, shape `(n,)`, float64.
    """

    owner: Int[Tensor, " n"]
    cells: Int[Tensor, "n 4"]
    total: Float[Tensor, " n"]


def connected_groups(masks: Bool[Tensor, "N h w"], values: Shaped[Tensor, "#N h w"]) -> Groups:
    """Find the connected groups of each mask.

    Args:
        masks: True for the cells that count.
        values: what to add up over each group; all ones give its size in cells.

    Example:
        >>> masks = torch.tensor([[[True, False, True], [True, False, False]]])
        >>> found = connected_groups(masks, torch.ones(1, 2, 3))
        >>> found.cells.tolist(), found.total.tolist()
        ([[0, 0, 1, 2], [2, 0, 3, 1]], [2.0, 1.0])
    """
    # Here, as it takes long to import.
    from scipy import ndimage

    within_a_mask = np.zeros((3, 3, 3), int)
    within_a_mask[1] = 1
    labels, count = ndimage.label(masks.cpu().numpy(), within_a_mask)
    places = labels.nonzero()
    group = torch.from_numpy(labels[places].astype(np.int64) - 1)
    owner, y, x = (torch.from_numpy(along) for along in places)
    none = torch.zeros(count, dtype=torch.int64)
    first, last = (
        [none.scatter_reduce(0, group, along, way, include_self=False) for along in (owner, x, y)]
        for way in ("amin", "amax")
    )
    cells = torch.stack([*first[1:], *(along + 1 for along in last[1:])], dim=1)
    weights = values.cpu().double().expand(masks.shape).numpy()[places]
    total = np.bincount(group.numpy(), weights=weights, minlength=count)
    return Groups(first[0], cells, torch.from_numpy(total).double())


BOX_IOUS = (0.3, 0.5, 0.7)
THRESHOLDS = tuple(step / 50 for step in range(50))
"""Fractions of a map's maximum; its pixels above one are boxed."""
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
        scaled: maps in [0, 1], from `scaled_maps`. One with nothing above the threshold
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


REACHES = tuple(step / 10 for step in range(8, 41))
"""Standard deviations from the middle of a box to its sides; 1.7 frames an even map."""


def spread_boxes(maps: Float[Tensor, "P H W"]) -> Float[Tensor, "P T 4"]:
    """Return the box of each map at each of `REACHES`; NaN where nothing is positive.

    Example:
        >>> maps = torch.zeros(1, 20, 20)
        >>> maps[:, 4:10, 8:14] = 5.0
        >>> spread_boxes(maps)[0, REACHES.index(1.7)].round()
        tensor([ 8.,  4., 14., 10.])
    """
    positive = maps.clamp(min=0).double()
    reaches = torch.tensor(REACHES, dtype=torch.float64, device=maps.device)
    total = positive.sum(dim=(1, 2))
    sides = []
    for axis in (1, 2):  # what is left after summing over the other: across, then down
        mass = positive.sum(dim=axis) / total.where(total > 0, torch.nan).unsqueeze(1)
        pixel = torch.arange(mass.shape[1], device=maps.device) + 0.5
        mean = (mass * pixel).sum(dim=1, keepdim=True)
        # A pixel is not a point: its own spread, as of any even stretch, is 1/12 of its length.
        variance = (mass * (pixel - mean).square()).sum(dim=1, keepdim=True) + 1 / 12
        reach = reaches * variance.sqrt()
        sides.append([(mean + sign * reach).clamp(0, mass.shape[1]) for sign in (-1, 1)])
    (left, right), (top, bottom) = sides
    return torch.stack([left, top, right, bottom], dim=2).float()


def spread_overlaps(
    maps: Float[Tensor, "P H W"], boxes: Float[Tensor, "P G 4"]
) -> Float[Tensor, "P T"]:
    """Return the IoU of each map's box, at each of `REACHES`, with the true box that it fits best.

    Args:
        maps: heat maps of any scale; only what is positive counts.
        boxes: the true boxes of the class that each map is of; NaN for "no box".
    """
    return box_iou(spread_boxes(maps).unsqueeze(2), boxes.unsqueeze(1)).amax(dim=2)


RECALLS = np.linspace(0, 1, 101)


class Detections(NamedTuple):
    """Boxes, each for one of Q questions: where is this class in this image?"""

    question: Int[Tensor, " n"]
    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]


def group_boxes(
    values: Float[Tensor, "Q M"],
    scores: Float[Tensor, " Q"],
    grid: PatchGrid,
    threshold: float,
) -> Detections:
    """Box the connected groups of patches that speak for a class.

    Args:
        values: what each patch says for the class in question, the evidence for example.
        scores: how sure the image is of the class.
        grid: where the patches lie.
        threshold: in [0, 1): patches with more than this fraction of the greatest value count.

    Returns:
        A box around the windows of each group, on the CPU. Its score is that of the image times
        the group's fraction of the sum of all positive values.
    """
    positive = values.cpu().double().clamp(min=0).reshape(-1, grid.rows, grid.columns)
    chosen = positive > threshold * positive.amax(dim=(1, 2), keepdim=True)
    groups = connected_groups(chosen, positive)
    windows = grid.windows().reshape(grid.rows, grid.columns, 4)
    left, top, right, bottom = groups.cells.unbind(1)
    boxes = torch.cat([windows[top, left, :2], windows[bottom - 1, right - 1, 2:]], dim=1)
    fraction = groups.total / positive.sum(dim=(1, 2))[groups.owner]
    return Detections(groups.owner, boxes, scores.cpu().double()[groups.owner] * fraction)


def match_detections(
    found: Detections, truth: Float[Tensor, "Q G 4"], iou: float = 0.5
) -> Bool[Tensor, " n"]:
    """Return which detections are right: their box is a true one that no better one has taken.

    Args:
        found: detections, in any order.
        truth: the true boxes of the class and image that each question is about; NaN: "no box".
        iou: the least overlap.
    """
    truth = truth.cpu()
    order = found.scores.argsort(descending=True, stable=True)
    order = order[found.question[order].argsort(stable=True)]
    question = found.question[order]
    starts = question.diff(prepend=torch.tensor([-1])) > 0
    position = torch.arange(len(order))
    # All questions at once: their best detections, then their second best, ...
    rank = position - position[starts].repeat_interleave(_lengths(starts))
    free = ~truth.isnan().any(dim=2)
    right = torch.zeros(len(order), dtype=torch.bool)
    for turn in range(int(rank.max()) + 1 if len(rank) else 0):
        now = order[rank == turn]
        asked = found.question[now]
        overlap = box_iou(found.boxes[now].unsqueeze(1), truth[asked]) * free[asked]
        best = overlap.max(dim=1)
        hit = best.values >= iou
        right[now] = hit
        free[asked[hit], best.indices[hit]] = False
    return right


def _lengths(starts: Bool[Tensor, " n"]) -> Int[Tensor, " groups"]:
    """Return how long each run is, from where they start."""
    first = starts.nonzero().squeeze(1)
    return first.diff(append=torch.tensor([len(starts)]))


def detection_average_precisions(
    scores: Float[Tensor, " n"],
    right: Bool[Tensor, " n"],
    classes: Int[Tensor, " n"],
    true_boxes: Int[Tensor, " K"],
) -> Float[Tensor, " K"]:
    """Return the average precision of each class; their mean over present classes is the mAP.

    Args:
        scores: of all detections, over all images.
        right: from `match_detections`.
        classes: the class of each detection.
        true_boxes: how many true boxes there are of each class, in images without detections too.

    Returns:
        float64, NaN for a class without true boxes.

    Example:
        >>> scores, right = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([True, False, True])
        >>> one = torch.zeros(3, dtype=torch.int64)
        >>> detection_average_precisions(scores, right, one, torch.tensor([2]))
        tensor([0.8350], dtype=torch.float64)
    """
    order = scores.argsort(descending=True, stable=True).cpu()
    right, classes = right.cpu()[order], classes.cpu()[order]
    result = torch.full((len(true_boxes),), torch.nan, dtype=torch.float64)
    for k in true_boxes.cpu().nonzero().squeeze(1).tolist():
        result[k] = _average_precision(right[classes == k].numpy(), int(true_boxes[k]))
    return result


def _average_precision(right: np.ndarray, wanted: int) -> float:
    hits = right.cumsum()
    precision = hits / np.arange(1, len(hits) + 1)
    # Of each detection and all later ones, the highest.
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(hits / wanted, RECALLS, side="left")
    return float(np.append(precision, 0.0)[reached].mean())
