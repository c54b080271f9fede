"""Drawn pictures as bytes of a file: PNG, JPEG or WebP."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

from loss_attention.explained.formats import ImageFormat

_QUALITY = {"jpeg": {"quality": 88}, "webp": {"quality": 80, "method": 0}}
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ABOVE = 2
"""PNG's filter of a row that has each byte less the one above it."""


def encoded(picture: Image.Image, image_format: ImageFormat) -> bytes:
    """Return a picture of mode RGB as a file's content; PNG alone keeps every pixel as it is."""
    if image_format == "png":
        return _png(picture)
    file = io.BytesIO()
    picture.save(file, image_format.upper(), **_QUALITY[image_format])
    return file.getvalue()


def _png(picture: Image.Image) -> bytes:
    """Return a PNG, compressed in an eighth of the time of Pillow's usual one and a quarter larger.

    Drawn maps are smooth, so the row above is as good a guess as any filter tried for each row.
    """
    pixels = np.asarray(picture).reshape(picture.height, -1)
    rows = np.empty((picture.height, 1 + pixels.shape[1]), np.uint8)
    rows[:, 0], rows[0, 1:] = _ABOVE, pixels[0]
    np.subtract(pixels[1:], pixels[:-1], out=rows[1:, 1:])
    coder = zlib.compressobj(1, strategy=zlib.Z_RLE)
    content = coder.compress(rows.data) + coder.flush()
    header = struct.pack(">IIBBBBB", picture.width, picture.height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", content), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(*chunk) for chunk in chunks)


def _chunk(name: bytes, content: bytes) -> bytes:
    """Return a part of a PNG: its length, name, content and checksum."""
    check = zlib.crc32(content, zlib.crc32(name))
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)
