"""How well one box an image frames the object, and what constant boxes reach.

A predicted box is correct when its IoU with one relevant box is above 0.5. Box AP is the share of
images that are correct: in [0, 1], higher is better; the paper's Section IV-C. Its floors are two
constant answers, the whole image and the best centred box. An IoU of exactly 0.5 is not enough
wherever one box is asked for; MaxBoxAccV2 and COCO's average precision, as published, take it.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from loss_attention.geometry import box_area, box_iou

FRAMING_IOU = 0.5
"""A box whose IoU with the object's is above this frames it."""
CENTRED_STEPS = 32
"""Widths and heights of centred boxes are tried in this many steps of the image's size."""


def relevant_boxes(
    box_labels: Int[Tensor, "B G"], labels: Shaped[Tensor, "B *K"]
) -> Bool[Tensor, "B G"]:
    """Return which boxes are of one of their image's labels; -1 stands for "no box".

    Args:
        box_labels: the class of each box.
        labels: class indices `(B,)` or, multi-label, 0/1 `(B, K)`.
    """
    if labels.ndim == 1:
        return box_labels == labels.unsqueeze(1)
    return labels.bool().gather(1, box_labels.clamp(min=0)) & (box_labels >= 0)


def framed(overlaps: Float[Tensor, "*N"]) -> Bool[Tensor, "*N"]:
    """Return which boxes frame their object, from their IoU with it.

    Example:
        >>> framed(torch.tensor([0.49, 0.5, 0.51]))
        tensor([False, False,  True])
    """
    return overlaps > FRAMING_IOU


def correct_boxes(
    predicted: Float[Tensor, "B 4"], boxes: Float[Tensor, "B G 4"], relevant: Bool[Tensor, "B G"]
) -> Bool[Tensor, " B"]:
    """Return which predicted boxes have an IoU above 0.5 with a relevant box of their image.

    "No box" (NaN) is never correct. The mean over images that have a relevant box is the box AP;
    the class that the model predicts is not asked for. Where it has to be right as well, the mean
    is what others call top-1 localisation (Russakovsky et al., ImageNet, IJCV 2015).

    Example:
        >>> import torch
        >>> truth = torch.tensor([[[0.0, 0.0, 4.0, 4.0]]])
        >>> correct_boxes(torch.tensor([[0.0, 0.0, 4.0, 3.0]]), truth, torch.tensor([[True]]))
        tensor([True])
    """
    return (framed(box_iou(predicted.unsqueeze(1), boxes)) & relevant).any(dim=1)


def centred_box(across: float, down: float, height: int, width: int) -> Float[Tensor, "4"]:
    """Return the box of `across * width` by `down * height` pixels in the middle of an image.

    Example:
        >>> centred_box(0.5, 1.0, height=10, width=20)
        tensor([ 5.,  0., 15., 10.])
    """
    x, y = (1 - across) / 2 * width, (1 - down) / 2 * height
    return torch.tensor([x, y, width - x, height - y])


def fit_centred_box(
    boxes: Float[Tensor, "N G 4"],
    relevant: Bool[Tensor, "N G"],
    height: int,
    width: int,
    iou: float = FRAMING_IOU,
) -> tuple[float, float] | None:
    """Return the size of the centred box that is correct in the most images of a training set.

    Width and height are tried independently in steps of 1/32 of the image's; ties go to the
    larger box. Correct is one whose IoU is above `iou`.

    Returns:
        The fractions `across` and `down` for `centred_box`, in (0, 1], or None where no image has
        a relevant box.
    """
    image, _ = relevant.nonzero(as_tuple=True)
    flat = boxes[relevant]
    if len(flat) == 0:
        return None
    steps = range(CENTRED_STEPS, 0, -1)
    across = torch.tensor([step / CENTRED_STEPS for step in steps], device=flat.device)
    # A centred box and another share a rectangle whose sides do not depend on each other.
    wide, high = (across * side for side in (width, height))
    shared_x = _shared_length(wide, width, flat[:, 0], flat[:, 2])
    shared_y = _shared_length(high, height, flat[:, 1], flat[:, 3])
    hits = []
    for x, side in zip(shared_x, wide, strict=True):
        shared = x * shared_y
        union = (side * high).unsqueeze(1) + box_area(flat) - shared
        hit = (shared > iou * union).float()
        found = hit.new_zeros(len(high), len(boxes)).index_add_(1, image, hit)
        hits += (found > 0).sum(dim=1).tolist()
    sizes = [(a / CENTRED_STEPS, b / CENTRED_STEPS) for a in steps for b in steps]
    best = max(range(len(sizes)), key=lambda i: (hits[i], sizes[i][0] * sizes[i][1]))
    return sizes[best]


def _shared_length(
    lengths: Float[Tensor, " S"], side: int, low: Float[Tensor, " n"], high: Float[Tensor, " n"]
) -> Float[Tensor, "S n"]:
    """Return how much of each interval lies in the middle `lengths` of a side."""
    margin = ((side - lengths) / 2).unsqueeze(1)
    return (torch.minimum(high, side - margin) - torch.maximum(low, margin)).clamp(min=0)
