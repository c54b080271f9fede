"""Pascal VOC XML: a file an image, with the objects in it. An image may have several classes.

The splits are those of `ImageSets/Main` (trainval and test, else train and val), or else are named
by folders. Boxes count pixels from 1 and inclusively, as VOC does; objects marked difficult count
like others. Masks are those of `SegmentationObject`, which tell the objects of a file apart, else
of `SegmentationClass`.

A file's image is that of its name. Where there is none, it is the one that its `<filename>` says;
many tools copy that element along unchanged, so it decides only where it has to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import PurePosixPath

from loss_attention.data.file_types import is_image
from loss_attention.data.masks import NumberedMask
from loss_attention.data.records import Findings, Part, Record, Source, count
from loss_attention.data.splits import by_split, split_of
from loss_attention.data.tree import Tree
from loss_attention.data.voc_lists import Listed, split_lists
from loss_attention.data.voc_xml import Described, describes_image, read_xml
from loss_attention.errors import InputError

_OBJECT_MASKS, _CLASS_MASKS = "SegmentationObject", "SegmentationClass"


def voc_files(tree: Tree) -> list[str]:
    """Return the XML files of a tree if they describe images."""
    found = [name for name in tree.names if name.lower().endswith(".xml")]
    return found if any(describes_image(tree, name) for name in found) else []


def read_voc(tree: Tree, files: list[str], where: str, *, masks: bool) -> Source:
    """Return the images of the XML files that `voc_files` found.

    Raises:
        InputError: lists of splits that list nothing.
    """
    findings = Findings()
    by_stem = _by_stem(files)
    lists = split_lists(tree, frozenset(by_stem), where)
    notes = []
    if lists:
        found = _listed_files(lists, by_stem, findings)
        left = len(files) - len({file for file, _ in found})
        if left:
            notes.append(f"{count(left, 'XML file')} in no list of ImageSets/Main left out")
    else:
        found = [(file, split_of(PurePosixPath(file).parent)) for file in files]
    described = {file: read_xml(tree, file) for file in dict.fromkeys(file for file, _ in found)}
    images = _Images(tree, files, described)
    records = {file: _record(tree, one, images, findings, masks) for file, one in described.items()}
    parts = []
    for split, own in by_split(found, str, where).items():
        parts.append(Part(split, [record for file in own if (record := records[file])]))
    if not lists:
        findings.unlisted(images.unused(), "any XML file")
    return findings.finish(
        Source(where, tuple(parts), multi_label=True, notes=tuple(notes)),
    )


def _listed_files(
    lists: Mapping[str, Sequence[Listed]], by_stem: Mapping[str, Sequence[str]], findings: Findings
) -> list[tuple[str, str]]:
    """Return the files that lists name, with their split; note what is missing."""
    found = []
    for split, listed in lists.items():
        for one in listed:
            path = f"{one.root}Annotations/{one.path}"
            own = [file for file in by_stem.get(one.stem, []) if file.startswith(one.root)]
            file = _nearest(path, {PurePosixPath(path).stem: own or by_stem.get(one.stem, [])})
            if file is None:
                what = f"the image {one.path} has no annotation in {path}.xml"
                findings.add(one.path, what)
            else:
                found.append((file, split))
    return list(dict.fromkeys(found))


class _Images:
    """The images of a tree and their masks, found by the XML file that describes them."""

    def __init__(
        self, tree: Tree, files: Sequence[str], described: Mapping[str, Described]
    ) -> None:
        self._tree, self._files, self._described = tree, _by_stem(files), described
        self._by_stem: dict[str, list[str]] = {}
        self._masks: dict[str, dict[str, list[str]]] = {_OBJECT_MASKS: {}, _CLASS_MASKS: {}}
        self._used: dict[str, str] = {}
        for name in tree.names:
            path = PurePosixPath(name)
            if is_image(name):
                home = self._masks.get(path.parent.name, self._by_stem)
                home.setdefault(path.stem, []).append(name)

    def of(self, one: Described) -> str:
        """Return the image of an XML file: of its name, or which it says.

        Raises:
            InputError: there is none, or it cannot be told which.
        """
        own, said = self._own(one.file), self._said(one)
        home = None if said is None else _nearest(said, self._files)
        if said is None or said == own:
            image = own
        elif home == one.file:  # two images of the file's name, such as a.jpg and a.png
            image = said
        elif home is None:
            if own is not None:
                raise InputError(
                    f"{one.file} is of {own} by its name, and of {said} by its filename"
                )
            image = said
        else:
            # The image said has a file of its own name: a copy keeps the filename of the first.
            theirs = self._described.get(home)
            agreed = theirs is None or self._said(theirs) in (said, None)
            if own is not None and not agreed:
                raise InputError(
                    f"{one.file} is of {own} by its name, and of {said} by its filename"
                )
            image = own if agreed else said
        if image is None:
            wanted = one.filename or PurePosixPath(one.file).stem
            raise InputError(f"{one.file}: its image {wanted} is missing")
        other = self._used.setdefault(image, one.file)
        if other != one.file:
            raise InputError(f"{one.file}: its image {image} is that of {other} too")
        return image

    def _own(self, file: str) -> str | None:
        """Return the image of an XML file's name, of several the nearest by folder.

        An image that another file of that name is nearer to belongs to that one.
        """
        found = _nearest(file, self._by_stem)
        return found if found is not None and _nearest(found, self._files) == file else None

    def _said(self, one: Described) -> str | None:
        """Return the image that a file's `<filename>` says, with or without folders and suffix."""
        said = one.filename.replace("\\", "/")
        if "/" in said:
            found = self._tree.find(said, (str(PurePosixPath(one.file).parent), ""))
            if found is not None and found in self._by_stem.get(PurePosixPath(found).stem, []):
                return found
        name = said.rpartition("/")[2]
        path = PurePosixPath(name)
        stem = path.stem if is_image(name) else name
        images = self._by_stem.get(stem, [])
        exact = [image for image in images if PurePosixPath(image).name == name]
        beside = PurePosixPath(one.file).with_name(f"{stem}.xml") if stem.strip(".") else None
        return None if beside is None else _nearest(str(beside), {stem: exact or images})

    def mask_of(self, image: str) -> tuple[str, bool] | None:
        """Return the mask of an image, and whether it tells its objects apart."""
        for kind, by_stem in self._masks.items():
            found = _nearest(image, by_stem)
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


def _record(
    tree: Tree, one: Described, images: _Images, findings: Findings, masks: bool
) -> Record | None:
    """Return the record of a file's image, None where there is none; note what is wrong with it."""
    try:
        image = images.of(one)
    except InputError as error:
        for fault in (*one.faults, str(error)):
            findings.add(one.file, fault)
        return None
    for fault in one.faults:
        findings.add(image, fault)
    origin = f"{one.file} object"
    labels = tuple(box.label for box in one.boxes)
    drawn = images.mask_of(image) if masks else None
    mask = None
    if drawn is not None:
        picture, apart = drawn
        mask = NumberedMask(image, picture, tree.file(picture), labels if apart else None)
    boxes = findings.boxes(image, origin, one.boxes)
    label = sorted(set(labels))
    return Record(image, tree.content(image), label, boxes, mask, one.size, origin)
