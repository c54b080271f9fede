"""What splits are called, and which of them train and which are reported on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import TypeVar

from loss_attention.errors import InputError

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing")
VALIDATION_NAMES = ("validation", "valid", "val", "dev")
EXTRA_NAMES = ("extra",)
"""More training images of SVHN, which the paper leaves out, and so does this package."""

SPLITS = {
    name: split
    for split, names in (
        ("train", TRAIN_NAMES),
        ("test", TEST_NAMES),
        ("validation", VALIDATION_NAMES),
        ("extra", EXTRA_NAMES),
    )
    for name in names
}
T = TypeVar("T")


def split_of(path: PurePath) -> str:
    """Return the split that a path names, in the file's name or in a folder's; "" if none.

    Example:
        >>> split_of(PurePath("data/val-00000-of-00002.parquet")), split_of(PurePath("cats.csv"))
        ('validation', '')
    """
    for part in reversed(path.parts):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in SPLITS:
                return SPLITS[word]
    return ""


def by_split(
    items: Iterable[tuple[T, str]], named: Callable[[T], str], where: str
) -> dict[str, list[T]]:
    """Sort items by split; where none has one, all are for training.

    Args:
        items: each with its split, "" where it has none.
        named: what an item is called in an error.
        where: what the data is called in an error.

    Raises:
        InputError: some have none while others say that they are for training.
    """
    parts: dict[str, list[T]] = {}
    for item, split in items:
        parts.setdefault(split, []).append(item)
    unnamed = parts.pop("", [])
    if unnamed and "train" in parts:
        raise InputError(
            f"{where}: the name of {named(unnamed[0])} says no split "
            "(train, test or validation), while others do"
        )
    return {"train": unnamed, **parts} if unnamed else parts


def training_split(parts: Mapping[str, object], where: str) -> str:
    """Return the name of the training split: the one called so, or the only one.

    Raises:
        InputError: no split at all, several and none called so, or one that is for testing.
    """
    if not parts:
        raise InputError(f"{where} holds no images")
    found = find_training_split(parts)
    if found is None:
        raise InputError(f"{where} has no split named train among {', '.join(parts)}")
    return found


def find_training_split(parts: Mapping[str, object]) -> str | None:
    """Return the name of the training split, None where there is none; see `training_split`."""
    found = _first_of(TRAIN_NAMES, parts)
    if found is None and len(parts) == 1:
        only = next(iter(parts))
        return None if _first_of((*TEST_NAMES, *VALIDATION_NAMES), parts) else only
    return found


def reported_split(parts: Mapping[str, object], usable: Callable[[str], bool]) -> str | None:
    """Return the test split if that is usable (has labels), else the validation split."""
    for names in (TEST_NAMES, VALIDATION_NAMES):
        found = _first_of(names, parts)
        if found is not None and usable(found):
            return found
    return None


def _first_of(names: tuple[str, ...], parts: Mapping[str, object]) -> str | None:
    return next((split for split in parts if split.lower() in names), None)
