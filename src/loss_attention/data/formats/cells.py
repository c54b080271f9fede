"""What tables say of an image: which columns hold what, and what stands in their cells.

A cell holds a label, or several: separated by `;` or `|`, or as a list in the notation of JSON,
Python, NumPy or PostgreSQL. A text in quotes of its own is one label as it stands. What can be read
in two ways, a text with a comma above all, is refused.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from loss_attention.data.records import CellError
from loss_attention.errors import InputError, quoted

Corners = tuple[float, float, float, float]

# What says that there is nothing, in the words of pandas; the second ones in any case.
_MISSING = frozenset(("", "NA", "#NA", "N/A", "#N/A", "#N/A N/A", "None", "NaT"))
_MISSING_IN_ANY_CASE = frozenset(("nan", "-nan", "null", "n/a", "<na>"))
_FORMS = (
    'several are separated by ; or |, or a list ["cat", "dog"]; one with a comma needs quotes of '
    "its own"
)
_SEVERAL = re.compile(r"[;|]")
_UNCLEAR = re.compile("[,\\t\\n\\r\u060c\u3001\uff0c\uff1b]")  # commas of other scripts, too
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_CALL = re.compile(r"\w+\((\[|\{|\(|\)).*", re.DOTALL)  # set(), array([...]), frozenset({...})
_BRACKETS = {"[": "]", "{": "}", "(": ")"}
_BOX = "a box is four numbers, x0 y0 x1 y1"
# In this order people call them so; taken where the types of the columns do not decide.
_IMAGE_NAMES = ("image", "img", "images", "picture")
LABEL_NAMES = ("label", "labels", "fine_label", "class", "classes", "category", "target", "y")
LISTED_IMAGES = (
    *_IMAGE_NAMES,
    *("file_name", "filename", "file", "path", "image_path", "image_file", "image_name"),
    *("img_path", "file_path", "filepath"),
)
"""What tables of text call the paths of images, too."""
BOX_NAMES = ("box", "boxes", "bbox", "bboxes")
BOX_LABEL_NAMES = ("box_label", "box_labels")
CORNER_NAMES = (
    ("x0", "y0", "x1", "y1"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("x1", "y1", "x2", "y2"),
)
LISTED_NAMES = frozenset(
    (*LISTED_IMAGES, *LABEL_NAMES, *BOX_NAMES, *BOX_LABEL_NAMES, "objects", "mask", "split")
).union(*CORNER_NAMES)
"""All columns of tables of text that mean something here."""
_AROUND = " \t\r\n\"'`\u201c\u201d\u201e\u2018\u2019\ufeff\u200b\xa0"
_PATHS_AND_BYTES = ("string", "large_string", "binary", "large_binary")


class NoLabelError(CellError):
    """A cell that says there is no label, or that is empty."""


class Labels(NamedTuple):
    """The labels of a cell, and whether they came as a list, which may be empty."""

    labels: list[Any]
    several: bool


class _Item(NamedTuple):
    """An entry of a list as text; `own` says that it stands in quotes."""

    text: str
    own: bool


def read_labels_cell(value: Any) -> Labels:
    """Return the labels that a cell holds: texts, numbers or truth values.

    Raises:
        NoLabelError: there is none.
        CellError: it can be read in two ways, or is not a label.

    Example:
        >>> read_labels_cell("cat; dog").labels, read_labels_cell("['cat', 'dog']").labels
        (['cat', 'dog'], ['cat', 'dog'])
        >>> read_labels_cell('"tench, Tinca tinca"')
        Labels(labels=['tench, Tinca tinca'], several=False)
    """
    if isinstance(value, str):
        return _text(value.strip())
    if isinstance(value, (list, tuple)):
        return Labels([read_label(label) for label in value], True)
    if is_missing(value):
        raise NoLabelError(f"has no label{_shown(value)}")
    return Labels([_single(value)], False)


def read_label(value: Any) -> Any:
    """Return a label that stands in a list, or as an object's class.

    Raises:
        NoLabelError: there is none.
        CellError: it is not a label.
    """
    if is_missing(value):
        raise NoLabelError(f"has a list of labels, one of which is missing{_shown(value)}")
    return value.strip() if isinstance(value, str) else _single(value)


def read_boxes_cell(value: Any) -> list[Corners]:
    """Return the boxes that a cell holds: none, one, or several.

    Raises:
        CellError: not four numbers a box.

    Example:
        >>> read_boxes_cell("12 30 80 96; 5,5,40,60") == read_boxes_cell(
        ...     [[12, 30, 80, 96], [5, 5, 40, 60]]
        ... )
        True
    """
    if is_missing(value):
        return []
    groups = _groups(value.strip()) if isinstance(value, str) else value
    if not isinstance(groups, (list, tuple)):
        raise CellError(f"{_BOX}, not {quoted(value)}")
    if groups and not any(isinstance(group, (list, tuple)) for group in groups):
        groups = [groups]
    return [corners_of(group) for group in groups]


def corners_of(group: Any) -> Corners:
    """Return four numbers, given as such or as texts.

    Raises:
        CellError: other than four, or what is not a finite number.
    """
    if not isinstance(group, (list, tuple)) or len(group) != 4:
        raise CellError(f"{_BOX}, not {quoted(group)}")
    x0, y0, x1, y1 = map(_number, group)
    return x0, y0, x1, y1


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number and no truth value."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond all floats
        return False


def is_missing(value: Any) -> bool:
    """Return whether a value says that there is nothing, as text or as data have it."""
    if isinstance(value, str):
        text = value.strip()
        return text in _MISSING or text.lower() in _MISSING_IN_ANY_CASE
    return value is None or (isinstance(value, float) and math.isnan(value))


def _groups(text: str) -> Any:
    """Return the boxes that a text lists, each a list of what should be four numbers."""
    if text[0] in "[(":
        try:
            return json.loads(text.replace("(", "[").replace(")", "]"))
        except (ValueError, RecursionError):  # as NumPy writes one, without commas
            text = text[1:-1]
    parts = _SEVERAL.split(text)
    if len(parts) > 1 and not parts[-1].strip():
        parts.pop()
    return [part.replace(",", " ").split() for part in parts]


def _number(value: Any) -> float:
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()) and len(value) < 100:
        value = float(value)
    if not is_number(value):
        raise CellError(f"{_BOX}, not {quoted(value)}")
    return float(value)


def _single(value: Any) -> Any:
    """Return a value that is a label."""
    if isinstance(value, float) and math.isinf(value):
        raise CellError(f"has label {value}, which is not a class")
    if not isinstance(value, (str, int, float)):
        raise CellError(f"has {quoted(value)} as label: a label is text, a number or a list")
    return value


def _shown(value: Any) -> str:
    if isinstance(value, str) and value.strip():
        return f": {quoted(value)} says so; a class of this name needs quotes of its own"
    return "" if value is None or isinstance(value, str) else f": it is {quoted(value)}"


def _unclear(text: str, why: str = "may be one label or several") -> CellError:
    return CellError(f"has {quoted(text)} as label, which {why}: {_FORMS}")


def _text(text: str) -> Labels:
    if is_missing(text):
        raise NoLabelError(f"has no label{_shown(text)}")
    if _is_list(text):
        return Labels(_list(text), True)
    items = _items(text, ";|")
    for item in items:
        if not item.own:
            if is_missing(item.text):
                raise NoLabelError(f"has labels {quoted(text)}, one of which is missing")
            if _UNCLEAR.search(item.text) or _CALL.fullmatch(item.text):
                raise _unclear(text)
    return Labels([item.text for item in items], False)


def _is_list(text: str) -> bool:
    """Return whether a text is written like a list.

    Parentheses are in many a name, so they are one only around quotes or numbers.
    """
    if _BRACKETS.get(text[0]) != text[-1]:
        if re.match(r"[\[{(]\s*['\"]", text):
            raise _unclear(text, "begins like a list and does not end like one")
        return False
    return text[0] != "(" or re.match(r"\(\s*(\)|['\"]|[\d.-]+\s*,)", text) is not None


def _list(text: str) -> list[Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return _list_by_hand(text)
    if isinstance(value, list):
        return [read_label(label) for label in value]
    if value == {}:
        return []
    raise CellError(f"has {quoted(text)} as label: a label is text, a number or a list of these")


def _list_by_hand(text: str) -> list[str]:
    """Return the labels of a list that is not valid JSON."""
    inside = text[1:-1].strip()
    if not inside:
        return []
    items = _items(inside, ",", brackets=True)
    if len(items) == 1 and not items[0].own and len(numbers := inside.split()) > 1:
        if all(map(_NUMBER.fullmatch, numbers)):  # as NumPy writes them
            return numbers
        if any(map(_NUMBER.fullmatch, numbers)):
            raise _unclear(text)
    for item in items:
        if is_missing(item.text):
            raise NoLabelError(f"has labels {quoted(text)}, one of which is missing")
        if not item.own and re.search(r"^['\"]|[\[\](){}:;|\t\n\r]|\.\.\.", item.text):
            raise _unclear(text)
    return [item.text for item in items]


def _items(text: str, separators: str, *, brackets: bool = False) -> list[_Item]:
    """Split a text at separators that do not stand in quotes; one at its end divides nothing.

    Args:
        text: what to split.
        separators: any of these characters.
        brackets: it stood in brackets, where NumPy separates quoted texts by spaces alone, and
            Python 2 wrote a letter before quotes.
    """
    mark, items, start = re.compile(f"[{separators}]"), [], 0
    while True:
        start = _after_space(text, start)
        begin = start + (brackets and re.match("[uUbB]['\"]", text[start : start + 2]) is not None)
        end = _quotes_end(text, begin, separators, brackets=brackets)
        if end is not None:
            items.append(_Item(_unquoted(text[begin:end]), True))
            start = _after_space(text, end)
            if start == len(text):
                return items
            start += text[start] in separators
            continue
        found = mark.search(text, start)
        items.append(_Item(text[start : found.start() if found else None].strip(), False))
        if found is None:
            return items[:-1] if len(items) > 1 and not items[-1].text else items
        start = found.end()


def _after_space(text: str, start: int) -> int:
    found = re.compile(r"\s*").match(text, start)
    return found.end() if found else start


def _quotes_end(text: str, start: int, separators: str, *, brackets: bool) -> int | None:
    """Return where a text in quotes ends that begins at a position; None if none begins there.

    An apostrophe begins none, nor do quotes around the first of several words.
    """
    quote = text[start : start + 1]
    if quote not in ('"', "'"):
        return None
    ends = re.compile(rf"\\.|{quote}{quote}(?=[^\s{separators}])|{quote}", re.DOTALL)
    for found in ends.finditer(text, start + 1):
        if found[0] == quote:
            after = _after_space(text, found.end())
            follows = text[after : after + 1]
            spaced = brackets and follows in "'\"uUbB"  # as NumPy writes them
            return found.end() if not follows or follows in separators or spaced else None
    return None


def _unquoted(text: str) -> str:
    """Return what stands in quotes, whoever wrote them."""
    quote, inside = text[0], text[1:-1]
    if quote * 2 in inside:
        return inside.replace(quote * 2, quote).strip()
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return str(value).strip()
    return inside.strip()


def plain_name(name: str) -> str:
    """Return a column's name without what people and programs put around and into it.

    Example:
        >>> plain_name(' "File Name" '), plain_name("Label")
        ('file_name', 'label')
    """
    return re.sub(r"[\s-]+", "_", name.strip(_AROUND)).lower()


def column_called(name: str, columns: Collection[str]) -> str | None:
    """Return the column of a name, written so or plainly so; None where there is none."""
    if name in columns:
        return name
    return next((one for one in columns if plain_name(one) == plain_name(name)), None)


@lru_cache(32)
def named_column(header: tuple[str, ...], names: tuple[str, ...]) -> str | None:
    """Return the first of some names that is among plain names of columns."""
    return next((name for name in names if name in header), None)


@lru_cache(32)
def listed_label_column(header: tuple[str, ...]) -> str | None:
    """Return the column of labels among the plain names of a table of text.

    Raises:
        CellError: there are several, and none is called `label`.
    """
    found = [name for name in LABEL_NAMES if name in header]
    if len(found) > 1 and "label" not in found:
        raise CellError(
            f"has several label columns, {', '.join(found)}: name the right one 'label' or leave "
            "the others out"
        )
    return found[0] if found else None


def image_column(features: Mapping[str, Any], where: str) -> str:
    """Return the one column of images.

    Args:
        features: the columns' names and types, as `datasets` gives them.
        where: what the data is called in an error.

    Raises:
        InputError: there is none, or several and no single one has a usual name.
    """
    import datasets

    typed = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    return _only("image", typed, _named(features, _IMAGE_NAMES, _may_hold_images), features, where)


def label_column(features: Mapping[str, Any], where: str) -> str:
    """Return the one column of labels; see `image_column`."""
    return _only("label", *_label_columns(features), features, where)


def has_label_column(features: Mapping[str, Any]) -> bool:
    """Return whether a column may hold labels, one or several of them."""
    return any(_label_columns(features))


def _label_columns(features: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return the columns that hold labels by their type, and those that do by their name."""
    typed = [name for name, feature in features.items() if class_names(feature) is not None]
    return typed, _named(features, LABEL_NAMES, _may_hold_labels)


def class_names(feature: Any) -> tuple[str, ...] | None:
    """Return the classes that a column's type declares, or None if it declares none."""
    import datasets

    single = feature.feature if is_list(feature) else feature
    if not isinstance(single, datasets.ClassLabel):
        return None
    if not all(isinstance(name, str) for name in single.names):
        raise InputError(f"a column declares classes that are not text: {quoted(single.names)}")
    return tuple(single.names)


def is_list(feature: Any) -> bool:
    """Return whether each row of a column holds a list: several labels an image."""
    import datasets

    return isinstance(feature, (datasets.List, datasets.LargeList))


def _named(
    features: Mapping[str, Any], names: Sequence[str], suits: Callable[[Any], bool]
) -> list[str]:
    return [name for name, feature in features.items() if name.lower() in names and suits(feature)]


def _only(
    kind: str, typed: list[str], named: list[str], features: Mapping[str, Any], where: str
) -> str:
    """Choose by type, then by the plain name of its kind, then by a usual name."""
    candidates = typed or named
    if len(candidates) > 1:
        plain = [name for name in candidates if name.lower() == kind]
        usual = [name for name in candidates if name in named]
        candidates = next((few for few in (plain, usual) if len(few) == 1), candidates)
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise InputError(
            f"{where} has several {kind} columns, {', '.join(candidates)}: name the right one "
            f"{kind!r} or leave the others out"
        )
    columns = ", ".join(f"{name} ({_type_name(feature)})" for name, feature in features.items())
    raise InputError(f"{where} has no {kind} column among {columns}")


def _may_hold_images(feature: Any) -> bool:
    import datasets

    if isinstance(feature, dict):  # how an image is stored, without the type that says so
        return {"bytes", "path"} <= set(feature)
    return isinstance(feature, datasets.Image) or _type_name(feature) in _PATHS_AND_BYTES


def _may_hold_labels(feature: Any) -> bool:
    import datasets

    element = feature.feature if is_list(feature) else feature
    # Floats are whole numbers in tables of pandas that lack some; others are refused by row.
    kinds = ("int", "uint", "float", "bool", "string", "large_string", "null")
    discrete = _type_name(element).startswith(kinds)
    return isinstance(element, datasets.ClassLabel) or discrete


def _type_name(feature: Any) -> str:
    """Return what a column holds, in the words of `datasets`."""
    dtype = getattr(feature, "dtype", None)
    return dtype if isinstance(dtype, str) else type(feature).__name__
