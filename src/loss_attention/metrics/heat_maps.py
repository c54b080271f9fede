"""How well a heat map lies on the object: share inside, the pointing game, pixel-level AP.

Any attribution can be measured: a map is what it says of each pixel of the image, larger where
more speaks for the class. Only its positive part counts. All measures are in [0, 1], higher is
better. Their floors are maps that know nothing of the model: the same value everywhere, a centred
box, shuffled evidence, edges.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

PIXEL_STEPS = 1000
"""Thresholds of pixel-level AP, as many as its source has."""


def scaled_maps(maps: Float[Tensor, "B H W"]) -> Float[Tensor, "B H W"]:
    """Return the positive part of each map divided by its maximum; all 0 where nothing is above 0.

    Example:
        >>> scaled_maps(torch.tensor([[[-1.0, 2.0, 4.0]]]))
        tensor([[[0.0000, 0.5000, 1.0000]]])
    """
    positive = maps.clamp(min=0)
    top = positive.amax(dim=(1, 2), keepdim=True)
    return torch.where(top > 0, positive / top, 0.0)


def pixels_in_boxes(
    boxes: Float[Tensor, "B G 4"], height: int, width: int
) -> Bool[Tensor, "B {height} {width}"]:
    """Return the pixels whose centre lies in one of the boxes; a NaN row is "no box"."""
    x = torch.arange(width, device=boxes.device) + 0.5
    y = torch.arange(height, device=boxes.device) + 0.5
    inside = torch.zeros(len(boxes), height, width, dtype=torch.bool, device=boxes.device)
    for x0, y0, x1, y1 in (box.unsqueeze(-1).unbind(1) for box in boxes.unbind(1)):
        inside |= ((y >= y0) & (y < y1)).unsqueeze(2) & ((x >= x0) & (x < x1)).unsqueeze(1)
    return inside


def share_inside(
    maps: Float[Tensor, "B H W"], inside: Bool[Tensor, "B H W"]
) -> Float[Tensor, " B"]:
    """Return which part of each map's positive sum lies on the object.

    0 where nothing is positive. The energy-based pointing game of Wang et al., Score-CAM, CVPR
    Workshops 2020. The floor of a constant map is the share of the pixels that are the object's.
    """
    positive = maps.clamp(min=0)
    total = positive.sum(dim=(1, 2))
    return torch.where(total > 0, (positive * inside).sum(dim=(1, 2)) / total, 0.0)


def pointing_hits(
    maps: Float[Tensor, "B H W"], inside: Bool[Tensor, "B H W"]
) -> Bool[Tensor, " B"]:
    """Return whether the maximum of each map lies on the object.

    False where nothing is positive: such a map points nowhere. Of several pixels with the greatest
    value, the one nearest to the middle of them all is taken (where the middle is an edge between
    two, the later one), so a constant map points at the middle of the image.

    The pointing game of Zhang et al., Top-down Neural Attention by Excitation Backprop, IJCV 2018,
    without its tolerance of 15 pixels, over all (image, class) pairs alike. The floor is the middle
    of the image.
    """
    flat = maps.flatten(1)
    top = flat.amax(dim=1, keepdim=True)
    tied = flat == top
    # Of each pixel, how far it is from the middle of the tied ones, squared.
    far = torch.zeros(flat.shape, dtype=torch.float64, device=maps.device)
    for place in torch.meshgrid(*(torch.arange(n).double() for n in maps.shape[1:]), indexing="ij"):
        along = place.flatten().to(maps.device)
        middle = (tied * along).sum(dim=1, keepdim=True) / tied.sum(dim=1, keepdim=True)
        far += (along - middle).square()
    last = far.masked_fill(~tied, torch.inf).flip(1).argmin(dim=1, keepdim=True)
    point = far.shape[1] - 1 - last
    return inside.flatten(1).gather(1, point).squeeze(1) & (top.squeeze(1) > 0)


def count_pixels(
    scaled: Float[Tensor, "B H W"], masks: Bool[Tensor, "B H W"]
) -> Int[Tensor, "2 T"]:
    """Count pixels by value, off (row 0) and on (row 1) the object; counts of batches add up.

    Args:
        scaled: maps in [0, 1], from `scaled_maps`.
        masks: the object's pixels.
    """
    steps = (scaled * PIXEL_STEPS).long().clamp(0, PIXEL_STEPS - 1)
    index = steps + PIXEL_STEPS * masks
    return torch.bincount(index.flatten(), minlength=2 * PIXEL_STEPS).reshape(2, PIXEL_STEPS)


def pixel_average_precision(counts: Int[Tensor, "2 T"]) -> float | None:
    """Return the area under precision over recall of pixels, all images pooled: PxAP.

    Choe et al., Evaluating Weakly Supervised Object Localization Methods Right, CVPR 2020. The
    floor of a constant map is the share of pixels that are an object's. None without object.

    Args:
        counts: pixels by value, from `count_pixels`.
    """
    off, on = counts.flip(1).cumsum(dim=1).double().cpu()
    if not on[-1]:
        return None
    some = (on + off) > 0
    recall, precision = on[some] / on[-1], on[some] / (on + off)[some]
    return float((precision * recall.diff(prepend=recall.new_zeros(1))).sum())
