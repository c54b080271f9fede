"""Data sets in files here: parquet, image folders, and what `datasets` saved. Nothing is written.

Image folders come in two layouts. With splits, `FOLDER/train/CLASS/...` and `FOLDER/test/CLASS/...`
(or `val`, `valid`, `validation`), or without, `FOLDER/CLASS/...`. Everything below a class folder
belongs to the class, however deep.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loss_attention.data.decoding import IMAGE_SUFFIXES, list_images, visible_files
from loss_attention.data.hub import quiet_datasets
from loss_attention.data.splits import TEST_NAMES, TRAIN_NAMES, VALIDATION_NAMES
from loss_attention.errors import InputError

_SPLITS = {
    name: split
    for split, names in (
        ("train", TRAIN_NAMES),
        ("test", TEST_NAMES),
        ("validation", VALIDATION_NAMES),
    )
    for name in names
}
# Files that say what the images beside them show, in the layout that `datasets` calls imagefolder.
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_SAVED = ("dataset_dict.json", "dataset_info.json")


def open_local(path: Path) -> Mapping[str, Any]:
    """Return a table of the `datasets` library for each split of what is at a path.

    Args:
        path: a folder, or a parquet file.

    Raises:
        InputError: nothing there, nothing of use in it, or a layout that can be read in two ways.
    """
    if not path.exists():
        raise InputError(f"data folder {path} does not exist")
    try:
        return _open_file(path) if path.is_file() else _open_folder(path)
    except OSError as error:
        raise InputError(f"data folder {path} cannot be read: {error}") from error


def _open_file(path: Path) -> Mapping[str, Any]:
    if path.suffix.lower() != ".parquet":
        raise InputError(f"data file {path} is no parquet file; a folder of images works too")
    return _load(path, "parquet", {"train": [path]})


def _open_folder(folder: Path) -> Mapping[str, Any]:
    if any((folder / name).is_file() for name in _SAVED):
        with quiet_datasets(f"data folder {folder} cannot be read") as datasets:
            saved = datasets.load_from_disk(str(folder))
            return dict(saved) if isinstance(saved, dict) else {"train": saved}
    files = sorted(visible_files(folder))
    if any(file.name in _METADATA for file in files):
        return _load(folder, "imagefolder", _by_split(folder, files))
    tables = [file for file in files if file.suffix.lower() == ".parquet"]
    if tables:
        parts = _by_split(folder, tables)
        for split, part in parts.items():
            _require_one_folder(folder, split, part)
        return _load(folder, "parquet", parts)
    return _class_folders(folder)


def _load(path: Path, kind: str, files: Mapping[str, list[Path]]) -> Mapping[str, Any]:
    escaped = {
        split: [glob.escape(str(file.absolute())) for file in part] for split, part in files.items()
    }
    with quiet_datasets(f"data folder {path} cannot be read") as datasets:
        return dict(datasets.load_dataset(kind, data_files=escaped))


def _by_split(folder: Path, files: list[Path]) -> dict[str, list[Path]]:
    """Sort files by the split that their name or a folder above them says; none says: train."""
    parts: dict[str, list[Path]] = {}
    for file in files:
        parts.setdefault(_split_of(file.relative_to(folder)), []).append(file)
    unnamed = parts.pop("", [])
    if unnamed and "train" in parts:
        raise InputError(
            f"data folder {folder}: the name of {unnamed[0].relative_to(folder)} says no split "
            "(train, test or validation), while others do"
        )
    return {"train": unnamed, **parts} if unnamed else parts


def _require_one_folder(folder: Path, split: str, files: list[Path]) -> None:
    """Raise for files in several folders: most likely variants of a data set, not parts of it."""
    homes = sorted({str(file.parent.relative_to(folder)) for file in files})
    if len(homes) > 1:
        raise InputError(
            f"data folder {folder} has parquet files of split {split} in several folders "
            f"({', '.join(homes)}); give one of them, or put the files into one"
        )


def _split_of(path: Path) -> str:
    for part in reversed(path.parts):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in _SPLITS:
                return _SPLITS[word]
    return ""


def _class_folders(folder: Path) -> Mapping[str, Any]:
    parts = {}
    for split, part in _split_folders(folder).items():
        loose, classes = _classes(part)
        if classes and loose:
            count = "1 image lies" if len(loose) == 1 else f"{len(loose):,} images lie"
            raise InputError(
                f"{count} outside the class folders of {part} ({loose[0].name}, say); "
                "move each into the folder of its class"
            )
        if loose and split == "train":
            raise InputError(
                f"data folder {part} holds images but no class folders: move the images of each "
                "class into a folder with its name"
            )
        if classes:  # otherwise a test folder without labels, or an empty one
            parts[split] = _table(classes)
    if "train" not in parts:
        raise InputError(f"data folder {folder} holds no images to train on")
    return parts


def _split_folders(folder: Path) -> dict[str, Path]:
    """Return the folder of each split; the whole is `train` where there are no such folders.

    `train` may be the name of a class (of vehicles, say): it is a split if there are folders in it
    or no other class beside it.
    """
    inside = _folders(folder)
    named = [child for child in inside if child.name.lower() in _SPLITS]
    training = [child for child in named if _SPLITS[child.name.lower()] == "train"]
    if not any(_folders(child) for child in training) and len(named) < max(1, len(inside)):
        return {"train": folder}
    splits: dict[str, Path] = {}
    for child in named:
        split = _SPLITS[child.name.lower()]
        if split in splits:
            raise InputError(
                f"data folder {folder}: {splits[split].name} and {child.name} both name the "
                f"{split} split; keep one"
            )
        splits[split] = child
    if "train" not in splits:
        raise InputError(f"data folder {folder} has a folder {named[0].name} but none named train")
    return splits


def _classes(folder: Path) -> tuple[list[Path], dict[str, list[Path]]]:
    """Return the images directly in a folder, and those of each class folder in it."""
    classes = {}
    for child in _folders(folder):
        images = list_images(child)
        if images:
            classes[child.name] = images
        elif any(visible_files(child)):
            raise InputError(
                f"class folder {child} holds files but no images of a known suffix "
                f"({', '.join(IMAGE_SUFFIXES)})"
            )
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return [path for path in inside if path.suffix.lower() in IMAGE_SUFFIXES], classes


def _folders(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def _table(classes: Mapping[str, list[Path]]) -> Any:
    """Return images and the names of their classes as a table, in memory."""
    images = [(str(image.absolute()), name) for name, part in classes.items() for image in part]
    with quiet_datasets("the names of the image files cannot be read") as datasets:
        features = {"image": datasets.Image(decode=False), "label": datasets.Value("string")}
        return datasets.Dataset.from_dict(
            {"image": [path for path, _ in images], "label": [name for _, name in images]},
            features=datasets.Features(features),
        )
