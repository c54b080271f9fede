"""Pascal VOC XML: a file an image, with the objects in it. An image may have several classes.

The splits are those of `ImageSets/Main` (trainval and test, else train and val), or else are named
by folders. Boxes count pixels from 1 and inclusively, as VOC does; objects marked difficult count
like others. Masks are those of `SegmentationObject`, which tell the objects of a file apart, else
of `SegmentationClass`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import PurePosixPath
from xml.etree import ElementTree

from loss_attention.data.decoding import IMAGE_SUFFIXES
from loss_attention.data.masks import NumberedMask
from loss_attention.data.records import Box, Findings, Part, Record, Source
from loss_attention.data.splits import by_split, split_of
from loss_attention.data.tree import Tree
from loss_attention.errors import InputError

_LISTS = "ImageSets/Main/"
_OBJECT_MASKS, _CLASS_MASKS = "SegmentationObject", "SegmentationClass"
_SEEN = 20  # files looked into to tell the layout


def voc_files(tree: Tree) -> list[str]:
    """Return the XML files of a tree if they describe images."""
    found = [name for name in tree.names if name.lower().endswith(".xml")]
    if any(b"<annotation" in tree.read(name)[:1000] for name in found[:_SEEN]):
        return found
    return []


def read_voc(tree: Tree, files: list[str], where: str, *, masks: bool) -> Source:
    """Return the images of the XML files that `voc_files` found.

    Raises:
        InputError: broken XML, or an object without a name or box.
    """
    findings = Findings()
    images = _Images(tree, files)
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
        records = (_record(tree, file, images, where, findings, masks=masks) for file in own)
        parts.append(Part(split, [record for record in records if record is not None]))
    if not lists:
        findings.unlisted(images.unused(), "any XML file")
    return findings.finish(Source(where, tuple(parts), multi_label=True))


class _Images:
    """The images of a tree and their masks, found by the XML file that describes them."""

    def __init__(self, tree: Tree, files: Sequence[str]) -> None:
        self._files = _by_stem(files)
        self._by_stem: dict[str, list[str]] = {}
        self._masks: dict[str, dict[str, list[str]]] = {_OBJECT_MASKS: {}, _CLASS_MASKS: {}}
        self._used: set[str] = set()
        for name in tree.names:
            path = PurePosixPath(name)
            if path.suffix.lower() in IMAGE_SUFFIXES:
                home = self._masks.get(path.parent.name, self._by_stem)
                home.setdefault(path.stem, []).append(name)

    def of(self, file: str) -> str | None:
        """Return the image of an XML file: of its name, and of several the nearest by folder.

        An image that another file of that name is nearer to belongs to that one.
        """
        found = _nearest(file, self._by_stem)
        if found is None or _nearest(found, self._files) != file:
            return None
        self._used.add(found)
        return found

    def mask_of(self, file: str) -> tuple[str, bool] | None:
        """Return the mask of the image of an XML file, and whether it tells its objects apart."""
        for kind, by_stem in self._masks.items():
            found = _nearest(file, by_stem)
            if found is not None:
                return found, kind == _OBJECT_MASKS
        return None

    def unused(self) -> Iterator[str]:
        """Yield the images in the folders of those found that no file describes."""
        folders = {PurePosixPath(name).parent for name in self._used}
        for names in self._by_stem.values():
            for name in names:
                if name not in self._used and PurePosixPath(name).parent in folders:
                    yield name


def _nearest(file: str, by_stem: Mapping[str, Sequence[str]]) -> str | None:
    """Return the file of another's name, of several the one nearest to it by folder."""
    home = PurePosixPath(file).parent.parts
    return max(
        by_stem.get(PurePosixPath(file).stem, []),
        key=lambda name: _common(home, PurePosixPath(name).parent.parts),
        default=None,
    )


def _by_stem(files: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for file in files:
        found.setdefault(PurePosixPath(file).stem, []).append(file)
    return found


def _common(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """Return how many folders two paths share, counted from the top and from the bottom.

    From the bottom, as in Annotations/train and JPEGImages/train.
    """
    both = (zip(a, b, strict=False), zip(a[::-1], b[::-1], strict=False))
    return sum(sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], one)) for one in both)


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
    tree: Tree, file: str, images: _Images, where: str, findings: Findings, *, masks: bool
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
    labels = tuple(box.label for box in boxes)
    drawn = images.mask_of(file) if masks else None
    mask = None
    if drawn is not None:
        picture, apart = drawn
        mask = NumberedMask(image, picture, tree.file(picture), labels if apart else None)
    return Record(
        image,
        tree.content(image),
        sorted(set(labels)),
        findings.boxes(image, origin, boxes),
        mask,
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
