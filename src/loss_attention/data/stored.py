"""From tables of the `datasets` library, one a split, to a source of records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from loss_attention.data.columns import class_names, image_column, is_list, label_column
from loss_attention.data.hub import quiet_datasets
from loss_attention.data.labels import unlabelled
from loss_attention.data.records import Content, Part, Record, Source
from loss_attention.data.splits import reported_split, training_split
from loss_attention.errors import InputError

_BLOCK = 512  # rows looked through at once


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
    image, label = image_column(features, where), label_column(features, where)

    def reportable(split: str) -> bool:
        table = tables[split]
        return {image, label} <= set(table.features) and not unlabelled(table[label])

    reported = reported_split(tables, reportable)
    names = [training] if reported is None else [training, reported]
    declared = [class_names(tables[name].features[label]) for name in names]
    if declared[0] != declared[-1]:
        raise InputError(f"{where}: splits {' and '.join(names)} declare different classes")
    parts = [_Table(name, tables[name], image, label, root, where).part() for name in names]
    return Source(where, tuple(parts), declared[0], is_list(features[label]))


class _Table:
    """One split's rows of images and labels; images are looked up a block at a time."""

    def __init__(
        self, name: str, table: Any, image: str, label: str, root: Path | None, where: str
    ) -> None:
        self.name = name
        self.image = image
        self.label = label
        self.root = root
        self.failure = f"cannot read split {name} of {where}"
        with quiet_datasets(self.failure) as datasets:
            # Decoded here and not by `datasets`, so that a broken image can be named.
            self.table = table.select_columns([image, label]).cast_column(
                image, datasets.Image(decode=False)
            )

    def part(self) -> Part:
        with quiet_datasets(self.failure):
            labels = list(self.table[self.label][:])
            rows = zip(self._paths(), labels, strict=True)
            records = [
                Record(self._title(row, path), row, label) for row, (path, label) in enumerate(rows)
            ]
        return Part(self.name, records, self._contents)

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
