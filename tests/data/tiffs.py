"""TIFF files of kinds that Pillow does not write, from their specification."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

_FORMATS = {1: "B", 3: "H", 4: "I"}
DEFLATE = 8


def tiff(
    values: ArrayLike,
    kind: str = "",
    *,
    bits: int = 8,
    photometric: int | None = 1,
    compression: int = 1,
    big_endian: bool = False,
    tags: Sequence[tuple[int, int, Sequence[int]]] = (),
) -> bytes:
    """Write levels `(H, W)` or colours `(H, W, bands)` as a TIFF of one strip.

    Args:
        values: the numbers as stored.
        kind: NumPy's letters of the type, as "u2"; "": packed, the highest bit first.
        bits: of a number.
        photometric: 0 where white is zero, 1 where black is, 2 of colours; None: unsaid.
        compression: 1 for none, 8 for deflate.
        big_endian: the order of bytes.
        tags: others: number, type (1 byte, 3 short, 4 long) and values.
    """
    order = ">" if big_endian else "<"
    pixels = np.asarray(values)
    height, width = pixels.shape[:2]
    bands = pixels.shape[2] if pixels.ndim == 3 else 1
    strip = pixels.astype(order + kind).tobytes() if kind else _packed(pixels, bits)
    if compression == DEFLATE:
        strip = zlib.compress(strip)
    entries = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [bits] * bands),
        259: (3, [compression]),
        273: (4, [0]),
        277: (3, [bands]),
        278: (4, [height]),
        279: (4, [len(strip)]),
        **({} if photometric is None else {262: (3, [photometric])}),
        **{tag: (type_, values) for tag, type_, values in tags},
    }
    after = 8 + 2 + 12 * len(entries) + 4
    contents = {
        tag: struct.pack(order + _FORMATS[type_] * len(values), *values)
        for tag, (type_, values) in entries.items()
    }
    apart = sum(len(content) for content in contents.values() if len(content) > 4)
    contents[273] = struct.pack(order + "I", after + apart)
    directory, blob = b"", b""
    for tag in sorted(entries):
        type_, values = entries[tag]
        content = contents[tag]
        if len(content) > 4:
            content, blob = struct.pack(order + "I", after + len(blob)), blob + content
        directory += struct.pack(order + "HHI", tag, type_, len(values)) + content.ljust(4, b"\0")
    head = (b"MM\0*" if big_endian else b"II*\0") + struct.pack(order + "IH", 8, len(entries))
    return head + directory + bytes(4) + blob + strip


def _packed(pixels: NDArray[np.generic], bits: int) -> bytes:
    rows = ("".join(f"{int(value):0{bits}b}" for value in row.flat) for row in pixels)
    padded = (row + "0" * (-len(row) % 8) for row in rows)
    return b"".join(int(row, 2).to_bytes(len(row) // 8, "big") for row in padded)
