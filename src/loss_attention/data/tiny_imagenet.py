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
from loss_attention.errors import InputError

VALIDATION = "val/val_annotations.txt"
_TRAINING = re.compile(r"(?P<root>(.*/)?)train/(?P<wnid>n\d{8})/(?P=wnid)_boxes\.txt")


class _Row(NamedTuple):
    """A line of a listing; the box's pixels are inclusive."""

    number: int
    file: str
    wnid: str
    x0: int
    y0: int
    x1: int
    y1: int


def root_of(tree: Tree) -> str | None:
    """Return the path in a tree that the layout starts at; None where there is no such layout."""
    for name in tree.names:
        if name == VALIDATION or name.endswith("/" + VALIDATION):
            return name.removesuffix(VALIDATION)
        if match := _TRAINING.fullmatch(name):
            return match["root"]
    return None


def read_tiny_imagenet(tree: Tree, where: str) -> Source:
    """Return the training and the validation images; `tree` starts at `root_of`.

    Raises:
        InputError: a split is missing, or a line of a listing is not what it should be.
    """
    findings = Findings()
    images = _images_by_folder(tree)
    listings = {match["wnid"]: match[0] for match in map(_TRAINING.fullmatch, tree.names) if match}
    for split, there in (("training", listings), ("validation", VALIDATION in tree.names)):
        if not there:
            raise InputError(f"{where} lacks the {split} split of Tiny ImageNet")
    training: list[Record] = []
    names = _class_names(tree, listings)
    for wnid, listing in listings.items():
        rows = _rows(tree, listing, wnid, where)
        training += _records(tree, listing, rows, images[f"train/{wnid}/images/"], names, findings)
    rows = _rows(tree, VALIDATION, None, where)
    validation = _records(tree, VALIDATION, rows, images["val/images/"], names, findings)
    parts = (Part("train", training), Part("validation", validation))
    return findings.finish(Source(where, parts))


def _images_by_folder(tree: Tree) -> Mapping[str, set[str]]:
    folders: dict[str, set[str]] = defaultdict(set)
    for name in tree.names:
        folder, _, file = name.rpartition("/")
        folders[folder + "/"].add(file)
    return folders


def _rows(tree: Tree, listing: str, wnid: str | None, where: str) -> Iterator[_Row]:
    """Yield the lines of a listing, of one class or with the class in the second column."""
    for number, line in enumerate(tree.text(listing).splitlines(), start=1):
        file, *rest = line.split("\t")
        try:
            name, numbers = (rest[0], rest[1:]) if wnid is None else (wnid, rest)
            x0, y0, x1, y1 = map(int, numbers)
        except (ValueError, IndexError) as error:
            raise InputError(f"{where}: {listing} row {number} is no image and box") from error
        yield _Row(number, file, name, x0, y0, x1, y1)


def _records(
    tree: Tree,
    listing: str,
    rows: Iterable[_Row],
    images: set[str],
    names: Mapping[str, str],
    findings: Findings,
) -> list[Record]:
    """Bring the images of a folder and the lines of its listing together."""
    folder = listing.rpartition("/")[0] + "/images/"
    origin, records, listed = f"{listing} row", [], set()
    for row in rows:
        name, label = folder + row.file, names.get(row.wnid, row.wnid)
        listed.add(row.file)
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


def _class_names(tree: Tree, wnids: Iterable[str]) -> dict[str, str]:
    """Return what to call each class: its first word, and its id too where two have that word."""
    words = dict.fromkeys(wnids, "")
    if "words.txt" in tree.names:
        for line in tree.text("words.txt").splitlines():
            wnid, _, meaning = line.partition("\t")
            if wnid in words:
                words[wnid] = meaning.split(",")[0].strip()
    shared = Counter(words.values())
    return {
        wnid: word if word and shared[word] == 1 else f"{word} {wnid}".strip()
        for wnid, word in words.items()
    }
