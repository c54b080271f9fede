"""Which images of a data set become bags, of which classes, splits and patients."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from loss_attention.bags.labels import OF_BAGS, read_csv, read_labels, usual_columns
from loss_attention.bags.tiles import Objects
from loss_attention.bags.writing import image_names
from loss_attention.data.division import SPLITS
from loss_attention.data.groups import shared_groups, with_groups
from loss_attention.data.loading import MADE, open_source, understood
from loss_attention.data.records import (
    Part,
    Record,
    Source,
    class_name,
    labels_of,
    refuse,
    unlabelled,
)
from loss_attention.errors import InputError, guarded, printable, quoted

LABELS_FILE = "labels.csv"


class TiledImage(NamedTuple):
    """An image and the bag that it becomes.

    Attributes:
        bag: the name of the bag and of its file, without the ending.
        record: the image.
        part: the split that it is in.
        labels: its classes, by number.
    """

    bag: str
    record: Record
    part: Part
    labels: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Of its file; 0 where it has none of its own."""
        content = self.record.content
        if not isinstance(content, Path):
            return 0
        with guarded(printable(self.record.name)):
            return content.stat().st_size


@dataclass(frozen=True)
class ImageBags:
    """Images that become bags.

    Attributes:
        where: what the data is called.
        folder: that it lies in; None: in none.
        images: all of them, the training split's first.
        class_names: of the K classes.
        values: what labels of records hold, for each class.
        several: an image may have several classes.
        divided: the data has splits.
        grouped: images have groups.
        notes: what was left out, a line each.
    """

    where: str
    folder: Path | None
    images: tuple[TiledImage, ...]
    class_names: tuple[str, ...]
    values: tuple[Any, ...]
    several: bool
    divided: bool
    grouped: bool
    notes: tuple[str, ...]

    def marked(self, objects: Objects) -> list[bool]:
        """Return whether something says where the objects of each image are.

        Raises:
            InputError: nothing of the kind that is asked for says so of any image.
        """
        found = [
            (one.record.mask is not None and objects in ("auto", "masks"))
            or (bool(one.record.boxes) and objects in ("auto", "boxes"))
            for one in self.images
        ]
        if objects in ("masks", "boxes") and not any(found):
            raise InputError(f"{self.where} has no {objects}: leave `objects` out")
        return found


def images_to_tile(data: str, *, group: str | None = None, skip_broken: bool = False) -> ImageBags:
    """Return the images of a data set that become bags: of all splits that have labels.

    Args:
        data: as `train --data` takes it, but for what is made here.
        group: what says which images belong together; see `load_splits`.
        skip_broken: go on without the images that something is wrong with.

    Raises:
        InputError: nothing usable there, or one class only.
    """
    if data in MADE:
        raise InputError(f"{data} is generated here, in memory: name images that lie somewhere")
    source = open_source(data, masks=True, group=group)
    if not skip_broken:
        refuse(source.where, source.problems)
    if group is not None:
        source = with_groups(source, group)
        leak = next((one for one in shared_groups(source) if one.startswith("leak")), None)
        if leak is not None:
            raise InputError(f"{source.where}: {leak}: put each into one, or leave `group` out")
    parts, notes = _used_parts(source)
    named = {class_name(source, one): one for part in parts for one in _stored(source, part)}
    names = tuple(class_name(source, one) for one in _in_order(source, named.values()))
    number = {named[name]: place for place, name in enumerate(names)}
    records = [(record, part) for part in parts for record in part.records]
    bags = image_names([Path(record.name) for record, _ in records])
    images = []
    for bag, (record, part) in zip(bags, records, strict=True):
        labels = labels_of(source, record)
        if not (labels or source.multi_label):
            raise InputError(f"{source.where}: {printable(record.called)} has no label")
        images.append(TiledImage(bag, record, part, tuple(number[one] for one in labels)))
    if len(names) < 2:
        only = f", {quoted(names[0])}" if names else ""
        raise InputError(f"{source.where} has one class only{only}: a classifier needs two")
    return ImageBags(
        where=source.where,
        folder=path if (path := understood(data).path) is not None and path.is_dir() else None,
        images=tuple(images),
        class_names=names,
        values=tuple(named[name] for name in names),
        several=source.multi_label,
        divided=len(parts) > 1,
        grouped=group is not None,
        notes=(*source.notes, *notes),
    )


def _used_parts(source: Source) -> tuple[list[Part], list[str]]:
    """Return the splits that have labels and a known name, training first; and what is left."""
    used, notes = [], []
    several = len([part for part in source.parts if len(part)]) > 1
    for part in source.parts:
        if not len(part):
            continue
        if several and part.name.casefold() not in SPLITS:
            notes.append(
                f"split {printable(part.name)} left out: it is none of {', '.join(SPLITS)}"
            )
        elif unlabelled(record.label for record in part.records):
            notes.append(f"split {printable(part.name)} left out: it has no labels")
        else:
            used.append(part)
    if not used:
        raise InputError(f"{source.where} holds no images with labels")
    return sorted(used, key=lambda part: part.name != "train"), notes


def _stored(source: Source, part: Part) -> Iterator[Any]:
    for record in part.records:
        yield from labels_of(source, record)


def _in_order(source: Source, labels: Any) -> list[Any]:
    """Return labels in the order of their classes; of several kinds, as texts."""
    try:
        return sorted(labels)
    except TypeError:
        return sorted(labels, key=lambda one: class_name(source, one))


def labels_csv(images: ImageBags, left: frozenset[str] = frozenset()) -> str:
    """Return the CSV of the bags' labels, splits and patients.

    Args:
        images: that become bags.
        left: bags that are not there.
    """
    columns = ["bag", "label", *_optional(images), "image"]
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    for image in images.images:
        if image.bag not in left:
            row = _row(images, image) | {"image": printable(image.record.name)}
            table.writerow([row[name] for name in columns])
    return text.getvalue()


def _optional(images: ImageBags) -> list[str]:
    found = {"split": images.divided, "patient": images.grouped}
    return [name for name, there in found.items() if there]


def _row(images: ImageBags, image: TiledImage) -> dict[str, str]:
    """Return what the CSV says of a bag."""
    names = [images.class_names[number] for number in image.labels]
    return {
        "bag": image.bag,
        "label": json.dumps(names, ensure_ascii=False) if images.several else names[0],
        "split": SPLITS.get(image.part.name.casefold(), "train"),
        "patient": image.record.group,
    }


def check_labels_csv(images: ImageBags) -> None:
    """Read the CSV of the labels as `read_bags` will, and compare it with what is meant.

    Raises:
        InputError: a name that would be read as another, a patient in two splits, or one class.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / LABELS_FILE
        path.write_text(labels_csv(images), encoding="utf-8")
        rows = read_csv(path)
    for name in ("bag", "label", *_optional(images)):
        for image, value in zip(images.images, rows.column(name).to_pylist(), strict=True):
            _require_same(images, image, name, _row(images, image)[name], value)
    columns = usual_columns(rows.column_names, LABELS_FILE, kinds=OF_BAGS)
    said = read_labels(rows, columns, LABELS_FILE, one_hot=True)
    if said.faults:
        raise InputError(f"{images.where}: {said.faults[0]}")
    for image, row in zip(images.images, said.labels.tolist(), strict=True):
        of_row = [row] if isinstance(row, int) else [k for k, one in enumerate(row) if one]
        found = sorted(said.class_names[number] for number in of_row)
        meant = sorted(images.class_names[number] for number in image.labels)
        _require_same(images, image, "label", meant, found)


def _require_same(images: ImageBags, image: TiledImage, what: str, meant: Any, found: Any) -> None:
    if found is None or (found if isinstance(found, list) else str(found)) != meant:
        shown, other = (
            quoted("; ".join(one) if isinstance(one, list) else one) for one in (meant, found)
        )
        other = "no name" if found is None else other
        raise InputError(
            f"{images.where}: the {what} {shown} of {printable(image.record.name)} would be read "
            f"as {other} from a CSV: rename it"
        )
