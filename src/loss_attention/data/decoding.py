"""From image files to uint8 tensors, one image at a time.

What files hold is brought to one form: upright (EXIF orientation applied), 8 bits, grey or colour.
Transparent parts show white, as most viewers and web pages have it. 16-bit images are scaled by
1 / 257, so that 65535 becomes 255, and not clipped. Of animations and multi-page files the first
picture is taken.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageStat, UnidentifiedImageError
from torch import Tensor

from loss_attention.data.placement import Resize, place
from loss_attention.errors import InputError

IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png"),
    *(".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
MOST_PIXELS = 89_478_485
"""A larger image is refused: it would take over 256 MB decoded (Pillow's own limit)."""

_MODES = {1: "L", 3: "RGB"}
_16_BIT = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = 5  # from here on, width and height change places
# `warnings.catch_warnings` changes the whole process: only one thread at a time may.
_quiet = threading.Lock()


class UnreadableImage(InputError):  # noqa: N818
    """An image that cannot be decoded: `name` says which, `reason` why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} cannot be read as an image: {reason}")
        self.name = name
        self.reason = reason


def read_image(source: Path | bytes, in_channels: int, name: str | None = None) -> Image.Image:
    """Decode an image, upright and in 8 bits; see the module's text for how.

    Args:
        source: a file, or the bytes of one.
        in_channels: 1 gives grey (mode L), 3 colour (mode RGB).
        name: what an error calls the image; None: the path, or "image" for bytes.

    Raises:
        UnreadableImage: missing, no image, truncated, over `MOST_PIXELS`, or of values whose
            meaning is unknown (32-bit integers beyond 65535, floats outside [0, 1]).
        InputError: `in_channels` other than 1 and 3.

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("I;16", (3, 2), 65535).save(file, "png")
        >>> image = read_image(file.getvalue(), in_channels=1)
        >>> image.size, image.getpixel((0, 0))
        ((3, 2), 255)
    """
    if in_channels not in _MODES:
        raise InputError(f"in_channels must be 1 or 3, got {in_channels}")
    name = name or (str(source) if isinstance(source, Path) else "image")
    try:
        # Opened here: given a path, Pillow maps plain TIFF files and garbles those that are turned.
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            return _upright(file).convert(_MODES[in_channels])
    except Exception as error:  # decoders raise whatever a broken file leads them into
        raise UnreadableImage(name, _reason(error, source)) from error


def read_numbers(source: Path | bytes, name: str) -> UInt8[np.ndarray, "H W *3"]:
    """Return a picture's pixels as stored: numbers of a palette or levels of grey, else colours.

    Raises:
        UnreadableImage: as `read_image`.
    """
    try:
        with (
            io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file,
            _opened(file) as image,
        ):
            pixels = image if image.mode in ("L", "P") else image.convert("RGB")
            return np.array(pixels, np.uint8)
    except Exception as error:
        raise UnreadableImage(name, _reason(error, source)) from error


def read_size(source: Path | bytes, name: str) -> tuple[int, int]:
    """Return width and height of an image once it is upright, from the beginning of its file.

    Raises:
        UnreadableImage: missing, no image, or over `MOST_PIXELS`; what is broken further on is not
            noticed.
    """
    try:
        with (
            io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file,
            _opened(file) as image,
        ):
            return image.size if _orientation(image) < _SIDEWAYS else image.size[::-1]
    except Exception as error:
        raise UnreadableImage(name, _reason(error, source)) from error


def to_tensor(
    image: Image.Image, size: tuple[int, int] | None = None, resize: Resize = "squash"
) -> UInt8[Tensor, "C H W"]:
    """Return an image of mode L or RGB as a tensor.

    Args:
        image: what `read_image` returns.
        size: height and width in pixels to resize to, with bilinear interpolation that averages
            when it shrinks; nothing is cropped. None: as it is.
        resize: squash the picture to that shape; or keep its aspect and centre it on a border of
            its own mean colour, which needs nothing but the picture and so is the same in
            training and in explaining.

    Example:
        >>> to_tensor(Image.new("RGB", (6, 4)), size=(2, 3)).shape
        torch.Size([3, 2, 3])
    """
    if size is not None:
        image = fitted(image, size, resize)
    pixels = np.array(image, np.uint8)  # a copy: Pillow's own buffer is read-only
    if pixels.ndim == 2:
        return torch.from_numpy(pixels).unsqueeze(0)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def fitted(
    image: Image.Image,
    size: tuple[int, int],
    resize: Resize,
    border: tuple[int, ...] | None = None,
) -> Image.Image:
    """Return an image resized to height and width, on a border where it is padded.

    Args:
        image: of any size.
        size: height and width in pixels.
        resize: see `to_tensor`.
        border: the border's colour, a level for each band; None: the image's mean.
    """
    _, _, left, top, right, bottom = place(image.size, size, resize)
    if image.size != (right - left, bottom - top):
        image = image.resize((right - left, bottom - top), Image.Resampling.BILINEAR)
    if image.size == (size[1], size[0]):
        return image
    colour = border or tuple(round(mean) for mean in ImageStat.Stat(image).mean)
    canvas = Image.new(image.mode, (size[1], size[0]), colour if len(colour) > 1 else colour[0])
    canvas.paste(image, (left, top))
    return canvas


def list_images(path: Path) -> list[Path]:
    """Return the image files in a folder and the folders in it, by their suffix, sorted.

    Hidden files and folders (a name that starts with a dot) are left out.
    """
    return sorted(file for file in visible_files(path) if file.suffix.lower() in IMAGE_SUFFIXES)


def visible_files(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and the folders in it, without the hidden ones."""
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from visible_files(entry)
        else:
            yield entry


def _upright(file: BinaryIO) -> Image.Image:
    """Decode, turn as EXIF says, and reduce to 8-bit pixels without transparency."""
    with _opened(file) as image:
        image.load()
        orientation = _orientation(image)
        plain = _without_transparency(_in_8_bits(image))
    turn = _UPRIGHT.get(orientation)
    return plain if turn is None else plain.transpose(turn)


def _opened(file: BinaryIO) -> Image.Image:
    """Open an image without decoding it, if it is not too large."""
    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata, and sizes that are checked here
        image = Image.open(file)
    if image.width * image.height > MOST_PIXELS:
        image.close()
        raise Image.DecompressionBombError
    return image


def _orientation(image: Image.Image) -> int:
    """Return how EXIF says that an image is turned; 1 where it is upright."""
    orientation = 1
    with _quiet, warnings.catch_warnings(), suppress(Exception):  # a broken tag: as stored
        warnings.simplefilter("ignore")
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in _UPRIGHT else 1


def _in_8_bits(image: Image.Image) -> Image.Image:
    if image.mode in _16_BIT:
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("32-bit pixels outside 0..65535; save it with 8 or 16 bits")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        levels = np.asarray(image)
        if not (levels.min() >= 0 and levels.max() <= 1):  # NaN fails too
            raise ValueError("floating-point pixels outside [0, 1]; save it with 8 or 16 bits")
        return Image.fromarray((levels * 255).round().astype(np.uint8))
    return image


def _without_transparency(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _reason(error: Exception, source: Path | bytes) -> str:
    """Say in a few words why an image could not be decoded."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MOST_PIXELS:,} pixels (a decompression bomb?)"
    if isinstance(error, UnidentifiedImageError):
        empty = not source if isinstance(source, bytes) else source.stat().st_size == 0
        return "empty" if empty else "of no known image format"
    return next(iter(str(error).splitlines()), "") or type(error).__name__
