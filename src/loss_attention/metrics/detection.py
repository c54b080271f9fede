"""Several boxes a class from a model that has only seen image labels, scored as a detector is.

The paper says that attention cannot tell several objects apart. Here connected groups of patches
are separate objects: each gives a box around its windows, with the image's probability of the
class times the group's share of the class's positive evidence as its score.

Average precision as COCO has it, at IoU of at least 0.5: detections of a class in falling order of
score, over all images; each takes the true box that it overlaps most with among those not yet
taken; precision is read at 101 recalls, of any later detection the highest. In [0, 1], higher is
better. Lin et al., Microsoft COCO, ECCV 2014, and the evaluation that comes with it. COCO's crowds
are no true boxes, as there; but what is found inside one counts as wrong, which it does not there.
The floors are
a constant box (whole image, best centred one) and groups of shuffled evidence or of edges, each
with the model's own probabilities.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loss_attention.geometry import PatchGrid, box_iou
from loss_attention.metrics.groups import connected_groups

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
        threshold: in [0, 1): patches with more than this share of the greatest value count.

    Returns:
        A box around the windows of each group, on the CPU. Its score is that of the image times
        the group's share of the sum of all positive values.
    """
    positive = values.cpu().double().clamp(min=0).reshape(-1, grid.rows, grid.columns)
    chosen = positive > threshold * positive.amax(dim=(1, 2), keepdim=True)
    groups = connected_groups(chosen, positive)
    windows = grid.windows().reshape(grid.rows, grid.columns, 4)
    left, top, right, bottom = groups.cells.unbind(1)
    boxes = torch.cat([windows[top, left, :2], windows[bottom - 1, right - 1, 2:]], dim=1)
    share = groups.total / positive.sum(dim=(1, 2))[groups.owner]
    return Detections(groups.owner, boxes, scores.cpu().double()[groups.owner] * share)


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
    place = np.searchsorted(hits / wanted, RECALLS, side="left")
    return float(np.append(precision, 0.0)[place].mean())
