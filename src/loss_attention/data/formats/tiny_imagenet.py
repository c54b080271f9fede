"""Tiny ImageNet in its official layout: 200 classes, a box for every image.

`train/WNID/images/*.JPEG` with `train/WNID/WNID_boxes.txt`, `val/images/*.JPEG` with
`val/val_annotations.txt`, and `words.txt` for the names. Boxes are of inclusive pixels there. The
test images have no labels and are not read.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from loss_attention.data.records import Box, Findings, Part, Record, Source
from loss_attention.data.tree import Tree
from loss_attention.errors import InputError, quoted

VALIDATION = "val/val_annotations.txt"
_TRAINING = re.compile(r"(?P<root>(.*/)?)train/(?P<wnid>n\d{8})/(?P=wnid)_boxes\.txt")
_PIXEL = re.compile(r"\s*-?[0-9]{1,9}\s*")


class _Row(NamedTuple):
    """A line of a listing; the box's pixels are inclusive. Without `wnid`: a malformed one."""

    number: int
    file: str
    wnid: str = ""
    x0: int = 0
    y0: int = 0
    x1: int = 0
    y1: int = 0


def open_tiny_imagenet(
    tree: Tree, where: str, _masks: bool, _known: str | None
) -> tuple[Tree, Source] | None:
    """Return the images of the official layout, wherever in a tree that starts."""
    root = _root_of(tree)
    if root is None:
        return None
    tree = tree.below(root)
    return tree, read_tiny_imagenet(tree, where)


def _root_of(tree: Tree) -> str | None:
    """Return the path in a tree that the layout starts at; None where there is no such layout."""
    for name in tree.names:
        if name == VALIDATION or name.endswith("/" + VALIDATION):
            return name.removesuffix(VALIDATION)
        if match := _TRAINING.fullmatch(name):
            return match["root"]
    return None


def read_tiny_imagenet(tree: Tree, where: str) -> Source:
    """Return the training and the validation images; `tree` starts where the layout does.

    Raises:
        InputError: a split is missing, or a line of words.txt is not what it should be.
    """
    findings = Findings()
    images = _images_by_folder(tree)
    listings = {match["wnid"]: match[0] for match in map(_TRAINING.fullmatch, tree.names) if match}
    for split, there in (("training", listings), ("validation", VALIDATION in tree.names)):
        if not there:
            raise InputError(f"{where} lacks the {split} split of Tiny ImageNet")
    training: list[Record] = []
    names = _class_names(tree, listings, where)
    for wnid, listing in listings.items():
        training += _records(tree, listing, wnid, images[f"train/{wnid}/images/"], names, findings)
    validation = _records(tree, VALIDATION, None, images["val/images/"], names, findings)
    parts = (Part("train", training), Part("validation", validation))
    return findings.finish(Source(where, parts))


def _images_by_folder(tree: Tree) -> Mapping[str, set[str]]:
    folders: dict[str, set[str]] = defaultdict(set)
    for name in tree.names:
        folder, _, file = name.rpartition("/")
        folders[folder + "/"].add(file)
    return folders


def _lines(tree: Tree, listing: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the columns of each line that is not blank."""
    for number, line in enumerate(tree.text(listing).split("\n"), start=1):
        if line.strip():
            yield number, line.rstrip("\r").split("\t")


def _rows(
    tree: Tree, listing: str, wnid: str | None, folder: str, findings: Findings
) -> Iterator[_Row]:
    """Yield the lines of a listing, of one class or with the class in the second column."""
    seen: dict[str, int] = {}
    for number, (file, *rest) in _lines(tree, listing):
        name, numbers = (wnid, rest) if wnid else (rest[0].strip() if rest else "", rest[1:])
        place = f"{listing} row {number}"
        if not name or len(numbers) != 4 or not all(map(_PIXEL.fullmatch, numbers)):
            findings.add(folder + file, f"{place} is no image and box")
        elif file in seen:
            findings.add(folder + file, f"{place} lists {quoted(file)} as row {seen[file]} does")
        else:
            seen[file] = number
            x0, y0, x1, y1 = map(int, numbers)
            yield _Row(number, file, name, x0, y0, x1, y1)
            continue
        yield _Row(number, file)


def _records(
    tree: Tree,
    listing: str,
    wnid: str | None,
    images: set[str],
    names: Mapping[str, str],
    findings: Findings,
) -> list[Record]:
    """Bring the images of a folder and the lines of its listing together."""
    folder = listing.rpartition("/")[0] + "/images/"
    origin, records, listed = f"{listing} row", [], set()
    for row in _rows(tree, listing, wnid, folder, findings):
        name, label = folder + row.file, names.get(row.wnid, row.wnid)
        listed.add(row.file)
        if not row.wnid:
            continue
        if row.file not in images:
            findings.add(name, f"{origin} {row.number}: its image {name} is missing")
            continue
        box = Box(label, row.x0, row.y0, row.x1 + 1, row.y1 + 1, row.number)
        boxes = findings.boxes(name, origin, [box])
        records.append(
            Record(name, tree.content(name), label, boxes, origin=origin, row=row.number)
        )
    findings.unlisted((folder + file for file in images - listed), listing)
    return records


def _class_names(tree: Tree, wnids: Iterable[str], where: str) -> dict[str, str]:
    """Return what to call each class: its first word, and its id too where two have that word."""
    words = dict.fromkeys(wnids, "")
    if "words.txt" in tree.files:
        for number, (wnid, *meaning) in _lines(tree, "words.txt"):
            word = meaning[0].split(",")[0].strip() if meaning else ""
            first = next(iter(wnid.split()), "")
            if first not in words:
                continue
            place = f"{where}: words.txt row {number}"
            if not word or first != wnid:
                raise InputError(f"{place} is no id, tab and words: {quoted(wnid)}")
            if words[wnid] not in ("", word):
                raise InputError(f"{place} names {wnid} {quoted(word)}, once {quoted(words[wnid])}")
            words[wnid] = word
    shared = Counter(words.values())
    return {
        wnid: word if word and shared[word] == 1 else f"{word} {wnid}".strip()
        for wnid, word in words.items()
    }
