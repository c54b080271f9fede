"""One XML file of Pascal VOC: what it says of its image, and what is malformed in it."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from loss_attention.data.records import Box, Findings, stated_size
from loss_attention.data.tree import Tree
from loss_attention.errors import InputError, guarded, printable, quoted

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MOST_BYTES = 2**26
"""A larger file is refused: it takes some hundred bytes an object."""

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


class Described(NamedTuple):
    """What an XML file says of its image; `faults` are lines on what is malformed in it."""

    file: str
    filename: str = ""
    size: tuple[int, int] | None = None
    boxes: tuple[Box, ...] = ()
    faults: tuple[str, ...] = ()


def describes_image(tree: Tree, file: str) -> bool:
    """Return whether an XML file looks as if it describes an image."""
    with guarded(printable(f"{tree.path}: {file}")):
        start = tree.read(file)[:4000]
    return bool(_ANNOTATION.search(start.replace(b"\0", b"")))


def read_xml(tree: Tree, file: str) -> Described:
    """Return what a file says; what is malformed is among its faults."""
    findings, filename, size = Findings(), "", None
    boxes: list[Box] = []
    with findings.noting(file, file):
        root = _parsed(tree.read(file, MOST_BYTES), file)
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
    return Described(file, filename, size, tuple(boxes), faults)


def _parsed(content: bytes, file: str) -> Element:
    """Return the root of a file, without namespaces.

    Raises:
        InputError: it is no XML, or holds a document type or entities, which are never expanded.
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
        raise InputError(f"{file} is no XML: {error}") from error
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
        raise InputError(f"{file} is no text of {quoted(encoding)}, and {what}") from error
    except (LookupError, ValueError) as error:
        raise InputError(
            f"{file} declares the encoding {quoted(encoding)}, which it is not in"
        ) from error


def _box(element: Element, row: int, place: str) -> Box:
    name = _only(element, "name", place)
    label = "" if name is None else " ".join("".join(name.itertext()).split())
    if not label:
        raise InputError(f"{place} has no name")
    corners = _only(element, "bndbox", place)
    sides = [
        None if corners is None else _only(corners, side, place)
        for side in ("xmin", "ymin", "xmax", "ymax")
    ]
    try:
        x0, y0, x1, y1 = (_number("" if side is None else side.text or "") for side in sides)
    except ValueError as error:
        raise InputError(f"{place} has no bndbox of four numbers") from error
    return Box(label, x0 - 1, y0 - 1, x1, y1, row)


def _only(element: Element, tag: str, place: str) -> Element | None:
    """Return the one element of a name directly within another: parts have boxes of their own."""
    found: Sequence[Element] = element.findall(tag)
    if len(found) > 1:
        raise InputError(f"{place} has more than one {tag}")
    return found[0] if found else None


def _number(text: str) -> float:
    if "_" in text:
        raise ValueError("Python's way of writing numbers, and nobody else's")
    return float(text)
