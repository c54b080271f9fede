"""Images listed in a table of text, with their labels and boxes.

Columns, by any of their usual names: the image (a path from the table's folder, or from the top);
its label, or several; a box, as `x0 y0 x1 y1` in one column or in four, or several; and if wanted
`box_label`, `mask` and `split`. An image may have a row, or a row a box. Boxes are in pixels of the
upright image, x1 and y1 exclusive. In JSON lines, labels and boxes may be lists, and `objects` with
boxes x, y, width, height is read as `datasets` documents it. Without a `split` column the file's
name (`train.csv`) says which split it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from loss_attention.data.cells import CellError
from loss_attention.data.file_types import is_image
from loss_attention.data.image_rows import DRIVE, URL, ImageRow, ImageTable, shown_path
from loss_attention.data.labels import LabelKind
from loss_attention.data.masks import PictureMask
from loss_attention.data.records import Box, Findings, Part, Record, Source, count
from loss_attention.data.splits import by_split
from loss_attention.data.tree import Tree
from loss_attention.errors import InputError, printable

_HIDDEN = frozenset(("-1", "-1.0"))


def read_listed(tree: Tree, files: Sequence[str], where: str, *, masks: bool) -> Source:
    """Return the images of the tables that `find_tables` found.

    Raises:
        InputError: a table that cannot be read or lists no images, or two that list the same image.
    """
    findings = Findings()
    images = list(_images(tree, files, where, findings))
    splits = by_split(((image, image.split) for image in images), _name, where)
    hidden = [split for split in splits if _is_hidden(splits, split)]
    for image in (image for split in hidden for image in splits[split]):
        image.labels, image.boxes, image.without = [], [], []
    for image in images:
        image.refuse_unlabelled(findings)
    reading = _Reading(tree, findings, images, masks=masks)
    parts = [Part(split, reading.records(own)) for split, own in splits.items()]
    notes = [f"split {split} has no labels, as hidden test labels are given" for split in hidden]
    notes += [*reading.notes(), *_not_listed(tree, files[0], images, findings)]
    source = Source(where, tuple(parts), multi_label=reading.multi_label, notes=tuple(notes))
    return findings.finish(source)


def _images(tree: Tree, files: Sequence[str], where: str, findings: Findings) -> Iterable[_Listed]:
    """Return the images of tables, each with what its rows say."""
    images: dict[tuple[str, str], _Listed] = {}
    for file in files:
        before = len(images) + len(findings.problems)
        for row in ImageTable(tree, file, where, findings).rows():
            image = images.setdefault(
                (row.split, row.image), _Listed(row.image, row.split, file, row.number)
            )
            if image.file != file:
                raise InputError(
                    f"{where}: {file} and {image.file} both list {shown_path(row.image)}; keep one "
                    "of them, or give the one that is meant"
                )
            image.take(row)
        if len(images) + len(findings.problems) == before:
            raise InputError(f"{where}: {file} lists no images")
    return images.values()


def _is_hidden(splits: Mapping[str, Sequence[_Listed]], split: str) -> bool:
    """Return whether the labels of a split are not published: none, or -1 where training has none.

    A training split has to have labels.
    """
    trained = {str(label) for image in splits.get("train", ()) for label in image.labels}
    own = splits[split]
    return split != "train" and not trained & _HIDDEN and all(image.hidden for image in own)


@dataclass
class _Listed:
    """An image as its rows tell it."""

    name: str
    split: str
    file: str
    number: int
    labels: list[Any] = field(default_factory=list)
    several: bool = False
    boxes: list[Box] = field(default_factory=list)
    mask: str | None = None
    rows: int = 0
    without: list[str] = field(default_factory=list)

    @property
    def origin(self) -> str:
        """What its rows are called."""
        return f"{printable(self.file)} row"

    @property
    def place(self) -> str:
        """The image's first row."""
        return f"{self.origin} {self.number}"

    @property
    def hidden(self) -> bool:
        """Whether it has no label, or what stands for one that is not published."""
        return _HIDDEN.issuperset(map(str, self.labels)) and not self.several

    def take(self, row: ImageRow) -> None:
        """Add what a row says."""
        self.labels += row.labels
        self.several |= row.several
        self.boxes += row.boxes
        self.mask = row.mask or self.mask
        self.rows += 1
        if row.unlabelled:
            self.without.append(f"{self.origin} {row.number}: {row.unlabelled}")

    def refuse_unlabelled(self, findings: Findings) -> None:
        """Note each row without a label."""
        for what in self.without:
            findings.add(self.name, what)


class _Reading:
    """From what tables say of all images to records."""

    def __init__(
        self, tree: Tree, findings: Findings, images: Sequence[_Listed], *, masks: bool
    ) -> None:
        self.tree, self.findings, self.masks = tree, findings, masks
        labels = [label for image in images for label in image.labels]
        self.kind = LabelKind.of([*labels, *(box.label for i in images for box in i.boxes)])
        self.differing: list[str] = []
        self.multi_label = False
        self.ones: set[Any] = set()
        for image in images:
            try:
                classes = {self.kind(label) for label in image.labels}
            except CellError:
                continue  # noted with its record
            self.ones |= classes & {-1, 0}
            self.multi_label |= image.several or len(classes) > 1
            if len(classes) > 1 and image.rows > 1 and not image.boxes:
                self.differing.append(image.name)

    def notes(self) -> list[str]:
        """Return what is to be known of the labels."""
        notes = []
        if self.ones == {-1, 0}:
            notes.append("label -1 is a class here, like the others; leave its rows out if not")
        if self.differing:
            images = count(len(self.differing), "image")
            rows = f"{images} with rows of different labels ({shown_path(self.differing[0])})"
            notes.append(f"{rows}, so an image may have several labels")
        return notes

    def records(self, images: Sequence[_Listed]) -> list[Record]:
        """Return the records of a split."""
        return [record for image in images if (record := self._record(image)) is not None]

    def _record(self, image: _Listed) -> Record | None:
        """Return an image's record; None, and a note in the findings, where it cannot be had."""
        name, findings = image.name, self.findings
        if name not in self.tree.files:
            findings.add(
                name, f"{image.place}: its image {shown_path(name)} is missing{self._why(name)}"
            )
            return None
        try:
            labels = sorted({self.kind(label) for label in image.labels})
            boxes = [box._replace(label=self.kind(box.label)) for box in image.boxes]
        except CellError as error:
            findings.add(name, f"{image.place} {error}")
            return None
        mask = None
        if self.masks and image.mask is not None:
            if image.mask not in self.tree.files:
                what = f"{shown_path(image.mask)} is missing{self._why(image.mask)}"
                findings.add(name, f"{image.place}: its mask {what}")
            else:
                mask = PictureMask(name, image.mask, self.tree.file(image.mask))
        label = labels if self.multi_label else (labels or [None])[0]
        if not labels and not image.several:
            label = None
        return Record(
            name,
            self.tree.content(name),
            label,
            findings.boxes(name, image.origin, boxes),
            mask,
            origin=image.origin,
            row=image.number,
        )

    def _why(self, path: str) -> str:
        """Say why there is no such file, where that can be told."""
        if URL.match(path):
            return "; it is a web address: download the images and list their paths"
        if DRIVE.match(path):
            return "; it is a path of a Windows drive: write it from the table's folder"
        if path.startswith(("/", "../")):
            return f"; it lies outside of {self.tree.path}: give a folder that holds both"
        near = self._near.get(path.lower())
        return f"; {shown_path(near)} is there" if near else ""

    @cached_property
    def _near(self) -> dict[str, str]:
        """Images by their names in lower case, with and without suffix."""
        near = {name.lower(): name for name in self.tree.names if is_image(name)}
        return {name.rpartition(".")[0]: file for name, file in near.items()} | near


def _not_listed(
    tree: Tree, file: str, images: Iterable[_Listed], findings: Findings
) -> Iterator[str]:
    """Yield a line on images beside a table that it does not list."""
    pictures = set(filter(is_image, tree.names))
    for image in images:
        pictures -= {image.name, image.mask}
    pictures -= {problem.image for problem in findings.problems}
    if pictures:
        said = f"{count(len(pictures), 'image')} beside {printable(file)} not listed there"
        yield f"{said} ({shown_path(min(pictures))})"


def _name(image: _Listed) -> str:
    return image.name
