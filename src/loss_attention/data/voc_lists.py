"""The lists of `ImageSets/Main`: which images each split of Pascal VOC has."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import PurePosixPath
from typing import NamedTuple

from loss_attention.data.file_types import is_image
from loss_attention.data.tree import Tree
from loss_attention.errors import InputError

_LIST = re.compile(
    r"(?P<root>(.*/)?)ImageSets/Main/((?P<of>.+)_)?(?P<split>train|val|trainval|test)\.txt"
)
# In the list of a class, a number says whether an image shows it (1), does not (-1), or hardly (0).
_COLUMNS = re.compile(r"(?P<path>.*\S)\s+[-+]?[01]")


class Listed(NamedTuple):
    """An image that a list names: the folder that holds the list, what it says, and its stem."""

    root: str
    path: str
    stem: str


def split_lists(tree: Tree, stems: Collection[str], where: str) -> dict[str, list[Listed]]:
    """Return the images of each split; none where there are no lists.

    Of a year without lists of its own, those of its classes together list all images.

    Args:
        tree: that may hold lists, also of several years.
        stems: of the XML files, to tell names with spaces from columns.
        where: what the data is called in errors.

    Raises:
        InputError: there are lists, and nothing is in them.
    """
    matches = [match for name in tree.names if (match := _LIST.fullmatch(name))]
    plain = {match["root"] for match in matches if match["of"] is None}
    lists: dict[str, list[Listed]] = {}
    for match in matches:
        if match["of"] is None or match["root"] not in plain:
            lists.setdefault(match["split"], []).extend(
                Listed(match["root"], path, _stem(path, stems))
                for path in _paths(tree.text(match[0]), stems)
            )
    if lists and not any(lists.values()):
        raise InputError(f"{where}: {matches[0][0]} and the lists beside it are empty")
    if lists.get("trainval") and lists.get("test"):
        return {"train": lists["trainval"], "test": lists["test"]}
    train = lists.get("train") or lists.get("trainval") or []
    named = {"train": train, "validation": lists.get("val", []), "test": lists.get("test", [])}
    if not lists.get("train"):
        named["validation"] = []  # part of trainval
    return {split: listed for split, listed in named.items() if listed}


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
