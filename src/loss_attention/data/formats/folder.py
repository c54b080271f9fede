"""Image folders, and parquet files or what `datasets` saved. Nothing is written.

Image folders, in archives too, come in two layouts. With splits, `FOLDER/train/CLASS/...` and
`FOLDER/test/CLASS/...` (or `val`, `valid`, `validation`), or without, `FOLDER/CLASS/...`.
Everything below a class folder belongs to the class, however deep.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from loss_attention.data.archives import ARCHIVES
from loss_attention.data.decoding import IMAGE_SUFFIXES, is_image
from loss_attention.data.formats.hub import quiet_datasets, source_of_tables
from loss_attention.data.records import Part, Record, Source, count
from loss_attention.data.sample import SPLITS, by_split, split_of
from loss_attention.data.tree import Tree
from loss_attention.errors import InputError, printable, quoted

SAVED = ("dataset_dict.json", "dataset_info.json")


def open_saved(folder: Path, where: str) -> Source:
    """Return what `datasets` saved in a folder."""
    with quiet_datasets(f"{where} cannot be read") as datasets:
        saved = datasets.load_from_disk(str(folder))
    tables = dict(saved) if isinstance(saved, dict) else {"train": saved}
    return source_of_tables(tables, where, folder.absolute())


def open_parquet(path: Path, files: list[Path], where: str) -> Source:
    """Return parquet files, sorted into splits by their names.

    Args:
        path: the folder that they are in, or the one file.
        files: the files.
        where: what the data is called.
    """
    if path.is_file():
        return source_of_tables(_load(where, "parquet", {"train": [path]}), where, path.parent)
    parts = _by_split(path, files, where)
    for split, part in parts.items():
        homes = sorted({str(file.parent.relative_to(path)) for file in part})
        if len(homes) > 1:  # most likely variants of a data set, not parts of it
            raise InputError(
                f"data folder {path} has parquet files of split {split} in several folders "
                f"({', '.join(homes)}); give one of them, or put the files into one"
            )
    return source_of_tables(_load(where, "parquet", parts), where, path.absolute())


def open_metadata(folder: Path, files: list[Path], where: str) -> Source:
    """Return images with a metadata.parquet beside them, the layout `imagefolder` of `datasets`."""
    tables = _load(where, "imagefolder", _by_split(folder, files, where))
    return source_of_tables(tables, where, folder.absolute())


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
                hint += f", as {quoted(_own_name(tree))} is no class of the model"
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
