"""YOLO text files: one an image, with a line `CLASS X Y WIDTH HEIGHT` (or a polygon) an object.

Centres and sizes, or the polygon's corners, are shares of the image's size. `images/.../A.jpg` has
its text in `labels/.../A.txt`, or beside it. An image without objects has an empty text file. The
classes are named in `data.yaml`, or in `classes.txt` a line. Splits are named by folders.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import yaml

from loss_attention.data.decoding import IMAGE_SUFFIXES
from loss_attention.data.records import Box, Findings, Part, Record, Source
from loss_attention.data.splits import by_split, split_of
from loss_attention.data.tree import Tree
from loss_attention.errors import InputError

_NAMES = ("classes.txt", "obj.names", "_darknet.labels")
_SEEN = 20  # files looked into to tell the layout


def yolo_files(tree: Tree) -> list[str]:
    """Return the images of a tree, if there are YOLO text files for them."""
    names = set(tree.names)
    images = [name for name in tree.names if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES]
    texts = [text for image in images if (text := _text_of(image, names)) is not None]
    if texts and any(_is_yolo(tree.text(text)) for text in texts[:_SEEN]):
        return images
    return []


def read_yolo(tree: Tree, images: list[str], where: str, *, masks: bool) -> Source:
    """Return the images that `yolo_files` found.

    Raises:
        InputError: no names of the classes, or a line that is no object.
    """
    findings = Findings()
    names, classes = set(tree.names), _class_names(tree, where)
    found = [(image, split_of(PurePosixPath(image).parent)) for image in images]
    parts, described = [], set()
    for split, own in by_split(found, str, where).items():
        records = []
        for image in own:
            text = _text_of(image, names)
            if text is None:
                findings.add(
                    image,
                    f"the image {image} has no annotation; one without objects has an empty "
                    f"{PurePosixPath(image).stem}.txt",
                )
                continue
            described.add(text)
            records.append(_record(tree, image, text, classes, where, findings, masks=masks))
        parts.append(Part(split, records))
    folders = {text.rpartition("/")[0] for text in described}
    for text in tree.names:
        alone = (
            text.endswith(".txt") and text not in described and text.rpartition("/")[0] in folders
        )
        if alone and PurePosixPath(text).name not in _NAMES and _is_yolo(tree.text(text)):
            findings.add(text, f"{text} row 1: its image is missing")
    return findings.finish(Source(where, tuple(parts), classes, True))


def _text_of(image: str, names: set[str]) -> str | None:
    path = PurePosixPath(image)
    parts = list(path.parts)
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        parts[last] = "labels"
    candidates = (PurePosixPath(*parts).with_suffix(".txt"), path.with_suffix(".txt"))
    return next((str(text) for text in candidates if str(text) in names), None)


def _is_yolo(text: str) -> bool:
    """Return whether a text's first line is a whole number and shares."""
    words = text.strip().split("\n")[0].split()
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return False
    return len(words) >= 5 and words[0].isdigit() and all(-1 <= n <= 2 for n in numbers[1:])


def _record(
    tree: Tree,
    image: str,
    text: str,
    classes: tuple[str, ...],
    where: str,
    findings: Findings,
    *,
    masks: bool,
) -> Record:
    origin, boxes = f"{text} row", []
    polygons: list[tuple[Any, Any]] = []
    for row, line in enumerate(tree.text(text).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        try:
            label, *numbers = int(words[0]), *map(float, words[1:])
        except ValueError as error:
            raise InputError(f"{where}: {origin} {row} is no class and numbers") from error
        if not 0 <= label < len(classes):
            raise InputError(
                f"{where}: {origin} {row}: class {label} is outside the {len(classes)} named"
            )
        corners = _corners(numbers)
        if corners is None:
            raise InputError(f"{where}: {origin} {row} is neither four numbers nor a polygon")
        boxes.append(Box(label, *corners, row))
        if masks and len(numbers) > 4:
            polygons.append((label, [numbers]))
    return Record(
        image,
        tree.content(image),
        sorted({box.label for box in boxes}),
        findings.boxes(image, origin, boxes),
        findings.mask(image, len(boxes), polygons, shares=True),
        origin=origin,
        relative=True,
    )


def _corners(numbers: list[float]) -> tuple[float, float, float, float] | None:
    if len(numbers) == 4:
        x, y, width, height = numbers
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if len(numbers) >= 6 and len(numbers) % 2 == 0:
        across, down = numbers[::2], numbers[1::2]
        return min(across), min(down), max(across), max(down)
    return None


def _class_names(tree: Tree, where: str) -> tuple[str, ...]:
    for name in tree.names:
        if name.endswith((".yaml", ".yml")):
            try:
                content = yaml.safe_load(tree.text(name))
            except yaml.YAMLError as error:
                raise InputError(f"{where}: {name} is no YAML: {error}".splitlines()[0]) from error
            names = content.get("names") if isinstance(content, dict) else None
            if isinstance(names, dict):
                names = [names[key] for key in sorted(names)]
            if isinstance(names, list):
                return tuple(map(str, names))
    for name in tree.names:
        if PurePosixPath(name).name in _NAMES:
            lines = tree.text(name).splitlines()
            return tuple(line.strip() for line in lines if line.strip())
    raise InputError(
        f"{where} holds YOLO text files but no names of the classes: add a classes.txt, a line each"
    )
