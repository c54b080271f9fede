"""Many encoded images, decoded once into one tensor, with where each picture lies in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from loss_attention.data.decoding import UnreadableImage, fitted, read_image, read_size, to_tensor
from loss_attention.data.placement import ImageSize, Resize, placement_of
from loss_attention.data.records import Encoded, count, few
from loss_attention.errors import InputError

Progress = Callable[[int, int], None]
"""Called now and then with the number of images done and their total."""

# Threads take images in runs: for small ones, handing over each by itself costs more than it gains.
_RUN = 16
_HALF = 128  # a pixel of a resized mask is an object's where at least half of it is


@dataclass(frozen=True)
class Form:
    """What images are brought to.

    Attributes:
        in_channels: 1 or 3.
        image_size: height and width in pixels, one number for both; None: they are of one size.
        resize: how they come to it.
        masks: asks for masks beside the images.
    """

    in_channels: int
    image_size: ImageSize = None
    resize: Resize = "squash"
    masks: bool = False

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else size


def stack_images(
    encoded: Iterable[Encoded],
    count: int,
    form: Form,
    *,
    keep: bool = True,
    decode: bool = True,
    skip_broken: bool = False,
    progress: Progress | None = None,
) -> Stack:
    """Decode images in parallel threads into one tensor.

    Args:
        encoded: the images; they are taken a block at a time, never all at once.
        count: how many they are.
        form: what to bring them to.
        keep: hold what is decoded; or only see where each picture will lie, and what is broken.
        decode: decode each, which finds every broken one; or read their sizes alone, from the
            annotations where these have them, else from the beginning of the file.
        skip_broken: go on without images that cannot be read, as long as there is one that can.
        progress: called after every block.

    Raises:
        InputError: images that cannot be read (all are looked for, the first ten named), or
            images of different sizes (two are named).
    """
    stack, look = Stack(count, form, keep), _decode if decode else _measure
    for image, result in _in_threads(encoded, count, lambda one: look(one, form), progress):
        stack.add(image.name, result)
    stack.check(skip_broken=skip_broken)
    return stack


def stack_few(encoded: Sequence[Encoded], form: Form) -> Stack:
    """Decode a few images one after the other: what one of many worker processes does.

    Raises:
        InputError: see `stack_images`.
    """
    stack = Stack(len(encoded), form)
    for image in encoded:
        stack.add(image.name, _decode(image, form))
    stack.check()
    return stack


def image_shape(image: Encoded, form: Form) -> tuple[int, int, int]:
    """Return channels, height and width that an image will have.

    Raises:
        UnreadableImage: its size cannot be read.
    """
    if form.size is not None:
        return form.in_channels, *form.size
    width, height = image.size or read_size(_stored(image), image.name)
    return form.in_channels, height, width


def _in_threads(
    encoded: Iterable[Encoded],
    count: int,
    look: Callable[[Encoded], _Decoded | UnreadableImage],
    progress: Progress | None,
) -> Iterator[tuple[Encoded, _Decoded | UnreadableImage]]:
    """Yield images with what came of each, in their order, looked at a block at a time."""

    def look_at_run(run: list[Encoded]) -> list[_Decoded | UnreadableImage]:
        return [look(image) for image in run]

    workers = min(16, os.cpu_count() or 1)
    images, seen = iter(encoded), 0
    with ThreadPoolExecutor(workers) as pool:
        while block := list(islice(images, 4 * workers * _RUN)):
            runs = [block[start : start + _RUN] for start in range(0, len(block), _RUN)]
            results = (result for run in pool.map(look_at_run, runs) for result in run)
            yield from zip(block, results, strict=True)
            seen += len(block)
            if progress is not None:
                progress(seen, count)


def read_encoded(image: Encoded, in_channels: int) -> Image.Image:
    """Decode an image and check it against the size that its annotations state.

    Raises:
        UnreadableImage: see `read_image`; nothing is stored there, or it is of another size.
    """
    picture = read_image(_stored(image), in_channels, image.name)
    if image.size is not None and image.size != picture.size:
        stated, found = (f"{width} x {height}" for width, height in (image.size, picture.size))
        raise UnreadableImage(image.name, f"its annotations say {stated}, upright it is {found}")
    return picture


def _stored(image: Encoded) -> Path | bytes:
    """Return the file or the bytes of an image."""
    source = image.source
    if callable(source):
        try:
            source = source()
        except Exception as error:  # whatever a damaged archive leads its reader into
            raise UnreadableImage(image.name, str(error) or type(error).__name__) from error
    if source is None or isinstance(source, int):
        raise UnreadableImage(image.name, "nothing is stored there")
    return source


@dataclass(frozen=True)
class _Decoded:
    """An image, or without pixels what it will be."""

    shape: tuple[int, int, int]
    placement: tuple[int, int, int, int, int, int]
    pixels: Tensor | None = None
    mask: Tensor | None = None


def _decode(image: Encoded, form: Form) -> _Decoded | UnreadableImage:
    """Return the pixels, or the reason why there are none: the search for others goes on."""
    try:
        picture = read_encoded(image, form.in_channels)
        mask = None
        if form.masks and image.mask is not None:
            drawn = image.mask(picture.size)
            if form.size is not None:
                drawn = fitted(drawn, form.size, form.resize, border=(0,))
            mask = to_tensor(drawn)[0] >= _HALF
    except UnreadableImage as error:
        return error
    pixels = to_tensor(picture, form.size, form.resize)
    placement = placement_of(picture.size, form.size, form.resize)
    channels, height, width = pixels.shape
    return _Decoded((channels, height, width), placement, pixels, mask)


def _measure(image: Encoded, form: Form) -> _Decoded | UnreadableImage:
    """Return the shape and the placement; annotations are believed until the image is decoded."""
    try:
        size = image.size or read_size(_stored(image), image.name)
    except UnreadableImage as error:
        return error
    height, width = form.size or (size[1], size[0])
    return _Decoded((form.in_channels, height, width), placement_of(size, form.size, form.resize))


@dataclass
class Stack:
    """The tensors of many images as they fill, and what is wrong with those that do not fit in.

    Attributes:
        count: how many images there will be.
        form: what they are brought to.
        keep: hold the images and masks; or only the placements.
        shape: of each image: channels, height and width; None: of none yet.
        images: shape `(N, C, H, W)`; rows of broken images are left undefined.
        placements: of each picture, as `ImageSet` has them, never None.
        masks: shape `(N, H, W)`; None where none were asked for.
        broken: what is wrong with images that could not be read, by row.
    """

    count: int
    form: Form
    keep: bool = True
    shape: tuple[int, int, int] | None = None
    images: Any = None
    masks: Bool[Tensor, "N H W"] | None = None
    broken: dict[int, UnreadableImage] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.placements = torch.ones(self.count, 6)
        self._seen, self._first = 0, ""
        self._other: tuple[str, tuple[int, int, int]] | None = None

    def add(self, name: str, result: _Decoded | UnreadableImage) -> None:
        """Take the next image."""
        if isinstance(result, UnreadableImage):
            self.broken[self._seen] = result
        else:
            if self.shape is None:  # only now is the size known
                self.shape, self._first = result.shape, name
                if self.keep:
                    self.images = torch.empty(self.count, *self.shape, dtype=torch.uint8)
                if self.keep and self.form.masks:
                    self.masks = torch.zeros(self.count, *self.shape[1:], dtype=torch.bool)
            if result.shape == self.shape:
                self.placements[self._seen] = torch.tensor(result.placement)
                if self.images is not None:
                    self.images[self._seen] = result.pixels
                if self.masks is not None and result.mask is not None:
                    self.masks[self._seen] = result.mask
            elif self._other is None:
                self._other = (name, result.shape)
        self._seen += 1

    def check(self, *, skip_broken: bool = False) -> None:
        """Raise what was wrong: unreadable images first, then sizes."""
        if self.broken and (not skip_broken or self.shape is None):
            names = few([f"{error.name} ({error.reason})" for error in self.broken.values()])
            raise InputError(f"{count(len(self.broken), 'image')} cannot be read: {names}")
        assert self.shape is not None
        assert self._seen == self.count
        if self._other is not None:
            name, shape = self._other
            raise InputError(
                f"images of unequal sizes: {self._first} is {_size(self.shape)}, {name} is "
                f"{_size(shape)} (width x height); `image_size` N resizes them all to N x N, "
                "`image_size` HEIGHT WIDTH to that shape"
            )


def _size(shape: tuple[int, int, int]) -> str:
    return f"{shape[2]} x {shape[1]}"
