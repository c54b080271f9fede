"""Where a picture lies in an image of another size, as numbers; no torch.

A placement is six numbers: width and height of the upright original in pixels, and the box
`(x0, y0, x1, y1)` in pixels of the image that the picture fills. Squashed, it fills the whole
image; padded, it keeps its aspect and lies in the middle.
"""

from __future__ import annotations

from typing import Literal

ImageSize = int | tuple[int, int] | None
"""Height and width in pixels, one number where they are equal; None: what the images have."""
Resize = Literal["squash", "pad"]
"""How a picture is brought to another shape: out of its aspect, or with a border."""


def placement_of(
    original: tuple[int, int], size: tuple[int, int] | None, resize: Resize
) -> tuple[int, int, int, int, int, int]:
    """Return the placement of a picture in an image.

    Args:
        original: width and height of the picture.
        size: height and width of the image; None: those of the picture.
        resize: squash, or keep the aspect and pad.

    Example:
        >>> placement_of((200, 100), size=(50, 50), resize="pad")
        (200, 100, 0, 12, 50, 37)
        >>> placement_of((200, 100), size=(50, 50), resize="squash")
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
