"""Tiny ImageNet in its official layout: 200 classes, a box for every image.

`train/WNID/images/*.JPEG` with `train/WNID/WNID_boxes.txt`, `val/images/*.JPEG` with
`val/val_annotations.txt`, and `words.txt` for the names. Boxes are of inclusive pixels there. The
test images have no labels and are not read.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

from loss_attention.data.records import Box, Findings, Part, Record, Source
from loss_attention.data.tree import Tree
from loss_attention.errors import InputError, quoted

_VALIDATION = "val/val_annotations.txt"
_TRAINING = re.compile(r"(?P<root>(.*/)?)train/(?P<wnid>n\d{8})/(?P=wnid)_boxes\.txt")
_PIXEL = re.compile(r"\s*-?[0-9]{1,9}\s*")


def open_tiny_imagenet(
    tree: Tree, where: str, _masks: bool, _known: str | None
) -> tuple[Tree, Source] | None:
    """Return the training and the validation images, wherever in a tree the layout starts.

    Raises:
        InputError: a split is missing, or a line of words.txt is not what it should be.
    """
    root = _root_of(tree)
    if root is None:
        return None
    tree = tree.below(root)
    listings = {match["wnid"]: match[0] for match in map(_TRAINING.fullmatch, tree.names) if match}
    for split, there in (("training", listings), ("validation", _VALIDATION in tree.names)):
        if not there:
            raise InputError(f"{where} lacks the {split} split of Tiny ImageNet")
    images: dict[str, set[str]] = defaultdict(set)
    for name in tree.names:
        folder, _, file = name.rpartition("/")
        images[folder + "/"].add(file)
    findings, names = Findings(), _class_names(tree, listings, where)
    training = [
        record
        for wnid, listing in listings.items()
        for record in _records(tree, listing, wnid, images, names, findings)
    ]
    validation = _records(tree, _VALIDATION, None, images, names, findings)
    parts = (Part("train", training), Part("validation", validation))
    return tree, findings.finish(Source(where, parts))


def _root_of(tree: Tree) -> str | None:
    """Return the path in a tree that the layout starts at; None where there is no such layout."""
    for name in tree.names:
        if name == _VALIDATION or name.endswith("/" + _VALIDATION):
            return name.removesuffix(_VALIDATION)
        if match := _TRAINING.fullmatch(name):
            return match["root"]
    return None


def _lines(tree: Tree, listing: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the columns of each line that is not blank."""
    for number, line in enumerate(tree.text(listing).split("\n"), start=1):
        if line.strip():
            yield number, line.rstrip("\r").split("\t")


def _records(
    tree: Tree,
    listing: str,
    wnid: str | None,
    images: Mapping[str, set[str]],
    names: Mapping[str, str],
    findings: Findings,
) -> list[Record]:
    """Bring the lines of a listing and the images in the folder beside it together.

    Args:
        tree: the files.
        listing: which of them lists images.
        wnid: the class of all of its images; None: each line has its own in the second column.
        images: the files of each folder.
        names: what to call each class.
        findings: where to note what is wrong with single images.
    """
    folder, origin = listing.rpartition("/")[0] + "/images/", f"{listing} row"
    records: list[Record] = []
    listed: set[str] = set()
    rows: dict[str, int] = {}
    for number, (file, *rest) in _lines(tree, listing):
        name, place = folder + file, f"{origin} {number}"
        of, numbers = (wnid, rest) if wnid else (rest[0].strip() if rest else "", rest[1:])
        listed.add(file)
        if not of or len(numbers) != 4 or not all(map(_PIXEL.fullmatch, numbers)):
            findings.add(name, f"{place} is no image and box")
            continue
        if rows.setdefault(file, number) != number:
            findings.add(name, f"{place} lists {quoted(file)} as row {rows[file]} does")
        elif file not in images[folder]:
            findings.add(name, f"{place}: its image {name} is missing")
        else:
            (x0, y0, x1, y1), label = map(int, numbers), names.get(of, of)
            boxes = findings.boxes(name, origin, [Box(label, x0, y0, x1 + 1, y1 + 1, number)])
            content = tree.content(name)
            records.append(Record(name, content, label, boxes, origin=origin, row=number))
    findings.unlisted((folder + file for file in images[folder] - listed), listing)
    return records


def _class_names(tree: Tree, wnids: Iterable[str], where: str) -> dict[str, str]:
    """Return what to call each class: its first word, and its id too where two have that word."""
    words = dict.fromkeys(wnids, "")
    for number, (wnid, *meaning) in _lines(tree, "words.txt") if "words.txt" in tree.files else ():
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
