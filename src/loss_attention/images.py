"""What callers give as images: taken where it can mean but one thing, else refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from loss_attention.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    Picture = Tensor | NDArray[Any] | Image.Image
    Pictures = Picture | Sequence[Picture]
else:  # what is none of these meets the messages below
    Pictures = Any

_ROUNDING = 1 / 255
"""How far floating-point images may leave [0, 1], as resizing and number formats have it."""


def as_images(images: Pictures, channels: int, device: torch.device) -> Tensor:
    """Return images as the tensor `(B, C, H, W)` that a model takes, of the values given.

    Args:
        images: a tensor, a NumPy array or a PIL image, or several of one size in a list. Tensors
            and arrays are `(B, C, H, W)`, or `(B, H, W, C)`, without B for one image, and without C
            for grey ones, where that can be told by the number of channels; uint8 in 0..255 or
            floating point in [0, 1]. PIL images of any mode are turned upright and converted.
        channels: C of the model.
        device: of the model, where arrays and PIL images go.

    Raises:
        InputError: what has no such layout or could have two, holds other values (NaN, floats in
            0..255, normalised images, integers of other types), or is no image at all.
    """
    if isinstance(images, (list, tuple)):
        parts = [as_images(image, channels, device) for image in images]
        if not parts:
            raise InputError("there are no images")
        if len({part.shape[2:] for part in parts}) > 1 or len({part.dtype for part in parts}) > 1:
            raise InputError("images given in a list must all have one size and type of numbers")
        return torch.cat(parts)
    array = not isinstance(images, Tensor)
    if not isinstance(images, Tensor):
        images = torch.from_numpy(_pixels(images, channels)).to(device)
    images = _laid_out(images, channels, array=array)
    if images.device != device:
        raise InputError(f"images are on {images.device}, the model is on {device}")
    _check_values(images)
    return images


def _pixels(image: Any, channels: int) -> NDArray[Any]:
    """Return an array that torch takes, of a NumPy array or a PIL image."""
    from PIL import Image

    if isinstance(image, Image.Image):
        from loss_attention.data.decoding import upright

        return np.array(upright(image, channels), np.uint8)
    if not isinstance(image, (np.ndarray, np.generic)):
        raise InputError(
            "images must be a tensor, a NumPy array, PIL images or a list of these, "
            f"got {type(image).__name__}"
        )
    if image.dtype != np.uint8 and image.dtype.kind != "f":
        raise InputError(_other_type(image.dtype))
    wanted = image.dtype if image.dtype.itemsize <= 8 else np.dtype(np.float64)
    # A copy: torch takes neither foreign byte orders nor steps backwards nor what is read-only.
    return np.array(image, wanted.newbyteorder("="), order="C")


def _laid_out(images: Tensor, channels: int, *, array: bool) -> Tensor:
    """Return images as `(B, C, H, W)`, if their shape can mean but one thing.

    A tensor has channels before rows by torch's convention, so one that may is taken so.
    """
    shape = tuple(images.shape)
    first = len(shape) in (3, 4) and shape[-3] == channels
    last = len(shape) in (3, 4) and shape[-1] == channels
    if first and last and array and not (shape[-1] == shape[-3] == 1):
        raise InputError(
            f"images of shape {shape} may have their channels first or last; give (B, C, H, W) as "
            "a tensor"
        )
    if first:
        return images if len(shape) == 4 else images.unsqueeze(0)
    if last:
        return images.movedim(-1, -3) if len(shape) == 4 else images.movedim(-1, 0).unsqueeze(0)
    if channels == 1 and len(shape) in (2, 3):  # grey, one or many
        return images.reshape(-1, 1, *shape[-2:])
    raise InputError(
        f"images must have shape (B, {channels}, H, W) or (B, H, W, {channels}), or that of one "
        f"image without B, got {shape}"
    )


def _check_values(images: Tensor) -> None:
    """Refuse values that a model would make nonsense of. On a GPU, this waits for it."""
    if images.numel() == 0:
        raise InputError(f"there are no images in a batch of shape {tuple(images.shape)}")
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise InputError(_other_type(images.dtype))
    low, high = (float(value) for value in images.detach().aminmax())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError("images hold NaN or infinite values; they must be in [0, 1]")
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise InputError(
            f"floating-point images must be in [0, 1], these are in [{low:.4g}, {high:.4g}]; "
            "divide by 255 or give uint8, and leave normalising to the model"
        )


def _other_type(dtype: object) -> str:
    return (
        f"images must be uint8 in 0..255 or floating point in [0, 1], got {dtype}; convert them, "
        "as with .astype('uint8') or .to(torch.uint8)"
    )
