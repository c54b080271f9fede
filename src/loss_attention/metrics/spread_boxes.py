"""Boxes by where the mass of a heat map lies and how far it spreads; no cut, no groups.

The box is centred on the mean place of what is positive, and reaches a number of standard
deviations to each side, along each axis by itself, as far as the image goes. That number, one for
all images, is to be chosen on held-out images. A cut is decided by the map's single highest value
and by whether cells touch, and ends where the grid's cells do; the spread is decided by all of the
map, and the box may reach past the evidence, which lies on the telling part of an object.

The spread of a map that is constant in a rectangle gives that rectangle at a reach of the square
root of 3. The floor of equal weights is a centred box fitted to the held-out images.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from loss_attention.geometry import box_iou

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
        place = torch.arange(mass.shape[1], device=maps.device) + 0.5
        mean = (mass * place).sum(dim=1, keepdim=True)
        # A pixel is not a point: its own spread, as of any even stretch, is 1/12 of its length.
        variance = (mass * (place - mean).square()).sum(dim=1, keepdim=True) + 1 / 12
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
