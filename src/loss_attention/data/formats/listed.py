"""Images listed in a table of text, with their labels and boxes.

Columns, by any of their usual names: the image (a path from the table's folder, or from the top);
its label, or several; a box, as `x0 y0 x1 y1` in one column or in four, or several; and if wanted
`box_label`, `mask` and `split`. An image may have a row, or a row a box. Boxes are in pixels of the
upright image, x1 and y1 exclusive. In JSON lines, labels and boxes may be lists, and `objects` with
boxes x, y, width, height is read as `datasets` documents it. Without a `split` column the file's
name (`train.csv`) says which split it is.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from loss_attention.data.file_types import is_image
from loss_attention.data.formats.cells import (
    BOX_LABEL_NAMES,
    BOX_NAMES,
    CORNER_NAMES,
    LABEL_NAMES,
    LISTED_IMAGES,
    Corners,
    NoLabelError,
    corners_of,
    is_missing,
    is_missing_text,
    listed_label_column,
    named_column,
    read_boxes_cell,
    read_label,
    read_labels_cell,
)
from loss_attention.data.formats.hub import BoxLayout, read_objects
from loss_attention.data.formats.tables import Row, open_table
from loss_attention.data.labels import CellError, LabelKind
from loss_attention.data.masks import PictureMask
from loss_attention.data.records import Box, Findings, Part, Record, Source, count
from loss_attention.data.splits import SPLITS, by_split, split_of
from loss_attention.data.tree import Tree
from loss_attention.errors import InputError, guarded, printable, quoted

_HIDDEN = frozenset(("-1", "-1.0"))


def read_listed(tree: Tree, files: Sequence[str], where: str, *, masks: bool) -> Source:
    """Return the images of the tables that `find_tables` found.

    Raises:
        InputError: a table that cannot be read or lists no images, or two that list the same image.
    """
    findings = Findings()
    images = list(_images(tree, files, where, findings))
    splits = by_split(((image, image.split) for image in images), _name, where)
    hidden = [split for split in splits if _is_hidden(splits, split)]
    for image in (image for split in hidden for image in splits[split]):
        image.labels, image.boxes, image.without = [], [], []
    for image in images:
        image.refuse_unlabelled(findings)
    reading = _Reading(tree, findings, images, masks=masks)
    parts = [Part(split, reading.records(own)) for split, own in splits.items()]
    notes = [f"split {split} has no labels, as hidden test labels are given" for split in hidden]
    notes += [*reading.notes(), *_not_listed(tree, files[0], images, findings)]
    source = Source(where, tuple(parts), multi_label=reading.multi_label, notes=tuple(notes))
    return findings.finish(source)


def _images(tree: Tree, files: Sequence[str], where: str, findings: Findings) -> Iterable[_Listed]:
    """Return the images of tables, each with what its rows say."""
    images: dict[tuple[str, str], _Listed] = {}
    for file in files:
        before = len(images) + len(findings.problems)
        for row in ImageTable(tree, file, where, findings).rows():
            image = images.setdefault(
                (row.split, row.image), _Listed(row.image, row.split, file, row.number)
            )
            if image.file != file:
                raise InputError(
                    f"{where}: {file} and {image.file} both list {shown_path(row.image)}; keep one "
                    "of them, or give the one that is meant"
                )
            image.take(row)
        if len(images) + len(findings.problems) == before:
            raise InputError(f"{where}: {file} lists no images")
    return images.values()


def _is_hidden(splits: Mapping[str, Sequence[_Listed]], split: str) -> bool:
    """Return whether the labels of a split are not published: none, or -1 where training has none.

    A training split has to have labels.
    """
    trained = {str(label) for image in splits.get("train", ()) for label in image.labels}
    own = splits[split]
    return split != "train" and not trained & _HIDDEN and all(image.hidden for image in own)


@dataclass
class _Listed:
    """An image as its rows tell it."""

    name: str
    split: str
    file: str
    number: int
    labels: list[Any] = field(default_factory=list)
    several: bool = False
    boxes: list[Box] = field(default_factory=list)
    mask: str | None = None
    rows: int = 0
    without: list[str] = field(default_factory=list)

    @property
    def origin(self) -> str:
        """What its rows are called."""
        return f"{printable(self.file)} row"

    @property
    def place(self) -> str:
        """The image's first row."""
        return f"{self.origin} {self.number}"

    @property
    def hidden(self) -> bool:
        """Whether it has no label, or what stands for one that is not published."""
        return _HIDDEN.issuperset(map(str, self.labels)) and not self.several

    def take(self, row: ImageRow) -> None:
        """Add what a row says."""
        self.labels += row.labels
        self.several |= row.several
        self.boxes += row.boxes
        self.mask = row.mask or self.mask
        self.rows += 1
        if row.unlabelled:
            self.without.append(f"{self.origin} {row.number}: {row.unlabelled}")

    def refuse_unlabelled(self, findings: Findings) -> None:
        """Note each row without a label."""
        for what in self.without:
            findings.add(self.name, what)


class _Reading:
    """From what tables say of all images to records."""

    def __init__(
        self, tree: Tree, findings: Findings, images: Sequence[_Listed], *, masks: bool
    ) -> None:
        self.tree, self.findings, self.masks = tree, findings, masks
        labels = [label for image in images for label in image.labels]
        self.kind = LabelKind.of([*labels, *(box.label for i in images for box in i.boxes)])
        self.differing: list[str] = []
        self.multi_label = False
        self.ones: set[Any] = set()
        for image in images:
            try:
                classes = {self.kind(label) for label in image.labels}
            except CellError:
                continue  # noted with its record
            self.ones |= classes & {-1, 0}
            self.multi_label |= image.several or len(classes) > 1
            if len(classes) > 1 and image.rows > 1 and not image.boxes:
                self.differing.append(image.name)

    def notes(self) -> list[str]:
        """Return what is to be known of the labels."""
        notes = []
        if self.ones == {-1, 0}:
            notes.append("label -1 is a class here, like the others; leave its rows out if not")
        if self.differing:
            images = count(len(self.differing), "image")
            rows = f"{images} with rows of different labels ({shown_path(self.differing[0])})"
            notes.append(f"{rows}, so an image may have several labels")
        return notes

    def records(self, images: Sequence[_Listed]) -> list[Record]:
        """Return the records of a split."""
        return [record for image in images if (record := self._record(image)) is not None]

    def _record(self, image: _Listed) -> Record | None:
        """Return an image's record; None, and a note in the findings, where it cannot be had."""
        name, findings = image.name, self.findings
        if name not in self.tree.files:
            findings.add(
                name, f"{image.place}: its image {shown_path(name)} is missing{self._why(name)}"
            )
            return None
        try:
            labels = sorted({self.kind(label) for label in image.labels})
            boxes = [box._replace(label=self.kind(box.label)) for box in image.boxes]
        except CellError as error:
            findings.add(name, f"{image.place} {error}")
            return None
        mask = None
        if self.masks and image.mask is not None:
            if image.mask not in self.tree.files:
                what = f"{shown_path(image.mask)} is missing{self._why(image.mask)}"
                findings.add(name, f"{image.place}: its mask {what}")
            else:
                mask = PictureMask(name, image.mask, self.tree.file(image.mask))
        label = labels if self.multi_label else (labels or [None])[0]
        if not labels and not image.several:
            label = None
        return Record(
            name,
            self.tree.content(name),
            label,
            findings.boxes(name, image.origin, boxes),
            mask,
            origin=image.origin,
            row=image.number,
        )

    def _why(self, path: str) -> str:
        """Say why there is no such file, where that can be told."""
        if URL.match(path):
            return "; it is a web address: download the images and list their paths"
        if DRIVE.match(path):
            return "; it is a path of a Windows drive: write it from the table's folder"
        if path.startswith(("/", "../")):
            return f"; it lies outside of {self.tree.path}: give a folder that holds both"
        near = self._near.get(path.lower())
        return f"; {shown_path(near)} is there" if near else ""

    @cached_property
    def _near(self) -> dict[str, str]:
        """Images by their names in lower case, with and without suffix."""
        near = {name.lower(): name for name in self.tree.names if is_image(name)}
        return {name.rpartition(".")[0]: file for name, file in near.items()} | near


def _not_listed(
    tree: Tree, file: str, images: Iterable[_Listed], findings: Findings
) -> Iterator[str]:
    """Yield a line on images beside a table that it does not list."""
    pictures = set(filter(is_image, tree.names))
    for image in images:
        pictures -= {image.name, image.mask}
    pictures -= {problem.image for problem in findings.problems}
    if pictures:
        said = f"{count(len(pictures), 'image')} beside {printable(file)} not listed there"
        yield f"{said} ({shown_path(min(pictures))})"


def _name(image: _Listed) -> str:
    return image.name


URL = re.compile(r"[A-Za-z][\w+.-]+://|data:")
"""How a path begins that is a web address."""
DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")
"""How an absolute path of Windows begins."""
_LONGEST_PATH = 300  # of what is shown of one


@dataclass(frozen=True)
class ImageRow:
    """A row of a table: an image or one of its boxes.

    `several` says that the labels came as a list, which may be empty; `unlabelled`, where there
    should be labels, why there are none.
    """

    image: str
    split: str
    number: int
    labels: list[Any]
    several: bool
    unlabelled: str
    boxes: list[Box]
    mask: str | None


@dataclass(frozen=True)
class _Columns:
    """Which columns of a table, or keys of a row, hold what."""

    header: tuple[str, ...]

    @cached_property
    def image(self) -> str | None:
        """The column of images."""
        return named_column(self.header, LISTED_IMAGES)

    @cached_property
    def label(self) -> str | None:
        """The column of labels."""
        return listed_label_column(self.header)

    @cached_property
    def box(self) -> str | None:
        """The column of boxes."""
        return named_column(self.header, BOX_NAMES)

    @cached_property
    def corners(self) -> tuple[str, ...] | None:
        """The four columns of boxes."""
        return next((sides for sides in CORNER_NAMES if set(sides) <= set(self.header)), None)

    @cached_property
    def box_label(self) -> str | None:
        """The column of the boxes' classes."""
        return named_column(self.header, BOX_LABEL_NAMES)


class ImageTable:
    """One table, a row at a time; what is wrong with single rows is noted."""

    def __init__(self, tree: Tree, file: str, where: str, findings: Findings) -> None:
        self.tree, self.where, self.findings = tree, where, findings
        self.table = open_table(tree, file, where)
        self.folder = posixpath.dirname(file)
        self.file_split = split_of(PurePosixPath(file))
        self.origin = f"{printable(file)} row"
        self.columns: dict[tuple[str, ...], _Columns] = {}
        header = self.table.columns
        try:
            labelled = listed_label_column(header) is not None or "objects" in header
        except CellError as error:
            raise InputError(f"{where}: {printable(file)} {error}") from error
        if header and not labelled:
            raise InputError(
                f"{where}: {printable(file)} has no label column among "
                f"{', '.join(map(printable, self.table.header))}; it may be called "
                f"{', '.join(LABEL_NAMES)}"
            )
        self.labelled = listed_label_column(header) is not None
        self.divided = "split" in header

    def rows(self) -> Iterator[ImageRow]:
        """Yield the rows that can be understood; note the others."""
        for row in self.table.rows():
            place, image = f"{self.origin} {row.number}", ""
            try:
                with guarded(place):
                    columns = self._columns(row.values)
                    image = self._image(row, columns)
                    read = self._row(row, image, columns, place)
            except CellError as error:
                self.findings.add(image or place, f"{place} {error}")
            except InputError as error:
                self.findings.add(image or place, str(error))
            else:
                yield read

    def _columns(self, values: Mapping[str, Any]) -> _Columns:
        """Return what the columns of a row mean; keys of JSON may differ from row to row."""
        header = tuple(values)
        if header not in self.columns:
            self.columns[header] = _Columns(header)
        return self.columns[header]

    def _image(self, row: Row, columns: _Columns) -> str:
        value = row.values.get(columns.image or "")
        if isinstance(value, str) and not is_missing_text(value.strip()):
            return self._path(value)
        raise CellError(row.fault or "names no image")

    def _path(self, text: str) -> str:
        """Return the file that a path means, or where it would be."""
        folders, written = (self.folder, ""), text.strip()
        found = self.tree.find(text, folders) or self.tree.find(written, folders)
        if found is not None or URL.match(written) or DRIVE.match(written):
            return found or written
        return posixpath.normpath(posixpath.join(self.folder, written.replace("\\", "/")))

    def _row(self, row: Row, image: str, columns: _Columns, place: str) -> ImageRow:
        if row.fault:
            raise CellError(row.fault)
        values = row.values
        objects, classes = _objects(values, place)
        labels, several, unlabelled = classes, True, ""
        if self.labelled or columns.label:
            try:
                labels, several = read_labels_cell(values.get(columns.label or "", ""))
            except NoLabelError as error:
                labels, several, unlabelled = [], False, f"{shown_path(image)} {error}"
        named = labels
        boxes = _corners(values, columns, place)
        if columns.box_label and boxes:
            named = self._box_labels(values.get(columns.box_label), columns.box_label, place)
        return ImageRow(
            image,
            self._split(values, place),
            row.number,
            labels,
            several,
            unlabelled,
            [
                *_boxes(boxes, named, row.number, place, unlabelled),
                *_boxes(objects, classes or labels, row.number, place, unlabelled),
            ],
            self._mask(values.get("mask")),
        )

    def _mask(self, value: Any) -> str | None:
        if is_missing(value):
            return None
        if not isinstance(value, str):
            raise CellError(f"has {quoted(value)} as mask, which is no path")
        return self._path(value)

    def _box_labels(self, value: Any, column: str, place: str) -> list[Any]:
        try:
            return read_labels_cell(value).labels
        except CellError as error:
            raise InputError(f"{place}: column {column} {error}") from error

    def _split(self, values: Mapping[str, Any], place: str) -> str:
        if not self.divided and "split" not in values:
            return self.file_split
        name = str(values.get("split") or "").strip()
        if name.lower() not in SPLITS:
            raise InputError(f"{place}: split {quoted(name)} is not train, validation or test")
        return SPLITS[name.lower()]


def _objects(values: Mapping[str, Any], place: str) -> tuple[list[Corners], list[Any]]:
    """Return the boxes of a column `objects` and their classes, as `datasets` documents it."""
    if not values.get("objects"):
        return [], []
    boxes, classes = read_objects(values["objects"], place)
    layout = BoxLayout("sized", shares=False)
    return [layout.corners(box) for box in boxes], list(map(read_label, classes or ()))


def _corners(values: Mapping[str, Any], columns: _Columns, place: str) -> list[Corners]:
    """Return the corners of a row's boxes, from one column or from four."""
    try:
        if columns.box is not None and (boxes := read_boxes_cell(values[columns.box])):
            return boxes
        if columns.corners is None:
            return []
        four = [values[side] for side in columns.corners]
        return [] if all(map(is_missing, four)) else [corners_of(four)]
    except CellError as error:
        raise InputError(f"{place}: {error}") from error


def _boxes(
    found: list[Corners], named: list[Any], number: int, place: str, unlabelled: str
) -> list[Box]:
    """Return the boxes of a row with a label each."""
    if unlabelled and not named:
        return []  # the row is refused as a whole, or all of its split has no labels
    if len(named) == 1:
        named = named * len(found)
    if found and len(named) != len(found):
        raise InputError(
            f"{place} has {count(len(found), 'box')} and {count(len(named), 'label')}; give "
            "one label, one a box, or a row a box"
        )
    return [Box(label, *box, number) for label, box in zip(named, found, strict=False)]


def shown_path(path: str) -> str:
    """Return a path as a message names it."""
    return printable(path if len(path) <= _LONGEST_PATH else f"{path[:_LONGEST_PATH]}...")
