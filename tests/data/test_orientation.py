"""How pictures are turned: the same for the pixels and for the size that a header gives."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from data.making import write
from data.tiffs import DEFLATE, tiff
from PIL import Image, ImageOps, features
from PIL.PngImagePlugin import PngInfo

from loss_attention.data.decoding import read_image, read_size

# Each corner has a level of its own: upper left, upper right, lower left, lower right.
CORNERS = (0, 90, 170, 250)
SIZE = (48, 32)
# Where the stored corners lie once the picture is upright, written out from the EXIF standard.
UPRIGHT = {
    1: (0, 90, 170, 250),
    2: (90, 0, 250, 170),
    3: (250, 170, 90, 0),
    4: (170, 250, 0, 90),
    5: (0, 170, 90, 250),
    6: (170, 0, 250, 90),
    7: (250, 90, 170, 0),
    8: (90, 250, 0, 170),
}
ODD = {0: UPRIGHT[1], 9: UPRIGHT[1], 255: UPRIGHT[1]}
XMP = '<x:xmpmeta><rdf:Description tiff:Orientation="{}"/></x:xmpmeta>'


def picture(mode: str = "RGB") -> Image.Image:
    image = Image.new("L", SIZE)
    width, height = SIZE[0] // 2, SIZE[1] // 2
    for i, level in enumerate(CORNERS):
        left, top = (i % 2) * width, (i // 2) * height
        image.paste(level, (left, top, left + width, top + height))
    return image.convert(mode)


def exif(orientation: object) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def saved(kind: str, image: Image.Image | None = None, **options: object) -> bytes:
    file = io.BytesIO()
    (image or picture()).save(file, kind, **options)
    return file.getvalue()


def check(content: bytes, corners: tuple[int, ...], folder: Path | None = None) -> None:
    """Compare the corners, and the size from the header, with what is right."""
    sources = [content] if folder is None else [content, write(folder / "picture", content)]
    for source in sources:
        image = read_image(source, 1)
        sideways = corners in [UPRIGHT[number] for number in (5, 6, 7, 8)]
        assert image.size == (SIZE[::-1] if sideways else SIZE)
        assert read_size(source, "picture") == image.size
        pixels = np.asarray(image).astype(int)
        found = [pixels[y, x] for y in (2, -3) for x in (2, -3)]
        assert np.abs(np.subtract(found, corners)).max() <= 6
        with Image.open(io.BytesIO(content)) as stored:
            alike = np.asarray(ImageOps.exif_transpose(stored).convert("L")).astype(int)
        assert np.abs(alike - pixels).max() <= 1


LOSSLESS = {"quality": 100}
WRITTEN = {
    "png": ("png", {}),
    "jpeg": ("jpeg", LOSSLESS),
    "mpo": ("mpo", LOSSLESS),
    "webp": ("webp", {"lossless": True}),
    "tiff": ("tiff", {}),
    "tiff lzw": ("tiff", {"compression": "tiff_lzw"}),
    "tiff deflate": ("tiff", {"compression": "tiff_adobe_deflate"}),
    "tiff packbits": ("tiff", {"compression": "packbits"}),
    "tiff jpeg": ("tiff", {"compression": "jpeg", **LOSSLESS}),
    "big tiff": ("tiff", {"big_tiff": True}),
    **({"avif": ("avif", LOSSLESS)} if features.check("avif") else {}),
}


@pytest.mark.parametrize("orientation", [*UPRIGHT, *ODD])
@pytest.mark.parametrize("kind", WRITTEN)
def test_exif_in_every_format_that_has_it(kind: str, orientation: int, tmp_path: Path) -> None:
    name, options = WRITTEN[kind]
    if "compression" in options and orientation in ODD:
        pytest.skip("libtiff does not write it")
    content = saved(name, exif=exif(orientation), **options)
    check(content, {**UPRIGHT, **ODD}[orientation], tmp_path)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_tiff_of_every_mode(mode: str, orientation: int, compression: str | None) -> None:
    stored = {
        "1": picture("L").point(lambda level: 255 * (level > 128)).convert("1"),
        "I;16": Image.fromarray(np.asarray(picture("L")).astype(np.uint16) * 257),
        "F": Image.fromarray(np.asarray(picture("L")).astype(np.float32) / 255),
    }.get(mode) or picture(mode)
    corners = UPRIGHT[orientation]
    if mode == "1":
        corners = tuple(255 * (level > 128) for level in corners)
    content = saved("tiff", stored, exif=exif(orientation), compression=compression)
    upright = read_image(content, 1)
    assert read_size(content, "") == upright.size == (SIZE[::-1] if orientation > 4 else SIZE)
    found = np.asarray(upright).astype(int)[[2, 2, -3, -3], [2, -3, 2, -3]]
    assert np.abs(found - corners).max() <= 1


@pytest.mark.parametrize("kind", ["bmp", "gif", "jpeg2000", "ppm", "pcx", "tga", "ico", "dds"])
def test_formats_without_a_turn(kind: str) -> None:
    content = saved(kind, exif=exif(6))
    size = read_image(content, 3).size
    assert read_size(content, "") == size
    if kind != "ico":
        check(content, UPRIGHT[1])


@pytest.mark.parametrize("orientation", [*UPRIGHT, *ODD])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("compression", [1, DEFLATE])
def test_tiff_of_both_byte_orders(orientation: int, big_endian: bool, compression: int) -> None:
    pixels = np.asarray(picture("L"))
    content = tiff(
        pixels,
        "u1",
        big_endian=big_endian,
        compression=compression,
        tags=[(0x0112, 3, [orientation])],
    )
    check(content, {**UPRIGHT, **ODD}[orientation])


ODD_TAGS = pytest.mark.parametrize(
    "tag",
    [(3, [6, 6]), (4, [6]), (4, [70_000]), (1, [6]), (3, [])],
    ids=["two", "long", "huge", "byte", "none"],
)


@ODD_TAGS
def test_tiff_with_an_odd_tag_has_one_size(tag: tuple[int, list[int]]) -> None:
    content = tiff(np.asarray(picture("L")), "u1", tags=[(0x0112, *tag)])
    assert read_size(content, "") == read_image(content, 1).size


@ODD_TAGS
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_exif_with_an_odd_tag_has_one_size(kind: str, tag: tuple[int, list[int]]) -> None:
    block = tiff([[0]], "u1", tags=[(0x0112, *tag)])  # what EXIF is
    content = saved(kind, exif=b"Exif\0\0" + block)
    assert read_size(content, "") == read_image(content, 1).size


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff"])
def test_xmp_counts_where_exif_says_nothing(kind: str, orientation: int) -> None:
    text = XMP.format(orientation)
    lossless = {"lossless": True} if kind == "webp" else LOSSLESS if kind == "jpeg" else {}
    both: dict[str, object] = {"xmp": text.encode()}
    if kind == "png":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", text, zip=True)
        both = {"pnginfo": info}
    elif kind == "tiff":
        both = {"tiffinfo": {700: text.encode()}}
    check(saved(kind, **lossless, **both), UPRIGHT[orientation])
    # EXIF comes first where both speak.
    two: dict[str, object] = {**both, "exif": exif(3)}
    if kind == "tiff":
        two = {"tiffinfo": {700: text.encode(), 0x0112: 3}}
    check(saved(kind, **lossless, **two), UPRIGHT[3])


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_png_with_its_exif_behind_the_pixels(orientation: int) -> None:
    raw = exif(orientation).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(raw)) + b"eXIf" + raw
    chunk += struct.pack(">I", zlib.crc32(b"eXIf" + raw))
    plain = saved("png")
    check(plain[:-12] + chunk + plain[-12:], UPRIGHT[orientation])


@pytest.mark.parametrize("packed", [False, True])
def test_png_with_its_exif_in_a_text(packed: bool) -> None:
    raw = exif(6).tobytes()
    info = PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(raw):8}\n{raw.hex()}\n", zip=packed)
    check(saved("png", pnginfo=info), UPRIGHT[6])


@pytest.mark.parametrize("kind", ["gif", "tiff", "png", "webp"])
def test_the_first_picture_of_many_is_turned(kind: str) -> None:
    lossless = {"lossless": True} if kind == "webp" else {}
    more = [Image.new("RGB", (48, 32), (9, 9, level)) for level in range(20)]
    turned = {} if kind == "gif" else {"exif": exif(8)}
    content = saved(kind, save_all=True, append_images=more, **turned, **lossless)
    check(content, UPRIGHT[1 if kind == "gif" else 8])


def test_an_icon_has_the_size_of_its_largest_picture() -> None:
    content = saved("ico", sizes=[(16, 16), (32, 32)])
    assert read_size(content, "") == read_image(content, 3).size
    # Its directory may claim another size than the picture within has.
    lying = bytearray(content)
    lying[6:8] = bytes((17, 19))
    assert read_size(bytes(lying), "") == read_image(bytes(lying), 3).size
