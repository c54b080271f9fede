"""Image folders, and parquet files or what `datasets` saved. Nothing is written.

Image folders come in two layouts. With splits, `FOLDER/train/CLASS/...` and `FOLDER/test/CLASS/...`
(or `val`, `valid`, `validation`), or without, `FOLDER/CLASS/...`. Everything below a class folder
belongs to the class, however deep.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loss_attention.data.decoding import IMAGE_SUFFIXES, list_images, visible_files
from loss_attention.data.hub import quiet_datasets
from loss_attention.data.records import Part, Record, Source
from loss_attention.data.splits import SPLITS, by_split, split_of
from loss_attention.data.stored import source_of_tables
from loss_attention.errors import InputError

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
        _require_one_folder(path, split, part)
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
    def named(file: Path) -> str:
        return str(file.relative_to(folder))

    found = ((file, split_of(file.relative_to(folder))) for file in files)
    return by_split(found, named, where)


def _require_one_folder(folder: Path, split: str, files: list[Path]) -> None:
    """Raise for files in several folders: most likely variants of a data set, not parts of it."""
    homes = sorted({str(file.parent.relative_to(folder)) for file in files})
    if len(homes) > 1:
        raise InputError(
            f"data folder {folder} has parquet files of split {split} in several folders "
            f"({', '.join(homes)}); give one of them, or put the files into one"
        )


def open_class_folders(folder: Path, where: str) -> Source:
    """Return images whose class is the name of their folder."""
    parts = []
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
            records = [
                Record(image.relative_to(folder).as_posix(), image, name)
                for name, images in classes.items()
                for image in images
            ]
            parts.append(Part(split, records))
    if "train" not in [part.name for part in parts]:
        raise InputError(f"data folder {folder} holds no images to train on")
    return Source(where, tuple(parts))


def _split_folders(folder: Path) -> dict[str, Path]:
    """Return the folder of each split; the whole is `train` where there are no such folders.

    `train` may be the name of a class (of vehicles, say): it is a split if there are folders in it
    or no other class beside it.
    """
    inside = _folders(folder)
    named = [child for child in inside if child.name.lower() in SPLITS]
    training = [child for child in named if SPLITS[child.name.lower()] == "train"]
    if not any(_folders(child) for child in training) and len(named) < max(1, len(inside)):
        return {"train": folder}
    splits: dict[str, Path] = {}
    for child in named:
        split = SPLITS[child.name.lower()]
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
