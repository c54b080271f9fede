"""What Pillow is spared of image files, and what is mended of the pixels that it gives.

Pixels of any depth become 8 bits by what the file says of their range and never by what they hold:
an image whose own range were stretched would show a faint structure as strongly as a clear one.

A PNG file goes without its texts and colour profile, which Pillow refuses where they are large.
They are no part of the picture, and a few kilobytes of them may unfold to gigabytes. Pillow's
limits belong to the whole process and its other threads, so they stay, and it is handed the rest.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple

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
    """Say what a TIFF holds that cannot be read; None for a file that is not a TIFF.

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


_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_EXIF_TEXT, _XMP_TEXT = b"Raw profile type exif", b"XML:com.adobe.xmp"
_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)[0-9]')
# Levels of grey of few bits are spread over 0..255 by Pillow, the transparent one is not.
_SPREAD = {2: 85, 4: 17}
_MOST_BYTES = 2**30  # no picture of a size that is read takes as many
_MOST_CHUNKS = 1_000_000
_MOST_TEXT = 2**24  # bytes of a text that are looked at
_MOST_EXIF = 2**20


class _Chunk(NamedTuple):
    """A chunk of the file: its kind, where its content begins, and how long that is."""

    kind: bytes
    start: int
    length: int


def picture_alone(file: BinaryIO) -> BinaryIO:
    """Return a PNG file without texts and profile; `file` itself if it has none or is not a PNG.

    How the picture is turned stays, wherever it stands, and is moved to the front: whoever reads
    only the beginning finds it.
    """
    start = file.tell()
    is_png = file.read(len(_SIGNATURE)) == _SIGNATURE
    chunks, rest = _chunks(file) if is_png else ([], 0)
    kinds = [chunk.kind for chunk in chunks]
    if kinds[:1] != [b"IHDR"] or not (
        {*_TEXTS, b"iCCP", b"tRNS"}.intersection(kinds)
        or (b"IDAT" in kinds and b"eXIf" in kinds[kinds.index(b"IDAT") :])
    ):
        file.seek(start)
        return file
    header = _content(file, chunks[0])
    kept = io.BytesIO()
    kept.write(_SIGNATURE + _chunk(b"IHDR", header))
    kept.write(b"".join([*_turning_texts(file, chunks), *_all(file, chunks, b"eXIf")]))
    for chunk in chunks[1:]:
        if chunk.kind == b"tRNS":
            kept.write(_chunk(b"tRNS", _as_pillow_counts(_content(file, chunk), header)))
        elif chunk.kind not in (*_TEXTS, b"iCCP", b"eXIf"):
            file.seek(chunk.start - 8)
            kept.write(file.read(chunk.length + 12))
    file.seek(rest)
    kept.write(file.read())  # what is broken there is left for Pillow to say
    kept.seek(0)
    return kept


def _chunks(file: BinaryIO) -> tuple[list[_Chunk], int]:
    """Return the whole chunks from here on, up to the end of the picture, and where they end."""
    position = file.tell()
    size = file.seek(0, io.SEEK_END)
    chunks: list[_Chunk] = []
    while size <= _MOST_BYTES and len(chunks) < _MOST_CHUNKS:
        file.seek(position)
        head = file.read(8)
        if len(head) < 8 or not head[4:].isalpha():
            break
        chunk = _Chunk(head[4:], position + 8, int.from_bytes(head[:4], "big"))
        if chunk.kind == b"IEND" or chunk.start + chunk.length + 4 > size:
            break
        chunks.append(chunk)
        position = chunk.start + chunk.length + 4
    return chunks, position


def _turning_texts(file: BinaryIO, chunks: list[_Chunk]) -> list[bytes]:
    """Return what texts say of how the picture is turned, as chunks of a few bytes."""
    texts: dict[bytes, _Chunk] = {}
    for chunk in chunks:
        if chunk.kind in _TEXTS:
            file.seek(chunk.start)
            keyword = file.read(min(chunk.length, 80)).partition(b"\0")[0]
            texts[keyword] = chunk
    found = []
    if _EXIF_TEXT in texts:
        exif = _text(file, texts[_EXIF_TEXT])
        if len(exif) <= _MOST_EXIF:
            found.append(_chunk(b"tEXt", _EXIF_TEXT + b"\0" + exif))
    if _XMP_TEXT in texts and (match := _ORIENTATION.search(_text(file, texts[_XMP_TEXT]))):
        found.append(_chunk(b"iTXt", _XMP_TEXT + bytes(5) + match[0]))
    return found


def _text(file: BinaryIO, chunk: _Chunk) -> bytes:
    """Return the text of a chunk, unpacked, no further than is looked at."""
    file.seek(chunk.start)
    content = file.read(min(chunk.length, _MOST_TEXT)).partition(b"\0")[2]
    packed = chunk.kind == b"zTXt"
    if packed:
        content = content[1:]
    elif chunk.kind == b"iTXt":
        packed = content[:1] == b"\1"
        content = b"".join(content[2:].split(b"\0", 2)[2:])
    if not packed:
        return content
    try:
        return zlib.decompressobj().decompress(content, _MOST_TEXT)
    except zlib.error:
        return b""


def _as_pillow_counts(transparent: bytes, header: bytes) -> bytes:
    """Return which level or colour is transparent as Pillow's levels of it, which are of 8 bits."""
    if len(header) < 10:
        return transparent
    depth, colour = header[8], header[9]
    if colour == 0 and depth in _SPREAD and len(transparent) >= 2:
        level = int.from_bytes(transparent[:2], "big") * _SPREAD[depth]
        return struct.pack(">H", min(level, 65535))
    if colour == 2 and depth == 16 and len(transparent) >= 6:
        return bytes((0, transparent[0], 0, transparent[2], 0, transparent[4]))
    return transparent


def _all(file: BinaryIO, chunks: list[_Chunk], kind: bytes) -> list[bytes]:
    """Return the chunks of a kind, written anew."""
    return [_chunk(kind, _content(file, chunk)) for chunk in chunks if chunk.kind == kind]


def _content(file: BinaryIO, chunk: _Chunk) -> bytes:
    file.seek(chunk.start)
    return file.read(chunk.length)


def _chunk(kind: bytes, content: bytes) -> bytes:
    named = kind + content
    return struct.pack(">I", len(content)) + named + struct.pack(">I", zlib.crc32(named))
