"""Which classes of a source are used: those asked for, and those that can be learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from loss_attention.data.records import (
    Part,
    Problem,
    Record,
    Source,
    class_name,
    count,
    labels_of,
    refuse,
    stored_classes,
)
from loss_attention.errors import InputError, quoted, unknown_name


def select_classes(source: Source, classes: Sequence[str], seed: int) -> Source:
    """Return the images of some of the classes, with the labels and boxes of these alone.

    Args:
        source: with its training split first.
        classes: names of classes; one number: so many, drawn by the seed; none: all of them.
        seed: the same seed draws the same classes, on any machine.

    Raises:
        InputError: a name that is no class, or fewer than two classes, or more than there are.
    """
    if not classes:
        return source
    stored = stored_classes(source)
    kept = _kept(tuple(stored), classes, seed)
    index = {stored[name]: k for k, name in enumerate(kept)}
    parts = [
        Part(part.name, _selected(part.records, index, source.multi_label), part.lookup)
        for part in source.parts
    ]
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
            f"lacks: {self.records[0].place}{more}"
        )


def foreign_classes(source: Source) -> list[Foreign]:
    """Return the classes of other splits that no training image shows."""
    if not source.parts:
        return []
    training = next((part for part in source.parts if part.name == "train"), source.parts[0])
    known = {label for record in training.records for label in labels_of(source, record)}
    declared = source.class_names is not None
    # Numbers that are no class at all are another error.
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
                f"--classes {number}: at least 2 and at most the {len(names)} there are"
            )
        order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
        return tuple(names[k] for k in sorted(order[:number].tolist()))
    for name in classes:
        if name not in names:
            raise unknown_name("class", name, names)
    if len(set(classes)) < 2:
        raise InputError("--classes: a classifier needs at least two")
    return tuple(name for name in names if name in classes)


def _selected(records: Sequence[Record], index: dict[Any, int], multi_label: bool) -> list[Record]:
    kept = []
    for record in records:
        values = record.label if multi_label else [record.label]
        indices = [index[value] for value in values or [] if value in index]
        if indices:
            boxes = tuple(
                box._replace(label=index[box.label]) for box in record.boxes if box.label in index
            )
            label, mask = indices if multi_label else indices[0], record.mask
            if mask is not None and len(indices) < len(values):
                mask = mask.of([value for value in values if value in index])
            kept.append(replace(record, label=label, boxes=boxes, mask=mask))
    return kept
