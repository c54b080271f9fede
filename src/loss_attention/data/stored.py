"""From tables of the `datasets` library, one a split, to a source of records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loss_attention.data.cells import (
    CellError,
    Labels,
    NoLabelError,
    read_label,
    read_labels_cell,
)
from loss_attention.data.columns import (
    class_names,
    has_label_column,
    image_column,
    is_list,
    label_column,
)
from loss_attention.data.decoding import UnreadableImage, read_size
from loss_attention.data.hub import quiet_datasets
from loss_attention.data.labels import LabelKind, unlabelled
from loss_attention.data.objects import BoxLayout, Numbers, ObjectColumns, find_objects, layout_of
from loss_attention.data.records import Box, Content, Findings, Part, Record, Source
from loss_attention.data.splits import find_training_split, reported_split
from loss_attention.errors import InputError, guarded, printable, quoted

_BLOCK = 512  # rows looked through at once


@dataclass(frozen=True)
class _Columns:
    """Where tables have what; without `label`, the labels are the classes of the objects."""

    image: str
    label: str | None
    objects: ObjectColumns | None

    def all(self) -> list[str]:
        """Return the columns that are read."""
        boxes = None if self.objects is None else self.objects.column
        return [name for name in (self.image, self.label, boxes) if name is not None]

    def declared(self, features: Mapping[str, Any], where: str) -> tuple[str, ...] | None:
        """Return the classes that a table declares.

        Raises:
            InputError: its labels and its boxes declare different ones.
        """
        objects = None if self.objects is None else self.objects.names
        if self.label is None:
            return objects
        names = class_names(features[self.label])
        if self.objects is not None and self.objects.classes is not None and names != objects:
            raise InputError(
                f"{where}: columns {self.label} and {self.objects.column} declare different "
                "classes; leave one of them out"
            )
        return names


def source_of_tables(tables: Mapping[str, Any], where: str, root: Path | None = None) -> Source:
    """Choose splits and columns of tables.

    Args:
        tables: a `datasets.Dataset` for each split.
        where: what the data is called.
        root: the local folder that image paths are relative to.

    Returns:
        The training split and, if there is one with labels, the split to report on; without a
        training split, all that have labels.

    Raises:
        InputError: no rows, or no or several candidates for a column.
    """
    tables = {name: table for name, table in tables.items() if len(table)}
    if not tables:
        raise InputError(f"{where} holds no images")
    training = find_training_split(tables)
    first = training or next(iter(tables))
    features = tables[first].features
    columns = _columns(features, where)
    chosen = [_Table(first, tables[first], columns, root, where)]
    opened: dict[str, _Table] = {}

    def reportable(split: str) -> bool:
        table = tables[split]
        if not set(columns.all()) <= set(table.features):
            return False
        opened[split] = _Table(split, table, columns, root, where)
        return not unlabelled(opened[split].labels)

    if training is None:
        chosen += [opened[name] for name in tables if name != first and reportable(name)]
    elif (reported := reported_split(tables, reportable)) is not None:
        chosen.append(opened[reported])
    declared = [columns.declared(tables[table.name].features, where) for table in chosen]
    if len(set(declared)) > 1:
        names = " and ".join(table.name for table in chosen)
        raise InputError(f"{where}: splits {names} declare different classes")
    layout = next(filter(None, (table.layout() for table in chosen)), None)
    notes = () if layout is None else (f"boxes read as {layout}",)
    kind = None
    if declared[0] is None:
        kind = LabelKind.of(label for table in chosen for label in table.values())
    several = any(table.several for table in chosen)
    findings = Findings()
    parts = tuple(table.part(layout, findings, kind, several=several) for table in chosen)
    return findings.finish(Source(where, parts, declared[0], several, notes=notes))


def _columns(features: Mapping[str, Any], where: str) -> _Columns:
    objects = find_objects(features)
    of_objects = objects is not None and objects.classes is not None
    by_objects = of_objects and not has_label_column(features)
    label = None if by_objects else label_column(features, where)
    return _Columns(image_column(features, where), label, objects)


class _Table:
    """One split's rows of images, labels and boxes; images are looked up a block at a time.

    What is wrong with single rows is in `faults`, to be said of those that are used.
    """

    def __init__(
        self, name: str, table: Any, columns: _Columns, root: Path | None, where: str
    ) -> None:
        self.name = name
        self.image = columns.image
        self.objects = columns.objects
        self.root = root
        self.failure = f"cannot read split {name} of {where}"
        with quiet_datasets(self.failure) as datasets:
            # Decoded here and not by `datasets`, so that a broken image can be named.
            self.table = table.select_columns(columns.all()).cast_column(
                self.image, datasets.Image(decode=False)
            )
            given = None if columns.label is None else list(self.table[columns.label][:])
            self.titles = [self._title(row, path) for row, path in enumerate(self._paths())]
        self.faults: dict[int, str] = {}
        self.several = columns.label is None or is_list(table.features[columns.label])
        self.labels: list[list[Any] | None] = []
        if columns.label is not None and given is not None:
            names = class_names(table.features[columns.label])
            for row, value in enumerate(given):
                self.labels.append(self._labels(row, value, names))
        self.boxes: list[list[Numbers]] = []
        self.classes: list[list[Any]] = []
        if self.objects is not None:
            self._read_objects(self.objects)
        if columns.label is None:
            self.labels = [*self.classes]

    def values(self) -> Iterator[Any]:
        """Yield every label, of images and of boxes."""
        for labels in (*self.labels, *self.classes):
            yield from labels or ()

    def layout(self) -> BoxLayout | None:
        """Tell what the numbers of boxes are; None where there are none."""
        return layout_of(self.boxes, self._size) if any(self.boxes) else None

    def part(
        self,
        layout: BoxLayout | None,
        findings: Findings,
        kind: LabelKind | None,
        *,
        several: bool,
    ) -> Part:
        """Return the rows as records; note those that something is wrong with.

        Args:
            layout: what the numbers of boxes are.
            findings: where to note it.
            kind: what the labels are; None: indices of declared classes.
            several: images may have several.
        """
        records = []
        for row, title in enumerate(self.titles):
            try:
                if row in self.faults:
                    raise InputError(self.faults[row])
                labels = self._of_kind(self.labels[row] or (), kind)
                classes = self._of_kind(self.classes[row], kind) if self.classes else []
            except CellError as error:
                findings.add(f"{self.name}[{row}]", f"{self._place(row)} {error}")
                continue
            except InputError as error:
                findings.add(f"{self.name}[{row}]", str(error))
                continue
            boxes: tuple[Box, ...] = ()
            if layout is not None:
                corners = map(layout.corners, self.boxes[row])
                both = zip(classes, corners, strict=True)
                found = (Box(label, *box, row) for label, box in both)
                boxes = findings.boxes(title, f"{self.name} row", found)
            records.append(
                Record(
                    title,
                    row,
                    sorted(set(labels)) if several else labels[0],
                    boxes,
                    origin=f"{self.name} row",
                    relative=layout is not None and layout.shares,
                )
            )
        return Part(self.name, records, self._contents)

    @staticmethod
    def _of_kind(labels: Sequence[Any], kind: LabelKind | None) -> list[Any]:
        return list(labels) if kind is None else [kind(label) for label in labels]

    def _place(self, row: int) -> str:
        """What an error calls a row: with the image's path, where it has one."""
        title = printable(self.titles[row])
        return title if title == f"{self.name}[{row}]" else f"{title} ({self.name} row {row})"

    def _labels(self, row: int, value: Any, names: tuple[str, ...] | None) -> list[Any] | None:
        """Return the labels of a row; None, and its fault, where there are none."""
        try:
            labels, several = read_labels_cell(value) if names is None else _declared(value, names)
        except CellError as error:
            self.faults[row] = f"{self._place(row)} {error}"
            return None if isinstance(error, NoLabelError) else []
        self.several |= several or len(labels) > 1
        return labels

    def _read_objects(self, objects: ObjectColumns) -> None:
        """Read the boxes of each row and their classes."""
        with quiet_datasets(self.failure):
            rows = list(self.table[objects.column][:])
        for row, value in enumerate(rows):
            place = f"{self.name} row {row}"
            boxes: list[Numbers] = []
            classes: list[Any] = []
            try:
                with guarded(place):
                    boxes, named = objects.read(value, place)
                    if named is None:
                        classes = _of_the_image(self.labels[row] or [], len(boxes), place)
                    elif objects.names is None:
                        classes = [read_label(one) for one in named]
                    else:
                        classes = [_declared(one, objects.names).labels[0] for one in named]
            except CellError as error:
                self.faults.setdefault(row, f"{place} {error}")
            except InputError as error:
                self.faults.setdefault(row, str(error))
            whole = len(boxes) == len(classes)
            self.boxes.append(boxes if whole else [])
            self.classes.append(classes if whole else [])

    def _size(self, row: int) -> tuple[int, int] | None:
        """Return an image's width and height; None where it cannot be read."""
        (content,) = self._contents([row])
        try:
            return read_size(content, "") if isinstance(content, (Path, bytes)) else None
        except UnreadableImage:
            return None

    def _paths(self) -> Iterator[str | None]:
        """Yield the path that each image is stored with, without reading the images."""
        import pyarrow.compute as pc

        for block in self.table.with_format("arrow").iter(_BLOCK):
            yield from pc.struct_field(block[self.image], "path").to_pylist()

    def _contents(self, rows: list[int]) -> list[Content]:
        with quiet_datasets(self.failure):
            return [self._content(image) for image in self.table[rows][self.image]]

    def _title(self, row: int, path: str | None) -> str:
        if not path:
            return f"{self.name}[{row}]"
        if self.root is not None and Path(path).is_relative_to(self.root):
            return Path(path).relative_to(self.root).as_posix()
        return str(path)

    def _content(self, image: dict[str, Any] | None) -> Content:
        if image is None or (image["bytes"] is None and not image["path"]):
            return None
        if image["bytes"] is not None:
            content: bytes = image["bytes"]
            return content
        path = str(image["path"])
        if self.root is None:
            return Path(path)
        found = self.root / path
        if "\\" in path and not found.exists():  # written on Windows
            return self.root / path.replace("\\", "/")
        return found


def _declared(value: Any, names: Sequence[str]) -> Labels:
    """Return the indices of declared classes in a cell; -1 is how `datasets` stores none."""
    labels = value if isinstance(value, list) else [value]
    if any(label is None or label == -1 for label in labels):
        raise NoLabelError("has no label" if labels == [None] else f"has label {quoted(value)}")
    for label in labels:
        if label not in range(len(names)):
            last = len(names) - 1
            raise CellError(
                f"has label {quoted(label)}, outside the {len(names)} classes, 0 to {last}"
            )
    return Labels(labels, isinstance(value, list))


def _of_the_image(labels: list[Any], boxes: int, place: str) -> list[Any]:
    """Return the class of each box of an image, from the image's own."""
    if len(labels) == 1:
        return labels * boxes
    if boxes and len(labels) != boxes:
        raise InputError(
            f"{place} has {boxes} boxes and {len(labels)} labels; give one label a box"
        )
    return labels[:boxes]
