"""Many encoded images, decoded once into one tensor, with where each picture lies in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from loss_attention.data.decoding import UnreadableImage, fitted, read_image, to_tensor
from loss_attention.data.placement import Resize, place
from loss_attention.data.records import MOST_NAMED, Content, MaskMaker
from loss_attention.errors import InputError

Progress = Callable[[int, int], None]
"""Called now and then with the number of images done and their total."""

# Threads take images in runs: for small ones, handing over each by itself costs more than it gains.
_RUN = 16
_HALF = 128  # a pixel of a resized mask is an object's where at least half of it is


@dataclass(frozen=True)
class Encoded:
    """An image as it is stored.

    Attributes:
        name: what people may call it.
        source: its file, its bytes, a way to get them, or nothing at all.
        size: width and height that its annotations state; None: they do not.
        mask: draws its mask; None: it has none.
    """

    name: str
    source: Content
    size: tuple[int, int] | None = None
    mask: MaskMaker | None = None


@dataclass(frozen=True)
class Form:
    """What images are brought to: channels (1 or 3), and pixels square; None: they are of one size.

    `masks` asks for masks beside the images.
    """

    in_channels: int
    image_size: int | None = None
    resize: Resize = "squash"
    masks: bool = False

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width."""
        return None if self.image_size is None else (self.image_size, self.image_size)


@dataclass(frozen=True)
class Stacked:
    """Decoded images and what goes with them; see `ImageSet` for the tensors.

    Attributes:
        images: rows of broken images are left undefined.
        placements: of each picture, never None.
        masks: None where none were asked for.
        broken: what is wrong with images that could not be read, by row.
    """

    images: UInt8[Tensor, "N C H W"]
    placements: Float[Tensor, "N 6"]
    masks: Bool[Tensor, "N H W"] | None
    broken: dict[int, UnreadableImage]


def stack_images(
    encoded: Iterable[Encoded],
    count: int,
    form: Form,
    *,
    skip_broken: bool = False,
    progress: Progress | None = None,
) -> Stacked:
    """Decode images in parallel threads into one tensor.

    Args:
        encoded: the images; they are taken a block at a time, never all at once.
        count: how many they are.
        form: what to bring them to.
        skip_broken: go on without images that cannot be read, as long as there is one that can.
        progress: called after every block.

    Raises:
        InputError: images that cannot be read (all are looked for, the first ten named), or
            images of different sizes (two are named).
    """
    stack = _Stack(count, form)

    def decode_run(run: list[Encoded]) -> list[_Decoded | UnreadableImage]:
        return [_decode(image, form) for image in run]

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
    return stack.finish(skip_broken=skip_broken)


def read_encoded(image: Encoded, in_channels: int) -> Image.Image:
    """Decode an image and check it against the size that its annotations state.

    Raises:
        UnreadableImage: see `read_image`; nothing is stored there, or it is of another size.
    """
    source = image.source
    if callable(source):
        try:
            source = source()
        except Exception as error:  # whatever a damaged archive leads its reader into
            raise UnreadableImage(image.name, str(error) or type(error).__name__) from error
    if source is None or isinstance(source, int):
        raise UnreadableImage(image.name, "nothing is stored there")
    picture = read_image(source, in_channels, image.name)
    if image.size is not None and image.size != picture.size:
        stated, found = (f"{width} x {height}" for width, height in (image.size, picture.size))
        raise UnreadableImage(image.name, f"its annotations say {stated}, upright it is {found}")
    return picture


@dataclass(frozen=True)
class _Decoded:
    pixels: Tensor
    placement: tuple[int, int, int, int, int, int]
    mask: Tensor | None


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
    return _Decoded(pixels, place(picture.size, form.size, form.resize), mask)


@dataclass
class _Stack:
    """The tensors as they fill, and what is wrong with the images that do not fit in."""

    count: int
    form: Form
    seen: int = 0
    images: Tensor | None = None
    masks: Tensor | None = None
    first: str = ""
    other: tuple[str, Tensor] | None = None
    broken: dict[int, UnreadableImage] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.placements = torch.ones(self.count, 6)

    def add(self, name: str, result: _Decoded | UnreadableImage) -> None:
        if isinstance(result, UnreadableImage):
            self.broken[self.seen] = result
        else:
            if self.images is None:  # only now is the size known
                self.images = torch.empty(self.count, *result.pixels.shape, dtype=torch.uint8)
                self.first = name
                if self.form.masks:
                    self.masks = torch.zeros(self.count, *self.images.shape[2:], dtype=torch.bool)
            if result.pixels.shape == self.images.shape[1:]:
                self.images[self.seen] = result.pixels
                self.placements[self.seen] = torch.tensor(result.placement)
                if self.masks is not None and result.mask is not None:
                    self.masks[self.seen] = result.mask
            elif self.other is None:
                self.other = (name, result.pixels)
        self.seen += 1

    def finish(self, *, skip_broken: bool) -> Stacked:
        """Return the tensors, or raise what was wrong: unreadable images first, then sizes."""
        if self.broken and (not skip_broken or self.images is None):
            raise InputError(_unreadable_message(list(self.broken.values())))
        assert self.images is not None
        assert self.seen == self.count
        if self.other is not None:
            name, image = self.other
            raise InputError(
                f"images of unequal sizes: {self.first} is {_size(self.images)}, {name} is "
                f"{_size(image)} (width x height); --image-size N resizes them all to N x N"
            )
        return Stacked(self.images, self.placements, self.masks, self.broken)


def _size(images: Tensor) -> str:
    return f"{images.shape[-1]} x {images.shape[-2]}"


def _unreadable_message(errors: list[UnreadableImage]) -> str:
    what = "1 image" if len(errors) == 1 else f"{len(errors):,} images"
    names = ", ".join(f"{error.name} ({error.reason})" for error in errors[:MOST_NAMED])
    rest = len(errors) - MOST_NAMED
    more = f" and {rest:,} more" if rest > 0 else ""
    return f"{what} cannot be read: {names}{more}"
