"""One table for every source: a record an image, with labels and boxes, before it is decoded.

A reader turns a layout of files into a `Source`; what is wrong with single images it notes in
`Source.problems` and goes on, so that all of it can be told at once, or left out where that is
asked for. What a column of labels means (class indices, or a 0/1 matrix where rows hold several) is
decided for all of a source together. `data/assembling.py` decodes any source.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from loss_attention.data.decoding import MOST_PIXELS
from loss_attention.data.masks import Mask, Segment, SegmentMask, read_shape
from loss_attention.errors import InputError, guarded, printable, quoted

Content = Path | bytes | Callable[[], bytes] | int | None
"""Where an encoded image is: a file, its bytes, a way to get them, a row of `Part.lookup`, or
nothing is there."""

MOST_NAMED = 10


class Box(NamedTuple):
    """An object, in pixels of the upright original or fractions of its size; x1, y1 are exclusive.

    `row` is its number in what lists it, or what it is called there, for messages.
    """

    label: Any
    x0: float
    y0: float
    x1: float
    y1: float
    row: int | str = 0


@dataclass(frozen=True)
class Record:
    """An image and what is known of it.

    Attributes:
        name: what people may call it: its path within the source, where it has one.
        content: where it is.
        label: its class, or in a multi-label source the list of its classes.
        boxes: its objects.
        mask: draws the pixels of its objects.
        size: width and height that the annotations state.
        origin: what lists its boxes ("labels.csv row"): with a box's row it names what is meant.
        relative: its boxes are in fractions of the image's width and height.
        row: where `origin` lists the image itself; 0: it does not.
        group: which images it belongs together with; empty: none was asked for, or none is known.
    """

    name: str
    content: Content
    label: Any
    boxes: tuple[Box, ...] = ()
    mask: Mask | None = None
    size: tuple[int, int] | None = None
    origin: str = ""
    relative: bool = False
    row: int = 0
    group: str = ""

    @property
    def called(self) -> str:
        """What an error calls the image: its name, and the row that lists it."""
        return f"{self.name} ({self.origin} {self.row})" if self.row else self.name


@dataclass(frozen=True)
class Encoded:
    """An image as it is stored.

    Attributes:
        name: what people may call it.
        source: its file, its bytes, a way to get them, or nothing at all; no row.
        size: width and height that its annotations state; None: they do not.
        mask: draws its mask; None: it has none.
    """

    name: str
    source: Content
    size: tuple[int, int] | None = None
    mask: Mask | None = None


@dataclass(frozen=True)
class Part:
    """One split: its records, and for contents that are row numbers the way to them."""

    name: str
    records: Sequence[Record]
    lookup: Callable[[list[int]], list[Content]] | None = None

    def __len__(self) -> int:
        return len(self.records)

    def encoded(self, records: Sequence[Record]) -> list[Encoded]:
        """Return the images of some of the records, looked up together."""
        contents = [record.content for record in records]
        if self.lookup is not None:
            contents = self.lookup([row for row in contents if isinstance(row, int)])
        return [
            Encoded(record.name, content, record.size, record.mask)
            for record, content in zip(records, contents, strict=True)
        ]


class Problem(NamedTuple):
    """Something wrong with one image: `what` names file and row in one line."""

    image: str
    what: str


@dataclass(frozen=True)
class Source:
    """Everything that there is of some data, undecoded.

    Attributes:
        where: what people may call it.
        parts: its splits, by the name they have there.
        class_names: the classes, and labels are their indices; None: the labels are the classes.
        multi_label: whether records hold lists of labels.
        problems: what is wrong with single images; those are not among the records.
        notes: what was left out or is unlike expected, a line each.
        unread: of these, those about files that may be meant as images and are not read.
        columns: of the tables that list its images, if there are any.
    """

    where: str
    parts: tuple[Part, ...]
    class_names: tuple[str, ...] | None = None
    multi_label: bool = False
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


def stored_classes(source: Source) -> dict[str, Any]:
    """Return the classes by name: those declared, else those of the first split's labels, sorted.

    The values are what labels hold in the records.
    """
    if source.class_names is not None:
        return {name: k for k, name in enumerate(source.class_names)}
    found: set[Any] = set()
    for record in source.parts[0].records:
        found.update(labels_of(source, record))
    return {str(value): value for value in sorted(found)}


def labels_of(source: Source, record: Record) -> list[Any]:
    """Return the labels of a record, none or one or several."""
    labels = record.label if source.multi_label else [record.label]
    return [label for label in labels or [] if label is not None]


def with_classes(
    record: Record, values: Sequence[Any], classes: Mapping[Any, int], *, multi_label: bool
) -> Record:
    """Return a record with indices of classes as its labels and those of its boxes.

    Args:
        record: of an image that shows one of the classes, or may show none.
        values: its labels.
        classes: from a label to its class; labels and boxes of others are left out.
        multi_label: whether the record is to hold a list.
    """
    kept = [value for value in values if value in classes]
    indices, mask = sorted({classes[value] for value in kept}), record.mask
    if mask is not None and len(kept) < len(values):
        mask = mask.of(kept)
    boxes = tuple(
        box._replace(label=classes[box.label]) for box in record.boxes if box.label in classes
    )
    return replace(record, label=indices if multi_label else indices[0], boxes=boxes, mask=mask)


def class_name(source: Source, label: Any) -> str:
    """Return what people call a label of a source."""
    return str(label) if source.class_names is None else source.class_names[label]


@dataclass
class Findings:
    """What a reader notes on its way: problems of images, and counts of what it left out."""

    problems: list[Problem] = field(default_factory=list)
    flat_boxes: int = 0
    flat_segments: int = 0
    masks: int = 0
    partial_masks: int = 0
    unsegmented: list[str] = field(default_factory=list)

    def add(self, image: str, what: str) -> None:
        """Note what is wrong with an image."""
        self.problems.append(Problem(image, printable(what)))

    @contextmanager
    def noting(self, image: str, where: str) -> Iterator[None]:
        """Read what is said of one image: whatever is malformed in it is noted, and that is all.

        Args:
            image: its name.
            where: file and row, for what names none itself.
        """
        try:
            with guarded(where):
                yield
        except InputError as error:
            self.add(image, str(error))

    def unlisted(self, images: Iterable[str], listing: str) -> None:
        """Note images that nothing is said of in what should list them."""
        for image in sorted(images):
            self.add(image, f"the image {image} has no annotation in {listing}")

    def boxes(self, image: str, origin: str, found: Iterable[Box]) -> tuple[Box, ...]:
        """Return boxes that have an area; note those that are turned inside out.

        Published sets hold a few without any area (COCO two); they are left out and counted.
        """
        kept = []
        for box in found:
            if not _finite(box[1:5]):
                self.add(image, f"{origin} {box.row}: box {_shown(box)} holds no numbers")
            elif box.x1 < box.x0 or box.y1 < box.y0:
                axis = "x" if box.x1 < box.x0 else "y"
                self.add(image, f"{origin} {box.row}: box {_shown(box)} has {axis}1 < {axis}0")
            elif box.x1 == box.x0 or box.y1 == box.y0:
                self.flat_boxes += 1
            else:
                kept.append(box)
        return tuple(kept)

    def mask(
        self,
        image: str,
        objects: int,
        segments: Sequence[tuple[Any, ...]],
        *,
        relative: bool = False,
        origin: str = "",
    ) -> Mask | None:
        """Return the mask of an image's objects; of some of them only it would be wrong.

        What is not a segmentation is noted. Polygons that enclose no area, of which published sets
        hold a few, are counted.

        Args:
            image: its name.
            objects: how many it has.
            segments: of those that have one: label, segmentation and, if known, row.
            relative: polygons are in fractions of the image's size.
            origin: what lists the segments; with a segment's row it names it.
        """
        read = tuple(Segment(*segment) for segment in segments)
        for number, segment in enumerate(read, start=1):
            try:
                self.flat_segments += read_shape(segment.shape).flat
            except ValueError as error:
                row = number if segment.row == "" else segment.row
                which = f"{origin} {row}" if origin else f"{image} segmentation {row}"
                self.add(image, f"{which}: its segmentation {error}")
        if objects and not read:
            self.unsegmented.append(image)
        if 0 < len(read) < objects:
            self.partial_masks += 1
        if not len(read) == objects > 0:
            return None
        self.masks += 1
        return SegmentMask(image, read, relative, origin)

    def finish(self, source: Source) -> Source:
        """Return a source with what was found, and without the images that have problems."""
        bad = {problem.image for problem in self.problems}
        notes = source.notes
        if self.flat_boxes:
            notes += (f"{count(self.flat_boxes, 'box')} without area left out",)
        if self.flat_segments:
            notes += (f"{count(self.flat_segments, 'segmentation')} without area",)
        if self.partial_masks:
            images = count(self.partial_masks, "image")
            notes += (f"{images} left without mask: not all objects in it are segmented",)
        if self.masks and self.unsegmented:
            images, first = count(len(self.unsegmented), "image"), printable(self.unsegmented[0])
            notes += (f"{images} left without mask: no object in it is segmented (first: {first})",)
        parts = source.parts
        if bad:
            parts = tuple(
                replace(part, records=[r for r in part.records if r.name not in bad])
                for part in parts
            )
        problems = (*source.problems, *self.problems)
        return replace(source, parts=parts, problems=problems, notes=notes)


def refuse(where: str, problems: Sequence[Problem]) -> None:
    """Raise `InputError` for problems, if there are any: the first ten, in one line."""
    if problems:
        raise InputError(f"{where}: {few([problem.what for problem in problems], '; ')}")


def stated_size(width: Any, height: Any, where: str) -> tuple[int, int] | None:
    """Return the size that annotations state; None where they do not, or leave it 0 as some tools.

    Args:
        width: of the upright image, in pixels, as a number or as text.
        height: likewise.
        where: file and row, for messages.

    Raises:
        InputError: no whole numbers of pixels, or more than an image may have.

    Example:
        >>> stated_size("640", 480.0, "a.xml"), stated_size(None, None, ""), stated_size(0, 0, "")
        ((640, 480), None, None)
    """
    sides = []
    for side in (width, height):
        try:
            number = 0.0 if side in (None, "") else float(side)
            if isinstance(side, bool) or number < 0 or number != int(number):
                raise ValueError
        except (TypeError, ValueError, OverflowError) as error:
            shown = f"width {quoted(width)} and height {quoted(height)}"
            raise InputError(f"{where}: {shown} are not numbers of pixels") from error
        sides.append(int(number))
    if math.prod(sides) > MOST_PIXELS:
        size = f"{sides[0]:g} x {sides[1]:g} pixels"
        raise InputError(f"{where}: {size} are more than an image may have")
    return (sides[0], sides[1]) if all(sides) else None


def count(number: int, what: str) -> str:
    """Return a number and a noun, in the plural where it is not one.

    Example:
        >>> count(1, "image"), count(2000, "box")
        ('1 image', '2,000 boxes')
    """
    ending = "" if number == 1 else "es" if what.endswith(("s", "x")) else "s"
    return f"{number:,} {what}{ending}"


def few(things: Collection[str], separator: str = ", ") -> str:
    """Return the first ten of several, printable, and how many more there are.

    Example:
        >>> few("abc"), few("abcdefghijkl")
        ('a, b, c', 'a, b, c, d, e, f, g, h, i, j and 2 more')
    """
    shown = separator.join(map(printable, islice(things, MOST_NAMED)))
    rest = len(things) - MOST_NAMED
    return shown if rest <= 0 else f"{shown}{separator.replace(',', '')}and {rest:,} more"


def outside(record: Record, which: int, width: int, height: int) -> str | None:
    """Return what to say of a box that leaves its image by over a pixel; None if it does not.

    A pixel is what rounding in annotation tools amounts to.

    Args:
        record: of the image.
        which: the number of the box among the record's.
        width: of the upright image, in pixels.
        height: likewise.
    """
    box = record.boxes[which]
    if record.relative:
        box = box._replace(
            x0=box.x0 * width, y0=box.y0 * height, x1=box.x1 * width, y1=box.y1 * height
        )
    if box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1:
        return None
    where = f"{record.origin} {box.row}"
    return f"{where}: box {_shown(box)} lies outside {record.name}, which is {width} x {height}"


def _finite(numbers: Iterable[float]) -> bool:
    try:
        return all(map(math.isfinite, numbers))
    except OverflowError:  # a whole number beyond all floats
        return False


def _shown(box: Box) -> str:
    numbers = (f"{n:g}" if _finite([n]) or isinstance(n, float) else quoted(n) for n in box[1:5])
    return f"({', '.join(numbers)})"


_WHOLE = re.compile(r"-?(0|[1-9]\d{0,999})(\.0*)?", re.ASCII)
_NUMBER = re.compile(
    r"-?(((0|[1-9]\d{0,999})(\.\d*)?|\.\d+)(e[+-]?\d{1,3})?|inf)", re.ASCII | re.IGNORECASE
)
HIDDEN = (-1, "-1")
"""What stands for a label that is not published."""


class CellError(InputError):
    """What is wrong with a cell of a table, to be said after the row's name."""


@dataclass(frozen=True)
class LabelKind:
    """What the labels of a data set are together: numbers, where all can be, else texts.

    So 1, 1.0 and "1" are one class, and 10 comes after 9; "01" is a text, and so is "1" beside it.

    Example:
        >>> kind = LabelKind.of([10, "9", 1.0])
        >>> [kind(10), kind("9"), kind(1.0)], LabelKind.of([1, "01"])(1)
        ([10, 9, 1], '1')
    """

    numbers: bool
    booleans: bool
    whole: frozenset[str] = frozenset()

    @classmethod
    def of(cls, labels: Iterable[Any]) -> LabelKind:
        """Return the kind of all labels of a data set."""
        found = {(type(label), label) for label in labels}
        values = [label for _, label in found]
        texts = {label for label in values if isinstance(label, str)}
        whole = {str(int(v)) for v in values if _is_whole(v)} | {
            text for text in texts if _WHOLE.fullmatch(text) and "." not in text
        }
        return cls(
            numbers=all(not isinstance(v, str) or _NUMBER.fullmatch(v) for v in values),
            booleans=bool(values) and all(isinstance(v, bool) for v in values),
            whole=frozenset(whole),
        )

    def __call__(self, label: Any) -> Any:
        """Return a label as the class that it is of.

        Raises:
            CellError: a fraction, or a truth value among others.
        """
        if isinstance(label, bool):
            if self.booleans:
                return str(label)
            raise CellError(
                f"has label {label}, a truth value, where others are none; write all in one way"
            )
        if isinstance(label, str):
            whole = _WHOLE.fullmatch(label)
            if self.numbers and whole:
                return int(label.partition(".")[0])
            if self.numbers:
                raise _fraction(label)
            integer = label.partition(".")[0]
            return integer if whole and integer in self.whole else label
        if not _is_whole(label):
            raise _fraction(label)
        return int(label) if self.numbers else str(int(label))


def _is_whole(label: Any) -> bool:
    if isinstance(label, bool) or not isinstance(label, (int, float)):
        return False
    return isinstance(label, int) or label.is_integer()


def _fraction(label: Any) -> CellError:
    return CellError(
        f"has label {quoted(label)}, which is a measurement and no class: classes are texts or "
        "whole numbers; give each range of values a name"
    )


def unlabelled(labels: Iterable[Any]) -> bool:
    """Return whether a split has no labels at all: None or -1, as hidden test labels are given."""
    hidden = (None, [], *HIDDEN, *([one] for one in HIDDEN))
    return all(label in hidden for label in labels)
