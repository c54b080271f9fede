"""Connected groups of True cells in many masks at once, and the rectangles around them.

A group holds cells that touch by a side or a corner (8-connectivity).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


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
    # It takes 0 groups for a number still to be counted, which fails where there is no cell.
    slices = ndimage.find_objects(labels, count) if count else []
    places = [
        (mask.start, across.start, down.start, across.stop, down.stop)
        for mask, down, across in slices
    ]
    found = torch.tensor(places, dtype=torch.int64).reshape(-1, 5)
    weights = values.cpu().double().expand(masks.shape).numpy()
    total = np.bincount(labels.ravel(), weights=weights.ravel(), minlength=count + 1)[1:]
    return Groups(found[:, 0], found[:, 1:], torch.from_numpy(total).double())
