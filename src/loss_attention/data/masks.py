"""Masks of objects: read from pictures, or drawn from polygons and run lengths."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from loss_attention.data.decoding import UnreadableImage, read_image, read_numbers
from loss_attention.errors import InputError

Content = Path | bytes | Callable[[], bytes]
"""Where a mask's picture is: a file, its bytes, or a way to get them."""

VOID = 255
"""The number that Pascal VOC gives to pixels on the edges of objects, which are nobody's."""
_VOID_COLOUR = (224, 224, 192)  # what number 255 has in VOC's palette


class Mask(ABC):
    """The pixels of an image's objects, drawn when they are needed.

    `name` is that of the image.
    """

    name: str

    @abstractmethod
    def __call__(self, size: tuple[int, int]) -> Image.Image:
        """Return a mask for the upright original's width and height, 255 on objects.

        Raises:
            UnreadableImage: no mask can be drawn, or it is of another size.
        """

    @abstractmethod
    def of(self, labels: Collection[Any]) -> Mask:
        """Return the mask of the objects of some classes.

        Raises:
            InputError: it does not say which pixels show which class.
        """


@dataclass(frozen=True)
class SegmentMask(Mask):
    """Objects that each are a list of polygons, or COCO's run lengths.

    Attributes:
        name: of the image.
        segments: a label and a segmentation for each object.
        shares: corners are in shares of the image's width and height, not in pixels.
    """

    name: str
    segments: tuple[tuple[Any, Any], ...]
    shares: bool = False

    def __call__(self, size: tuple[int, int]) -> Image.Image:
        """Draw the objects."""
        scale = size if self.shares else (1, 1)
        return draw_segments([segment for _, segment in self.segments], self.name, size, scale)

    def of(self, labels: Collection[Any]) -> Mask:
        """Return the objects of some classes."""
        return replace(self, segments=tuple(one for one in self.segments if one[0] in labels))


@dataclass(frozen=True)
class PictureMask(Mask):
    """A picture of the image's size: what is not black is an object.

    Attributes:
        name: of the image.
        picture: what the mask is called.
        content: where it is.
    """

    name: str
    picture: str
    content: Content

    def __call__(self, size: tuple[int, int]) -> Image.Image:
        """Read the picture."""
        try:
            mask = read_image(_bytes(self.content), 1, self.picture)
        except UnreadableImage as error:
            raise _unreadable_mask(self.name, error) from error
        _require_size(self.name, self.picture, mask.size, size)
        return mask.point(lambda level: 255 if level else 0)

    def of(self, labels: Collection[Any]) -> Mask:  # noqa: ARG002
        """Refuse: a pixel of such a mask shows any of the image's objects."""
        raise _says_no_class(self.name, self.picture)


@dataclass(frozen=True)
class NumberedMask(Mask):
    """A picture of Pascal VOC: each pixel is the number of an object or a class, 0 none.

    Attributes:
        name: of the image.
        picture: what the mask is called.
        content: where it is.
        labels: those of objects 1, 2, ...; None: the numbers are of classes of unknown names.
        wanted: the classes whose objects are meant; None: all.
    """

    name: str
    picture: str
    content: Content
    labels: tuple[Any, ...] | None = None
    wanted: frozenset[Any] | None = None

    def __call__(self, size: tuple[int, int]) -> Image.Image:
        """Read the picture."""
        try:
            numbers = read_numbers(_bytes(self.content), self.picture)
        except UnreadableImage as error:
            raise _unreadable_mask(self.name, error) from error
        height, width = numbers.shape[:2]
        _require_size(self.name, self.picture, (width, height), size)
        return Image.fromarray(self._objects(numbers).astype(np.uint8) * 255)

    def of(self, labels: Collection[Any]) -> Mask:
        """Return the objects of some classes."""
        if self.labels is None:
            raise _says_no_class(self.name, self.picture)
        return replace(self, wanted=frozenset(labels))

    def _objects(self, numbers: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return which pixels are of an object that is meant."""
        if numbers.ndim == 3:  # tools paint objects in colours that only they know
            if self.wanted is not None:
                raise _says_no_class(self.name, self.picture)
            void = (numbers == np.array(_VOID_COLOUR, np.uint8)).all(axis=2)
            return np.asarray(numbers.any(axis=2) & ~void, np.bool_)
        objects = np.asarray((numbers > 0) & (numbers != VOID), np.bool_)
        if self.labels is None:
            return objects
        most = int(numbers[objects].max(initial=0))
        if most > len(self.labels):
            raise UnreadableImage(
                self.name,
                f"its mask {self.picture} numbers {most} objects, its annotation lists "
                f"{len(self.labels)}",
            )
        meant = [self.wanted is None or label in self.wanted for label in self.labels]
        return np.array([False, *meant])[np.where(objects, numbers, 0)]


def _bytes(content: Content) -> Path | bytes:
    return content() if callable(content) else content


def _says_no_class(name: str, picture: str) -> InputError:
    return InputError(
        f"the mask {picture} of {name} does not say which pixels show which class, and the image "
        "shows others than those of --classes; leave --masks or --classes out"
    )


def _unreadable_mask(name: str, error: UnreadableImage) -> UnreadableImage:
    return UnreadableImage(name, f"its mask {error.name}: {error.reason}")


def _require_size(name: str, picture: str, found: tuple[int, int], wanted: tuple[int, int]) -> None:
    if found != wanted:
        raise UnreadableImage(name, _other_size(f"its mask {picture}", found, wanted))


def draw_segments(
    segments: Sequence[Any],
    name: str,
    size: tuple[int, int],
    scale: tuple[float, float] = (1, 1),
) -> Image.Image:
    """Draw the objects of one image, each a list of polygons or COCO's run lengths.

    Args:
        segments: of the objects.
        name: of the image.
        size: its width and height.
        scale: what corners of polygons are multiplied with, across and down.

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
                        corners = np.array(polygon, float).reshape(-1, 2) * scale
                        ImageDraw.Draw(mask).polygon(corners.ravel().tolist(), fill=255)
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
        raise UnreadableImage(name, _other_size("its mask", (width, height), mask.size))
    counts = segment["counts"]
    lengths = np.array(run_lengths(counts) if isinstance(counts, str) else counts, np.int64)
    if lengths.min(initial=0) < 0 or lengths.sum() != width * height:
        raise ValueError(f"its runs cover {lengths.sum()} of {width * height} pixels")
    # Runs of nothing and of object in turn, down the columns.
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    mask.paste(255, mask=Image.fromarray(flat.reshape(width, height).T.astype(np.uint8) * 255))


def _other_size(what: str, found: tuple[int, int], wanted: tuple[int, int]) -> str:
    return f"{what} is {found[0]} x {found[1]}, the image {wanted[0]} x {wanted[1]}"
