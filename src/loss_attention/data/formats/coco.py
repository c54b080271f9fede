"""COCO JSON: the official layout of 2014 and 2017, and JSON files of the same form.

Each JSON is one split, named by the file or its folder. An image may have several classes. In the
official files (`instances_train2017.json`) the images without any annotation are left out, as the
paper does; in others they count as images that show none of the classes.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from loss_attention.data.decoding import is_image
from loss_attention.data.division import by_split, split_of
from loss_attention.data.records import Box, Findings, Part, Record, Source, count, stated_size
from loss_attention.data.tree import Tree
from loss_attention.errors import InputError, guarded, quoted
from loss_attention.memory import free_memory

_OFFICIAL = re.compile(r"(.*/)?instances_(?P<images>(train|val)(?P<year>\d{4})).*\.json")
_KEYS = (b'"images"', b'"annotations"', b'"categories"')
_OBJECTS = (b'"annotations"', b'"category_id"')  # what objects have even where a key is missing
_MOST_JSON = 20  # a folder of more is a format of one JSON an image
_PARSED = 8  # a JSON takes about so many times its bytes once it is read
_KINDS = {dict: "an object", list: "a list", str: "text", type(None): "null", bool: "true or false"}


def open_coco(tree: Tree, where: str, masks: bool, known: str | None) -> tuple[Tree, Source] | None:
    """Return the images of JSON files, if there are any that annotate images as COCO does."""
    found = coco_files(tree, known)
    return (tree, read_coco(tree, found, where, masks=masks)) if found else None


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
    return [name for name in found if _annotates(_bytes(tree, name))]


def read_coco(tree: Tree, files: list[str], where: str, *, masks: bool) -> Source:
    """Return one split for each of the JSON files that `coco_files` found.

    Raises:
        InputError: a file that is not COCO JSON, two files of one split, or other classes in one
            than in another.
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
        notes += reading.notes()
        if _OFFICIAL.fullmatch(file):
            bad = {problem.image for problem in findings.problems}
            empty = sum(not record.label and record.name not in bad for record in records)
            records = [record for record in records if record.label]
            if empty:
                notes.append(f"{count(empty, 'image')} of {file} without annotation left out")
        parts.append(Part(split, records))
    return findings.finish(Source(where, tuple(parts), names, True, notes=tuple(notes)))


class _File:
    """One JSON file and the images that it annotates."""

    def __init__(self, tree: Tree, file: str, where: str, findings: Findings) -> None:
        self.tree, self.file, self.findings = tree, file, findings
        self.location = f"{where}: {file}"
        with guarded(self.location):
            raw = _bytes(tree, file)
            try:
                content = json.loads(raw)
            except ValueError as error:
                raise InputError(f"{self.location} is not valid JSON: {error}") from error
            self.annotations = self._listed(content, "annotations")
            self.names = self._categories(self._listed(content, "categories"))
            self.twice = 0
            self.images = self._images(self._listed(content, "images"))
        self.class_names = tuple(self.names.values())
        self.classes = {number: k for k, number in enumerate(self.names)}

    def records(self, *, masks: bool) -> list[Record]:
        """Return a record an image; note images that are missing or not listed."""
        grouped = self._grouped()
        records: list[Record] = []
        used: dict[str, str] = {}
        for number, images in self.images.items():
            for image in images:
                location, file, found = (
                    self._called(image),
                    image.get("file_name"),
                    self._found(image),
                )
                if not isinstance(file, str) or not file.strip():
                    self.findings.add(location, f"{location}: its file_name is {quoted(file)}")
                elif found is None:
                    self.findings.add(file, f"{location}: {quoted(file)} is missing")
                elif found in used:
                    what = f"its file {found} is that of image {used[found]} too"
                    self.findings.add(found, f"{location}: {what}")
                else:
                    used[found] = quoted(image["id"])
                    if len(images) > 1:
                        what = f"{len(images)} files have this id, {found} and others"
                        self.findings.add(found, f"{location}: {what}")
                    records.append(self._record(found, image, grouped.get(number, []), masks=masks))
        folders = {posixpath.dirname(name) for name in used}
        beside = (n for n in self.tree.names if is_image(n) and posixpath.dirname(n) in folders)
        self.findings.unlisted((name for name in beside if name not in used), self.file)
        return records

    def notes(self) -> list[str]:
        """Return what is odd and does no harm, a line each."""
        ids = [number for a in self.annotations if (number := _id(a.get("id"))) is not None]
        repeated = len(ids) - len(set(ids))
        notes = []
        if self.twice:
            notes.append(f"{count(self.twice, 'image')} of {self.file} listed twice, read once")
        if repeated:
            notes.append(
                f"{count(repeated, 'annotation')} of {self.file} with the id of another, all read"
            )
        return notes

    def _listed(self, content: Any, key: str) -> list[Any]:
        """Return one of the lists that the file has to hold."""
        if not isinstance(content, dict):
            what = f"it holds {_kind(content)}, not an object with images and annotations"
        elif key not in content:
            what = f"it lacks {key!r}"
        elif not isinstance(content[key], list):
            what = f"its {key!r} is {_kind(content[key])}, not a list"
        else:
            listed: list[Any] = content[key]
            return listed
        raise InputError(f"{self.location} is not COCO JSON: {what}")

    def _categories(self, entries: Sequence[Any]) -> dict[str, str]:
        """Return the names of categories by id, in the order of the ids."""
        found: dict[str, str] = {}
        for position, entry in enumerate(entries, start=1):
            number = _id_of(entry)
            if number is None:
                raise InputError(
                    f"{self.location}: entry {position} of categories has no id: {quoted(entry)}"
                )
            location, name = f"{self.location} category {quoted(entry['id'])}", _class_name(entry)
            if name is None:
                raise InputError(f"{location}: {quoted(entry.get('name'))} is not a name")
            if found.setdefault(number, name) != name:
                both = f"{quoted(found[number])} and {quoted(name)}"
                raise InputError(f"{location} has two names, {both}")
        names = Counter(found.values())
        if repeated := len(found) - len(names):
            (name, _), *_ = names.most_common(1)
            raise InputError(
                f"{self.location} gives {count(repeated, 'class')} a name twice: {quoted(name)}"
            )
        if not found:
            raise InputError(f"{self.location} is not COCO JSON: its 'categories' is an empty list")
        return {number: found[number] for number in sorted(found, key=_order)}

    def _images(self, entries: Sequence[Any]) -> dict[str, list[dict[str, Any]]]:
        """Return the images of each id: one, or several where something is wrong."""
        found: dict[str, list[dict[str, Any]]] = {}
        for position, entry in enumerate(entries, start=1):
            number = _id_of(entry)
            if number is None:
                name = self._found(entry) if isinstance(entry, dict) else None
                location = f"{self.file}: entry {position} of images"
                self.findings.add(name or location, f"{location} has no id: {quoted(entry)}")
                continue
            same = found.setdefault(number, [])
            if any(image.get("file_name") == entry.get("file_name") for image in same):
                self.twice += 1
            else:
                same.append(entry)
        return found

    def _grouped(self) -> Mapping[str, list[tuple[str, dict[str, Any]]]]:
        """Return the annotations of each image, and what they are called.

        Raises:
            InputError: one that says of no image: it may be any image's.
        """
        grouped: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        for position, annotation in enumerate(self.annotations, start=1):
            if not isinstance(annotation, dict):
                raise InputError(
                    f"{self.location}: entry {position} of annotations is {_kind(annotation)}, not "
                    "an object"
                )
            called = quoted(annotation["id"]) if "id" in annotation else f"no. {position}"
            image = _id(annotation.get("image_id"))
            if image is None:
                raise InputError(
                    f"{self.location} annotation {called} says no image: image_id "
                    f"{quoted(annotation.get('image_id'))}"
                )
            if image not in self.images:
                self.findings.add(
                    image,
                    f"{self.file} annotation {called}: its image {quoted(annotation['image_id'])} "
                    "is missing from the file's images",
                )
            grouped.setdefault(image, []).append((called, annotation))
        return grouped

    def _called(self, image: Mapping[str, Any]) -> str:
        return f"{self.file} image {quoted(image['id'])}"

    def _found(self, image: Mapping[str, Any]) -> str | None:
        """Return the file of an image; None where there is none."""
        file = image.get("file_name")
        return self.tree.find(file, self.folders) if isinstance(file, str) and file else None

    @cached_property
    def folders(self) -> list[str]:
        """Where the images may lie, the likeliest first."""
        own = self.file[: self.file.rfind("/") + 1]
        base = own.removesuffix("annotations/")
        match = _OFFICIAL.fullmatch(self.file)
        stem = match["images"] if match else PurePosixPath(self.file).stem
        inside = (f"{stem}/", f"images/{stem}/", "images/", "")
        return [*(base + folder for folder in inside), own, f"{own}images/", ""]

    def _record(
        self,
        found: str,
        image: Mapping[str, Any],
        objects: Sequence[tuple[str, dict[str, Any]]],
        *,
        masks: bool,
    ) -> Record:
        """Return the record of an image; note what is malformed of it and of its annotations."""
        origin, size, boxes, segments = f"{self.file} annotation", None, [], []
        with self.findings.noting(found, self._called(image)):
            size = stated_size(image.get("width"), image.get("height"), self._called(image))
        for called, annotation in objects:
            location = f"{origin} {called}"
            with self.findings.noting(found, location):
                box = self._box(annotation, called, location)
                boxes.append(box)
                shape = annotation.get("segmentation")
                if masks and shape is not None and shape != []:
                    segments.append((box.label, shape, called))
        return Record(
            found,
            self.tree.content(found),
            sorted({box.label for box in boxes}),
            self.findings.boxes(found, origin, boxes),
            self.findings.mask(found, len(boxes), segments, origin=origin),
            size,
            origin,
        )

    def _box(self, annotation: Mapping[str, Any], called: str, location: str) -> Box:
        category, bbox = annotation.get("category_id"), annotation.get("bbox")
        label = self.classes.get(_id(category) or "")
        if label is None:
            raise InputError(f"{location}: unknown category {quoted(category)}")
        # A bool is not a number here, though it is one to Python.
        if not isinstance(bbox, list) or [type(n) in (int, float) for n in bbox] != [True] * 4:
            given = "it is missing" if "bbox" not in annotation else f"it is {quoted(bbox)}"
            raise InputError(f"{location} has no bbox of four numbers: {given}")
        try:
            x, y, width, height = map(float, bbox)
        except OverflowError as error:
            raise InputError(f"{location}: bbox {quoted(bbox)} is beyond all images") from error
        return Box(label, x, y, x + width, y + height, called)


def _bytes(tree: Tree, file: str) -> bytes:
    """Return a JSON's bytes, if what it holds fits in memory."""
    return tree.read(file, most=free_memory() // _PARSED)


def _annotates(content: bytes) -> bool:
    """Return whether a text of UTF-8, UTF-16 or UTF-32 has COCO's keys, or most of them."""
    plain = content.replace(b"\0", b"") if b"\0" in content[:4] else content
    return any(all(key in plain for key in keys) for keys in (_KEYS, _OBJECTS))


def _id(value: Any) -> str | None:
    """Return the id of an image or a category as text: 7, 7.0 and "7" are one; None: it is none."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _id_of(entry: Any) -> str | None:
    return _id(entry.get("id")) if isinstance(entry, dict) else None


def _order(number: str) -> tuple[int, int, str]:
    """Sort ids as numbers where they are such, and texts after them."""
    whole = re.fullmatch(r"-?[0-9]{1,30}", number)
    return (0, int(number), number) if whole else (1, 0, number)


def _class_name(category: Mapping[str, Any]) -> str | None:
    """Return a category's name; a whole number is one too, as classes may be called 0 to 9."""
    value = category.get("name")
    if type(value) is int:
        return str(value)
    name = value.strip() if isinstance(value, str) else ""
    return name if name and not re.search("[\ud800-\udfff]", name) else None


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "a number")
