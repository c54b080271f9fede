"""Masks of objects: read from pictures, or drawn from polygons and run lengths."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loss_attention.data.decoding import MOST_PIXELS, UnreadableImage, read_image, read_numbers
from loss_attention.errors import InputError, quoted, reason

Content = Path | bytes | Callable[[], bytes]
"""Where a mask's picture is: a file, its bytes, or a way to get them."""

T = TypeVar("T")

VOID = 255
"""The number that Pascal VOC gives to pixels on the edges of objects, which are nobody's."""
_VOID_COLOUR = (224, 224, 192)  # what number 255 has in VOC's palette

MOST_CORNER = 100_000
"""A polygon with a corner further away, in pixels, is refused: no image is as large."""
_FAR = f"has a corner more than {MOST_CORNER:,} pixels away"
MOST_OUTLINE = 1_000_000
"""A polygon with a longer outline, in pixels, is refused: drawing takes over 100 bytes for each."""
_MOST_GROUPS = 7  # of five bits: lengths up to 2^34, sums of which do not overflow
_NUMBERS = {int, float}  # and not bool, which is an int to Python


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


class Segment(NamedTuple):
    """The segmentation of an object: polygons, run lengths, or several of these.

    `row` is its number in what lists it, for messages; "": there is none.
    """

    label: Any
    shape: Any
    row: int | str = ""


@dataclass(frozen=True)
class SegmentMask(Mask):
    """Objects that each are a list of polygons, or COCO's run lengths.

    Attributes:
        name: of the image.
        segments: of the objects.
        relative: corners are in fractions of the image's width and height, not in pixels.
        origin: what lists the segments ("a.json annotation").
    """

    name: str
    segments: tuple[Segment, ...]
    relative: bool = False
    origin: str = ""

    def __call__(self, size: tuple[int, int]) -> Image.Image:
        """Draw the objects."""
        rows = [segment.row for segment in self.segments]
        origins = [f"{self.origin} {row}: " if self.origin and row != "" else "" for row in rows]
        scale = size if self.relative else (1, 1)
        shapes = [segment.shape for segment in self.segments]
        return draw_segments(shapes, self.name, size, scale, origins)

    def of(self, labels: Collection[Any]) -> Mask:
        """Return the objects of some classes."""
        return replace(self, segments=tuple(one for one in self.segments if one.label in labels))


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
        mask = self._read(partial(read_image, in_channels=1))
        self._require_size(mask.size, size)
        return mask.point(lambda level: 255 if level else 0)

    def of(self, labels: Collection[Any]) -> Mask:  # noqa: ARG002
        """Refuse: a pixel of such a mask shows any of the image's objects."""
        raise self._says_no_class()

    def _read(self, read: Callable[..., T]) -> T:
        try:
            content = self.content() if callable(self.content) else self.content
            return read(content, name=self.picture)
        except Exception as error:  # whatever a damaged archive leads its reader into
            why = error.reason if isinstance(error, UnreadableImage) else reason(error)
            raise UnreadableImage(self.name, f"its mask {self.picture}: {why}") from error

    def _require_size(self, found: tuple[int, int], wanted: tuple[int, int]) -> None:
        if found != wanted:
            raise UnreadableImage(self.name, _other_size(f"its mask {self.picture}", found, wanted))

    def _says_no_class(self) -> InputError:
        return InputError(
            f"the mask {self.picture} of {self.name} does not say which pixels show which class, "
            "and the image shows others than those of `classes`; leave `masks` or `classes` out"
        )


@dataclass(frozen=True)
class NumberedMask(PictureMask):
    """A picture of Pascal VOC: each pixel is the number of an object or a class, 0 none.

    Attributes:
        labels: those of objects 1, 2, ...; None: the numbers are of classes of unknown names.
        wanted: the classes whose objects are meant; None: all.
    """

    labels: tuple[Any, ...] | None = None
    wanted: frozenset[Any] | None = None

    def __call__(self, size: tuple[int, int]) -> Image.Image:
        """Read the picture."""
        numbers = self._read(read_numbers)
        height, width = numbers.shape[:2]
        self._require_size((width, height), size)
        return Image.fromarray(self._objects(numbers).astype(np.uint8) * 255)

    def of(self, labels: Collection[Any]) -> Mask:
        """Return the objects of some classes."""
        if self.labels is None:
            raise self._says_no_class()
        return replace(self, wanted=frozenset(labels))

    def _objects(self, numbers: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return which pixels are of an object that is meant."""
        if numbers.ndim == 3:  # tools paint objects in colours that only they know
            if self.wanted is not None:
                raise self._says_no_class()
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


def draw_segments(
    segments: Sequence[Any],
    name: str,
    size: tuple[int, int],
    scale: tuple[float, float] = (1, 1),
    origins: Sequence[str] = (),
) -> Image.Image:
    """Draw the objects of one image, each a list of polygons or COCO's run lengths.

    Polygons are drawn by pycocotools.

    Args:
        segments: of the objects.
        name: of the image.
        size: its width and height.
        scale: what corners of polygons are multiplied with, across and down.
        origins: what lists each of the objects, for messages.

    Raises:
        UnreadableImage: what is not a segmentation, is of another size than the picture, or lies
            outside of it.
    """
    mask = np.zeros(size[::-1], np.bool_)
    polygons = []
    for number, segment in enumerate(segments):
        origin = origins[number] if origins else ""
        try:
            shape = read_shape(segment)
            polygons += [_placed(polygon, size, scale) for polygon in shape.polygons]
        except ValueError as error:
            raise UnreadableImage(name, f"{origin}its segmentation {error}") from error
        for runs in shape.runs:
            if runs.size != size:
                raise UnreadableImage(name, f"{origin}{_other_size('its mask', runs.size, size)}")
            mask |= runs.drawn()
    if polygons:
        mask |= _filled(polygons, size)
    return Image.fromarray(mask.astype(np.uint8) * 255)


def _filled(polygons: Sequence[NDArray[np.float64]], size: tuple[int, int]) -> NDArray[np.bool_]:
    from pycocotools import mask as coco  # a moment's import, for masks alone

    width, height = size
    drawn = coco.frPyObjects([polygon.ravel().tolist() for polygon in polygons], height, width)
    # Not by its `decode`, which NumPy warns of.
    return Runs(size, run_lengths(coco.merge(drawn)["counts"].decode())).drawn()


def _placed(
    polygon: NDArray[np.float64], size: tuple[int, int], scale: tuple[float, float]
) -> NDArray[np.float64]:
    """Return a polygon in pixels, if drawing it takes bounded memory and shows something.

    One may leave its image, as boxes may by a pixel: what is outside is not drawn.
    """
    corners = polygon * scale
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    if max(-left, -top, right, bottom) > MOST_CORNER:
        raise ValueError(_FAR)
    steps = np.abs(np.diff(corners, axis=0, append=corners[:1])).max(axis=1)
    if steps.sum() > MOST_OUTLINE:
        raise ValueError(f"has an outline of more than {MOST_OUTLINE:,} pixels")
    if right < -1 or bottom < -1 or left > size[0] + 1 or top > size[1] + 1:
        corner = f"({left:g}, {top:g})-({right:g}, {bottom:g})"
        raise ValueError(f"lies at {corner}, outside the image of {size[0]} x {size[1]}")
    return corners


class Runs(NamedTuple):
    """Run lengths of nothing and of object in turn, down the columns of a width and height."""

    size: tuple[int, int]
    lengths: NDArray[np.int64]

    def drawn(self) -> NDArray[np.bool_]:
        """Return them as pixels."""
        flat = np.repeat(np.arange(len(self.lengths)) % 2 == 1, self.lengths)
        return flat.reshape(self.size).T


class Shape(NamedTuple):
    """What a segmentation holds: corners (x, y) of each polygon, and run lengths."""

    polygons: tuple[NDArray[np.float64], ...] = ()
    runs: tuple[Runs, ...] = ()

    @property
    def flat(self) -> bool:
        """Whether it has polygons, and none of them encloses an area."""
        return not self.runs and not any(map(_area, self.polygons))


def read_shape(segmentation: Any) -> Shape:
    """Return the polygons and run lengths of a segmentation, in any of COCO's forms.

    They are a list of polygons, run lengths, or a list of run lengths or of both; one polygon need
    not be in a list of its own.

    Raises:
        ValueError: it is none of these; the text goes on after "its segmentation".

    Example:
        >>> read_shape([[0, 0, 4, 0, 4, 2]]).polygons[0].tolist()
        [[0.0, 0.0], [4.0, 0.0], [4.0, 2.0]]
    """
    if isinstance(segmentation, dict):
        return Shape(runs=(_runs(segmentation),))
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError(
            f"is none of COCO's: {quoted(segmentation)} is neither polygons nor run lengths"
        )
    parts = [segmentation] if type(segmentation[0]) in _NUMBERS else segmentation
    runs = tuple(_runs(part) for part in parts if isinstance(part, dict))
    return Shape(tuple(_polygon(part) for part in parts if not isinstance(part, dict)), runs)


def _polygon(numbers: Any) -> NDArray[np.float64]:
    if not isinstance(numbers, list):
        raise ValueError(f"is none of COCO's: {quoted(numbers)} is not a polygon")
    if not set(map(type, numbers)) <= _NUMBERS:
        strange = next(number for number in numbers if type(number) not in _NUMBERS)
        raise ValueError(f"is none of COCO's: {quoted(strange)} in a polygon is not a number")
    if len(numbers) % 2:
        raise ValueError(f"has a polygon of {len(numbers)} numbers, which are not pairs of x and y")
    if len(numbers) < 6:
        raise ValueError(f"has a polygon of {len(numbers) // 2} corners; it takes 3 at least")
    try:
        corners = np.array(numbers, np.float64).reshape(-1, 2)
    except OverflowError:  # whole numbers may be of any length
        corners = np.full((1, 2), math.inf)
    if not np.isfinite(corners).all():
        raise ValueError("has a polygon with a corner that is not finite")
    if np.abs(corners).max() > MOST_CORNER:
        raise ValueError(_FAR)
    return corners


def _area(corners: NDArray[np.float64]) -> float:
    x, y = corners.T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def _runs(segment: Mapping[str, Any]) -> Runs:
    """Return run lengths that cover their size exactly; nothing of that size is made of them."""
    size, counts = segment.get("size"), segment.get("counts")
    if not isinstance(size, list) or [type(side) for side in size] != [int, int] or min(size) < 1:
        raise ValueError(f"is none of COCO's: size {quoted(size)} is not a height and width")
    height, width = size
    if width * height > MOST_PIXELS:
        raise ValueError(f"is of {quoted(width)} x {quoted(height)} pixels, more than any image")
    if isinstance(counts, str):
        lengths = run_lengths(counts)
    elif isinstance(counts, list) and set(map(type, counts)) <= {int}:
        # Cut off, as the numbers may be of any length; what is cut does not cover the size.
        lengths = np.array([max(-1, min(count, MOST_PIXELS + 1)) for count in counts], np.int64)
    else:
        raise ValueError(f"is none of COCO's: counts {quoted(counts)} are not whole numbers")
    if lengths.min(initial=0) < 0:
        raise ValueError("is broken: it holds a run of a length below 0")
    if lengths.sum() != width * height:
        raise ValueError(f"is broken: its runs cover {lengths.sum()} of {width * height} pixels")
    return Runs((width, height), lengths)


def run_lengths(text: str) -> NDArray[np.int64]:
    """Return the run lengths that COCO packs into a string.

    Each is a number of groups of five bits, the least first; a character holds a group, with bit 5
    set where more follow, counted from "0". The last group's bit 4 is its sign. From the fourth
    on, a number is the difference to the one two before.

    pycocotools' own decoder trusts the text, and reads memory that is not its own where it is cut.

    Raises:
        ValueError: a character that is none of these, or an end within a number.

    Example:
        >>> run_lengths("12O").tolist()
        [1, 2, -1]
    """
    groups = np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int64) - 48
    if not groups.size:
        return np.zeros(0, np.int64)
    ends = np.flatnonzero(groups & 32 == 0)
    if groups.min() < 0 or groups.max() > 63 or not ends.size or ends[-1] + 1 < groups.size:
        raise ValueError("is broken: its counts are not packed run lengths")
    starts = np.append(0, ends[:-1] + 1)
    sizes = ends - starts + 1
    if sizes.max() > _MOST_GROUPS:
        raise ValueError("is broken: its counts hold a run longer than any image")
    shifts = 5 * (np.arange(groups.size) - np.repeat(starts, sizes))
    numbers = np.add.reduceat((groups & 31) << shifts, starts)
    numbers -= np.where(groups[ends] & 16, 1 << 5 * sizes, 0)
    # From the fourth on, each is the difference to the one two before: odd and even ones add up.
    numbers[1::2] = numbers[1::2].cumsum()
    numbers[2::2] = numbers[2::2].cumsum()
    return numbers


def _other_size(what: str, found: tuple[int, int], wanted: tuple[int, int]) -> str:
    return f"{what} is {found[0]} x {found[1]}, the image {wanted[0]} x {wanted[1]}"
