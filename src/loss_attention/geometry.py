"""Where patches lie in an image, and boxes: pure functions on tensors.

A box is `(x0, y0, x1, y1)` in pixels, float32, with x1 and y1 exclusive: the box of the whole
image is `(0, 0, width, height)`. A row of NaN stands for "no box".
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class PatchGrid(NamedTuple):
    """The grid of patches on an image; all lengths in pixels of the image.

    Patch number m is row `m // columns`, column `m % columns`. Its window covers the pixels from
    `stride * row` to `stride * row + window` (exclusive) downward and likewise across, clipped to
    the image.
    """

    rows: int
    columns: int
    window: int
    stride: int
    height: int
    width: int

    @property
    def patches(self) -> int:
        """M, the number of patches."""
        return self.rows * self.columns

    def windows(self, device: torch.device | None = None) -> Float[Tensor, "M 4"]:
        """Return the box of each patch's window, clipped to the image, shape `(M, 4)`.

        Example:
            >>> PatchGrid(2, 1, window=9, stride=4, height=12, width=10).windows()
            tensor([[ 0.,  0.,  9.,  9.],
                    [ 0.,  4.,  9., 12.]])
        """
        top = torch.arange(self.rows, device=device) * self.stride
        left = torch.arange(self.columns, device=device) * self.stride
        y0, x0 = torch.meshgrid(top, left, indexing="ij")
        x1 = (x0 + self.window).clamp(max=self.width)
        y1 = (y0 + self.window).clamp(max=self.height)
        return torch.stack([x0, y0, x1, y1], dim=-1).reshape(-1, 4).float()


def box_area(boxes: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N"]:
    """Area of each box in square pixels; 0 where x1 < x0 or y1 < y0, NaN for "no box"."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)


def intersection_area(a: Float[Tensor, "*#N 4"], b: Float[Tensor, "*#N 4"]) -> Float[Tensor, "*#N"]:
    """Area shared by two boxes, in square pixels; the leading axes broadcast."""
    corners = (torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    return box_area(torch.cat(corners, dim=-1))


def box_iou(a: Float[Tensor, "*#N 4"], b: Float[Tensor, "*#N 4"]) -> Float[Tensor, "*#N"]:
    """Intersection over union of two boxes in [0, 1]; the leading axes broadcast.

    0 where either is "no box" or both are empty.

    Example:
        >>> import torch
        >>> box_iou(torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([1.0, 0.0, 3.0, 2.0]))
        tensor(0.3333)
    """
    shared = intersection_area(a, b)
    union = box_area(a) + box_area(b) - shared
    return torch.where(union > 0, shared / union, 0.0)


def inside_fraction(
    windows: Float[Tensor, "M 4"], boxes: Float[Tensor, "B G 4"]
) -> Float[Tensor, "B G M"]:
    """Fraction of each window's area that lies inside each box, in [0, 1]; 0 for "no box"."""
    shared = intersection_area(windows, boxes.unsqueeze(-2))
    return (shared / box_area(windows)).nan_to_num(nan=0.0)


def enclosing_boxes(
    selected: Bool[Tensor, "B M"], windows: Float[Tensor, "M 4"]
) -> Float[Tensor, "B 4"]:
    """Return the smallest rectangle around the windows of the selected patches.

    A row of NaN where nothing is selected.
    """
    outside = ~selected.unsqueeze(-1)
    low = windows[:, :2].masked_fill(outside, torch.inf).amin(dim=1)
    high = windows[:, 2:].masked_fill(outside, -torch.inf).amax(dim=1)
    boxes = torch.cat([low, high], dim=1)
    return boxes.masked_fill(~selected.any(dim=1, keepdim=True), torch.nan)


def paint_patches(values: Float[Tensor, "N M"], grid: PatchGrid) -> Float[Tensor, "N H W"]:
    """Paint patch values onto pixels: each pixel is the mean over the windows that cover it.

    The units are those of `values`. Pixels under no window (a margin at the right or bottom edge
    narrower than a stride) are 0.
    """
    covering = _covering(grid, values.device)
    shaped = values.float().reshape(-1, grid.rows, grid.columns)
    with torch.autocast(values.device.type, enabled=False):
        total = covering.down @ shaped @ covering.across
    mean = (total / covering.windows).flatten(1)
    return mean.index_select(1, covering.group).reshape(-1, grid.height, grid.width)


class _Covering(NamedTuple):
    """Which windows cover what.

    A window is a range of rows times a range of columns, and so is what covers a pixel. Pixels
    under the same windows are a group and get the same number, not one that differs by rounding.

    Attributes:
        down: 1 where a row of windows covers a row of groups, shape `(G, rows)`.
        across: likewise for columns, shape `(columns, H)`.
        windows: how many cover a group, and 1 for none, shape `(G, H)`.
        group: that of each pixel of the image, counted row by row.
    """

    down: Float[Tensor, "G rows"]
    across: Float[Tensor, "columns H"]
    windows: Float[Tensor, "G H"]
    group: Int[Tensor, " pixels"]


@lru_cache(maxsize=64)
def _covering(grid: PatchGrid, device: torch.device) -> _Covering:
    # Kept, and so to be of use in any mode.
    with torch.inference_mode(False):
        down, row = _covering_along(grid.rows, grid.height, grid.window, grid.stride)
        across, column = _covering_along(grid.columns, grid.width, grid.window, grid.stride)
        windows = torch.outer(down.sum(dim=1), across.sum(dim=1)).clamp(min=1)
        group = (row.unsqueeze(1) * len(across) + column).flatten()
        parts = (down, across.T.contiguous(), windows, group)
        return _Covering(*(part.to(device) for part in parts))


def _covering_along(
    count: int, side: int, window: int, stride: int
) -> tuple[Float[Tensor, "G count"], Int[Tensor, " side"]]:
    """Return for one axis which windows cover which group of pixels, and the group of each."""
    start = stride * torch.arange(count)
    pixel = torch.arange(side).unsqueeze(1)
    inside = (pixel >= start) & (pixel < start + window)
    changes = (inside[1:] != inside[:-1]).any(dim=1)
    first = torch.cat([torch.ones(1, dtype=torch.bool), changes])
    return inside[first].float(), first.cumsum(dim=0) - 1
