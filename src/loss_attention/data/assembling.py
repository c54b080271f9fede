"""From records of any source to splits, decoded in memory or streamed.

Which classes are used comes first: those asked for, and those that can be learned. In memory an
image takes 8 bits a channel: 50,000 of CIFAR-10 take 150 MB, all of Tiny ImageNet 1.35 GB.
Streamed, what is known of the images is in memory, and they stay where they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from loss_attention.data.decoding import UnreadableImage
from loss_attention.data.division import SPLITS, hold_out
from loss_attention.data.groups import group_numbers
from loss_attention.data.records import (
    Encoded,
    Part,
    Problem,
    Record,
    Source,
    class_name,
    count,
    few,
    labels_of,
    outside,
    refuse,
    stored_classes,
    unlabelled,
    with_classes,
)
from loss_attention.data.sample import (
    IN_REACH,
    ImageSet,
    LabelledImages,
    Splits,
    Storage,
    are_originals,
    choose_stream,
    reported_split,
    to_image,
    training_split,
)
from loss_attention.data.stacking import (
    Form,
    Progress,
    Stack,
    image_shape,
    stack_images,
)
from loss_attention.data.streaming import EncodedImages, EncodedTable, Reader, StreamedSet
from loss_attention.errors import InputError, quoted, unknown_name

HELD_OUT = 0.2
"""The part of the training split that is reported on where there is nothing else to report on."""

_BLOCK = 512  # images looked up at once


def chosen(source: Source) -> Source:
    """Return a source of its training split and, if there is one with labels, the reported one.

    Raises:
        InputError: no training split.
    """
    parts = {part.name: part for part in source.parts if len(part)}
    training = training_split(parts, source.where)
    reported = reported_split(
        parts, lambda name: not unlabelled(record.label for record in parts[name].records)
    )
    names = [training] if reported is None else [training, reported]
    return replace(source, parts=tuple(parts[name] for name in names))


def assemble(
    source: Source,
    form: Form,
    seed: int,
    *,
    skip_broken: bool = False,
    storage: Storage = IN_REACH,
    progress: Progress | None = None,
) -> Splits:
    """Check every label and box, and decode every image or see to it that any can be decoded.

    Args:
        source: what `chosen` returns.
        form: what to bring the images to.
        seed: divides a data set without a labelled test or validation split.
        skip_broken: go on without the images that something is wrong with, and say how many.
        storage: whether to decode images on demand.
        progress: called with the number of images looked at and their total.

    Raises:
        InputError: labels outside the classes, classes that training lacks, one class only,
            unreadable images, boxes outside of theirs, masks that are not there, or images of
            unequal sizes.
    """
    source = without_foreign_classes(source, skip_broken=skip_broken)
    parts, where = source.parts, source.where
    sets, source, why = image_sets(
        source,
        read_labels(source),
        form,
        skip_broken=skip_broken,
        storage=storage,
        progress=progress,
    )
    if len(sets) == 2:
        return _described(source, why, sets[0], sets[1], _how_reported(parts[1].name))
    kept, held_out = hold_out(sets[0].labels, HELD_OUT, seed, sets[0].groups)
    if not len(held_out):
        few_ = "one image a class" if sets[0].groups is None else "one group of images a class"
        raise InputError(f"{where} has no test split, and {few_} is too few to make one")
    how = f"no labelled test split, so {HELD_OUT:.0%} of {parts[0].name} held out by seed {seed}"
    how += "" if sets[0].groups is None else ", groups whole"
    splits = _described(source, why, sets[0].subset(kept), sets[0].subset(held_out), how)
    return replace(splits, drawn=True)


def image_sets(
    source: Source,
    labels: Labels,
    form: Form,
    *,
    skip_broken: bool,
    storage: Storage,
    progress: Progress | None,
) -> tuple[list[LabelledImages], Source, str]:
    """Return the images of each part of a source; see `assemble`.

    Returns:
        The sets, the source with a note of what was left out, and whether the images are decoded
        or streamed, and why.
    """
    parts, where = source.parts, source.where
    if form.masks and not any(record.mask for part in parts for record in part.records):
        raise InputError(f"{where} has no masks; leave `masks` out")
    streamed, why = choose_stream(storage, _decoded_bytes(parts, form))
    if streamed:
        stack = _streamed(parts, form, storage.workers, progress, skip=skip_broken)
    else:
        stack = stack_images(
            _encoded(parts), _count(parts), form, skip_broken=skip_broken, progress=progress
        )
    sets, start, groups = [], 0, group_numbers(parts)
    left_out = len({problem.image for problem in source.problems})
    for part in parts:
        data, bad = _image_set(part, labels, stack, start, where, groups, skip_broken=skip_broken)
        start += len(part)
        left_out += bad
        sets.append(data)
    notes = source.notes
    if left_out:
        notes += (f"{count(left_out, 'image')} left out, as asked, for what is wrong with them",)
    return sets, replace(source, notes=notes), why


@dataclass(frozen=True)
class Labels:
    """The labels of every split: indices `(N,)` or a matrix `(N, K)`, as in `ImageSet`.

    `index` leads from a label as it is stored to the index of its class.
    """

    class_names: tuple[str, ...]
    splits: dict[str, Shaped[Tensor, N * K]]
    index: dict[Any, int]


def read_labels(source: Source) -> Labels:
    """Turn the labels of a source into tensors.

    The classes are those that it declares, else the distinct values of its first split, which is
    the one for training, sorted.

    Raises:
        InputError: a record without a label, a label outside the classes, or one class only.
    """
    training = source.parts[0]
    if source.class_names is None:
        found = stored_classes(source)
        names, index = tuple(found), {value: k for k, value in enumerate(found.values())}
        rule = f"is not a class of split {training.name}, which has {few(names)}"
    else:
        names = source.class_names
        index = {k: k for k in range(len(names))}
        rule = f"is outside the {len(names)} classes, 0 to {len(names) - 1}"

    def indices(record: Record) -> list[int]:
        if record.label is None:
            raise InputError(f"{source.where}: {record.called} has no label")
        values = record.label if source.multi_label else [record.label]
        for value in values:
            if value not in index:
                raise InputError(f"{source.where}: label {quoted(value)} of {record.called} {rule}")
        return [index[value] for value in values]

    classes = len(names) if source.multi_label else None
    tensors = {
        part.name: label_tensor([indices(record) for record in part.records], classes)
        for part in source.parts
    }
    _require_two_classes(names, tensors[training.name], source.where)
    return Labels(names, tensors, index)


def label_tensor(indices: Sequence[Sequence[int]], classes: int | None) -> Shaped[Tensor, N * K]:
    """Return the classes of each image as `ImageSet` has them.

    Args:
        indices: of each image; one where `classes` is None.
        classes: how many there are, for a 0/1 matrix; None: for indices.
    """
    if classes is None:
        return torch.tensor([row[0] for row in indices], dtype=torch.int64)
    matrix = torch.zeros(len(indices), classes, dtype=torch.uint8)
    for row, columns in enumerate(indices):
        matrix[row, columns] = 1
    return matrix


def _require_two_classes(names: tuple[str, ...], labels: Tensor, where: str) -> None:
    seen = sorted(set(labels.tolist())) if labels.ndim == 1 else list(range(len(names)))
    if len(seen) < 2:
        only = f", {quoted(names[seen[0]])}" if seen else ""
        raise InputError(f"{where} has one class only{only}: a classifier needs at least two")


def _streamed(
    parts: Sequence[Part], form: Form, workers: int | None, progress: Progress | None, *, skip: bool
) -> Stack:
    """Look at the images as far as something depends on it.

    Boxes and a common size need the sizes of all; which images to leave out is decided before
    training, so that the order of the others is what it would be without them.
    """
    count = _count(parts)
    boxed = any(record.boxes for part in parts for record in part.records)
    if skip or boxed or form.size is None:
        found = stack_images(
            _encoded(parts),
            count,
            form,
            keep=False,
            decode=skip,
            skip_broken=skip,
            progress=progress,
        )
    else:
        found = Stack(count, form, keep=False, shape=(form.in_channels, *form.size))
    assert found.shape is not None
    reader = Reader(EncodedTable(parts, form), workers)
    found.images = EncodedImages(reader, torch.arange(count), found.shape, torch.device("cpu"))
    return found


def _count(parts: Sequence[Part]) -> int:
    return sum(map(len, parts))


def _encoded(parts: Sequence[Part]) -> Iterator[Encoded]:
    for part in parts:
        for start in range(0, len(part), _BLOCK):
            yield from part.encoded(part.records[start : start + _BLOCK])


def _decoded_bytes(parts: Sequence[Part], form: Form) -> int:
    """Return what all images will take, which are of one size: that of the first to be had."""
    for image in _encoded(parts):
        with suppress(UnreadableImage):  # said of all such images together, later
            return _count(parts) * math.prod(image_shape(image, form))
    return 0


def _image_set(
    part: Part,
    labels: Labels,
    stack: Stack,
    start: int,
    where: str,
    groups: Mapping[str, int],
    *,
    skip_broken: bool,
) -> tuple[LabelledImages, int]:
    """Return the images of one split, and how many of it were left out."""
    stop = start + len(part)
    placements = stack.placements[start:stop]
    bad = {row - start for row in stack.broken if start <= row < stop}
    boxes, box_labels, problems = _boxes(part.records, placements, labels, bad, where)
    if not skip_broken:
        refuse(where, list(problems.values()))
    bad |= set(problems)
    images = stack.images[start:stop]
    known = labels.splits[part.name], labels.class_names, boxes, box_labels
    names = tuple(record.name for record in part.records)
    belonging = None
    if groups:
        belonging = torch.tensor([groups[record.group] for record in part.records])
    data: LabelledImages
    if isinstance(images, EncodedImages):
        data = StreamedSet(images, *known, names, groups=belonging)
    else:
        masks = None if stack.masks is None else stack.masks[start:stop]
        sound = torch.tensor([row not in bad for row in range(len(part))])
        originals = are_originals(placements[sound])
        data = ImageSet(images, *known, names, masks, None if originals else placements, belonging)
    if bad:
        data = data.subset(torch.tensor([row for row in range(len(part)) if row not in bad]).long())
        if not len(data):
            raise InputError(f"{where}: something is wrong with every image of split {part.name}")
    return data, len(bad)


def _boxes(
    records: Sequence[Record],
    placements: Float[Tensor, "N 6"],
    labels: Labels,
    unread: set[int],
    where: str,
) -> tuple[Float[Tensor, "N G 4"] | None, Int[Tensor, "N G"] | None, dict[int, Problem]]:
    """Return boxes in pixels of the images, and by row which lie outside of theirs."""
    most = max((len(record.boxes) for record in records), default=0)
    if most == 0:
        return None, None, {}
    boxes = torch.full((len(records), most, 4), torch.nan)
    box_labels = torch.full((len(records), most), -1, dtype=torch.int64)
    problems: dict[int, Problem] = {}
    for row, record in enumerate(records):
        for box in record.boxes:
            if box.label not in labels.index:
                raise InputError(
                    f"{where}: {record.origin} {box.row}: its box is of {box.label!r}, which is "
                    "not a class of the images' labels"
                )
        if not record.boxes:
            continue
        boxes[row, : len(record.boxes)] = torch.tensor([box[1:5] for box in record.boxes])
        box_labels[row, : len(record.boxes)] = torch.tensor(
            [labels.index[box.label] for box in record.boxes]
        )
    sizes = placements[:, None, [0, 1]]
    relative = torch.tensor([record.relative for record in records])[:, None, None]
    boxes = torch.where(relative, boxes * sizes.repeat(1, 1, 2), boxes)
    beyond = ((boxes[..., :2] < -1) | (boxes[..., 2:] > sizes + 1)).any(dim=2)
    for row, g in beyond.nonzero().tolist():
        if row in unread:
            continue
        what = outside(records[row], g, *placements[row, :2].int().tolist())
        assert what is not None
        problems.setdefault(row, Problem(records[row].name, what))
    corner = sizes.repeat(1, 1, 2)
    return to_image(torch.minimum(boxes.clamp(min=0), corner), placements), box_labels, problems


def _how_reported(split: str) -> str:
    if SPLITS.get(split.lower()) == "test":
        return ""
    return f"no labelled test split, so split {split} is the test set"


def _described(
    source: Source, why: str, train: LabelledImages, test: LabelledImages, how: str
) -> Splits:
    counts = f"{len(train):,} training and {len(test):,} test images"
    text = "; ".join([how, *source.notes] if how else source.notes)
    line = f"{source.where}: {counts}" + (f" ({text})" if text else "")
    return Splits(train, test, line, source.notes, why)


def select_classes(source: Source, classes: Sequence[str], seed: int) -> Source:
    """Return the images of some of the classes, with the labels and boxes of these alone.

    Args:
        source: with its training split first.
        classes: names of classes; one number: so many, drawn by the seed; none: all of them.
        seed: the same seed draws the same classes, on any machine.

    Raises:
        InputError: a name that is not a class, or fewer than two classes, or more than there are.
    """
    if not classes:
        return source
    stored = stored_classes(source)
    kept = _kept(tuple(stored), classes, seed)
    index = {stored[name]: k for k, name in enumerate(kept)}
    parts = []
    for part in source.parts:
        shown = [(record, labels_of(source, record)) for record in part.records]
        kept_records = [
            with_classes(record, values, index, multi_label=source.multi_label)
            for record, values in shown
            if not index.keys().isdisjoint(values)
        ]
        parts.append(Part(part.name, kept_records, part.lookup))
    note = f"{count(len(kept), 'class')} of {len(stored)}"
    return replace(source, parts=tuple(parts), class_names=kept, notes=(*source.notes, note))


@dataclass(frozen=True)
class Foreign:
    """A class that a split shows and training lacks, and the images there that show it."""

    split: str
    training: str
    name: str
    records: tuple[Record, ...]

    @property
    def what(self) -> str:
        """One line of it."""
        rest = len(self.records) - 1
        more = f" and {rest:,} more" if rest else ""
        return (
            f"split {self.split} shows class {quoted(self.name)}, which split {self.training} "
            f"lacks: {self.records[0].called}{more}"
        )


def foreign_classes(source: Source) -> list[Foreign]:
    """Return the classes of other splits that no training image shows."""
    if not source.parts:
        return []
    training = next((part for part in source.parts if part.name == "train"), source.parts[0])
    known = {label for record in training.records for label in labels_of(source, record)}
    declared = source.class_names is not None
    # Numbers that are not classes at all are another error.
    possible = set(stored_classes(source).values()) if declared else None
    found: dict[tuple[str, Any], list[Record]] = {}
    for part in source.parts:
        for record in part.records:
            for label in set(labels_of(source, record)) - known:
                if possible is None or label in possible:
                    found.setdefault((part.name, label), []).append(record)
    return [
        Foreign(split, training.name, class_name(source, label), tuple(records))
        for (split, label), records in found.items()
    ]


def without_foreign_classes(source: Source, *, skip_broken: bool) -> Source:
    """Return a source without images of classes that no training image shows.

    Raises:
        InputError: there are such images and `skip_broken` is off, or there are no others.
    """
    foreign = foreign_classes(source)
    problems = [Problem(record.name, one.what) for one in foreign for record in one.records]
    if not skip_broken:
        refuse(source.where, [Problem("", one.what) for one in foreign])
    bad = {problem.image for problem in problems}
    if not bad:
        return source
    parts = []
    for part in source.parts:
        kept = [record for record in part.records if record.name not in bad]
        if not kept:
            raise InputError(
                f"{source.where}: every image of split {part.name} is of a class that training "
                "lacks"
            )
        parts.append(Part(part.name, kept, part.lookup))
    return replace(source, parts=tuple(parts), problems=(*source.problems, *problems))


def _kept(names: tuple[str, ...], classes: Sequence[str], seed: int) -> tuple[str, ...]:
    if len(classes) == 1 and classes[0].isdecimal() and len(classes[0]) < 10:
        number = int(classes[0])
        if not 2 <= number <= len(names):
            raise InputError(
                f"`classes` {number}: at least 2 and at most the {len(names)} there are"
            )
        order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
        return tuple(names[k] for k in sorted(order[:number].tolist()))
    for name in classes:
        if name not in names:
            raise unknown_name("class", name, names)
    if len(set(classes)) < 2:
        raise InputError("`classes`: a classifier needs at least two")
    return tuple(name for name in names if name in classes)
