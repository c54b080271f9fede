"""PNG files with large or broken texts and colour profiles: the picture is read all the same."""

from __future__ import annotations

import io
import random
import string
import struct
import threading
import tracemalloc
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from data.making import write
from PIL import Image, PngImagePlugin
from PIL.PngImagePlugin import PngInfo

from loss_attention.data.decoding import UnreadableImage, read_image, read_size
from loss_attention.data.pixels import picture_alone

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
MEGABYTES = "".join(random.Random(0).choices(string.ascii_letters, k=3_000_000))
EXIF_TURNED = Image.Exif()
EXIF_TURNED[0x0112] = 6


def saved(**options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "png", **options)
    return file.getvalue()


def with_chunks(content: bytes, *chunks: tuple[bytes, bytes], late: bool = False) -> bytes:
    """Insert chunks behind the header, or before the end."""
    packed = b"".join(
        struct.pack(">I", len(text)) + kind + text + struct.pack(">I", zlib.crc32(kind + text))
        for kind, text in chunks
    )
    where = len(content) - 12 if late else 33
    return content[:where] + packed + content[where:]


def info(kind: str, text: str = MEGABYTES) -> PngInfo:
    made = PngInfo()
    if kind == "tEXt":
        made.add_text("Comment", text)
    elif kind == "zTXt":
        made.add_text("Comment", text, zip=True)
    else:
        made.add_itxt("Comment", text, zip=kind == "packed iTXt")
    return made


def assert_read(content: bytes, folder: Path | None = None, turned: bool = False) -> None:
    sources = [content] if folder is None else [content, write(folder / "x.png", content)]
    for source in sources:
        found = np.asarray(read_image(source, 3))
        assert np.array_equal(found, np.rot90(PIXELS, -1) if turned else PIXELS)
        assert read_size(source, "") == ((20, 30) if turned else (30, 20))


@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt", "packed iTXt"])
def test_three_megabytes_of_text(kind: str, tmp_path: Path) -> None:
    assert_read(saved(pnginfo=info(kind)), tmp_path)
    assert_read(saved(pnginfo=info(kind), exif=EXIF_TURNED), turned=True)


@pytest.mark.parametrize("late", [False, True])
def test_many_texts(late: bool) -> None:
    text = b"Comment\0\0" + zlib.compress(MEGABYTES.encode()[:900_000], 1)
    assert_read(with_chunks(saved(), *[(b"zTXt", text)] * 80, late=late))  # 72 MB unpacked


def test_a_profile_of_five_megabytes(tmp_path: Path) -> None:
    profile = random.Random(0).randbytes(5_000_000)
    assert_read(saved(icc_profile=profile), tmp_path)


@pytest.mark.parametrize(
    "chunk",
    [
        (b"zTXt", b"Comment\0\x09nothing of zlib"),
        (b"iCCP", b"profile\0\x07unknown"),
        (b"iCCP", b"profile"),
        (b"tEXt", b"no end of its keyword"),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0nothing of zlib"),
        (b"zTXt", b"Raw profile type exif\0\0nothing of zlib"),
        (b"tEXt", b"Raw profile type exif\0\n\n\nno hexadecimal"),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_broken_texts_and_profiles(chunk: tuple[bytes, bytes], late: bool) -> None:
    assert_read(with_chunks(saved(), chunk, late=late))


@cache
def bomb() -> bytes:
    """A text of 120 MB."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(120)) + packer.flush()


@pytest.mark.parametrize("late", [False, True])
def test_a_bomb_of_text_takes_no_memory(late: bool) -> None:
    packed = bomb()
    for keyword in (b"Comment", b"XML:com.adobe.xmp", b"Raw profile type exif"):
        content = with_chunks(saved(), (b"zTXt", keyword + b"\0\0" + packed), late=late)
        assert len(content) < 500_000
        tracemalloc.start()
        assert_read(content)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 50e6


def test_how_it_is_turned_stands_in_a_large_xmp() -> None:
    xmp = f'<x {MEGABYTES} tiff:Orientation="6"/>'
    for packed in (False, True):
        made = PngInfo()
        made.add_itxt("XML:com.adobe.xmp", xmp, zip=packed)
        assert_read(saved(pnginfo=made), turned=True)


def test_what_needs_nothing_is_passed_on() -> None:
    for content in (saved(), saved(exif=EXIF_TURNED), b"GIF89a", b"", b"\x89PNG\r\n\x1a\n"):
        file = io.BytesIO(content)
        assert picture_alone(file) is file
        assert file.tell() == 0


def test_broken_pictures_stay_broken() -> None:
    whole = saved(pnginfo=info("zTXt", "short"))
    for kept in (60, len(whole) // 2, len(whole) - 40):
        with pytest.raises(UnreadableImage):
            read_image(whole[:kept], 3)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    with pytest.raises(UnreadableImage):
        read_image(bytes(flipped), 3)


def test_the_limits_of_pillow_stay_as_they_are() -> None:
    limits = (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)
    content = saved(pnginfo=info("zTXt"))
    threads = [threading.Thread(target=assert_read, args=[content]) for _ in range(4)]
    for thread in threads:
        thread.start()
    with pytest.raises(ValueError, match="MAX_TEXT_CHUNK"):
        Image.open(io.BytesIO(content)).load()
    for thread in threads:
        thread.join()
    assert limits == (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)


def test_the_default_picture_of_an_animation() -> None:
    frames = [Image.fromarray(255 - PIXELS)]
    for default in (False, True):
        content = saved(
            save_all=True, append_images=frames, default_image=default, pnginfo=info("zTXt")
        )
        assert_read(content)
