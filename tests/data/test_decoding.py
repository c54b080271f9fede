"""Decoding images of every kind to upright 8-bit tensors."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from data.making import png, write
from data.tiffs import tiff
from numpy.typing import NDArray
from PIL import Image, features

from loss_attention.data import decoding
from loss_attention.data.decoding import (
    UnreadableImage,
    read_image,
    read_numbers,
    read_size,
    to_tensor,
)
from loss_attention.errors import InputError

RAMP = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10


def encoded(image: Image.Image, kind: str = "png", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def levels(source: Path | bytes, in_channels: int = 1) -> NDArray[np.uint8]:
    return np.asarray(read_image(source, in_channels))


def test_grey_and_colour() -> None:
    colour = Image.fromarray(np.stack([RAMP, 255 - RAMP, RAMP // 2], axis=-1))
    assert np.array_equal(levels(encoded(colour), 3), np.asarray(colour))
    # ITU-R 601: 0.299 R + 0.587 G + 0.114 B
    expected = np.asarray(colour) @ [0.299, 0.587, 0.114]
    assert np.abs(levels(encoded(colour), 1) - expected).max() <= 1
    grey = Image.fromarray(RAMP)
    assert np.array_equal(levels(encoded(grey), 1), RAMP)
    assert np.array_equal(levels(encoded(grey), 3), np.stack([RAMP] * 3, axis=-1))


def test_palette() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert levels(encoded(image), 3).tolist() == [[[10, 20, 30], [200, 100, 50]]]


def test_one_bit() -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert levels(encoded(image)).tolist() == [[0, 255]]


@pytest.mark.parametrize(("kind", "options"), [("png", {}), ("tiff", {}), ("ppm", {})])
def test_16_bits_are_scaled_and_not_clipped(kind: str, options: dict[str, object]) -> None:
    deep = np.array([[0, 128, 129, 257, 40_000, 65_535]], np.uint16)
    image = levels(encoded(Image.fromarray(deep), kind, **options))
    assert image.tolist() == np.round(deep / 257).astype(int).tolist() == [[0, 0, 1, 1, 156, 255]]
    assert levels(encoded(Image.fromarray(deep), kind), 3)[0, 4].tolist() == [156] * 3


def test_32_bit_integers_of_a_16_bit_range() -> None:
    wide = np.array([[0, 40_000, 65_535]], np.int32)
    assert levels(encoded(Image.fromarray(wide), "tiff")).tolist() == [[0, 156, 255]]
    wide[0, 1] = 70_000
    with pytest.raises(UnreadableImage, match=r"outside 0\.\.65535; save it with 8 or 16 bits"):
        read_image(encoded(Image.fromarray(wide), "tiff"), 1)


def test_floats_from_0_to_1() -> None:
    real = np.array([[0, 0.5, 1]], np.float32)
    assert levels(encoded(Image.fromarray(real), "tiff")).tolist() == [[0, 128, 255]]
    for bad in (-0.1, 1.5, np.nan):
        real[0, 0] = bad
        with pytest.raises(UnreadableImage, match=r"outside \[0, 1\]"):
            read_image(encoded(Image.fromarray(real), "tiff"), 1)


def test_cmyk() -> None:
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # no cyan: red
    red, green, blue = levels(encoded(image, "tiff"), 3)[0, 0]
    assert red > 200
    assert max(green, blue) < 60


def test_transparency_shows_white() -> None:
    half = Image.new("RGBA", (1, 1), (0, 0, 0, 102))  # 40 % black over white
    assert levels(encoded(half), 3).tolist() == [[[153] * 3]]
    assert levels(encoded(Image.new("LA", (1, 1), (0, 0)))).tolist() == [[255]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    for transparency in (0, b"\x00\xff"):
        image = encoded(palette, transparency=transparency)
        assert levels(image, 3).tolist() == [[[255] * 3, [200, 100, 50]]]
    key = Image.new("RGB", (1, 1), (1, 2, 3))
    assert levels(encoded(key, transparency=(1, 2, 3)), 3).tolist() == [[[255] * 3]]
    assert levels(encoded(key, transparency=(1, 2, 4)), 3).tolist() == [[[1, 2, 3]]]


# What each EXIF orientation means, written out: the stored picture to the upright one.
UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(np.transpose(a), 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["png", "tiff", "webp"])
def test_exif_orientation(orientation: int, kind: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if kind == "webp" else {}
    content = encoded(Image.fromarray(RAMP), kind, exif=exif, **lossless)
    expected = UPRIGHT[orientation](RAMP)
    assert np.array_equal(levels(content), expected)
    assert np.array_equal(levels(write(tmp_path / f"x.{kind}", content)), expected)


def test_exif_orientation_of_jpeg() -> None:
    picture = Image.fromarray(RAMP.repeat(8, 0).repeat(8, 1))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = levels(encoded(picture, "jpeg", quality=95, exif=exif)).astype(int)
    assert np.abs(turned - np.rot90(np.asarray(picture), -1)).max() < 12


@pytest.mark.parametrize("exif", [b"MM\x00*garbage", b"nonsense", b"II*\x00\x08\x00\x00\x00\xff"])
def test_broken_exif_leaves_the_picture_as_stored(exif: bytes) -> None:
    content = encoded(Image.fromarray(RAMP), exif=b"Exif\x00\x00" + exif)
    assert np.array_equal(levels(content), RAMP)


def test_first_picture_of_an_animation() -> None:
    pages = [Image.new("L", (3, 2), value) for value in (50, 200)]
    for kind in ("gif", "tiff"):
        content = encoded(pages[0], kind, save_all=True, append_images=pages[1:])
        assert levels(content).tolist() == [[50] * 3] * 2


@pytest.mark.skipif(not features.check("avif"), reason="needs a Pillow with AVIF")
def test_avif() -> None:
    assert np.abs(levels(encoded(Image.new("L", (8, 8), 90), "avif")).astype(int) - 90).max() < 5


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
JPEG = encoded(Image.fromarray(NOISE), "jpeg")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"not an image, whatever its name says", "of no known image format"),
        (JPEG[:100], "Truncated"),
        (JPEG[:-200], "truncated"),
        (png()[:50], "truncated|broken"),
        (png()[:40] + b"\xff" * 20 + png()[60:], "."),
        (b"GIF89a" + b"\x00" * 5, "."),
    ],
)
def test_broken_files_are_named(content: bytes, reason: str, tmp_path: Path) -> None:
    path = write(tmp_path / "broken.jpg", content)
    with pytest.raises(UnreadableImage, match=reason) as caught:
        read_image(path, 3)
    assert str(path) in str(caught.value)
    assert caught.value.name == str(path)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, InputError)
    with pytest.raises(UnreadableImage, match=rf"^row 3 cannot be read as an image: .*{reason}"):
        read_image(content, 3, name="row 3")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- drawn -->\n<svg width="9">', "an SVG drawing"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\xff\x0a\xfa\x1f", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"%PDF-1.7", "a PDF document"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "a PostScript"),
        (b"<!DOCTYPE html><html>404</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"\x93NUMPY\1\0", "a NumPy array"),
        (b"PK\3\4", "of no known image format"),
    ],
)
def test_other_files_are_named_for_what_they_are(content: bytes, said: str) -> None:
    with pytest.raises(UnreadableImage, match=said) as caught:
        read_image(content, 3, "cat.png")
    assert "\n" not in str(caught.value)
    with pytest.raises(UnreadableImage, match=said):
        read_size(content, "cat.png")


def test_a_name_cannot_command_a_terminal() -> None:
    with pytest.raises(
        UnreadableImage, match=r"^a\\x1b\[2J\.png cannot be read as an image: empty"
    ):
        read_image(b"", 3, "a\x1b[2J.png")


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match=r"nothing\.png.*no such file"):
        read_image(tmp_path / "nothing.png", 3)
    with pytest.raises(UnreadableImage, match="it is a folder"):
        read_image(tmp_path, 3)


def test_an_image_too_large_is_refused_unread() -> None:
    header = struct.pack(">IIBBBBB", 10_000, 9_000, 8, 0, 0, 0, 0)
    content = bytearray(png())
    content[16 : 16 + len(header)] = header
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    with pytest.raises(UnreadableImage, match=r"89,478,485 pixels \(a decompression bomb\?\)"):
        read_image(bytes(content), 1)
    assert 2 * decoding.MOST_PIXELS > 10_000 * 9_000  # where Pillow itself would only warn


def huge(kind: str) -> bytes:
    """A file of some bytes that claims 10,000 x 9,000 pixels."""
    if kind == "tiff":
        return tiff([[0]], "u1", tags=[(256, 4, [10_000]), (257, 4, [9_000])])
    if kind == "pgm":
        return b"P5 10000 9000 255\n" + bytes(99)
    content = bytearray(encoded(Image.new("L", (8, 8)), kind))
    where = {"bmp": 18, "gif": 6, "jpeg": content.find(b"\xff\xc0") + 5}[kind]
    sides = (9_000, 10_000) if kind == "jpeg" else (10_000, 9_000)
    struct.pack_into({"bmp": "<2i", "gif": "<2H", "jpeg": ">2H"}[kind], content, where, *sides)
    return bytes(content)


@pytest.mark.parametrize("kind", ["tiff", "pgm", "bmp", "gif", "jpeg"])
def test_claims_of_size_are_refused_in_every_format(kind: str) -> None:
    for read in (read_image, read_size, read_numbers):
        with pytest.raises(UnreadableImage, match=r"89,478,485 pixels"):
            read(huge(kind), *([1, "x"] if read is read_image else ["x"]))


def test_large_images_are_decoded_only_where_memory_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoding, "_LARGE", 23)
    assert np.array_equal(levels(encoded(Image.fromarray(RAMP))), RAMP)
    monkeypatch.setattr(decoding, "free_memory", lambda: 287)  # 24 pixels take 288 bytes
    with pytest.raises(
        UnreadableImage, match=r"6 x 4 pixels take .* GB to decode, and .* are free"
    ):
        read_image(encoded(Image.fromarray(RAMP)), 1)


def test_transparency_band_by_band(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 7, 4), dtype=np.uint8)
    whole = levels(encoded(Image.fromarray(pixels)), 3)
    monkeypatch.setattr(decoding, "_AT_ONCE", 20)
    assert np.array_equal(levels(encoded(Image.fromarray(pixels)), 3), whole)
    alpha = pixels[..., 3:] / 255
    assert np.abs(pixels[..., :3] * alpha + 255 * (1 - alpha) - whole).max() <= 1


def test_channels_are_1_or_3() -> None:
    with pytest.raises(InputError, match="in_channels must be 1 or 3, got 2"):
        read_image(png(), 2)


def test_to_tensor() -> None:
    grey, colour = read_image(png(7, (6, 4)), 1), read_image(png(7, (6, 4)), 3)
    assert to_tensor(grey).shape == (1, 4, 6)
    assert to_tensor(colour).shape == (3, 4, 6)
    assert to_tensor(colour).dtype == torch.uint8
    picture = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    assert np.array_equal(to_tensor(Image.fromarray(picture)).permute(1, 2, 0), picture)


def test_to_tensor_resizes_to_height_and_width() -> None:
    image = Image.fromarray(RAMP)
    assert to_tensor(image, (8, 3)).shape == (1, 8, 3)
    assert torch.equal(to_tensor(image, (4, 6)), to_tensor(image))
    # A shrunken chessboard is grey: the resizing averages and does not pick pixels.
    board = np.indices((64, 64)).sum(0) % 2 * 255
    small = to_tensor(Image.fromarray(board.astype(np.uint8)), (8, 8)).float()
    assert (small - 127.5).abs().max() < 8


@pytest.mark.parametrize(
    "read", [lambda path: read_image(path, 3), lambda path: read_size(path, "")]
)
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, read) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero")):
        with pytest.raises(UnreadableImage, match="a pipe, a socket or a device, not a file"):
            read(path)


def test_a_header_asks_for_no_more_memory_than_its_file(tmp_path: Path) -> None:
    (tmp_path / "a.jp2").write_bytes(b"x" * 100)
    with decoding._File(tmp_path / "a.jp2") as file:
        file.seek(10)
        assert len(file.read(2**50)) == 90  # more than could be set aside
        assert file.read(5) == file.read() == b""
        file.seek(0)
        assert len(file.read()) == 100
