"""Crop and flip a whole batch at once, each image with its own shift and flip."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Shifts:
    """One augmentation for each image of a batch.

    Attributes:
        offset: where each crop starts in the padded image, as (row, column).
        flip: whether it is then mirrored.
    """

    offset: Int[Tensor, "B 2"]
    flip: Bool[Tensor, " B"]

    def __getitem__(self, index: slice | Tensor) -> Shifts:
        return Shifts(self.offset[index], self.flip[index])


def draw_shifts(count: int, padding: int, flip: bool, generator: torch.Generator) -> Shifts:
    """Draw shifts of up to `padding` pixels each way and, if asked, flips of probability 1/2."""
    offset = torch.randint(0, 2 * padding + 1, (count, 2), generator=generator)
    flipped = torch.rand(count, generator=generator) < 0.5
    return Shifts(offset, flipped & flip)


def crop_and_flip(
    images: UInt8[Tensor, "B C H W"], shifts: Shifts, padding: int
) -> UInt8[Tensor, "B C H W"]:
    """Pad with zeros, crop back to size at each image's offset, and mirror those with a flip.

    The same pixels on any device, without a loop over images: every crop there could be is a view
    of the padded batch, and each image's own is copied out of it.

    Args:
        images: any number of channels, any size.
        shifts: offsets in `0..2 * padding` as `draw_shifts` gives them; `padding` is no shift.
        padding: pixels of zeros on each side.

    Example:
        >>> image = torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8)
        >>> right_and_mirrored = Shifts(torch.tensor([[1, 0]]), torch.tensor([True]))
        >>> crop_and_flip(image, right_and_mirrored, padding=1).tolist()
        [[[[1, 0], [3, 0]]]]
    """
    batch, _, height, width = images.shape
    offset, flip = shifts.offset.to(images.device), shifts.flip.to(images.device)
    padded = F.pad(images, (padding,) * 4)
    crops = padded.unfold(2, height, 1).unfold(3, width, 1)  # (B, C, 2p + 1, 2p + 1, H, W)
    each = torch.arange(batch, device=images.device)
    cropped = crops[each, :, offset[:, 0], offset[:, 1]]
    return torch.where(flip[:, None, None, None], cropped.flip(3), cropped)
