"""What each row of a table says of an image: where it is, its labels, boxes, mask and split."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from loss_attention.data.cells import (
    CellError,
    Corners,
    NoLabelError,
    corners_of,
    is_missing,
    is_missing_text,
    read_boxes_cell,
    read_label,
    read_labels_cell,
)
from loss_attention.data.columns import (
    BOX_LABEL_NAMES,
    BOX_NAMES,
    CORNER_NAMES,
    LABEL_NAMES,
    LISTED_IMAGES,
    listed_label_column,
    named_column,
)
from loss_attention.data.objects import BoxLayout, read_objects
from loss_attention.data.records import Box, Findings, count
from loss_attention.data.rows import Row, open_table
from loss_attention.data.splits import SPLITS, split_of
from loss_attention.data.tree import Tree
from loss_attention.errors import InputError, guarded, printable, quoted

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
