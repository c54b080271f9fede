"""Images listed in a CSV or JSON-lines file, with their labels and boxes.

Columns, by any of their usual names: the image (a path from the file's folder); its label, or
several separated by `;` or `|`; a box, as `x0 y0 x1 y1` in one column or in four, or several
separated by `;`; and if wanted `box_label`, `mask` and `split`. An image may have a row, or a row a
box. Boxes are in pixels of the upright image, x1 and y1 exclusive. In JSON lines, labels and boxes
may be lists, and `objects` with boxes x, y, width, height is read as `datasets` documents it.
Without a `split` column the file's name (`train.csv`) says which split it is.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from loss_attention.data.columns import IMAGE_NAMES, LABEL_NAMES
from loss_attention.data.decoding import IMAGE_SUFFIXES
from loss_attention.data.masks import PictureMask
from loss_attention.data.objects import BoxLayout, read_objects
from loss_attention.data.records import Box, Findings, Part, Record, Source, count
from loss_attention.data.splits import SPLITS, by_split, split_of
from loss_attention.data.tree import Tree
from loss_attention.errors import InputError

_IMAGES = (*IMAGE_NAMES, "file_name", "filename", "file", "path", "image_path")
_BOXES = ("box", "boxes", "bbox", "bboxes")
_BOX_LABELS = ("box_label", "box_labels")
_CORNERS = (("x0", "y0", "x1", "y1"), ("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"))
Corners = tuple[float, float, float, float]
_SEVERAL = re.compile(r"[;|]")
_WHOLE = re.compile(r"-?(0|[1-9]\d*)")


def listings(tree: Tree) -> list[str]:
    """Return the tables of a tree that list images: at its top, or beside images as metadata."""
    found = []
    for name in tree.names:
        path = PurePosixPath(name)
        if path.suffix.lower() not in (".csv", ".jsonl"):
            continue
        listed = len(path.parts) == 1 or path.stem == "metadata"
        if listed and _column(_header(tree, name), _IMAGES) is not None:
            found.append(name)
    return found


def read_listed(tree: Tree, files: list[str], where: str, *, masks: bool) -> Source:
    """Return the images of the tables that `listings` found.

    Raises:
        InputError: a row that cannot be understood, or no column of labels.
    """
    findings, images = Findings(), dict[tuple[str, str], _Listed]()
    for file in files:
        for row in _Table(tree, file, where).rows():
            images.setdefault((row.split, row.image), _Listed(row.image, row.origin)).take(row)
    multi_label = any(image.several or len(set(image.labels)) > 1 for image in images.values())
    numbers = all(
        _WHOLE.fullmatch(str(label)) for image in images.values() for label in image.labels
    )
    known = set(tree.names)
    parts = []
    splits = by_split(((image, split) for (split, _), image in images.items()), _name, where)
    for split, own in splits.items():
        records = []
        for image in own:
            if image.name not in known:
                findings.add(image.name, f"{image.place}: its image {image.name} is missing")
            elif not image.labels and not image.several:
                findings.add(image.name, f"{image.place}: {image.name} has no label")
            else:
                records.append(
                    image.record(
                        tree, findings, multi_label=multi_label, numbers=numbers, masks=masks
                    )
                )
        parts.append(Part(split, records))
    pictures = {name for name in known if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES}
    for image in images.values():
        pictures -= {image.name, image.mask}
    beside = len(pictures)
    notes: tuple[str, ...] = ()
    if beside:
        said = f"{count(beside, 'image')} beside {files[0]} not listed there"
        notes = (f"{said} ({min(pictures)})",)
    return findings.finish(Source(where, tuple(parts), multi_label=multi_label, notes=notes))


@dataclass(frozen=True)
class _Row:
    """A row of a table: an image or one of its boxes.

    `several` says that the labels came as a list, which may be empty.
    """

    image: str
    split: str
    origin: str
    number: int
    labels: list[Any]
    several: bool
    boxes: list[Box]
    mask: str | None


@dataclass
class _Listed:
    """An image as its rows tell it."""

    name: str
    origin: str
    labels: list[Any] = field(default_factory=list)
    several: bool = False
    boxes: list[Box] = field(default_factory=list)
    mask: str | None = None
    number: int = 0

    @property
    def place(self) -> str:
        """The image's first row."""
        return f"{self.origin} {self.number}"

    def take(self, row: _Row) -> None:
        """Add what a row says."""
        self.labels += row.labels
        self.several |= row.several
        self.boxes += row.boxes
        self.mask = row.mask or self.mask
        self.number = self.number or row.number

    def record(
        self, tree: Tree, findings: Findings, *, multi_label: bool, numbers: bool, masks: bool
    ) -> Record:
        """Return the image's record; labels are numbers where all of the table's are."""
        value = int if numbers else str
        labels = sorted({value(label) for label in self.labels})
        boxes = findings.boxes(self.name, self.origin, self.boxes)
        mask = None
        if masks and self.mask is not None:
            if self.mask not in tree.names:
                findings.add(self.name, f"{self.place}: its mask {self.mask} is missing")
            else:
                mask = PictureMask(self.name, self.mask, tree.file(self.mask))
        return Record(
            self.name,
            tree.content(self.name),
            labels if multi_label else labels[0],
            tuple(box._replace(label=value(box.label)) for box in boxes),
            mask,
            origin=self.origin,
            row=self.number,
        )


class _Table:
    """One file, a row at a time."""

    def __init__(self, tree: Tree, file: str, where: str) -> None:
        self.tree, self.file, self.where = tree, file, where
        self.folder = posixpath.dirname(file)
        self.origin = f"{file} row"
        header = _header(tree, file)
        self.image = _column(header, _IMAGES)
        self.label = _column(header, LABEL_NAMES)
        self.objects = _column(header, ("objects",))
        if self.label is None and self.objects is None:
            raise InputError(f"{where}: {file} has no label column among {', '.join(header)}")
        self.box = _column(header, _BOXES)
        lower = {name.lower(): name for name in header}
        self.corners = next(
            ([lower[side] for side in sides] for sides in _CORNERS if set(sides) <= set(lower)),
            None,
        )
        self.box_label = _column(header, _BOX_LABELS)
        self.mask = _column(header, ("mask",))
        self.split = _column(header, ("split",))

    def rows(self) -> Iterator[_Row]:
        """Yield the rows, numbered like the lines of a spreadsheet: a CSV's header is row 1."""
        for number, values in _values(self.tree, self.file, self.where):
            place = f"{self.where}: {self.origin} {number}"
            image = values.get(self.image) if self.image else None
            if not isinstance(image, str) or not image.strip():
                raise InputError(f"{place} names no image")
            labels, several = _labels(values.get(self.label) if self.label else None)
            objects, classes = self._objects(values, place)
            if self.label is None:
                labels, several = classes, True
            mask = values.get(self.mask) if self.mask else None
            yield _Row(
                self._path(image),
                self._split(values, place),
                self.origin,
                number,
                labels,
                several,
                [
                    *self._boxes(values, labels, number, place),
                    *_boxes(objects, classes or labels, number, place),
                ],
                self._path(mask) if isinstance(mask, str) and mask.strip() else None,
            )

    def _path(self, text: str) -> str:
        return posixpath.normpath(posixpath.join(self.folder, text.strip().replace("\\", "/")))

    def _split(self, values: Mapping[str, Any], place: str) -> str:
        if self.split is None:
            return split_of(PurePosixPath(self.file))
        name = str(values.get(self.split) or "").strip().lower()
        if name not in SPLITS:
            raise InputError(f"{place}: split {name!r} is not train, validation or test")
        return SPLITS[name]

    def _boxes(
        self, values: Mapping[str, Any], labels: list[Any], number: int, place: str
    ) -> list[Box]:
        named = _labels(values.get(self.box_label))[0] if self.box_label else labels
        return _boxes(self._corners(values, place), named, number, place)

    def _objects(self, values: Mapping[str, Any], place: str) -> tuple[list[Corners], list[Any]]:
        """Return the boxes of a column `objects` and their classes, as `datasets` documents it."""
        if self.objects is None or not values.get(self.objects):
            return [], []
        boxes, classes = read_objects(values[self.objects], place)
        layout = BoxLayout("sized", shares=False)
        return [layout.corners(box) for box in boxes], classes or []

    def _corners(self, values: Mapping[str, Any], place: str) -> list[Corners]:
        """Return the corners of a row's boxes, from one column or from four."""
        groups: Sequence[Any] = []
        if self.box is not None and (value := values.get(self.box)) not in (None, "", []):
            if isinstance(value, str):
                groups = [part.replace(",", " ").split() for part in _SEVERAL.split(value)]
            else:
                groups = [value] if not isinstance(value[0], list) else value
        elif self.corners is not None:
            four = [values.get(side) for side in self.corners]
            groups = [] if all(side in (None, "") for side in four) else [four]
        try:
            corners = [tuple(map(float, group)) for group in groups]
            return [(x0, y0, x1, y1) for x0, y0, x1, y1 in corners]
        except (TypeError, ValueError) as error:
            raise InputError(f"{place}: a box is four numbers, x0 y0 x1 y1") from error


def _boxes(found: list[Corners], named: list[Any], number: int, place: str) -> list[Box]:
    """Return the boxes of a row with a label each."""
    if len(named) == 1:
        named = named * len(found)
    if found and len(named) != len(found):
        raise InputError(
            f"{place} has {count(len(found), 'box')} and {count(len(named), 'label')}; give "
            "one label, one a box, or a row a box"
        )
    return [Box(label, *box, number) for label, box in zip(named, found, strict=False)]


def _header(tree: Tree, file: str) -> list[str]:
    """Return a table's columns; of JSON lines, those of the first."""
    text = tree.text(file)
    if file.lower().endswith(".csv"):
        return [name.strip() for name in next(csv.reader(io.StringIO(text)), [])]
    try:
        first = json.loads(next(iter(text.splitlines()), ""))
    except ValueError:
        return []
    return list(first) if isinstance(first, dict) else []


def _values(tree: Tree, file: str, where: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    text = tree.text(file)
    if file.lower().endswith(".csv"):
        header = _header(tree, file)
        reader = csv.reader(io.StringIO(text))
        next(reader, None)
        for number, cells in enumerate(reader, start=2):
            if len(cells) > len(header):
                raise InputError(
                    f"{where}: {file} row {number} has {len(cells)} cells, the header "
                    f"{len(header)}: put those with commas into quotes"
                )
            if cells:
                yield number, dict(zip(header, cells, strict=False))
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            raise InputError(f"{where}: {file} row {number} is no JSON: {error}") from error
        if not isinstance(values, dict):
            raise InputError(f"{where}: {file} row {number} is no JSON object")
        yield number, values


def _labels(value: Any) -> tuple[list[Any], bool]:
    """Return the labels that a cell holds, and whether it holds them as a list."""
    if isinstance(value, list):
        return value, True
    if isinstance(value, str):
        return [label.strip() for label in _SEVERAL.split(value) if label.strip()], False
    return ([] if value is None else [value]), False


def _column(header: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the column of the first of some names, in upper or lower case."""
    lower = {name.lower(): name for name in header}
    return next((lower[name] for name in names if name in lower), None)


def _name(image: _Listed) -> str:
    return image.name
