"""From tables of the `datasets` library, one a split, to decoded splits.

All images are held in memory, 8 bits a channel: 50,000 of CIFAR-10 take 150 MB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from loss_attention.data.columns import class_names, image_column, is_list, label_column
from loss_attention.data.hub import quiet_datasets
from loss_attention.data.labels import read_labels, unlabelled
from loss_attention.data.sample import ImageSet, Splits, hold_out
from loss_attention.data.stacking import Encoded, Progress, stack_images
from loss_attention.errors import InputError

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing")
VALIDATION_NAMES = ("validation", "valid", "val", "dev")
HELD_OUT = 0.2
"""The part of the training split that is reported on where there is nothing else to report on."""

_BLOCK = 512  # rows read from disk at once


def decode_tables(
    tables: Mapping[str, Any],
    where: str,
    root: Path | None = None,
    *,
    in_channels: int,
    image_size: int | None,
    seed: int,
    progress: Progress | None = None,
) -> Splits:
    """Choose splits and columns, check every label and decode every image.

    Args:
        tables: a `datasets.Dataset` for each split.
        where: what the data is called, in errors and in `Splits.source`.
        root: the local folder that image paths are relative to.
        in_channels: 1 (grey) or 3 (colour).
        image_size: resize each image to this many pixels square; None: they are of one size.
        seed: divides a data set without a labelled test or validation split.
        progress: called with the number of decoded images and their total.

    Raises:
        InputError: no training split, no or several candidates for a column, labels outside the
            classes, one class only, unreadable images, or images of unequal sizes.
    """
    parts = _choose(tables, root, where)
    multi_label = is_list(parts[0].label_type)
    labels = read_labels(
        {part.name: part.labels() for part in parts},
        _declared_classes(parts, where),
        multi_label=multi_label,
        title=lambda split, row: next(part for part in parts if part.name == split).title(row),
        where=where,
    )
    images = stack_images(
        (image for part in parts for image in part.images()),
        sum(map(len, parts)),
        in_channels=in_channels,
        image_size=image_size,
        progress=progress,
    )
    pixels = images.split_with_sizes([len(part) for part in parts])
    sets = [
        ImageSet(own, labels.splits[part.name], labels.class_names, names=tuple(part.titles))
        for part, own in zip(parts, pixels, strict=True)
    ]
    if len(sets) == 2:
        return _described(sets[0], sets[1], where, _how_reported(parts[1].name))
    kept, held_out = hold_out(sets[0].labels, HELD_OUT, seed)
    if not len(held_out):
        raise InputError(f"{where} has no test split, and one image a class is too few to make one")
    how = f"no labelled test split, so {HELD_OUT:.0%} of {parts[0].name} held out by seed {seed}"
    return _described(sets[0].subset(kept), sets[0].subset(held_out), where, how)


def _choose(tables: Mapping[str, Any], root: Path | None, where: str) -> list[_Part]:
    """Return the training split and, if there is one with labels, the split to report on."""
    tables = {name: table for name, table in tables.items() if len(table)}
    if not tables:
        raise InputError(f"{where} holds no images")
    training = _training_split(tables, where)
    features = tables[training].features
    image, label = image_column(features, where), label_column(features, where)
    names = [training]
    if (reported := _reported_split(tables, image, label)) is not None:
        names.append(reported)
    return [_Part(name, tables[name], image, label, root, where) for name in names]


def _declared_classes(parts: list[_Part], where: str) -> tuple[str, ...] | None:
    declared = [class_names(part.label_type) for part in parts]
    if declared[0] != declared[-1]:
        names = " and ".join(part.name for part in parts)
        raise InputError(f"{where}: splits {names} declare different classes")
    return declared[0]


class _Part:
    """One split's rows of images and labels, read a block at a time."""

    def __init__(
        self, name: str, table: Any, image: str, label: str, root: Path | None, where: str
    ) -> None:
        self.name = name
        self.image = image
        self.label = label
        self.label_type = table.features[label]
        self.root = root
        self.failure = f"cannot read split {name} of {where}"
        with quiet_datasets(self.failure) as datasets:
            # Decoded here and not by `datasets`, so that a broken image can be named.
            self.table = table.select_columns([image, label]).cast_column(
                image, datasets.Image(decode=False)
            )
        self.titles: list[str] = []

    def __len__(self) -> int:
        return len(self.table)

    def labels(self) -> list[Any]:
        with quiet_datasets(self.failure):
            return list(self.table[self.label][:])

    def images(self) -> Iterator[Encoded]:
        """Yield every image as it is stored, and note what it is called."""
        for start in range(0, len(self), _BLOCK):
            with quiet_datasets(self.failure):
                stored = self.table[start : start + _BLOCK][self.image]
            for row, image in enumerate(stored, start):
                title = self._title(row, image)
                self.titles.append(title)
                yield Encoded(title, self._source(image))

    def title(self, row: int) -> str:
        """Return what people may call a row: its file, or its place."""
        with quiet_datasets(self.failure):
            return self._title(row, self.table[row][self.image])

    def _title(self, row: int, image: dict[str, Any] | None) -> str:
        path = image["path"] if image else None
        if not path:
            return f"{self.name}[{row}]"
        if self.root is not None and Path(path).is_relative_to(self.root):
            return Path(path).relative_to(self.root).as_posix()
        return str(path)

    def _source(self, image: dict[str, Any] | None) -> Path | bytes | None:
        if image is None or (image["bytes"] is None and not image["path"]):
            return None
        if image["bytes"] is not None:
            content: bytes = image["bytes"]
            return content
        return Path(image["path"]) if self.root is None else self.root / image["path"]


def _training_split(tables: Mapping[str, Any], where: str) -> str:
    found = _first_of(TRAIN_NAMES, tables)
    if found is not None:
        return found
    if len(tables) == 1:
        return next(iter(tables))
    raise InputError(f"{where} has no split named train among {', '.join(tables)}")


def _reported_split(tables: Mapping[str, Any], image: str, label: str) -> str | None:
    """Return the test split if it has labels, else the validation split if that has."""
    for names in (TEST_NAMES, VALIDATION_NAMES):
        found = _first_of(names, tables)
        if found is None or not {image, label} <= set(tables[found].features):
            continue
        if not unlabelled(tables[found][label]):  # stops at the first label
            return found
    return None


def _first_of(names: tuple[str, ...], tables: Mapping[str, Any]) -> str | None:
    return next((split for split in tables if split.lower() in names), None)


def _how_reported(split: str) -> str:
    if split.lower() in TEST_NAMES:
        return ""
    return f"no labelled test split, so split {split} is the test set"


def _described(train: ImageSet, test: ImageSet, where: str, how: str) -> Splits:
    counts = f"{len(train):,} training and {len(test):,} test images"
    return Splits(train, test, f"{where}: {counts}" + (f" ({how})" if how else ""))
