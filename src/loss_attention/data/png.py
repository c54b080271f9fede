"""A PNG file without its texts and colour profile, which Pillow refuses where they are large.

They are no part of the picture, and a few kilobytes of them may unfold to gigabytes. Pillow's
limits belong to the whole process and its other threads, so they stay, and it is handed the rest.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from typing import BinaryIO, NamedTuple

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
    """Return a PNG file without texts and profile; `file` itself if it has none or is no PNG.

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
