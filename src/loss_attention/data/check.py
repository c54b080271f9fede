"""What is in a data set and what is wrong with it, without training on it; a picture of some."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice, zip_longest

import numpy as np
from PIL import Image, ImageDraw

from loss_attention.data.assembling import chosen, foreign_classes
from loss_attention.data.decoding import UnreadableImage, fitted
from loss_attention.data.groups import group_sizes, shared_groups, with_groups
from loss_attention.data.loading import KNOWN, MADE, Known, open_source, understood
from loss_attention.data.pixels import DEEP
from loss_attention.data.placement import placement_of
from loss_attention.data.records import (
    Encoded,
    Part,
    Record,
    Source,
    class_name,
    count,
    few,
    labels_of,
    outside,
)
from loss_attention.data.stacking import Progress, read_encoded
from loss_attention.errors import InputError, printable

_BLOCK = 512  # images looked up at once
_MOST_CLASSES = 40  # of more, only the smallest and the largest are listed
_DARK = 64  # of 255, the brightest level of 14-bit numbers saved with 16 bits; of 12-bit ones 16


@dataclass
class Checked:
    """The result of a check.

    Attributes:
        facts: a line each about what there is.
        faults: what training refuses, or leaves out where that is asked for.
        doubts: what training does not mind and people may: duplicates, leaks, oddities.
    """

    facts: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Look:
    """What one image is like: its size and a hash of its pixels, or why it cannot be read.

    `brightest` is its highest level where the file has more than 8 bits a pixel.
    """

    record: Record
    size: tuple[int, int] = (0, 0)
    pixels: bytes = b""
    brightest: int | None = None
    broken: str = ""


def check(
    source: Source, progress: Progress | None = None, *, known: Known | None = None
) -> Checked:
    """Decode every image of a source and look for all that is wrong.

    Args:
        source: with all of its splits.
        progress: called with the number of images looked at and their total.
        known: the published set that it is meant to be.
    """
    result = Checked(
        facts=[note for note in source.notes if note not in source.unread],
        faults=[problem.what for problem in source.problems],
        doubts=[*source.unread],
    )
    total, done = sum(map(len, source.parts)), 0
    looks: dict[str, list[Look]] = {part.name: [] for part in source.parts}
    for part in source.parts:
        for look in _looks(part):
            looks[part.name].append(look)
            done += 1
            if progress is not None:
                progress(done, total)
    for part in source.parts:
        _count(source, part, looks[part.name], result)
    result.faults += [foreign.what for foreign in foreign_classes(source)]
    for part in source.parts:
        _duplicates(part.name, looks[part.name], result)
        _dark(part.name, looks[part.name], result)
    _leaks(looks, result)
    result.doubts += shared_groups(source)
    try:
        used = chosen(source)
        if known is not None:
            result.doubts += known.verified(used).notes[len(used.notes) :]
    except InputError as error:
        result.faults.append(str(error))
    return result


def _looks(part: Part) -> Iterator[Look]:
    records = iter(part.records)
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        while block := list(islice(records, _BLOCK)):
            yield from pool.map(_look, block, part.encoded(block))


def _look(record: Record, encoded: Encoded) -> Look:
    try:
        image = read_encoded(encoded, in_channels=3)
        if record.mask is not None:
            record.mask(image.size)
    except UnreadableImage as error:
        return Look(record, broken=str(error))
    brightest = int(np.asarray(image).max()) if DEEP in image.info else None
    digest = hashlib.sha256(repr(image.size).encode())
    digest.update(image.tobytes())
    return Look(record, image.size, digest.digest(), brightest)


def _count(source: Source, part: Part, looks: Sequence[Look], result: Checked) -> None:
    """Note counts, classes, sizes, broken files and boxes of one split."""
    name = part.name
    counts = Counter(label for record in part.records for label in labels_of(source, record))
    named = {class_name(source, label): number for label, number in counts.items()}
    result.facts.append(f"{name}: {count(len(part), 'image')} of {count(len(named), 'class')}")
    if named:
        result.facts.append(f"{name}: {_class_counts(named)}")
    if any(record.group for record in part.records):
        result.facts.append(f"{name}: {group_sizes(part.records)}")
    sizes = Counter(look.size for look in looks if not look.broken)
    if sizes:
        result.facts.append(f"{name}: {_sizes(sizes)}")
    result.faults += [look.broken for look in looks if look.broken]
    boxes = sum(len(record.boxes) for record in part.records)
    if boxes:
        boxed = sum(bool(record.boxes) for record in part.records)
        result.facts.append(f"{name}: {count(boxes, 'box')} in {count(boxed, 'image')}")
    for look in looks:
        for which in range(len(look.record.boxes) if not look.broken else 0):
            fault = outside(look.record, which, *look.size)
            if fault is not None:
                result.faults.append(fault)


def _class_counts(named: Mapping[str, int]) -> str:
    ordered = sorted(named.items(), key=lambda item: (-item[1], item[0]))
    if len({number for _, number in ordered}) == 1:
        return f"{count(ordered[0][1], 'image')} of each class"
    if len(ordered) <= _MOST_CLASSES:
        return ", ".join(f"{name} {number:,}" for name, number in ordered)
    (most, largest), (least, smallest) = ordered[0], ordered[-1]
    return f"from {smallest:,} ({least}) to {largest:,} ({most}) images a class"


def _sizes(sizes: Counter[tuple[int, int]]) -> str:
    if len(sizes) == 1:
        ((width, height),) = sizes
        return f"all {width} x {height} pixels (width x height)"
    widths, heights = zip(*sizes, strict=True)
    (width, height), number = sizes.most_common(1)[0]
    return (
        f"{len(sizes):,} sizes, {min(widths)} to {max(widths)} wide and {min(heights)} to "
        f"{max(heights)} high, most often {width} x {height} ({count(number, 'image')}): "
        "train with `image_size`"
    )


def _duplicates(split: str, looks: Sequence[Look], result: Checked) -> None:
    """Note identical images of one split, and whether their labels differ."""
    groups: dict[bytes, list[Record]] = defaultdict(list)
    for look in looks:
        if not look.broken:
            groups[look.pixels].append(look.record)
    same = [group for group in groups.values() if len(group) > 1]
    if same:
        spare = sum(len(group) - 1 for group in same)
        result.doubts.append(f"{split}: {count(spare, 'duplicate')}: {_named(same)}")
    differing = [group for group in same if any(r.label != group[0].label for r in group)]
    if differing:
        result.doubts.append(
            f"{split}: identical images with different labels: {_named(differing)}"
        )


def _dark(split: str, looks: Sequence[Look], result: Checked) -> None:
    """Note deep images without a bright pixel: numbers of fewer bits than the files have."""
    dark = {look.record.name: look.brightest for look in looks if look.brightest is not None}
    dark = {name: level for name, level in dark.items() if level <= _DARK}
    if dark:
        result.doubts.append(
            f"{split}: {count(len(dark), 'image')} of over 8 bits a pixel with no level above "
            f"{max(dark.values())} of 255, nearly black: {few(dark)}; if they are numbers of 8 "
            "bits (0..255), 12 (0..4095) or 14 saved with 16, multiply them by 257, 16 or 4 and "
            "save them again"
        )


def _leaks(looks: Mapping[str, Sequence[Look]], result: Checked) -> None:
    """Note images that two splits share."""
    first: dict[bytes, tuple[str, Record]] = {}
    shared: dict[tuple[str, str], list[list[Record]]] = defaultdict(list)
    for split, own in looks.items():
        for look in own:
            if look.broken:
                continue
            home, record = first.setdefault(look.pixels, (split, look.record))
            if home != split:
                shared[home, split].append([record, look.record])
    for (home, split), pairs in shared.items():
        what = f"{count(len(pairs), 'image')} of {split} also in {home}"
        result.doubts.append(f"leak: {what}: {_named(pairs)}")


def _named(groups: Sequence[Sequence[Record]]) -> str:
    return few([" = ".join(record.name for record in group[:3]) for group in groups], "; ")


def check_named(
    data: str, progress: Progress | None = None, *, group: str | None = None
) -> tuple[Source, Checked]:
    """Look at all of a data set, and compare it with the published one that it is meant to be.

    Args:
        data: as for `load_splits`.
        progress: called with images looked at and all.
        group: what says which images belong together, as for `load_splits`.

    Raises:
        InputError: nothing usable there.
    """
    if data in MADE:
        raise InputError(f"{data} is generated here, so there is nothing to check")
    source = open_source(data, masks=True, group=group)
    # The training split first, as the others are held against it.
    parts = sorted((part for part in source.parts if len(part)), key=lambda p: p.name != "train")
    source = replace(source, parts=tuple(parts))
    if not source.parts:
        raise InputError(f"{source.where} holds no images that could be checked")
    if group is not None:
        source = with_groups(source, group)
    return source, check(source, progress, known=KNOWN.get(understood(data).name))


CELL = 128
CAPTION = 16
COLUMNS, ROWS = 8, 6
_BOX = (255, 80, 0)


def contact_sheet(source: Source) -> Image.Image:
    """Draw up to 48 images of the training split, of every class in turn, upright and whole."""
    part = next((part for part in source.parts if part.name == "train"), source.parts[0])
    records = list(islice(_in_turn(source, part.records), COLUMNS * ROWS))
    rows = max(1, -(-len(records) // COLUMNS))
    sheet = Image.new("RGB", (COLUMNS * CELL, rows * (CELL + CAPTION)), "white")
    for number, cell in enumerate(_cells(source, part, records)):
        row, column = divmod(number, COLUMNS)
        sheet.paste(cell, (column * CELL, row * (CELL + CAPTION)))
    return sheet


def _in_turn(source: Source, records: Sequence[Record]) -> Iterator[Record]:
    """Yield records class by class in turn, by the first label of each."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        labels = labels_of(source, record)
        groups[class_name(source, labels[0]) if labels else ""].append(record)
    for row in zip_longest(*(groups[name] for name in sorted(groups))):
        yield from (record for record in row if record is not None)


def _cells(source: Source, part: Part, records: Sequence[Record]) -> Iterator[Image.Image]:
    for record, encoded in zip(records, part.encoded(records), strict=True):
        cell = Image.new("RGB", (CELL, CELL + CAPTION), "white")
        draw = ImageDraw.Draw(cell)
        labels = ", ".join(class_name(source, label) for label in labels_of(source, record))
        try:
            image = read_encoded(encoded, in_channels=3)
        except UnreadableImage:
            labels = f"broken: {record.name}"
        else:
            cell.paste(fitted(image, (CELL, CELL), "pad", border=(255, 255, 255)), (0, 0))
            _draw_boxes(draw, record, image.size)
        draw.text((2, CELL + 2), _latin(printable(labels))[:20], fill="black")
        yield cell


def _draw_boxes(draw: ImageDraw.ImageDraw, record: Record, size: tuple[int, int]) -> None:
    width, height, left, top, right, bottom = placement_of(size, (CELL, CELL), "pad")
    across, down = (right - left) / width, (bottom - top) / height
    for box in record.boxes:
        scale = (width, height) if record.relative else (1, 1)
        x0, x1 = (left + x * scale[0] * across for x in (box.x0, box.x1))
        y0, y1 = (top + y * scale[1] * down for y in (box.y0, box.y1))
        draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=_BOX)


def _latin(text: str) -> str:
    """Return a text in the letters that Pillow's own font has."""
    return text.encode("latin-1", "replace").decode("latin-1")
