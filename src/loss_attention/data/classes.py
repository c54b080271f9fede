"""A part of the classes of a source: those named, or a number of them drawn by a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from loss_attention.data.records import Part, Record, Source, count, stored_classes
from loss_attention.errors import InputError, unknown_name


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


def _kept(names: tuple[str, ...], classes: Sequence[str], seed: int) -> tuple[str, ...]:
    if len(classes) == 1 and classes[0].isdigit():
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
            label = indices if multi_label else indices[0]
            kept.append(replace(record, label=label, boxes=boxes))
    return kept
