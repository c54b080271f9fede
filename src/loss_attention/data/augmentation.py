"""Crop and flip a whole batch at once, each image with its own shift and flip."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Shifts:
    """One augmentation for each image of a batch: shift `(B, 2)` as (down, right), and flip."""

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

    One gather on the images' device; no loop over images.
    """
    batch, channels, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    offset, flip = shifts.offset.to(images.device), shifts.flip.to(images.device)
    rows = offset[:, :1] + torch.arange(height, device=images.device)
    across = torch.arange(width, device=images.device)
    columns = offset[:, 1:] + torch.where(flip.unsqueeze(1), across.flip(0), across)
    b = torch.arange(batch, device=images.device)[:, None, None, None]
    c = torch.arange(channels, device=images.device)[None, :, None, None]
    return padded[b, c, rows[:, None, :, None], columns[:, None, None, :]]
