"""YOLO text files: one an image, with a line `CLASS X Y WIDTH HEIGHT` (or a polygon) an object.

Centres and sizes, or the polygon's corners, are shares of the image's size. `images/.../A.jpg` has
its text in `labels/.../A.txt`, or beside it. An image without objects has an empty text file. What
the classes are called and which images train is told in `data.yaml` and its like, see
`yolo_config.py` and `yolo_splits.py`.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loss_attention.data.file_types import is_image
from loss_attention.data.records import Box, Findings, Part, Record, Source
from loss_attention.data.tree import Tree, open_tree
from loss_attention.data.yaml_text import MOST_BYTES, read_yaml
from loss_attention.data.yolo_config import (
    MOST_TEXT,
    Classes,
    Config,
    declares_splits,
    describes_data,
    find_classes,
    find_config,
    lines_of,
    names_classes,
)
from loss_attention.data.yolo_splits import divide
from loss_attention.errors import InputError, guarded, printable, quoted

_SEEN = 20  # files looked into to tell the layout
_WHOLE = re.compile(r"\d{1,9}", re.ASCII)
_NUMBER = re.compile(
    r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?|[+-]?(nan|inf(inity)?)", re.I | re.A
)


@dataclass(frozen=True)
class Layout:
    """The images of a YOLO data set, and its data.yaml."""

    images: list[str]
    config: Config | None


def find_yolo(tree: Tree, where: str) -> Layout | None:
    """Return the images of a tree, if a data.yaml or text files say that they are YOLO's.

    Raises:
        InputError: they are, and it is not clear which data.yaml is meant.
    """
    images = list(filter(is_image, tree.names))
    texts = [text for image in images if (text := _text_of(image, tree)) is not None]
    certain = any(_is_yolo(tree, text) for text in texts[:_SEEN])
    config = find_config(tree, where, certain=certain)
    named = any(map(names_classes, tree.names)) and any(_may_be(tree, t) for t in texts[:_SEEN])
    declared = config is not None and (bool(texts) or declares_splits(config))
    if not images or not (certain or named or declared):
        return None
    return Layout(images, find_config(tree, where, certain=True))


def open_yolo(path: Path, where: str, *, masks: bool) -> tuple[Tree, Source]:
    """Return the files and images of a data.yaml; its `path` is followed wherever it leads.

    Raises:
        InputError: it is none, or see `read_yolo`.
    """
    with guarded(where), path.open("rb") as file:
        content = read_yaml(file.read(MOST_BYTES + 1))
    if not describes_data(content):
        raise InputError(f"{where} is no YAML file of a data set: it has no `names` of classes")
    home = path.parent
    base = content.get("path")
    elsewhere = home / base if isinstance(base, str) and "\0" not in base else home
    outside = elsewhere.is_dir() and home.resolve() not in (
        elsewhere.resolve(),
        *elsewhere.resolve().parents,
    )
    tree = open_tree(elsewhere if outside else home)
    layout = Layout(
        list(filter(is_image, tree.names)), Config(path.name, content, base="" if outside else None)
    )
    return tree, read_yolo(tree, layout, where, masks=masks)


def read_yolo(tree: Tree, layout: Layout, where: str, *, masks: bool) -> Source:
    """Return the images that `find_yolo` found.

    Raises:
        InputError: no names of the classes, or a split that is not there.
    """
    findings, config = Findings(), layout.config
    classes, notes = find_classes(tree, config, where)
    if config is not None and "kpt_shape" in config.content:
        raise InputError(
            f"{where}: {printable(config.name)} declares key points (kpt_shape), which are not "
            "read; boxes and polygons are"
        )
    divided = divide(tree, layout.images, config, where, findings)
    rows = _Rows(tree, classes, findings, masks=masks)
    parts, described = [], set()
    for split, own in divided.splits.items():
        records = []
        for image in own:
            text = _text_of(image, tree)
            if text is None:
                findings.add(
                    image,
                    f"the image {printable(image)} has no annotation; one without objects has an "
                    f"empty {printable(_stem(image))}.txt",
                )
                continue
            described.add(text)
            records.append(rows.record(image, text))
        parts.append(Part(split, records))
    for text in _alone(tree, layout.images, described):
        findings.add(text, f"{printable(text)} row 1: its image is missing")
    names = tuple(classes.names.values())
    source = Source(where, tuple(parts), names, True, notes=(*notes, *divided.notes))
    return findings.finish(source)


def _text_of(image: str, tree: Tree) -> str | None:
    """Return an image's label file: in `labels` for the last `images` of its path, or beside."""
    own = f"{posixpath.splitext(image)[0]}.txt"
    parts = own.split("/")
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        found = tree.find("/".join([*parts[:last], "labels", *parts[last + 1 :]]))
        if found is not None:
            return found
    return tree.find(own)


def _stem(image: str) -> str:
    return posixpath.splitext(posixpath.basename(image))[0]


def _is_yolo(tree: Tree, text: str) -> bool:
    """Return whether a text's first line is a whole number and shares."""
    try:
        first = _first_words(tree, text)
    except InputError:
        return False
    if len(first) < 5 or not all(map(_NUMBER.fullmatch, first)):
        return False
    numbers = [float(word) for word in first]
    return numbers[0].is_integer() and not any(abs(n) > 2 for n in numbers[1:])


def _may_be(tree: Tree, text: str) -> bool:
    """Return whether a text may be meant as YOLO's, and is no caption: empty, or mostly numbers."""
    try:
        first = re.split(r"[\s,;]+", " ".join(_first_words(tree, text)))
    except InputError:
        return True
    return first == [""] or sum(bool(_NUMBER.fullmatch(word)) for word in first) >= 4


def _first_words(tree: Tree, text: str) -> list[str]:
    lines = lines_of(tree.text(text, MOST_TEXT))
    return next((line.split() for line in lines if line.strip()), [])


def _alone(tree: Tree, images: list[str], described: set[str]) -> Iterator[str]:
    """Yield the label files in the folders of those described that no image has."""
    folders = {posixpath.dirname(text) for text in described}
    others = [
        name
        for name in tree.names
        if name.endswith(".txt")
        and name not in described
        and posixpath.dirname(name) in folders
        and not names_classes(name)
    ]
    if others:
        expected = {_text_of(image, tree) for image in images}
        yield from (name for name in others if name not in expected and _is_yolo(tree, name))


class _Rows:
    """Reads label files."""

    def __init__(self, tree: Tree, classes: Classes, findings: Findings, *, masks: bool) -> None:
        self.tree, self.classes, self.findings, self.masks = tree, classes, findings, masks
        self.index = {number: k for k, number in enumerate(classes.names)}

    def record(self, image: str, text: str) -> Record:
        """Return the record of an image; what is wrong with its label file is noted."""
        origin, boxes = f"{printable(text)} row", []
        polygons: list[tuple[Any, ...]] = []
        try:
            lines = lines_of(self.tree.text(text, MOST_TEXT))
        except InputError as error:
            self.findings.add(image, str(error))
            lines = []
        for row, line in enumerate(lines, start=1):
            words = line.split()
            if not words:
                continue
            fault = self._fault(words)
            if fault:
                self.findings.add(image, f"{origin} {row}{fault}")
                continue
            label, numbers = self.index[int(words[0])], [float(word) for word in words[1:]]
            boxes.append(Box(label, *_corners(numbers), row))
            if self.masks and len(numbers) > 4:
                polygons.append((label, [numbers], row))
        return Record(
            image,
            self.tree.content(image),
            sorted({box.label for box in boxes}),
            self.findings.boxes(image, origin, boxes),
            self.findings.mask(image, len(boxes), polygons, shares=True, origin=origin),
            origin=origin,
            relative=True,
        )

    def _fault(self, words: list[str]) -> str:
        """Return what is wrong with a row, as the end of a sentence."""
        if not all(map(_NUMBER.fullmatch, words)):
            wrong = next(word for word in words if not _NUMBER.fullmatch(word))
            return f": {quoted(wrong)} is no number; a row is CLASS X Y WIDTH HEIGHT"
        numbers = [float(word) for word in words[1:]]
        if not _WHOLE.fullmatch(words[0]):
            return f": class {quoted(words[0])} is no whole number from 0"
        if int(words[0]) not in self.classes.names:
            return f": class {int(words[0])} has no name in {printable(self.classes.file)}"
        if len(numbers) == 5:
            return " has five numbers after the class; four are a box (is the last a confidence?)"
        if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
            return " is neither four numbers nor a polygon"
        far = [word for word in words[1:] if not abs(float(word)) <= 2]  # or NaN
        if far:
            wrong = far[0]
            number = "no finite number" if not math.isfinite(float(wrong)) else "no share of a size"
            return f": {quoted(wrong)} is {number}; YOLO's run from 0 to 1"
        return ""


def _corners(numbers: list[float]) -> tuple[float, float, float, float]:
    if len(numbers) == 4:
        x, y, width, height = numbers
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    across, down = numbers[::2], numbers[1::2]
    return min(across), min(down), max(across), max(down)
