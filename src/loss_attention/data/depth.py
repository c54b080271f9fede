"""Pixels of any depth to 8 bits, by what the file says of their range and never by what they hold.

An image whose own range were stretched would show a faint structure as strongly as a clear one.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COLORMAP,
    COMPRESSION,
    COMPRESSION_INFO,
    PHOTOMETRIC_INTERPRETATION,
    PREFIXES,
    SAMPLEFORMAT,
    SAMPLESPERPIXEL,
)

DEEP = "deep"
"""Entry of the `info` of an image whose file has more than 8 bits a pixel."""

_16_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_AT_ONCE = 2**22  # pixels turned at once, so that the numbers in between stay few
_SIGNED, _FLOATING = 2, 3
_COLOURS = {2: "colour", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "CIE Lab"}


def in_8_bits(image: Image.Image) -> Image.Image:
    """Return a decoded image with 8 bits a band; one that has them comes back as it is.

    16 bits are scaled by 1 / 257, so that 65535 becomes 255; the 12 bits of a TIFF by 255 / 4095.
    Where a TIFF says that white is zero, levels are turned round.

    Raises:
        ValueError: values whose range is unknown: integers outside 0..65535, negative ones of 8
            bits, floats outside [0, 1].
    """
    if image.mode in _16_BIT:
        most = 2 ** _tag(image, BITSPERSAMPLE, 16) - 1
        return _each_pixel(image, lambda values: _scaled(values, most))
    if image.mode == "I":
        low, high = map(int, image.getextrema())  # type: ignore[arg-type]
        if low < 0 or high > 65535:
            raise ValueError(
                f"integer pixels of {low}..{high}, outside 0..65535; save it with 8 or 16 bits"
            )
        return _each_pixel(image, lambda values: _scaled(values, 65535))
    if image.mode == "F":
        return _each_pixel(image, _scaled_floats)
    return _of_8_bits(image)


def unread_tiff(file: BinaryIO) -> str | None:
    """Say what a TIFF holds that cannot be read; None for a file that is no TIFF.

    Args:
        file: at its beginning.
    """
    head = file.read(8)
    if not head.startswith(tuple(PREFIXES)):
        return None
    with suppress(Exception):  # whatever broken tags lead into
        tags = TiffImagePlugin.ImageFileDirectory_v2(
            head + (file.read(8) if head[2:4] in (b"+\0", b"\0+") else b"")
        )
        file.seek(tags.next)
        tags.load(file)
        if tags.get(COMPRESSION, 1) not in COMPRESSION_INFO:
            return f"a TIFF of the unknown compression {tags[COMPRESSION]}; save it with another"
        depths = sorted({*map(int, tags.get(BITSPERSAMPLE, (1,)))})
        bits = "- and ".join(map(str, depths))
        kinds = {_SIGNED: " signed", _FLOATING: " floating-point"}
        kind = kinds.get(_first(tags.get(SAMPLEFORMAT, 1)), "")
        shown = _first(tags.get(PHOTOMETRIC_INTERPRETATION, 0))
        bands = int(tags.get(SAMPLESPERPIXEL, len(tags.get(BITSPERSAMPLE, (1,)))))
        return (
            f"a TIFF of {bits}-bit{kind} {_COLOURS.get(shown, 'grey')} in {bands} "
            f"band{'s'[: bands != 1]}, which cannot be read; save it with 8 or 16 unsigned bits, "
            "black being 0"
        )
    return "a TIFF with broken tags"


def _of_8_bits(image: Image.Image) -> Image.Image:
    """Mend what Pillow makes of some TIFF files of at most 8 bits."""
    if _tag(image, SAMPLEFORMAT, 1) == _SIGNED and image.mode == "L":
        if int(image.getextrema()[1]) > 127:  # type: ignore[arg-type]
            raise ValueError("signed 8-bit pixels below 0; save it with unsigned pixels")
        return image
    if image.mode == "P":
        colours = _tags(image).get(COLORMAP, ())
        if 0 < max(colours, default=0) < 256:  # written with 8 bits where the format has 16
            image.putpalette(bytes(np.reshape(colours, (3, -1)).T.astype(np.uint8)))
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.mode in ("1", "L"):
        faxed = image.info.get("compression") in ("tiff_ccitt", "group3", "group4")
        if PHOTOMETRIC_INTERPRETATION not in _tags(image) and not faxed:
            # As all but Pillow have it: who does not say which is black counts from black.
            return image.convert("L").point(lambda level: 255 - level)
    return image


def _each_pixel(image: Image.Image, to_8_bits: Any) -> Image.Image:
    """Return what a function makes of the pixels, a few rows at a time."""
    width, height = image.size
    rows = max(1, _AT_ONCE // max(1, width))
    inverted = _tags(image).get(PHOTOMETRIC_INTERPRETATION) == 0
    transparent = image.info.get("transparency")
    result = Image.new("L", image.size)
    result.info[DEEP] = True
    for top in range(0, height, rows):
        box = (0, top, width, min(height, top + rows))
        values = np.asarray(image if rows >= height else image.crop(box))
        levels = to_8_bits(values)
        if inverted:
            levels = 255 - levels
        if isinstance(transparent, int):
            levels[values == transparent] = 255
        result.paste(Image.fromarray(levels), (0, top))
    return result


def _scaled(values: NDArray[Any], most: int) -> NDArray[np.uint8]:
    return ((values.astype(np.uint32) * 255 + most // 2) // most).astype(np.uint8)


def _scaled_floats(values: NDArray[Any]) -> NDArray[np.uint8]:
    if not (values.min() >= 0 and values.max() <= 1):  # NaN fails too
        raise ValueError("floating-point pixels outside [0, 1]; save it with 8 or 16 bits")
    return (values * 255).round().astype(np.uint8)


def _tags(image: Image.Image) -> Any:
    return image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}


def _tag(image: Image.Image, tag: int, absent: int) -> int:
    """Return a tag of a TIFF that holds a number for each band, of the first band."""
    return int(_first(_tags(image).get(tag, absent)))


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) else value
