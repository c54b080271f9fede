"""Many encoded images, decoded once into one tensor."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from loss_attention.data.decoding import UnreadableImage, read_image, to_tensor
from loss_attention.errors import InputError

Progress = Callable[[int, int], None]
"""Called now and then with the number of images done and their total."""

MOST_NAMED = 10
# Threads take images in runs: for small ones, handing over each by itself costs more than it gains.
_RUN = 16


@dataclass(frozen=True)
class Encoded:
    """An image as it is stored: a name for people, and its file, its bytes or nothing at all."""

    name: str
    source: Path | bytes | None


def stack_images(
    encoded: Iterable[Encoded],
    count: int,
    *,
    in_channels: int,
    image_size: int | None,
    progress: Progress | None = None,
) -> UInt8[Tensor, "N C H W"]:
    """Decode images in parallel threads into one tensor.

    Args:
        encoded: the images; they are taken a block at a time, never all at once.
        count: how many they are.
        in_channels: 1 (grey) or 3 (colour).
        image_size: resize each to this many pixels square; None: they must be of one size.
        progress: called after every block.

    Raises:
        InputError: images that cannot be read (all are looked for, the first ten named), or
            images of different sizes (two are named).
    """
    stack = _Stack(count)
    size = None if image_size is None else (image_size, image_size)

    def decode_run(run: list[Encoded]) -> list[Tensor | UnreadableImage]:
        return [_decode(image, in_channels, size) for image in run]

    workers = min(16, os.cpu_count() or 1)
    images = iter(encoded)
    with ThreadPoolExecutor(workers) as pool:
        while block := list(islice(images, 4 * workers * _RUN)):
            runs = [block[start : start + _RUN] for start in range(0, len(block), _RUN)]
            results = (result for run in pool.map(decode_run, runs) for result in run)
            for image, result in zip(block, results, strict=True):
                stack.add(image.name, result)
            if progress is not None:
                progress(stack.seen, count)
    return stack.finish()


def _decode(
    image: Encoded, in_channels: int, size: tuple[int, int] | None
) -> Tensor | UnreadableImage:
    """Return the pixels, or the reason why there are none: the search for others goes on."""
    if image.source is None:
        return UnreadableImage(image.name, "nothing is stored there")
    try:
        return to_tensor(read_image(image.source, in_channels, image.name), size)
    except UnreadableImage as error:
        return error


class _Stack:
    """The tensor as it fills, and what is wrong with the images that do not fit in."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.seen = 0
        self.images: Tensor | None = None
        self.first = ""
        self.other: tuple[str, Tensor] | None = None
        self.unreadable: list[UnreadableImage] = []

    def add(self, name: str, result: Tensor | UnreadableImage) -> None:
        if isinstance(result, UnreadableImage):
            self.unreadable.append(result)
        else:
            if self.images is None:  # only now is the size known
                self.images = torch.empty(self.count, *result.shape, dtype=torch.uint8)
                self.first = name
            if result.shape == self.images.shape[1:]:
                self.images[self.seen] = result
            elif self.other is None:
                self.other = (name, result)
        self.seen += 1

    def finish(self) -> Tensor:
        """Return the tensor, or raise what was wrong: unreadable images first, then sizes."""
        if self.unreadable:
            raise InputError(_unreadable_message(self.unreadable))
        assert self.images is not None
        assert self.seen == self.count
        if self.other is not None:
            name, image = self.other
            raise InputError(
                f"images of unequal sizes: {self.first} is {_size(self.images)}, {name} is "
                f"{_size(image)} (width x height); --image-size N resizes them all to N x N"
            )
        return self.images


def _size(images: Tensor) -> str:
    return f"{images.shape[-1]} x {images.shape[-2]}"


def _unreadable_message(errors: list[UnreadableImage]) -> str:
    what = "1 image" if len(errors) == 1 else f"{len(errors):,} images"
    names = ", ".join(f"{error.name} ({error.reason})" for error in errors[:MOST_NAMED])
    rest = len(errors) - MOST_NAMED
    more = f" and {rest:,} more" if rest > 0 else ""
    return f"{what} cannot be read: {names}{more}"
