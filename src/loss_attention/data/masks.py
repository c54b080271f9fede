"""Masks of objects: read from images, or drawn from COCO's polygons and run lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from loss_attention.data.decoding import UnreadableImage, read_image


def read_mask(
    source: Path | bytes | Callable[[], bytes], name: str, size: tuple[int, int]
) -> Image.Image:
    """Read a mask that is an image: what is not black is an object.

    Raises:
        UnreadableImage: no image, or of another size than its picture.
    """
    mask = read_image(source() if callable(source) else source, 1, name)
    if mask.size != size:
        raise UnreadableImage(name, _other_size(mask.size, size))
    return mask.point(lambda level: 255 if level else 0)


def draw_segments(segments: Sequence[Any], name: str, size: tuple[int, int]) -> Image.Image:
    """Draw the objects of one image, each a list of polygons or COCO's run lengths.

    Raises:
        UnreadableImage: what is no segmentation, or is of another size than the picture.
    """
    mask = Image.new("L", size)
    for segment in segments:
        try:
            if isinstance(segment, dict):
                _draw_runs(mask, segment, name)
            else:
                for polygon in segment:
                    if len(polygon) >= 6:
                        ImageDraw.Draw(mask).polygon(list(map(float, polygon)), fill=255)
        except UnreadableImage:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise UnreadableImage(name, f"its segmentation is none of COCO's ({error})") from error
    return mask


def run_lengths(text: str) -> list[int]:
    """Return the run lengths that COCO packs into a string.

    Each is a number of groups of five bits, the least first; a character holds a group, with bit 5
    set where more follow, counted from "0". The last group's bit 4 is its sign. From the fourth
    on, a number is the difference to the one two before.

    Example:
        >>> run_lengths("12O")
        [1, 2, -1]
    """
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - 48
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    return lengths


def _draw_runs(mask: Image.Image, segment: dict[str, Any], name: str) -> None:
    height, width = segment["size"]
    if (width, height) != mask.size:
        raise UnreadableImage(name, _other_size((width, height), mask.size))
    counts = segment["counts"]
    lengths = np.array(run_lengths(counts) if isinstance(counts, str) else counts, np.int64)
    if lengths.min(initial=0) < 0 or lengths.sum() != width * height:
        raise ValueError(f"its runs cover {lengths.sum()} of {width * height} pixels")
    # Runs of nothing and of object in turn, down the columns.
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    mask.paste(255, mask=Image.fromarray(flat.reshape(width, height).T.astype(np.uint8) * 255))


def _other_size(found: tuple[int, int], wanted: tuple[int, int]) -> str:
    return f"its mask is {found[0]} x {found[1]}, the image {wanted[0]} x {wanted[1]}"
