"""Where patches lie in an image, and boxes: pure functions on tensors.

A box is `(x0, y0, x1, y1)` in pixels, float32, with x1 and y1 exclusive: the box of the whole
image is `(0, 0, width, height)`. A row of NaN stands for "no box".
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils import _pytree as pytree


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


# So that a saved program knows what it returns.
pytree._register_namedtuple(PatchGrid, serialized_type_name="loss_attention.geometry.PatchGrid")


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

    A window is a range of rows times a range of columns, and so is what covers a pixel. Pixels
    under the same windows are a group and get the same number, not one that differs by rounding.
    """
    device = values.device
    (down, row), (across, column) = _coverings(grid, device)
    shaped = values.float().reshape(values.shape[0], grid.rows, grid.columns)
    with torch.autocast(device.type, enabled=False):
        total = down @ shaped @ across.T
    mean = total / torch.outer(down.sum(dim=1), across.sum(dim=1)).clamp(min=1)
    return mean.index_select(1, row).index_select(2, column)


def painted_on(
    pixels: Bool[Tensor, "N {grid.height} {grid.width}"], grid: PatchGrid
) -> Float[Tensor, "N {grid.patches}"]:
    """Return how much of what is painted of each patch lies on some pixels.

    The transpose of `paint_patches`: whatever the patches' values, the sum of the painted map over
    the pixels is the sum of values times these. A pixel under n windows counts 1/n for each of
    them, one under no window for none.

    Example:
        >>> grid = PatchGrid(1, 2, window=2, stride=1, height=1, width=3)
        >>> painted_on(torch.tensor([[[True, True, False]]]), grid)
        tensor([[1.5000, 0.5000]])
    """
    device = pixels.device
    (down, row), (across, column) = _coverings(grid, device)
    # Of each pixel along an axis, the part that belongs to each range of windows.
    of_rows, of_columns = (
        (axis / axis.sum(dim=1, keepdim=True).clamp(min=1)).index_select(0, group)
        for axis, group in ((down, row), (across, column))
    )
    with torch.autocast(device.type, enabled=False):
        painted = of_rows.T @ pixels.float() @ of_columns
    return painted.flatten(1)


def _coverings(
    grid: PatchGrid, device: torch.device
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return what `_covering` says of rows, and of columns."""
    return (
        _covering(grid.rows, grid.height, grid.window, grid.stride, device),
        _covering(grid.columns, grid.width, grid.window, grid.stride, device),
    )


def _covering(
    count: int, side: int, window: int, stride: int, device: torch.device
) -> tuple[Float[Tensor, "G count"], Int[Tensor, " side"]]:
    """Return for one axis which windows cover which group of pixels, and the group of each.

    A group reaches from where a window begins or ends to where the next one does. Where two do at
    once, the first of their groups has no pixels.
    """
    start = stride * torch.arange(count, device=device)
    edges = torch.cat([start, start + window]).sort().values
    inside = (edges.unsqueeze(1) >= start) & (edges.unsqueeze(1) < start + window)
    pixel = torch.arange(side, device=device)
    return inside.float(), (pixel.unsqueeze(1) >= edges).sum(dim=1) - 1
