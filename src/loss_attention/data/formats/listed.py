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
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from loss_attention.data.decoding import is_image
from loss_attention.data.division import SPLITS, by_split, split_of
from loss_attention.data.formats.cells import (
    BOX_LABEL_NAMES,
    BOX_NAMES,
    CORNER_NAMES,
    LISTED_IMAGES,
    Corners,
    NoLabelError,
    corners_of,
    is_missing,
    listed_label_column,
    named_column,
    plain_name,
    read_boxes_cell,
    read_label,
    read_labels_cell,
)
from loss_attention.data.formats.hub import BoxLayout, read_objects
from loss_attention.data.formats.tables import Row, open_table
from loss_attention.data.masks import PictureMask
from loss_attention.data.records import (
    Box,
    CellError,
    Findings,
    LabelKind,
    Part,
    Record,
    Source,
    count,
)
from loss_attention.data.tree import Tree
from loss_attention.errors import InputError, guarded, printable, quoted

_HIDDEN = frozenset(("-1", "-1.0"))
_URL = re.compile(r"[A-Za-z][\w+.-]+://|data:")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")  # how an absolute path of Windows begins
_LONGEST_PATH = 300  # of what is shown of one


@dataclass
class _Listed:
    """An image as its rows tell it, or as the first of them does.

    `several` says that the labels came as a list, which may be empty; `without`, where there should
    be labels, why there are none.
    """

    name: str
    split: str
    file: str
    number: int
    labels: list[Any]
    several: bool
    boxes: list[Box]
    mask: str | None
    without: list[str]
    group: str = ""
    rows: int = 1

    @property
    def origin(self) -> str:
        """What its rows are called."""
        return f"{self.file} row"

    @property
    def location(self) -> str:
        """The image's first row."""
        return f"{self.origin} {self.number}"

    def add(self, row: _Listed) -> None:
        """Add what another row says."""
        self.labels += row.labels
        self.several |= row.several
        self.boxes += row.boxes
        self.mask = row.mask or self.mask
        self.without += row.without
        if row.group != self.group:
            groups = f"{quoted(self.group)} and, in row {row.number}, {quoted(row.group)}"
            self.without.append(f"{self.location}: {_shown_path(self.name)} is of groups {groups}")
        self.rows += 1


def read_listed(
    tree: Tree, files: Sequence[str], where: str, *, masks: bool, group: str | None = None
) -> Source:
    """Return the images of the tables that `find_tables` found.

    Args:
        tree: the files.
        files: which of them are the tables.
        where: what the data is called.
        masks: draw masks.
        group: the column that says which images belong together, in tables that have it.

    Raises:
        InputError: a table that cannot be read or lists no images, or two that list the same image.
    """
    findings = Findings()
    tables = [_Table(tree, file, where, findings, group) for file in files]
    images = list(_images(tables, where, findings))
    splits = by_split(((image, image.split) for image in images), lambda one: one.name, where)
    hidden = [split for split in splits if _is_hidden(splits, split)]
    for image in (image for split in hidden for image in splits[split]):
        image.labels, image.boxes, image.without = [], [], []
    for image in images:
        for what in image.without:
            findings.add(image.name, what)
    reading = _Reading(tree, findings, images, masks=masks)
    parts = [
        Part(split, [record for one in own if (record := reading.record(one)) is not None])
        for split, own in splits.items()
    ]
    notes = [f"split {split} has no labels, as hidden test labels are given" for split in hidden]
    notes += [*reading.notes(), *_not_listed(tree, files[0], images, findings)]
    source = Source(
        where,
        tuple(parts),
        multi_label=reading.multi_label,
        notes=tuple(notes),
        columns=tuple(dict.fromkeys(name for one in tables for name in one.table.columns)),
    )
    return findings.finish(source)


def _images(tables: Sequence[_Table], where: str, findings: Findings) -> Iterable[_Listed]:
    """Return the images of tables, each with what its rows say."""
    images: dict[tuple[str, str], _Listed] = {}
    for table in tables:
        file, before = table.file, len(images) + len(findings.problems)
        for row in table.rows():
            image = images.setdefault((row.split, row.name), row)
            if image.file != file:
                raise InputError(
                    f"{where}: {file} and {image.file} both list {_shown_path(row.name)}; keep one "
                    "of them, or give the one that is meant"
                )
            if image is not row:
                image.add(row)
        if len(images) + len(findings.problems) == before:
            raise InputError(f"{where}: {file} lists no images")
    return images.values()


def _is_hidden(splits: Mapping[str, Sequence[_Listed]], split: str) -> bool:
    """Return whether the labels of a split are not published: none, or -1 where training has none.

    A training split has to have labels.
    """
    trained = {str(label) for image in splits.get("train", ()) for label in image.labels}
    if split == "train" or trained & _HIDDEN:
        return False
    return all(_HIDDEN.issuperset(map(str, i.labels)) and not i.several for i in splits[split])


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
        yield f"{said} ({_shown_path(min(pictures))})"


class _Table:
    """One table, a row at a time; what is wrong with single rows is noted."""

    def __init__(
        self, tree: Tree, file: str, where: str, findings: Findings, group: str | None
    ) -> None:
        self.tree, self.file, self.findings = tree, file, findings
        self.table = open_table(tree, file, where)
        self.folder = posixpath.dirname(file)
        self.file_split = split_of(PurePosixPath(file))
        self.divided = "split" in self.table.columns
        self.group = None if group is None else plain_name(group)
        try:
            self.labelled = listed_label_column(self.table.columns) is not None
        except CellError as error:
            raise InputError(f"{where}: {file} {error}") from error

    def rows(self) -> Iterator[_Listed]:
        """Yield what the rows say that can be understood; note the others."""
        for row in self.table.rows():
            location, image = f"{self.file} row {row.number}", ""
            try:
                with guarded(location):
                    image = self._image(row)
                    read = self._row(row, image, location)
            except CellError as error:
                self.findings.add(image or location, f"{location} {error}")
            except InputError as error:
                self.findings.add(image or location, str(error))
            else:
                yield read

    def _image(self, row: Row) -> str:
        value = row.values.get(named_column(tuple(row.values), LISTED_IMAGES) or "")
        if isinstance(value, str) and not is_missing(value):
            return self._path(value)
        raise CellError(row.fault or "names no image")

    def _path(self, text: str) -> str:
        """Return the file that a path means, or where it would be."""
        folders, written = (self.folder, ""), text.strip()
        found = self.tree.find(text, folders) or self.tree.find(written, folders)
        if found is not None or _URL.match(written) or _DRIVE.match(written):
            return found or written
        return posixpath.normpath(posixpath.join(self.folder, written.replace("\\", "/")))

    def _row(self, row: Row, image: str, location: str) -> _Listed:
        """Return what a row says; keys of JSON may differ from row to row."""
        if row.fault:
            raise CellError(row.fault)
        values, number, header = row.values, row.number, tuple(row.values)
        objects, classes = _objects(values, location)
        labels, several, unlabelled = classes, True, ""
        column = listed_label_column(header)
        if self.labelled or column:
            try:
                labels, several = read_labels_cell(values.get(column or "", ""))
            except NoLabelError as error:
                labels, several = [], False
                unlabelled = f"{location}: {_shown_path(image)} {error}"
        named, boxes = labels, _corners(values, location)
        if boxes and (column := named_column(header, BOX_LABEL_NAMES)):
            try:
                named = read_labels_cell(values[column]).labels
            except CellError as error:
                raise InputError(f"{location}: column {column} {error}") from error
        split, found = self._split(values, location), []
        if not unlabelled or named:  # else refused as a whole, or all of its split has no labels
            found += _boxes(boxes, named, number, location)
        if not unlabelled or classes:
            found += _boxes(objects, classes or labels, number, location)
        mask, without = self._mask(values.get("mask")), [unlabelled] if unlabelled else []
        group = values.get(self.group) if self.group else None
        of_group = "" if is_missing(group) else str(group).strip()
        return _Listed(
            image, split, self.file, number, labels, several, found, mask, without, of_group
        )

    def _mask(self, value: Any) -> str | None:
        if is_missing(value):
            return None
        if not isinstance(value, str):
            raise CellError(f"has {quoted(value)} as mask, which is not a path")
        return self._path(value)

    def _split(self, values: Mapping[str, Any], location: str) -> str:
        if not self.divided and "split" not in values:
            return self.file_split
        name = str(values.get("split") or "").strip()
        if name.lower() not in SPLITS:
            raise InputError(f"{location}: split {quoted(name)} is not train, validation or test")
        return SPLITS[name.lower()]


def _objects(values: Mapping[str, Any], location: str) -> tuple[list[Corners], list[Any]]:
    """Return the boxes of a column `objects` and their classes, as `datasets` documents it."""
    if not values.get("objects"):
        return [], []
    boxes, classes = read_objects(values["objects"], location)
    layout = BoxLayout("sized", fractions=False)
    return [layout.corners(box) for box in boxes], list(map(read_label, classes or ()))


def _corners(values: Mapping[str, Any], location: str) -> list[Corners]:
    """Return the corners of a row's boxes, from one column or from four."""
    column = named_column(tuple(values), BOX_NAMES)
    sides = next((sides for sides in CORNER_NAMES if all(side in values for side in sides)), ())
    try:
        if column is not None and (boxes := read_boxes_cell(values[column])):
            return boxes
        four = [values[side] for side in sides]
        return [] if all(map(is_missing, four)) else [corners_of(four)]
    except CellError as error:
        raise InputError(f"{location}: {error}") from error


def _boxes(found: list[Corners], named: list[Any], number: int, location: str) -> list[Box]:
    """Return the boxes of a row with a label each."""
    if len(named) == 1:
        named = named * len(found)
    if found and len(named) != len(found):
        raise InputError(
            f"{location} has {count(len(found), 'box')} and {count(len(named), 'label')}; give "
            "one label, one a box, or a row a box"
        )
    return [Box(label, *box, number) for label, box in zip(named, found, strict=False)]


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
            rows = f"{images} with rows of different labels ({_shown_path(self.differing[0])})"
            notes.append(f"{rows}, so an image may have several labels")
        return notes

    def record(self, image: _Listed) -> Record | None:
        """Return an image's record; None, and a note in the findings, where it cannot be had."""
        name, findings = image.name, self.findings
        if not self._is_there(image, "image", name):
            return None
        try:
            labels = sorted({self.kind(label) for label in image.labels})
            boxes = [box._replace(label=self.kind(box.label)) for box in image.boxes]
        except CellError as error:
            findings.add(name, f"{image.location} {error}")
            return None
        mask = None
        if self.masks and image.mask is not None and self._is_there(image, "mask", image.mask):
            mask = PictureMask(name, image.mask, self.tree.file(image.mask))
        label = labels if self.multi_label else (labels or [None])[0]
        if not labels and not image.several:
            label = None
        content, found = self.tree.content(name), findings.boxes(name, image.origin, boxes)
        return Record(
            name,
            content,
            label,
            found,
            mask,
            origin=image.origin,
            row=image.number,
            group=image.group,
        )

    def _is_there(self, image: _Listed, what: str, path: str) -> bool:
        """Return whether a file is there; note it, and why if that can be told, where it is not."""
        if path in self.tree.files:
            return True
        near, why = self._near.get(path.lower()), ""
        if _URL.match(path):
            why = "; it is a web address: download the images and list their paths"
        elif _DRIVE.match(path):
            why = "; it is a path of a Windows drive: write it from the table's folder"
        elif path.startswith(("/", "../")):
            why = f"; it lies outside of {self.tree.path}: give a folder that holds both"
        elif near:
            why = f"; {_shown_path(near)} is there"
        self.findings.add(
            image.name, f"{image.location}: its {what} {_shown_path(path)} is missing{why}"
        )
        return False

    @cached_property
    def _near(self) -> dict[str, str]:
        """Images by their names in lower case, with and without suffix."""
        near = {name.lower(): name for name in self.tree.names if is_image(name)}
        return {name.rpartition(".")[0]: file for name, file in near.items()} | near


def _shown_path(path: str) -> str:
    """Return a path as a message names it."""
    return printable(path if len(path) <= _LONGEST_PATH else f"{path[:_LONGEST_PATH]}...")
