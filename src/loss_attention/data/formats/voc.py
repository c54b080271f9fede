"""Pascal VOC XML: a file an image, with the objects in it. An image may have several classes.

The splits are those of `ImageSets/Main` (trainval and test, else train and val), or else are named
by folders. Boxes count pixels from 1 and inclusively, as VOC does; objects marked difficult count
like others. Masks are those of `SegmentationObject`, which tell the objects of a file apart, else
of `SegmentationClass`.

A file's image is that of its name. Where there is none, it is the one that its `<filename>` says;
many tools copy that element along unchanged, so it decides only where it has to.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from loss_attention.data.decoding import is_image
from loss_attention.data.division import by_split, split_of
from loss_attention.data.masks import NumberedMask
from loss_attention.data.records import Box, Findings, Part, Record, Source, count, stated_size
from loss_attention.data.tree import Tree
from loss_attention.errors import InputError, quoted

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_OBJECT_MASKS, _CLASS_MASKS = "SegmentationObject", "SegmentationClass"
_LIST = re.compile(
    r"(?P<root>(.*/)?)ImageSets/Main/((?P<of>.+)_)?(?P<split>train|val|trainval|test)\.txt"
)
# In the list of a class, a number says whether an image shows it (1), does not (-1), or hardly (0).
_COLUMNS = re.compile(r"(?P<path>.*\S)\s+[-+]?[01]")
_MOST_BYTES = 2**26  # a larger file is refused: it takes some hundred bytes an object
_ANNOTATION = re.compile(rb"<([\w.-]+:)?annotation", re.IGNORECASE)
_ENCODING = re.compile(rb"""\s*<\?xml[^>]*?\sencoding\s*=\s*["']([^"'>]*)["']""")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"<\0", "utf-16-le"),
    (b"\0<", "utf-16-be"),
)
_WIDER = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949"}
"""What is written under these names most often needs the larger set of characters."""
_NOT_OF_FILES = ("idna", "punycode", "raw_unicode_escape", "unicode_escape", "undefined", "utf_7")


def open_voc(tree: Tree, where: str, masks: bool, _known: str | None) -> tuple[Tree, Source] | None:
    """Return the images of XML files, if there are any that describe images.

    Raises:
        InputError: lists of splits that list nothing.
    """
    files = [name for name in tree.names if name.lower().endswith(".xml")]
    if not any(_ANNOTATION.search(tree.read(n)[:4000].replace(b"\0", b"")) for n in files):
        return None
    findings, notes, by_stem = Findings(), [], _by_stem(files)
    if lists := _split_lists(tree, by_stem, where):
        found = _listed_files(lists, by_stem, findings)
        left = len(files) - len({file for file, _ in found})
        if left:
            notes.append(f"{count(left, 'XML file')} in no list of ImageSets/Main left out")
    else:
        found = [(file, split_of(PurePosixPath(file).parent)) for file in files]
    described = {file: _read_xml(tree, file) for file in dict.fromkeys(file for file, _ in found)}
    images = _Images(tree, files, described)
    records = {file: _record(tree, one, images, findings, masks) for file, one in described.items()}
    parts = tuple(
        Part(split, [record for file in own if (record := records[file])])
        for split, own in by_split(found, str, where).items()
    )
    if not lists:
        findings.unlisted(images.unused(), "any XML file")
    return tree, findings.finish(Source(where, parts, multi_label=True, notes=tuple(notes)))


def _listed_files(
    lists: Mapping[str, Sequence[tuple[str, str]]],
    by_stem: Mapping[str, Sequence[str]],
    findings: Findings,
) -> list[tuple[str, str]]:
    """Return the files that lists name, with their split; note what is missing."""
    found = []
    for split, listed in lists.items():
        for root, written in listed:
            path, named = f"{root}Annotations/{written}", by_stem.get(_stem(written, by_stem), [])
            own = [file for file in named if file.startswith(root)]
            file = _nearest(path, {PurePosixPath(path).stem: own or named})
            if file is None:
                findings.add(written, f"the image {written} has no annotation in {path}.xml")
            else:
                found.append((file, split))
    return list(dict.fromkeys(found))


class _Images:
    """The images of a tree and their masks, found by the XML file that describes them."""

    def __init__(
        self, tree: Tree, files: Sequence[str], described: Mapping[str, _Described]
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

    def of(self, one: _Described) -> str:
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
        else:
            # Has the image said a file of its own name? A copy keeps the filename of the first.
            theirs = self._described.get(home or "")
            agreed = home is not None and (theirs is None or self._said(theirs) in (said, None))
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

    def _said(self, one: _Described) -> str | None:
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
        """Return the images in the folders of those found that no file describes."""
        folders = {PurePosixPath(name).parent for name in self._used}
        images = (name for names in self._by_stem.values() for name in names)
        return (n for n in images if n not in self._used and PurePosixPath(n).parent in folders)


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
    tree: Tree, one: _Described, images: _Images, findings: Findings, masks: bool
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
    mask = None
    if masks and (drawn := images.mask_of(image)) is not None:
        picture, apart = drawn
        mask = NumberedMask(image, picture, tree.file(picture), labels if apart else None)
    boxes, content = findings.boxes(image, origin, one.boxes), tree.content(image)
    return Record(image, content, sorted(set(labels)), boxes, mask, one.size, origin)


def _split_lists(
    tree: Tree, stems: Collection[str], where: str
) -> dict[str, list[tuple[str, str]]]:
    """Return the images of each split, each after the folder that its list is in.

    There are none where there are no lists. Of a year without lists of its own, those of its
    classes together list all images.

    Args:
        tree: that may hold lists, also of several years.
        stems: of the XML files, to tell names with spaces from columns.
        where: what the data is called in errors.

    Raises:
        InputError: there are lists, and nothing is in them.
    """
    matches = [match for name in tree.names if (match := _LIST.fullmatch(name))]
    plain = {match["root"] for match in matches if match["of"] is None}
    lists: dict[str, list[tuple[str, str]]] = {}
    for match in matches:
        if match["of"] is None or match["root"] not in plain:
            paths = _paths(tree.text(match[0]), stems)
            lists.setdefault(match["split"], []).extend((match["root"], path) for path in paths)
    if lists and not any(lists.values()):
        raise InputError(f"{where}: {matches[0][0]} and the lists beside it are empty")
    named = {"train": "train", "validation": "val", "test": "test"}
    if not lists.get("train") or (lists.get("trainval") and lists.get("test")):
        named = {"train": "trainval", "test": "test"}  # of trainval, val is a part
    return {split: lists[name] for split, name in named.items() if lists.get(name)}


def _paths(text: str, stems: Collection[str]) -> list[str]:
    """Return what a list names: a line each, or the first column, or several in a line."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    columns = [_COLUMNS.fullmatch(line) for line in lines]
    of_a_class = all(columns)
    paths = []
    for line, match in zip(lines, columns, strict=True):
        first = match["path"] if match else line
        is_column = _stem(first, stems) in stems or of_a_class
        paths.append(first if is_column and _stem(line, stems) not in stems else line)
    words = text.split()
    if not of_a_class and any(_stem(path, stems) not in stems for path in paths):
        return words if all(_stem(word, stems) in stems for word in words) else paths
    return paths


def _stem(path: str, stems: Collection[str]) -> str:
    """Return the stem that a path in a list means; it may have folders, and a suffix."""
    name = path.replace("\\", "/").rpartition("/")[2]
    suffixed = is_image(name) or name.lower().endswith(".xml")
    return PurePosixPath(name).stem if suffixed and name not in stems else name


class _Described(NamedTuple):
    """What an XML file says of its image; `faults` are lines on what is malformed in it."""

    file: str
    filename: str = ""
    size: tuple[int, int] | None = None
    boxes: tuple[Box, ...] = ()
    faults: tuple[str, ...] = ()


def _read_xml(tree: Tree, file: str) -> _Described:
    """Return what a file says; what is malformed is among its faults."""
    findings, filename, size = Findings(), "", None
    boxes: list[Box] = []
    with findings.noting(file, file):
        root = _parsed(tree.read(file, _MOST_BYTES), file)
        filename = (root.findtext("filename") or "").strip()
        objects = root.findall("object")
        if len(list(root.iter("object"))) > len(objects):
            raise InputError(f"{file} holds an object within another element than annotation")
        for row, element in enumerate(objects, start=1):
            with findings.noting(file, f"{file} object {row}"):
                boxes.append(_box(element, row, f"{file} object {row}"))
        width, height = (root.findtext(f"size/{side}", "").strip() for side in ("width", "height"))
        size = stated_size(width, height, file)
    faults = tuple(problem.what for problem in findings.problems)
    return _Described(file, filename, size, tuple(boxes), faults)


def _parsed(content: bytes, file: str) -> Element:
    """Return the root of a file, without namespaces.

    Raises:
        InputError: it is not valid XML, or holds a document type or entities, which are never
            expanded.
    """
    from xml.etree.ElementTree import ParseError

    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    text = _text(content, file)
    try:
        root: Element = fromstring(text, forbid_dtd=True)
    except DefusedXmlException as error:
        raise InputError(
            f"{file} holds a DOCTYPE or entities, which are refused; remove them"
        ) from error
    except ParseError as error:
        raise InputError(f"{file} is not valid XML: {error}") from error
    for element in root.iter():
        element.tag = str(element.tag).rpartition("}")[2]
    if root.tag != "annotation":
        raise InputError(f"{file} holds {quoted(root.tag)}, not VOC's annotation")
    return root


def _text(content: bytes, file: str) -> str:
    """Decode a file as it says itself; the parser knows few encodings."""
    marked = next((name for mark, name in _MARKS if content.startswith(mark)), None)
    declared = _ENCODING.match(content)
    encoding = marked or (declared[1].decode("latin-1").strip() if declared else "utf-8")
    try:
        name = codecs.lookup(encoding).name.replace("-", "_")
        if name in _NOT_OF_FILES or (not marked and name.startswith(("utf_16", "utf_32"))):
            raise LookupError
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            return content.decode(_WIDER.get(name, encoding))
    except UnicodeDecodeError as error:
        what = "declares no other encoding" if encoding == "utf-8" else "declares that encoding"
        raise InputError(
            f"{file} is not text in the encoding {quoted(encoding)}, and {what}"
        ) from error
    except (LookupError, ValueError) as error:
        raise InputError(
            f"{file} declares the encoding {quoted(encoding)}, which it is not in"
        ) from error


def _box(element: Element, row: int, location: str) -> Box:
    name = _only(element, "name", location)
    label = "" if name is None else " ".join("".join(name.itertext()).split())
    if not label:
        raise InputError(f"{location} has no name")
    corners = _only(element, "bndbox", location)
    texts = []
    for side in ("xmin", "ymin", "xmax", "ymax"):
        found = None if corners is None else _only(corners, side, location)
        texts.append("" if found is None else found.text or "")
    try:
        if "_" in "".join(texts):
            raise ValueError("Python's way of writing numbers, and nobody else's")
        x0, y0, x1, y1 = map(float, texts)
    except ValueError as error:
        raise InputError(f"{location} has no bndbox of four numbers") from error
    return Box(label, x0 - 1, y0 - 1, x1, y1, row)


def _only(element: Element, tag: str, location: str) -> Element | None:
    """Return the one element of a name directly within another: parts have boxes of their own."""
    found: Sequence[Element] = element.findall(tag)
    if len(found) > 1:
        raise InputError(f"{location} has more than one {tag}")
    return found[0] if found else None
