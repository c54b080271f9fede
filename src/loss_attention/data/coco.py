"""COCO JSON: the official layout of 2014 and 2017, and JSON files of the same form.

Each JSON is one split, named by the file or its folder. An image may have several classes. In the
official files (`instances_train2017.json`) the images without any annotation are left out, as the
paper does; in others they count as images that show none of the classes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from loss_attention.data.decoding import IMAGE_SUFFIXES
from loss_attention.data.records import Box, Findings, Part, Record, Source, count
from loss_attention.data.splits import by_split, split_of
from loss_attention.data.tree import Tree
from loss_attention.errors import InputError

_OFFICIAL = re.compile(r"(.*/)?instances_(?P<images>(train|val)(?P<year>\d{4})).*\.json")
_KEYS = (b'"images"', b'"annotations"', b'"categories"')
_MOST_JSON = 20  # a folder of more is a format of one JSON an image


def coco_files(tree: Tree, known: str | None) -> list[str]:
    """Return the JSON files of a tree that annotate images as COCO does.

    Args:
        tree: where to look.
        known: `coco2014` or `coco2017`, of which only the files of that year are taken.
    """
    year = known.removeprefix("coco") if known in ("coco2014", "coco2017") else None
    official = [match for name in tree.names if (match := _OFFICIAL.fullmatch(name))]
    if official or year:
        return [match[0] for match in official if year in (None, match["year"])]
    found = [
        name
        for name in tree.names
        if name.lower().endswith(".json") and len(PurePosixPath(name).parts) <= 3
    ]
    if len(found) > _MOST_JSON:
        found = [name for name in found if name.endswith(".coco.json")]
    return [name for name in found if _has_keys(tree.read(name))]


def read_coco(tree: Tree, files: list[str], where: str, *, masks: bool) -> Source:
    """Return one split for each of the JSON files that `coco_files` found.

    Raises:
        InputError: broken JSON, two files of one split, or other classes in one than in another.
    """
    splits = by_split(((name, split_of(PurePosixPath(name))) for name in files), str, where)
    findings, parts, names, notes = Findings(), [], None, []
    for split, (file, *others) in splits.items():
        if others:
            raise InputError(
                f"{where} has several annotation files of split {split} ({file}, {others[0]}); "
                "name the one that is meant, or coco2014:PATH or coco2017:PATH"
            )
        reading = _File(tree, file, where, findings)
        if names is None:
            names = reading.class_names
        elif names != reading.class_names:
            raise InputError(f"{where}: {file} declares other classes than {files[0]}")
        records = reading.records(masks=masks)
        if _OFFICIAL.fullmatch(file):
            empty = sum(not record.label for record in records)
            records = [record for record in records if record.label]
            if empty:
                notes.append(f"{count(empty, 'image')} of {file} without annotation left out")
        parts.append(Part(split, records))
    return findings.finish(Source(where, tuple(parts), names, True, notes=tuple(notes)))


class _File:
    """One JSON file and the images that it annotates."""

    def __init__(self, tree: Tree, file: str, where: str, findings: Findings) -> None:
        self.tree, self.file, self.findings = tree, file, findings
        self.place = f"{where}: {file}"
        try:
            content = json.loads(tree.text(file))
            self.images = {image["id"]: image for image in content["images"]}
            self.annotations = content["annotations"]
            categories = sorted(content["categories"], key=lambda category: category["id"])
            self.class_names = tuple(str(category["name"]) for category in categories)
            self.classes = {category["id"]: k for k, category in enumerate(categories)}
        except ValueError as error:
            raise InputError(f"{self.place} is no JSON: {error}") from error
        except (KeyError, TypeError) as error:
            raise InputError(f"{self.place} is no COCO JSON: {error!r}") from error
        repeated = len(self.class_names) - len(set(self.class_names))
        if repeated:
            raise InputError(f"{self.place} gives {count(repeated, 'class')} a name twice")

    def records(self, *, masks: bool) -> list[Record]:
        """Return a record an image; note images that are missing or not listed."""
        grouped = self._grouped()
        known, folders = set(self.tree.names), self._folders()
        origin, records, used = f"{self.file} annotation", [], set()
        for number, image in self.images.items():
            file = str(image.get("file_name", ""))
            found = next((folder + file for folder in folders if folder + file in known), None)
            if found is None:
                self.findings.add(file, f"{self.file} image {number}: {file!r} is missing")
                continue
            used.add(found)
            objects = grouped.get(number, [])
            boxes = self.findings.boxes(found, origin, (self._box(a) for a in objects))
            segments = [
                (self._class(a), a["segmentation"])
                for a in objects
                if masks and a.get("segmentation")
            ]
            records.append(
                Record(
                    found,
                    self.tree.content(found),
                    sorted({self._class(a) for a in objects}),
                    boxes,
                    self.findings.mask(found, len(objects), segments),
                    _size(image),
                    origin,
                )
            )
        self.findings.unlisted(self._beside(used), self.file)
        return records

    def _grouped(self) -> Mapping[Any, list[dict[str, Any]]]:
        grouped: dict[Any, list[dict[str, Any]]] = {}
        for annotation in self.annotations:
            image = annotation.get("image_id")
            if image not in self.images:
                self.findings.add(
                    str(image),
                    f"{self.file} annotation {annotation.get('id')}: its image {image} is missing "
                    "from the file's images",
                )
            grouped.setdefault(image, []).append(annotation)
        return grouped

    def _folders(self) -> list[str]:
        """Return where the images may lie, the likeliest first."""
        own = self.file.rpartition("/")[0]
        own = f"{own}/" if own else ""
        base = own.removesuffix("annotations/")
        match = _OFFICIAL.fullmatch(self.file)
        stem = match["images"] if match else PurePosixPath(self.file).stem
        inside = (f"{stem}/", f"images/{stem}/", "images/", "")
        return [*(base + folder for folder in inside), own, f"{own}images/"]

    def _beside(self, used: set[str]) -> Iterator[str]:
        """Yield the images in the folders of those used that are not among them."""
        folders = {name.rpartition("/")[0] for name in used}
        for name in self.tree.names:
            is_image = PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES
            if is_image and name not in used and name.rpartition("/")[0] in folders:
                yield name

    def _class(self, annotation: Mapping[str, Any]) -> int:
        try:
            return self.classes[annotation["category_id"]]
        except KeyError as error:
            raise InputError(
                f"{self.place} annotation {annotation.get('id')}: unknown category {error}"
            ) from error

    def _box(self, annotation: Mapping[str, Any]) -> Box:
        try:
            x, y, width, height = map(float, annotation["bbox"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{self.place} annotation {annotation.get('id')} has no bbox of four numbers"
            ) from error
        row = annotation.get("id")
        return Box(
            self._class(annotation), x, y, x + width, y + height, row if isinstance(row, int) else 0
        )


def _has_keys(content: bytes) -> bool:
    return all(key in content for key in _KEYS)


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    width, height = image.get("width"), image.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None
