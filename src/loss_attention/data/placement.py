"""Where a picture lies in an image of another size, and the way there and back for boxes.

A placement is six numbers: width and height of the upright original in pixels, and the box
`(x0, y0, x1, y1)` in pixels of the image that the picture fills. Squashed, it fills the whole
image; padded, it keeps its aspect and lies in the middle.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Resize = Literal["squash", "pad"]
"""How a picture is brought to another shape: out of its aspect, or with a border."""


def place(
    original: tuple[int, int], size: tuple[int, int] | None, resize: Resize
) -> tuple[int, int, int, int, int, int]:
    """Return the placement of a picture in an image.

    Args:
        original: width and height of the picture.
        size: height and width of the image; None: those of the picture.
        resize: squash, or keep the aspect and pad.

    Example:
        >>> place((200, 100), size=(50, 50), resize="pad")
        (200, 100, 0, 12, 50, 37)
        >>> place((200, 100), size=(50, 50), resize="squash")
        (200, 100, 0, 0, 50, 50)
    """
    width, height = original
    if size is None:
        return width, height, 0, 0, width, height
    image_height, image_width = size
    if resize == "squash":
        return width, height, 0, 0, image_width, image_height
    scale = min(image_width / width, image_height / height)
    # A picture of extreme aspect still gets a pixel.
    inner_width = min(image_width, max(1, round(width * scale)))
    inner_height = min(image_height, max(1, round(height * scale)))
    left, top = (image_width - inner_width) // 2, (image_height - inner_height) // 2
    return width, height, left, top, left + inner_width, top + inner_height


def to_image(
    boxes: Float[Tensor, "N G 4"], placements: Float[Tensor, "N 6"]
) -> Float[Tensor, "N G 4"]:
    """Return boxes in pixels of the originals in pixels of the images; NaN stays NaN."""
    scale, shift = _maps(placements)
    return boxes * scale + shift


def to_original(
    boxes: Float[Tensor, "N G 4"], placements: Float[Tensor, "N 6"]
) -> Float[Tensor, "N G 4"]:
    """Return boxes in pixels of the images in pixels of the originals, clipped to them.

    A box that lies on the border alone ends up empty, at the original's edge.

    Example:
        >>> placed = torch.tensor([place((200, 100), (50, 50), "pad")]).float()
        >>> to_original(torch.tensor([[[0.0, 0.0, 25.0, 37.0]]]), placed)
        tensor([[[  0.,   0., 100., 100.]]])
    """
    scale, shift = _maps(placements)
    size = placements[:, None, [0, 1, 0, 1]]
    return torch.minimum(((boxes - shift) / scale).clamp(min=0), size)


def are_originals(placements: Float[Tensor, "N 6"]) -> bool:
    """Return whether every picture is its image, neither resized nor padded."""
    return bool((placements[:, :2] == placements[:, 4:]).all() and (placements[:, 2:4] == 0).all())


def _maps(
    placements: Float[Tensor, "N 6"],
) -> tuple[Float[Tensor, "N 1 4"], Float[Tensor, "N 1 4"]]:
    """Return factor and shift of each coordinate, from the originals to the images."""
    inner = placements[:, 4:] - placements[:, 2:4]
    scale = inner / placements[:, :2]
    return scale.repeat(1, 2).unsqueeze(1), placements[:, 2:4].repeat(1, 2).unsqueeze(1)
