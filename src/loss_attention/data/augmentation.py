"""Crop, flip and erase in a whole batch at once, each image by its own draw."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from loss_attention.data.sending import sent


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
    offset, flip = sent(shifts.offset, images.device), sent(shifts.flip, images.device)
    padded = F.pad(images, (padding,) * 4)
    crops = padded.unfold(2, height, 1).unfold(3, width, 1)  # (B, C, 2p + 1, 2p + 1, H, W)
    each = torch.arange(batch, device=images.device)
    cropped = crops[each, :, offset[:, 0], offset[:, 1]]
    return torch.where(flip[:, None, None, None], cropped.flip(3), cropped)


def erase_squares(
    images: UInt8[Tensor, "B C H W"], places: Float[Tensor, "B 2"], side: int
) -> UInt8[Tensor, "B C H W"]:
    """Set a square of each image to zero, all of it inside the image.

    Cutout, of DeVries and Taylor 2017 (arXiv:1708.04552), whose squares may reach over the edge.

    Args:
        images: any number of channels, any size from `side` on.
        places: where the square lies between the first and the last row and column that it can
            begin in, each in [0, 1).
        side: of the square, in pixels.

    Example:
        >>> image = torch.ones(1, 1, 2, 3, dtype=torch.uint8)
        >>> erase_squares(image, torch.tensor([[0.0, 0.9]]), side=2).tolist()
        [[[[1, 0, 0], [1, 0, 0]]]]
    """
    places, inside = sent(places, images.device), []
    for axis, length in enumerate(images.shape[2:]):
        place = torch.arange(length, device=images.device)
        begin = (places[:, axis : axis + 1] * (length - side + 1)).long()
        inside.append((place >= begin) & (place < begin + side))
    rows, columns = inside
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)
