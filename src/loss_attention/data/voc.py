"""Pascal VOC XML: a file an image, with the objects in it. An image may have several classes.

The splits are those of `ImageSets/Main` (trainval and test, else train and val), or else are named
by folders. Boxes count pixels from 1 and inclusively, as VOC does; objects marked difficult count
like others.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from xml.etree import ElementTree

from loss_attention.data.decoding import IMAGE_SUFFIXES
from loss_attention.data.records import Box, Findings, Part, Record, Source
from loss_attention.data.splits import by_split, split_of
from loss_attention.data.tree import Tree
from loss_attention.errors import InputError

_LISTS = "ImageSets/Main/"
_SEEN = 20  # files looked into to tell the layout


def voc_files(tree: Tree) -> list[str]:
    """Return the XML files of a tree if they describe images."""
    found = [name for name in tree.names if name.lower().endswith(".xml")]
    if any(b"<annotation" in tree.read(name)[:1000] for name in found[:_SEEN]):
        return found
    return []


def read_voc(tree: Tree, files: list[str], where: str) -> Source:
    """Return the images of the XML files that `voc_files` found.

    Raises:
        InputError: broken XML, or an object without a name or box.
    """
    findings = Findings()
    images = _Images(tree)
    lists = _split_lists(tree)
    stems = {PurePosixPath(file).stem: file for file in files}
    if lists:
        wanted = [(stem, split) for split, listed in lists.items() for stem in listed]
        for stem, _ in wanted:
            if stem not in stems:
                findings.add(stem, f"the image {stem} has no annotation in Annotations/{stem}.xml")
        found = [(stems[stem], split) for stem, split in wanted if stem in stems]
    else:
        found = [(file, split_of(PurePosixPath(file).parent)) for file in files]
    splits = by_split(found, str, where)
    parts = []
    for split, own in splits.items():
        records = (_record(tree, file, images, where, findings) for file in own)
        parts.append(Part(split, [record for record in records if record is not None]))
    if not lists:
        findings.unlisted(images.unused(), "any XML file")
    return findings.finish(Source(where, tuple(parts), multi_label=True))


class _Images:
    """The images of a tree, found by the XML file that describes them."""

    def __init__(self, tree: Tree) -> None:
        self._by_stem: dict[str, list[str]] = {}
        self._used: set[str] = set()
        for name in tree.names:
            if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES:
                self._by_stem.setdefault(PurePosixPath(name).stem, []).append(name)

    def of(self, file: str) -> str | None:
        """Return the image of an XML file: of its name, and of several the nearest by folder."""
        candidates = self._by_stem.get(PurePosixPath(file).stem, [])
        if not candidates:
            return None
        home = PurePosixPath(file).parent.parts
        found = max(candidates, key=lambda name: _common(home, PurePosixPath(name).parent.parts))
        self._used.add(found)
        return found

    def unused(self) -> Iterator[str]:
        """Yield the images in the folders of those found that no file describes."""
        folders = {PurePosixPath(name).parent for name in self._used}
        for names in self._by_stem.values():
            for name in names:
                if name not in self._used and PurePosixPath(name).parent in folders:
                    yield name


def _common(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def _split_lists(tree: Tree) -> dict[str, list[str]]:
    """Return the images' stems of each split that `ImageSets/Main` lists."""
    lists = {
        PurePosixPath(name).stem: tree.text(name).split()
        for name in tree.names
        if _LISTS in f"/{name}"
        and PurePosixPath(name).name in ("train.txt", "val.txt", "trainval.txt", "test.txt")
    }
    if lists.get("trainval") and lists.get("test"):
        return {"train": lists["trainval"], "test": lists["test"]}
    train = lists.get("train") or lists.get("trainval") or []
    named = {"train": train, "validation": lists.get("val", []), "test": lists.get("test", [])}
    if not lists.get("train"):
        named["validation"] = []  # part of trainval
    return {split: stems for split, stems in named.items() if stems}


def _record(
    tree: Tree, file: str, images: _Images, where: str, findings: Findings
) -> Record | None:
    try:
        root = ElementTree.fromstring(tree.read(file))
    except ElementTree.ParseError as error:
        raise InputError(f"{where}: {file} is no XML: {error}") from error
    image = images.of(file)
    if image is None:
        wanted = root.findtext("filename") or PurePosixPath(file).stem
        findings.add(file, f"{file}: its image {wanted} is missing")
        return None
    origin = f"{file} object"
    objects = enumerate(root.findall("object"), start=1)
    boxes = [_box(element, row, f"{where}: {origin}") for row, element in objects]
    return Record(
        image,
        tree.content(image),
        sorted({box.label for box in boxes}),
        findings.boxes(image, origin, boxes),
        size=_size(root),
        origin=origin,
    )


def _box(element: ElementTree.Element, row: int, place: str) -> Box:
    try:
        label = (element.findtext("name") or "").strip()
        x0, y0, x1, y1 = (
            float(element.findtext(f"bndbox/{side}", ""))
            for side in ("xmin", "ymin", "xmax", "ymax")
        )
    except ValueError as error:
        raise InputError(f"{place} {row} has no bndbox of four numbers") from error
    if not label:
        raise InputError(f"{place} {row} has no name")
    return Box(label, x0 - 1, y0 - 1, x1, y1, row)


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    """Return the width and height that a file states; some tools leave them 0."""
    try:
        width, height = (int(root.findtext(f"size/{side}", "0")) for side in ("width", "height"))
    except ValueError:
        return None
    return (width, height) if width > 0 and height > 0 else None
