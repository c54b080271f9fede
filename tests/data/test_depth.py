"""Deep and odd pixels: scaled by what the file says of their range."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from data.tiffs import DEFLATE, tiff
from numpy.typing import NDArray
from PIL import Image

from loss_attention.data.decoding import UnreadableImage, read_image, read_numbers

LEVELS_12 = np.array([[0, 1, 8, 9, 2047], [2048, 4087, 4094, 4095, 1000]])
BOTH_ORDERS = pytest.mark.parametrize("big_endian", [False, True], ids=["II", "MM"])
PACKINGS = pytest.mark.parametrize("compression", [1, DEFLATE], ids=["plain", "deflate"])


def read(content: bytes, in_channels: int = 1) -> NDArray[np.uint8]:
    return np.asarray(read_image(content, in_channels))


def scaled(values: NDArray[Any], most: int) -> list[list[int]]:
    """Levels of 0..255, in floating point from the definition."""
    return [[int(np.floor(255 * v / most + 0.5)) for v in row] for row in values.tolist()]


def refused(content: bytes) -> str:
    with pytest.raises(UnreadableImage) as caught:
        read_image(content, 1, "scan.tif")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("scan.tif cannot be read as an image: ")
    return caught.value.reason


@PACKINGS
def test_12_bits(compression: int) -> None:
    content = tiff(LEVELS_12, bits=12, compression=compression)
    assert read(content).tolist() == scaled(LEVELS_12, 4095)
    assert len(np.unique(read(tiff(np.arange(4096).reshape(64, 64), bits=12)))) == 256


@BOTH_ORDERS
@PACKINGS
def test_16_bits(big_endian: bool, compression: int) -> None:
    values = LEVELS_12 * 16 + 3
    packing = {"big_endian": big_endian, "compression": compression}
    assert read(tiff(values, "u2", bits=16, **packing)).tolist() == scaled(values, 65535)


@PACKINGS
def test_16_bits_where_white_is_zero(compression: int) -> None:
    values = LEVELS_12 * 16
    content = tiff(values, "u2", bits=16, photometric=0, compression=compression)
    assert read(content).tolist() == scaled(65535 - values, 65535)


@BOTH_ORDERS
@PACKINGS
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("photometric", [0, 1, None])
def test_few_bits(photometric: int | None, bits: int, big_endian: bool, compression: int) -> None:
    most = 2**bits - 1
    values = np.array([[0, 1, most], [most, 0, most // 2]])
    content = tiff(
        values, bits=bits, photometric=photometric, big_endian=big_endian, compression=compression
    )
    # A file that does not say what 0 is counts from black, as libtiff has it.
    assert read(content).tolist() == scaled(most - values if photometric == 0 else values, most)


def test_floats_where_white_is_zero() -> None:
    values = np.array([[0, 0.25, 1]])
    content = tiff(values, "f4", bits=32, photometric=0, tags=[(339, 3, [3])])
    assert read(content).tolist() == [[255, 191, 0]]


@BOTH_ORDERS
def test_signed_pixels_below_zero_are_refused(big_endian: bool) -> None:
    values = np.array([[-5, 0, 4090]])
    signed = [(339, 3, [2])]
    content = tiff(values, "i2", bits=16, big_endian=big_endian, tags=signed)
    assert refused(content) == (
        "integer pixels of -5..4090, outside 0..65535; save it with 8 or 16 bits"
    )
    content = tiff(abs(values), "i2", bits=16, big_endian=big_endian, tags=signed)
    assert read(content).tolist() == scaled(abs(values), 65535)
    content = tiff([[-1, 3]], "i1", big_endian=big_endian, tags=signed)
    assert refused(content) == "signed 8-bit pixels below 0; save it with unsigned pixels"
    assert read(tiff([[1, 3]], "i1", tags=signed)).tolist() == [[1, 3]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (tiff(LEVELS_12 // 4, bits=10), "10-bit grey in 1 band,"),
        (tiff(LEVELS_12, bits=14), "14-bit grey in 1 band,"),
        (tiff(LEVELS_12, bits=12, big_endian=True), "12-bit grey"),
        (tiff(LEVELS_12, bits=12, photometric=0), "12-bit grey"),
        (tiff(LEVELS_12, "u2", bits=16, photometric=0, big_endian=True), "16-bit grey"),
        (tiff(LEVELS_12, "u4", bits=32, big_endian=True), "32-bit grey"),
        (tiff(LEVELS_12, "f8", bits=64, tags=[(339, 3, [3])]), "64-bit floating-point grey"),
        (tiff(LEVELS_12, "f2", bits=16, tags=[(339, 3, [3])]), "16-bit floating-point grey"),
        (tiff(np.zeros((2, 2, 3)), bits=12, photometric=2), "12-bit colour in 3 bands,"),
        (tiff(np.zeros((2, 2, 2)), "u2", bits=16), "16-bit grey in 2 bands,"),
        (tiff(np.zeros((2, 2)), "u1", compression=34712), "the unknown compression 34712"),
        (tiff(np.zeros((2, 2)), "u1")[:60], "TIFF"),  # Pillow warns of it, too
    ],
)
def test_other_depths_say_what_they_are(content: bytes, said: str) -> None:
    assert said in refused(content)


def test_colours_of_16_bits() -> None:
    values = np.array([[[0, 257 * 5, 65535], [40_000, 255, 256]]])
    for big_endian in (False, True):
        content = tiff(values, "u2", bits=16, photometric=2, big_endian=big_endian)
        assert np.abs(read(content, 3).astype(int) - values / 257).max() <= 1


@pytest.mark.skipif(
    int(PIL.__version__.split(".")[0]) < 13, reason="Pillow reads no such TIFF before version 13"
)
def test_alpha_multiplied_into_the_colours() -> None:
    # 100 of 200 opaque: 50 % of 128, over white
    content = tiff([[[64, 128], [255, 255]]], "u1", tags=[(338, 3, [1])])
    assert np.abs(read(content).astype(int) - [[191, 255]]).max() <= 1
    content = tiff([[[64, 0, 0, 128]]], "u1", photometric=2, tags=[(338, 3, [1])])
    assert np.abs(read(content, 3).astype(int) - [[191, 127, 127]]).max() <= 1


def test_a_palette_of_8_bits_where_tiff_has_16() -> None:
    ramp = list(range(256))
    for factor in (1, 257):
        colours = [level * factor for band in (ramp, ramp[::-1], [7] * 256) for level in band]
        content = tiff([[0, 9, 255]], "u1", photometric=3, tags=[(320, 3, colours)])
        assert read(content, 3).tolist() == [[[0, 255, 7], [9, 246, 7], [255, 0, 7]]]


@pytest.mark.parametrize("most", [1, 100, 255, 1023, 4095, 65535])
@pytest.mark.parametrize("plain", [False, True])
def test_pgm_and_ppm_of_any_maximum(most: int, plain: bool) -> None:
    values = np.array([[0, most // 3, most]])
    for bands, letter in ((1, 5), (3, 6)):
        many = np.repeat(values, bands)
        head = f"P{letter - 3 * plain}\n3 1\n{most}\n".encode()
        body = (
            " ".join(map(str, many)).encode()
            if plain
            else many.astype(">u2" if most > 255 else "u1").tobytes()
        )
        found = read(head + body, bands).reshape(-1)
        assert found.tolist() == scaled(many[None], most)[0]


def chunk(kind: bytes, content: bytes) -> bytes:
    named = kind + content
    return struct.pack(">I", len(content)) + named + struct.pack(">I", zlib.crc32(named))


def png(rows: list[bytes], width: int, depth: int, colour: int, *chunks: bytes) -> bytes:
    """Write a PNG file from its specification."""
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = (chunk(b"IHDR", header), *chunks, chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_transparent_levels_of_every_depth() -> None:
    deep = struct.pack(">3H", 0, 258, 65535)
    assert read(png([deep], 3, 16, 0)).tolist() == [[0, 1, 255]]
    level = chunk(b"tRNS", struct.pack(">H", 258))
    assert read(png([deep], 3, 16, 0, level)).tolist() == [[0, 255, 255]]
    for depth, row, width in ((1, b"\x40", 2), (2, b"\x1b", 4), (4, b"\x01\x2f", 4)):
        plain = read(png([row], width, depth, 0))
        clear = read(png([row], width, depth, 0, chunk(b"tRNS", struct.pack(">H", 1))))
        step = 255 // (2**depth - 1)
        assert clear.tolist() == np.where(plain == step, 255, plain).tolist()
        assert (clear != plain).any() == (depth > 1)
    colour = struct.pack(">6H", 1000, 2000, 3000, 1000, 2000, 9000)
    key = chunk(b"tRNS", struct.pack(">3H", 1000, 2000, 3000))
    assert read(png([colour], 2, 16, 2, key), 3).tolist() == [[[255] * 3, [3, 7, 35]]]


def test_alpha_of_16_bits() -> None:
    assert read(png([struct.pack(">4H", 0, 0, 0, 65535)], 2, 16, 4)).tolist() == [[255, 0]]
    both = struct.pack(">8H", 0, 0, 0, 0, 0, 65535, 0, 65535)
    assert read(png([both], 2, 16, 6), 3).tolist() == [[[255] * 3, [0, 255, 0]]]


def test_jpeg_2000_of_16_bits() -> None:
    file = io.BytesIO()
    values = np.array([[0, 300, 40_000, 65_535]] * 4, np.uint16)
    Image.fromarray(values).save(file, "jpeg2000", irreversible=False)
    assert read(file.getvalue()).tolist() == scaled(values, 65535)


def test_deep_pixels_band_by_band(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (50, 7))
    content = tiff(values, "u2", bits=16)
    whole = read(content)
    monkeypatch.setattr("loss_attention.data.pixels._AT_ONCE", 20)
    assert np.array_equal(read(content), whole)
    assert whole.tolist() == scaled(values, 65535)


def test_numbers_of_a_deep_mask(tmp_path: Path) -> None:
    numbers = np.array([[0, 1, 255]])
    assert read_numbers(tiff(numbers, "u2", bits=16), "mask").tolist() == numbers.tolist()
    with pytest.raises(UnreadableImage, match=r"numbers of 0\.\.256, at most 0\.\.255 are read"):
        read_numbers(tiff([[0, 256]], "u2", bits=16), "mask")
