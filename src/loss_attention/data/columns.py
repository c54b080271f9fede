"""Which columns of a table hold the images and the labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from loss_attention.data.cells import CellError
from loss_attention.errors import InputError, quoted

# In this order people call them so; taken where the types of the columns do not decide.
IMAGE_NAMES = ("image", "img", "images", "picture")
LABEL_NAMES = ("label", "labels", "fine_label", "class", "classes", "category", "target", "y")
LISTED_IMAGES = (
    *IMAGE_NAMES,
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


def plain_name(name: str) -> str:
    """Return a column's name without what people and programs put around and into it.

    Example:
        >>> plain_name(' "File Name" '), plain_name("Label")
        ('file_name', 'label')
    """
    return re.sub(r"[\s-]+", "_", name.strip(_AROUND)).lower()


def named_column(header: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the first of some names that is among plain names of columns."""
    return next((name for name in names if name in header), None)


def listed_label_column(header: Sequence[str]) -> str | None:
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
    return _only("image", typed, _named(features, IMAGE_NAMES, _may_hold_images), features, where)


def label_column(features: Mapping[str, Any], where: str) -> str:
    """Return the one column of labels; see `image_column`."""
    typed = [name for name, feature in features.items() if class_names(feature) is not None]
    return _only("label", typed, _named(features, LABEL_NAMES, _may_hold_labels), features, where)


def has_label_column(features: Mapping[str, Any]) -> bool:
    """Return whether a column may hold labels, one or several of them."""
    typed = any(class_names(feature) is not None for feature in features.values())
    return typed or bool(_named(features, LABEL_NAMES, _may_hold_labels))


def class_names(feature: Any) -> tuple[str, ...] | None:
    """Return the classes that a column's type declares, or None if it declares none."""
    import datasets

    single = feature.feature if is_list(feature) else feature
    if not isinstance(single, datasets.ClassLabel):
        return None
    if not all(isinstance(name, str) for name in single.names):
        raise InputError(f"a column declares classes that are no texts: {quoted(single.names)}")
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
