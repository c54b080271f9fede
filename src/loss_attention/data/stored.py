"""From tables of the `datasets` library, one a split, to a source of records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loss_attention.data.columns import (
    class_names,
    has_label_column,
    image_column,
    is_list,
    label_column,
)
from loss_attention.data.decoding import UnreadableImage, read_size
from loss_attention.data.hub import quiet_datasets
from loss_attention.data.labels import unlabelled
from loss_attention.data.objects import BoxLayout, Numbers, ObjectColumns, find_objects, layout_of
from loss_attention.data.records import Box, Content, Findings, Part, Record, Source
from loss_attention.data.splits import reported_split, training_split
from loss_attention.errors import InputError

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
        The training split and, if there is one with labels, the split to report on.

    Raises:
        InputError: no training split, or no or several candidates for a column.
    """
    tables = {name: table for name, table in tables.items() if len(table)}
    training = training_split(tables, where)
    features = tables[training].features
    columns = _columns(features, where)
    chosen = [_Table(training, tables[training], columns, root, where)]
    opened: dict[str, _Table] = {}

    def reportable(split: str) -> bool:
        table = tables[split]
        if not set(columns.all()) <= set(table.features):
            return False
        opened[split] = _Table(split, table, columns, root, where)
        return not unlabelled(opened[split].labels)

    reported = reported_split(tables, reportable)
    if reported is not None:
        chosen.append(opened[reported])
    declared = [columns.declared(tables[table.name].features, where) for table in chosen]
    if declared[0] != declared[-1]:
        names = " and ".join(table.name for table in chosen)
        raise InputError(f"{where}: splits {names} declare different classes")
    layout = next(filter(None, (table.layout() for table in chosen)), None)
    notes = () if layout is None else (f"boxes read as {layout}",)
    findings = Findings()
    parts = tuple(table.part(layout, findings) for table in chosen)
    several = columns.label is None or is_list(features[columns.label])
    return findings.finish(Source(where, parts, declared[0], several, notes=notes))


def _columns(features: Mapping[str, Any], where: str) -> _Columns:
    objects = find_objects(features)
    of_objects = objects is not None and objects.classes is not None
    by_objects = of_objects and not has_label_column(features)
    label = None if by_objects else label_column(features, where)
    return _Columns(image_column(features, where), label, objects)


class _Table:
    """One split's rows of images, labels and boxes; images are looked up a block at a time."""

    def __init__(
        self, name: str, table: Any, columns: _Columns, root: Path | None, where: str
    ) -> None:
        self.name = name
        self.image = columns.image
        self.objects = columns.objects
        self.root = root
        self.origin = f"{where}: {name} row"
        self.failure = f"cannot read split {name} of {where}"
        with quiet_datasets(self.failure) as datasets:
            # Decoded here and not by `datasets`, so that a broken image can be named.
            self.table = table.select_columns(columns.all()).cast_column(
                self.image, datasets.Image(decode=False)
            )
            given = None if columns.label is None else list(self.table[columns.label][:])
        self.boxes, self.classes = self._objects(given)
        self.labels: Sequence[Any] = given if given is not None else self._labels()

    def layout(self) -> BoxLayout | None:
        """Tell what the numbers of boxes are; None where there are none."""
        return layout_of(self.boxes, self._size) if any(self.boxes) else None

    def part(self, layout: BoxLayout | None, findings: Findings) -> Part:
        """Return the rows as records."""
        with quiet_datasets(self.failure):
            titles = [self._title(row, path) for row, path in enumerate(self._paths())]
        records = [
            Record(
                title,
                row,
                label,
                self._boxes(row, title, layout, findings),
                origin=f"{self.name} row",
                relative=layout is not None and layout.shares,
            )
            for row, (title, label) in enumerate(zip(titles, self.labels, strict=True))
        ]
        return Part(self.name, records, self._contents)

    def _objects(self, given: Sequence[Any] | None) -> tuple[list[list[Numbers]], list[list[Any]]]:
        """Return the boxes of each row and their classes."""
        if self.objects is None:
            return [], []
        with quiet_datasets(self.failure):
            rows = list(self.table[self.objects.column][:])
        boxes, classes = [], []
        for row, value in enumerate(rows):
            place = f"{self.origin} {row}"
            found, named = self.objects.read(value, place)
            if named is None:
                assert given is not None
                named = _of_the_image(given[row], len(found), place)
            boxes.append(found)
            classes.append(named)
        return boxes, classes

    def _labels(self) -> list[Any]:
        return [sorted(set(classes)) for classes in self.classes]

    def _boxes(
        self, row: int, title: str, layout: BoxLayout | None, findings: Findings
    ) -> tuple[Box, ...]:
        if layout is None:
            return ()
        both = zip(self.boxes[row], self.classes[row], strict=True)
        boxes = (Box(label, *layout.corners(box), row) for box, label in both)
        return findings.boxes(title, f"{self.name} row", boxes)

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
        return Path(image["path"]) if self.root is None else self.root / image["path"]


def _of_the_image(label: Any, boxes: int, place: str) -> list[Any]:
    """Return the class of each box of an image, from the image's own."""
    labels = label if isinstance(label, list) else [label]
    if len(labels) == 1:
        return labels * boxes
    if boxes and len(labels) != boxes:
        raise InputError(
            f"{place} has {boxes} boxes and {len(labels)} labels; give one label a box"
        )
    return labels[:boxes]
