"""Data that a model was not trained on, to measure it on: its classes matched with the model's.

By their names, whatever their order. The set may lack classes of the model, and needs no training
split: its test split is measured, else its validation split, and without splits all of it.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from PIL import Image

from loss_attention.data.assembling import Labels, image_sets, label_tensor
from loss_attention.data.loading import KNOWN, MADE, open_source, understood
from loss_attention.data.records import (
    MOST_NAMED,
    Box,
    Part,
    Problem,
    Record,
    Source,
    class_name,
    count,
    few,
    labels_of,
    refuse,
    unlabelled,
    with_classes,
)
from loss_attention.data.sample import IN_REACH, ImageSet, LabelledImages, Storage, reported_split
from loss_attention.data.stacking import Form, Progress
from loss_attention.errors import InputError, nearest_name, quoted, unknown_name


@dataclass(frozen=True)
class Outside:
    """Images to measure a model on.

    Attributes:
        images: with the model's classes.
        source: what they are, in a line for people.
        split: which split of the data they are; "" where it declares none.
        notes: what is to be said of them, a line each.
    """

    images: LabelledImages
    source: str
    split: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Wanted:
    """What a model that is to be measured needs of images.

    Attributes:
        class_names: the model's.
        multi_label: whether it was made for any number of labels an image.
        classes: those to measure, and images that show none of them are left out; none: all, and a
            class that the model does not know is an error.
        skip_broken: go on without the images that something is wrong with, and say how many.
        skip_unknown: likewise without those of classes that the model does not know.
        masks: an error where the images have none.
    """

    class_names: Sequence[str]
    multi_label: bool
    classes: Collection[str] = ()
    skip_broken: bool = False
    skip_unknown: bool = False
    masks: bool = False


def load_outside(
    data: str,
    wanted: Wanted,
    form: Form,
    *,
    storage: Storage = IN_REACH,
    progress: Progress | None = None,
) -> Outside:
    """Load images to measure a model on.

    Args:
        data: as for `load_splits`; a folder may also hold images of one class alone, and be named
            after it.
        wanted: what the model needs.
        form: what to bring the images to; masks are read where there are some.
        storage: whether to decode images on demand.
        progress: called with the number of images looked at and their total.

    Raises:
        InputError: nothing usable there, classes that the model does not know, several labels an
            image where it takes one, or anything that `load_splits` refuses in the images.
    """
    for name in wanted.classes:
        if name not in wanted.class_names:
            raise unknown_name("class of the model", name, wanted.class_names)
    if data in MADE:
        source = _made(data)
    else:
        source = open_source(data, masks=form.masks, known_classes=wanted.class_names)
    if not wanted.skip_broken:
        refuse(source.where, source.problems)
    part, split = _measured(source)
    others = [other for other in source.parts if other is not part and len(other)]
    known = KNOWN.get(understood(data).name)
    if known is not None and len(part) != known.test:
        told = f"{len(part):,} test images found where the whole set has {known.test:,}"
        source = replace(source, notes=(*source.notes, told))
    source = _Matching(source, wanted).matched(part)
    images, source, why = _images(source, wanted, form, storage, progress)
    measured = count(len(images), "image") + (f" of split {split}" if split else "")
    rest = "".join(f"; {count(len(one), 'image')} of split {one.name} not" for one in others)
    said = f"{measured} measured{rest}"
    if not split and len(images) == len(part):
        said = f"all of it measured, {measured}"
    line = f"{source.where}: {measured}"
    return Outside(images, line, split, (*source.notes, *_absent(images), said, why))


def _measured(source: Source) -> tuple[Part, str]:
    """Return the part of a source to measure, and its name where the data declares it."""
    labelled = {
        part.name: part
        for part in source.parts
        if len(part) and not unlabelled(record.label for record in part.records)
    }
    if not labelled:
        raise InputError(f"{source.where} holds no images with labels to measure")
    reported = reported_split(labelled, lambda _: True)
    if reported is not None:
        return labelled[reported], reported
    if "train" in labelled:
        alone = len(source.parts) == 1
        return labelled["train"], "" if alone else "train"
    if len(labelled) > 1:
        raise InputError(
            f"{source.where} has the splits {', '.join(labelled)}, and none of them is named test: "
            "give the files of one of them"
        )
    ((name, part),) = labelled.items()
    return part, name


def _images(
    source: Source, wanted: Wanted, form: Form, storage: Storage, progress: Progress | None
) -> tuple[LabelledImages, Source, str]:
    (part,) = source.parts
    if not len(part):
        raise InputError(f"{source.where} holds no image of a class that is to be measured")
    if not wanted.masks and not any(record.mask for record in part.records):
        form = replace(form, masks=False)
    classes, several = range(len(wanted.class_names)), wanted.multi_label
    indices = [record.label if several else [record.label] for record in part.records]
    tensor = label_tensor(indices, len(classes) if several else None)
    labels = Labels(tuple(wanted.class_names), {part.name: tensor}, {k: k for k in classes})
    skip = wanted.skip_broken
    (images,), source, why = image_sets(
        source, labels, form, skip_broken=skip, storage=storage, progress=progress
    )
    return images, source, why


@dataclass
class _Matching:
    """Gives records the model's labels, and notes what the model does not know."""

    source: Source
    wanted: Wanted
    problems: list[Problem] = field(default_factory=list)
    unknown: dict[str, list[Record]] = field(default_factory=dict)
    left_out: int = 0

    def __post_init__(self) -> None:
        names = self.wanted.class_names
        self._index = {name: k for k, name in enumerate(names)}
        # What is written with the same letters is one name, however they are stored.
        composed = {unicodedata.normalize("NFC", name): k for name, k in self._index.items()}
        if len(composed) == len(names):
            self._index = composed | self._index

    def matched(self, part: Part) -> Source:
        """Return the source with the records of one part that can be measured, and with notes."""
        records = [kept for record in part.records if (kept := self._matched(record)) is not None]
        if self.unknown and not self.wanted.skip_unknown:
            raise InputError(self._what_is_unknown())
        if not self.wanted.skip_broken:
            refuse(self.source.where, self.problems)
        notes = self.source.notes
        if self.left_out:
            notes += (f"{count(self.left_out, 'image')} of other classes left out",)
        if self.unknown:
            left_out = {id(record) for found in self.unknown.values() for record in found}
            notes += (
                f"{count(len(left_out), 'image')} of classes that the model does not know left "
                f"out: {few(sorted(self.unknown))}",
            )
        problems = (*self.source.problems, *self.problems)
        parts = (replace(part, records=records),)
        return replace(self.source, parts=parts, notes=notes, problems=problems)

    def _matched(self, record: Record) -> Record | None:
        if record.label is None:
            self.problems.append(Problem(record.name, f"{record.called} has no label"))
            return None
        values = labels_of(self.source, record)
        found = {value: self._class_of(value, record) for value in values}
        boxes = {box.label: self._class_of(box.label, record) for box in record.boxes}
        if self.wanted.classes:
            found, boxes = ({v: k for v, k in x.items() if self._chosen(k)} for x in (found, boxes))
            if not found:
                self.left_out += 1
                return None
        else:
            unknown = [value for value, k in (found | boxes).items() if k is None]
            for value in unknown:
                self.unknown.setdefault(class_name(self.source, value), []).append(record)
            if unknown:
                return None
        classes = {value: k for value, k in (found | boxes).items() if k is not None}
        labels, several = len(set(found.values())), self.wanted.multi_label
        if not several and labels != 1:
            what = f"{record.called} has {count(labels, 'label')}"
            what += ", and the model was made for one an image"
            self.problems.append(Problem(record.name, what))
            return None
        return with_classes(record, values, classes, multi_label=several)

    def _class_of(self, value: Any, record: Record) -> int | None:
        """Return the model's class of a label of the source; None: it has none."""
        names = self.source.class_names
        if names is not None and not (isinstance(value, int) and 0 <= value < len(names)):
            raise InputError(
                f"{self.source.where}: label {quoted(value)} of {record.called} is outside the "
                f"{len(names)} classes, 0 to {len(names) - 1}"
            )
        name = class_name(self.source, value)
        return self._index.get(name, self._index.get(unicodedata.normalize("NFC", name)))

    def _chosen(self, index: int | None) -> bool:
        return index is not None and self.wanted.class_names[index] in self.wanted.classes

    def _what_is_unknown(self) -> str:
        known = self.wanted.class_names
        shown = []
        for name, records in sorted(self.unknown.items())[:MOST_NAMED]:
            nearest = nearest_name(name, known)
            hint = f", did you mean {quoted(nearest)}?" if nearest else ""
            shown.append(f"{quoted(name)} ({count(len(records), 'image')}{hint})")
        rest = len(self.unknown) - len(shown)
        more = f" and {rest:,} more" if rest else ""
        return (
            f"{self.source.where} shows {count(len(self.unknown), 'class')} that the model does "
            f"not know: {', '.join(shown)}{more}; the model's are {few(known)}. "
            "`skip_broken` leaves their images out, `classes` measures the classes that it names"
        )


def _absent(images: LabelledImages) -> tuple[str, ...]:
    """Return a note of the classes of the model that no image shows."""
    shown = images.label_matrix().any(dim=0).tolist()
    absent = [name for name, there in zip(images.class_names, shown, strict=True) if not there]
    if not absent:
        return ()
    return (
        f"{count(len(absent), 'class')} of the model not in it, so measures taken class by class "
        f"are over the others: {few(absent)}",
    )


def _made(data: str) -> Source:
    """Return the test images of data made here as a source, to be matched like any other."""
    images = MADE[data](0).test
    assert isinstance(images, ImageSet)
    matrix = images.label_matrix()
    records = []
    for i in range(len(images)):
        labels = matrix[i].nonzero().squeeze(1).tolist()
        boxes: list[Box] = []
        if images.boxes is not None and images.box_labels is not None:
            corners, classes = images.boxes[i].tolist(), images.box_labels[i].tolist()
            boxes = [Box(k, *box) for k, box in zip(classes, corners, strict=True) if k >= 0]
        label = labels if images.multi_label else labels[0]
        content = partial(_as_png, images, i)
        records.append(Record(f"{data} {i}", content, label, tuple(boxes)))
    part = Part("test", records)
    return Source(data, (part,), images.class_names, images.multi_label)


def _as_png(images: ImageSet, index: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(images.images[index, 0].numpy()).save(file, "PNG")
    return file.getvalue()
