"""Small pictures of every format and many modes, and what can be wrong with their structure."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any

import numpy as np
from fuzz.hostile import Mutator
from PIL import Image

_SIZES = (0, 1, 2, 100, 9000, 9400, 30_000, 65_535, 65_536, 10**6, 2**31 - 1, 2**31, 2**32 - 1)
_MODES = {
    "png": ("L", "RGB", "RGBA", "P", "1", "I;16", "LA"),
    "jpeg": ("L", "RGB", "CMYK"),
    "tiff": ("L", "RGB", "RGBA", "P", "1", "I;16", "I", "F", "CMYK"),
    "webp": ("RGB", "RGBA"),
    "gif": ("L", "P"),
    "bmp": ("1", "L", "P", "RGB", "RGBA"),
    "ppm": ("1", "L", "RGB", "I"),
    "avif": ("RGB", "RGBA"),
    "jpeg2000": ("L", "RGB", "RGBA"),
}
_OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "jpeg": ({}, {"progressive": True}, {"quality": 95, "subsampling": 0}),
    "tiff": (
        *({}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}),
        *({"compression": "packbits"}, {"big_tiff": True}),
    ),
    "webp": ({}, {"lossless": True}),
}
FORMATS = tuple(_MODES)


def picture(form: str = "png", mode: str = "RGB", turned: int = 1, **options: Any) -> bytes:
    """Return a picture of 9 x 7 pixels; turned: its EXIF orientation."""
    levels = (np.arange(63).reshape(7, 9) * 4).astype(np.uint8)
    image = Image.fromarray(levels)
    if mode == "I;16":
        image = Image.fromarray(levels.astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(levels.astype(np.float32) / 255)
    else:
        image = image.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = turned
    file = io.BytesIO()
    image.save(file, form, **(options if turned == 1 else options | {"exif": exif}))
    return file.getvalue()


def seeds(form: str) -> list[bytes]:
    """Return valid files of a format, in modes and with options that decoders tell apart."""
    made = []
    for mode in _MODES[form]:
        for options in _OPTIONS.get(form, ({},)):
            try:
                made.append(picture(form, mode, **options))
            except (OSError, ValueError, KeyError):
                continue  # a compression that does not take this mode
    if form in ("jpeg", "png", "webp", "avif", "tiff"):
        made += [picture(form, "RGB", turned) for turned in (3, 6)]
    if form in ("gif", "webp", "png", "tiff"):
        made.append(_frames(form))
    assert made, f"Pillow writes no {form} here"
    return made


def _frames(form: str) -> bytes:
    images = [Image.new("P" if form == "gif" else "RGB", (9, 7), k) for k in (1, 2, 3)]
    file = io.BytesIO()
    images[0].save(file, form, save_all=True, append_images=images[1:])
    return file.getvalue()


def structured(form: str) -> Mutator | None:
    """Return the mutator that knows a format's structure; None: bytes alone are changed."""
    return {"png": _png, "tiff": _tiff, "ppm": _pnm, "jpeg": _jpeg}.get(form)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _flood(rng: Random) -> tuple[bytes, str]:
    """Return a PNG of as many pixels as are taken, all of them there."""
    side, depth, colour = rng.choice(((9400, 1, 0), (9400, 8, 0), (9400, 16, 0), (9400, 8, 6)))
    row = 1 + -(-side * depth * (4 if colour == 6 else 1) // 8)
    data = _squeezed_zeros(row * side)
    header = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
    made = _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + made, f"{side} x {side} pixels of {depth} bits, colour {colour}"


def _png(rng: Random, content: bytes) -> tuple[bytes, str]:
    """Change a chunk of a PNG, with a checksum that is right."""
    if rng.random() < 0.002:  # seconds each
        return _flood(rng)
    at, chunks = 8, []
    while at + 12 <= len(content):
        (size,) = struct.unpack(">I", content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    if not chunks:
        return content, "no chunks any more"
    which = rng.randrange(len(chunks))
    kind, data = chunks[which]
    how = rng.choice(("size", "size", "header", "drop", "twice", "data", "extra", "extra", "order"))
    if how == "size" and chunks[0][0] == b"IHDR" and len(chunks[0][1]) == 13:
        width, height = rng.choice(_SIZES), rng.choice((7, *_SIZES))
        chunks[0] = (b"IHDR", struct.pack(">II", width, height) + chunks[0][1][8:])
        how = f"{width} x {height} pixels"
    elif how == "header" and chunks[0][0] == b"IHDR" and len(chunks[0][1]) == 13:
        fields = bytes(rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255)) for _ in range(5))
        chunks[0] = (b"IHDR", chunks[0][1][:8] + fields)
        how = f"depth, colour, ... {fields.hex()}"
    elif how == "drop":
        del chunks[which]
        how = f"{kind!r} dropped"
    elif how == "twice":
        chunks[which:which] = [(kind, data)] * rng.choice((1, 1, 1000))
        how = f"{kind!r} several times"
    elif how == "order":
        rng.shuffle(chunks)
        how = "chunks shuffled"
    elif how == "extra":
        extra = rng.choice(_PNG_EXTRAS)()
        chunks.insert(rng.randint(1, len(chunks)), extra)
        how = f"{extra[0]!r} of {len(extra[1])} bytes put in"
    else:
        data = rng.choice((b"", data[:-1], data + b"\0", rng.randbytes(len(data)), data[::-1]))
        chunks[which] = (kind, data)
        how = f"{kind!r} of other data"
    return content[:8] + b"".join(_chunk(*chunk) for chunk in chunks), how


@cache
def _squeezed_zeros(size: int) -> bytes:
    return zlib.compress(bytes(size), 9)


_PNG_EXTRAS: tuple[Callable[[], tuple[bytes, bytes]], ...] = (
    lambda: (b"zTXt", b"a\0\0" + _squeezed_zeros(100_000_000)),
    lambda: (b"iTXt", b"a\0\1\0\0\0" + _squeezed_zeros(3_000_000)),
    lambda: (b"iCCP", b"a\0\0" + _squeezed_zeros(3_000_000)),
    lambda: (b"iCCP", b"a\0\1broken"),
    lambda: (b"tEXt", b"\x1b[31m\0\x00\xff"),
    lambda: (b"tRNS", b"\0" * 300),
    lambda: (b"tRNS", b""),
    lambda: (b"PLTE", b"\1\2"),
    lambda: (b"PLTE", bytes(768)),
    lambda: (b"acTL", struct.pack(">II", 2**31, 0)),
    lambda: (b"fcTL", bytes(26)),
    lambda: (b"fdAT", bytes(8)),
    lambda: (b"eXIf", b"MM\0*\0\0\0\x08" + b"\xff" * 40),
    lambda: (b"eXIf", b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\xff\xff\0\0\0\0\0\0"),
    lambda: (b"gAMA", b""),
    lambda: (b"pHYs", bytes(9)),
    lambda: (b"ABCD", b"an unknown critical chunk"),
)


def _tiff(rng: Random, content: bytes) -> tuple[bytes, str]:
    """Change a tag of a TIFF's first directory."""
    order = "<" if content[:2] == b"II" else ">"
    if len(content) < 8 or content[2:4] not in (b"*\0", b"\0*"):
        return content, "no plain TIFF"
    (at,) = struct.unpack(f"{order}I", content[4:8])
    if at + 2 > len(content):
        return content, "no directory any more"
    (count,) = struct.unpack(f"{order}H", content[at : at + 2])
    count = min(count, (len(content) - at - 2) // 12)
    if count == 0:
        return content, "no tags any more"
    made = bytearray(content)
    entry = at + 2 + 12 * rng.randrange(count)
    (tag,) = struct.unpack_from(f"{order}H", made, entry)
    how = rng.choice(("value", "value", "value", "count", "type", "tag", "loop"))
    if how == "value":
        value = rng.choice((*_SIZES, 3, 4, 8, 12, 16, 24, 32, 64))
        struct.pack_into(f"{order}I", made, entry + 8, value)
    elif how == "count":
        value = rng.choice(_SIZES)
        struct.pack_into(f"{order}I", made, entry + 4, value)
    elif how == "type":
        value = rng.choice((0, 1, 2, 3, 4, 5, 7, 9, 11, 12, 13, 16, 18, 255))
        struct.pack_into(f"{order}H", made, entry + 2, value)
    elif how == "tag":
        value = rng.choice((254, 256, 257, 258, 259, 262, 274, 277, 284, 320, 322, 330, 338, 347))
        struct.pack_into(f"{order}H", made, entry, value)
    else:
        value = rng.choice((at, 8, 0, 2**31))
        struct.pack_into(f"{order}I", made, min(at + 2 + 12 * count, len(made) - 4), value)
    return bytes(made), f"tag {tag}: {how} {value}"


def _pnm(rng: Random, content: bytes) -> tuple[bytes, str]:
    """Change the magic or a number of a PNM's header."""
    if rng.random() < 0.3:
        kind = rng.choice((b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"P7", b"Pf", b"PF", b"P0"))
        return kind + content[2:], f"said to be {kind!r}"
    numbers = list(re.finditer(rb"\d+", content[:30]))[1:]
    if not numbers:
        return content, "no numbers any more"
    found = rng.choice(numbers)
    new = rng.choice(
        (*(b"%d" % size for size in _SIZES), b"-1", b"1" * 5000, b"#c\n", b"1.5", b"", b"\0")
    )
    what = f"{found[0]!r} is {new[:20]!r}"
    return content[: found.start()] + new + content[found.end() :], what


def _jpeg(rng: Random, content: bytes) -> tuple[bytes, str]:
    """Change a segment of a JPEG."""
    at, segments = 2, []
    while at + 4 <= len(content) and content[at] == 0xFF:
        (size,) = struct.unpack(">H", content[at + 2 : at + 4])
        segments.append((at, size + 2))
        at += size + 2
        if content[segments[-1][0] + 1] == 0xDA:
            break
    if not segments:
        return content, "no segments any more"
    at, size = rng.choice(segments)
    segment, marker = content[at : at + size], content[at + 1]
    how = rng.choice(("drop", "twice", "length", "marker", "data", "size"))
    frames = [start for start, _ in segments if content[start + 1] in (0xC0, 0xC1, 0xC2)]
    if how == "size" and frames:
        width, height = rng.choice(_SIZES) % 65_536, rng.choice(_SIZES) % 65_536
        made = bytearray(content)
        made[frames[0] + 5 : frames[0] + 9] = struct.pack(">HH", height, width)
        return bytes(made), f"{width} x {height} pixels"
    new = {
        "drop": b"",
        "twice": segment * rng.choice((2, 2, 500)),
        "length": segment[:2] + struct.pack(">H", rng.choice((0, 1, 2, 65_535))) + segment[4:],
        "marker": bytes([0xFF, rng.choice((0, 1, 0xC1, 0xC2, 0xC3, 0xD0, 0xD9, 0xE1, 0xE2, 0xEE))])
        + segment[2:],
    }.get(how, segment[:4] + rng.randbytes(max(len(segment) - 4, 0)))
    return content[:at] + new + content[at + size :], f"segment {marker:x}: {how}"
