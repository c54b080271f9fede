"""Which columns of a table hold the images and the labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from loss_attention.errors import InputError

# In this order people call them so; taken where the types of the columns do not decide.
IMAGE_NAMES = ("image", "img", "images", "picture")
LABEL_NAMES = ("label", "labels", "fine_label", "class", "classes", "category", "target", "y")
_PATHS_AND_BYTES = ("string", "large_string", "binary", "large_binary")


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
    return tuple(single.names) if isinstance(single, datasets.ClassLabel) else None


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
    discrete = _type_name(element).startswith(("int", "uint", "bool", "string", "large_string"))
    return isinstance(element, datasets.ClassLabel) or discrete


def _type_name(feature: Any) -> str:
    """Return what a column holds, in the words of `datasets`."""
    dtype = getattr(feature, "dtype", None)
    return dtype if isinstance(dtype, str) else type(feature).__name__
