"""Image folders, and parquet files or what `datasets` saved. Nothing is written.

Image folders, in archives too, come in two layouts. With splits, `FOLDER/train/CLASS/...` and
`FOLDER/test/CLASS/...` (or `val`, `valid`, `validation`), or without, `FOLDER/CLASS/...`.
Everything below a class folder belongs to the class, however deep.

Tiny ImageNet's official layout is a third: 200 classes, a box for every image. It has
`train/WNID/images/*.JPEG` with `train/WNID/WNID_boxes.txt`, `val/images/*.JPEG` with
`val/val_annotations.txt`, and `words.txt` for the names. Boxes are of inclusive pixels there. The
test images have no labels and are not read.
"""

from __future__ import annotations

import glob
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from loss_attention.data.archives import ARCHIVES
from loss_attention.data.decoding import IMAGE_SUFFIXES, is_image
from loss_attention.data.division import SPLITS, by_split, split_of
from loss_attention.data.formats.hub import quiet_datasets, source_of_tables
from loss_attention.data.records import Box, Findings, Part, Record, Source, count
from loss_attention.data.tree import Tree
from loss_attention.errors import InputError, printable, quoted

SAVED = ("dataset_dict.json", "dataset_info.json")


def open_saved(folder: Path, where: str, group: str | None = None) -> Source:
    """Return what `datasets` saved in a folder."""
    with quiet_datasets(f"{where} cannot be read") as datasets:
        saved = datasets.load_from_disk(str(folder))
    tables = dict(saved) if isinstance(saved, dict) else {"train": saved}
    return source_of_tables(tables, where, folder.absolute(), group=group)


def open_parquet(path: Path, files: list[Path], where: str, group: str | None = None) -> Source:
    """Return parquet files, sorted into splits by their names.

    Args:
        path: the folder that they are in, or the one file.
        files: the files.
        where: what the data is called.
        group: the column that says which images belong together, if they have it.
    """
    if path.is_file():
        tables = _load(where, "parquet", {"train": [path]})
        return source_of_tables(tables, where, path.parent, group=group)
    parts = _by_split(path, files, where)
    for split, part in parts.items():
        homes = sorted({str(file.parent.relative_to(path)) for file in part})
        if len(homes) > 1:  # most likely variants of a data set, not parts of it
            raise InputError(
                f"data folder {path} has parquet files of split {split} in several folders "
                f"({', '.join(homes)}); give one of them, or put the files into one"
            )
    return source_of_tables(_load(where, "parquet", parts), where, path.absolute(), group=group)


def open_metadata(folder: Path, files: list[Path], where: str, group: str | None = None) -> Source:
    """Return images with a metadata.parquet beside them, the layout `imagefolder` of `datasets`."""
    tables = _load(where, "imagefolder", _by_split(folder, files, where))
    return source_of_tables(tables, where, folder.absolute(), group=group)


def _load(where: str, kind: str, files: Mapping[str, list[Path]]) -> Mapping[str, Any]:
    escaped = {
        split: [glob.escape(str(file.absolute())) for file in part] for split, part in files.items()
    }
    with quiet_datasets(f"{where} cannot be read") as datasets:
        return dict(datasets.load_dataset(kind, data_files=escaped))


def _by_split(folder: Path, files: list[Path], where: str) -> dict[str, list[Path]]:
    found = ((file, split_of(file.relative_to(folder))) for file in files)
    return by_split(found, lambda file: str(file.relative_to(folder)), where)


def read_class_folders(
    tree: Tree, where: str, known_classes: Collection[str] | None = None
) -> Source:
    """Return images whose class is the name of their folder.

    Args:
        tree: the files.
        where: what the data is called.
        known_classes: those of a model that is to be measured on the images. A training split is
            not needed then, and images outside class folders are of the class that the folder
            around everything is named after. None: a model is to be trained on the images.

    Raises:
        InputError: no images to train on, images outside the class folders, two folders of a split.
    """
    parts = []
    splits = _split_folders(tree, known_classes)
    for split, root in splits.items():
        part = tree.below(root)
        loose, classes = _classes(part)
        if classes and loose:
            number = "1 image lies" if len(loose) == 1 else f"{len(loose):,} images lie"
            raise InputError(
                f"{number} outside the class folders of {part.path} "
                f"({loose[0]}, say); move each into the folder of its class"
            )
        needed = split == "train" if known_classes is None else len(splits) == 1
        if loose and known_classes is not None and _own_name(tree) in known_classes:
            classes = {_own_name(tree): loose}
        elif loose and needed:
            hint = "move the images of each class into a folder with its name"
            if known_classes is not None:
                hint += f", as {quoted(_own_name(tree))} is not a class of the model"
            raise InputError(f"data folder {part.path} holds images but no class folders: {hint}")
        if classes:  # otherwise a test folder without labels, or an empty one
            records = [
                Record(root + image, part.content(image), name)
                for name, images in classes.items()
                for image in images
            ]
            parts.append(Part(split, records))
    if known_classes is None and "train" not in [part.name for part in parts]:
        raise InputError(f"data folder {tree.path} holds no images to train on{_told(tree)}")
    notes: tuple[str, ...] = ()
    left = len(list(filter(is_image, tree.names))) - sum(map(len, parts))
    if left:
        taken = {record.name for part in parts for record in part.records}
        example = min(name for name in tree.names if is_image(name) and name not in taken)
        said = f"{count(left, 'image')} outside the class folders of the splits left out"
        notes = (f"{said} ({printable(example)}, say)",)
    return Source(where, tuple(parts), notes=notes)


def _told(tree: Tree) -> str:
    """Return what else a tree holds, as the end of a sentence."""
    lines = [*tree.unread(), *tree.notes]
    return f" ({'; '.join(lines)})" if lines else ""


def _own_name(tree: Tree) -> str:
    """Return the name of the folder or archive that the files lie in."""
    name = Path(os.path.normpath(tree.path.absolute())).name
    ending = next((one for one in ARCHIVES if name.lower().endswith(one)), "")
    return name[: len(name) - len(ending)]


def _split_folders(tree: Tree, known_classes: Collection[str] | None) -> dict[str, str]:
    """Return the folder of each split; the whole is `train` where there are no such folders.

    `train` may be the name of a class (of vehicles, say): it is a split if there are folders in it
    or no other class beside it.
    """
    inside = _folders(tree.names)
    if known_classes is not None and set(inside) <= set(known_classes):
        return {"train": ""}
    named = [folder for folder in inside if folder.lower() in SPLITS]
    training = [folder for folder in named if SPLITS[folder.lower()] == "train"]
    nested = any(_folders(tree.below(f"{folder}/").names) for folder in training)
    if not nested and len(named) < max(1, len(inside)):
        return {"train": ""}
    splits: dict[str, str] = {}
    for folder in named:
        split = SPLITS[folder.lower()]
        if split in splits:
            raise InputError(
                f"data folder {tree.path}: {splits[split][:-1]} and {folder} both name the {split} "
                "split; keep one"
            )
        splits[split] = f"{folder}/"
    if known_classes is None and "train" not in splits:
        raise InputError(f"data folder {tree.path} has a folder {named[0]} but none named train")
    return splits


def _classes(tree: Tree) -> tuple[list[str], dict[str, list[str]]]:
    """Return the images directly in a folder, and those of each class folder in it."""
    loose: list[str] = []
    classes: dict[str, list[str]] = {folder: [] for folder in _folders(tree.names)}
    for name in tree.names:
        if is_image(name):
            folder, inside, _ = name.partition("/")
            (classes[folder] if inside else loose).append(name)
    for folder, images in classes.items():
        if not images:
            raise InputError(
                f"class folder {tree.path / folder} holds files but no images of a known suffix "
                f"({', '.join(IMAGE_SUFFIXES)}){_told(tree.below(f'{folder}/'))}"
            )
    return loose, classes


def _folders(names: Iterable[str]) -> list[str]:
    """Return the folders that files lie in, the topmost of each."""
    return sorted({name.partition("/")[0] for name in names if "/" in name})


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
        name, location = folder + file, f"{origin} {number}"
        of, numbers = (wnid, rest) if wnid else (rest[0].strip() if rest else "", rest[1:])
        listed.add(file)
        if not of or len(numbers) != 4 or not all(map(_PIXEL.fullmatch, numbers)):
            findings.add(name, f"{location} is not an image and box")
            continue
        if rows.setdefault(file, number) != number:
            findings.add(name, f"{location} lists {quoted(file)} as row {rows[file]} does")
        elif file not in images[folder]:
            findings.add(name, f"{location}: its image {name} is missing")
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
        location = f"{where}: words.txt row {number}"
        if not word or first != wnid:
            raise InputError(f"{location} is not an id, tab and words: {quoted(wnid)}")
        if words[wnid] not in ("", word):
            raise InputError(f"{location} names {wnid} {quoted(word)}, once {quoted(words[wnid])}")
        words[wnid] = word
    shared = Counter(words.values())
    return {
        wnid: word if word and shared[word] == 1 else f"{word} {wnid}".strip()
        for wnid, word in words.items()
    }
