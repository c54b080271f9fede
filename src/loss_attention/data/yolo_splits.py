"""Which images are in the splits of a YOLO data set: as it declares them, or else by folders.

`data.yaml` gives `train`, `val` and `test` each as a folder, a list of folders, or a text file with
an image a line, from the folder `path` or its own. Without these, `train.txt` and such may list
them.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from loss_attention.data.file_types import is_image
from loss_attention.data.records import Findings, count
from loss_attention.data.splits import by_split, split_of
from loss_attention.data.tree import Tree
from loss_attention.data.yolo_config import (
    MOST_TEXT,
    Config,
    declares_splits,
    is_given,
    lines_of,
    split_named_by,
)
from loss_attention.errors import InputError, printable, quoted

_LISTS = ("train.txt", "val.txt", "valid.txt", "test.txt")
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
_GLOB = re.compile(r"[*?\[\]]")


@dataclass
class Divided:
    """The images of each split, and whether something says so or it was told by folders."""

    splits: dict[str, list[str]]
    notes: list[str] = field(default_factory=list)


def divide(
    tree: Tree, images: Sequence[str], config: Config | None, where: str, findings: Findings
) -> Divided:
    """Return the images of each split: as declared, or else by the names of folders.

    Raises:
        InputError: a declared split that is not there.
    """
    if config is not None and declares_splits(config):
        declared = _Declared(tree, config, where, findings)
        divided = Divided(declared.splits(), declared.notes)
        said = printable(config.name)
    else:
        lists = [name for name in _LISTS if name in tree.files and _lists_images(tree, name)]
        if not lists:
            found = [(image, split_of(PurePosixPath(image).parent)) for image in images]
            return Divided(by_split(found, printable, where))
        keys = {posixpath.splitext(name)[0]: name for name in lists}
        declared = _Declared(tree, Config("", keys, base=""), where, findings)
        divided = Divided(declared.splits(), declared.notes)
        said = " and ".join(lists)
    used = {image for split in divided.splits.values() for image in split}
    left = [image for image in images if image not in used]
    if left:
        example = f" ({printable(left[0])}{', say' if len(left) > 1 else ''})"
        divided.notes.append(
            f"{count(len(left), 'image')} in no split that {said} names left out{example}"
        )
    return divided


def _lists_images(tree: Tree, name: str) -> bool:
    try:
        lines = lines_of(tree.text(name, MOST_TEXT))
    except InputError:  # names of files that are no UTF-8
        return True
    return any(is_image(line.strip()) for line in lines)


class _Declared:
    """The splits of a data.yaml."""

    def __init__(self, tree: Tree, config: Config, where: str, findings: Findings) -> None:
        self.tree, self.config, self.where, self.findings = tree, config, where, findings
        self.place = f"{where}: {printable(config.name)}" if config.name else where
        self.notes: list[str] = []
        self.folders = list(dict.fromkeys((self._base(), config.folder, "")))

    def splits(self) -> dict[str, list[str]]:
        """Return the images of each split, each once in it."""
        keys: dict[str, str] = {}
        result: dict[str, list[str]] = {}
        taken: dict[str, str] = {}
        for key, value in self.config.content.items():
            split = split_named_by(key)
            if not split or not is_given(value):
                continue
            if split in keys:
                raise InputError(f"{self.place}: {keys[split]} and {key} are one split; keep one")
            keys[split] = key
            own: dict[str, None] = {}
            for written, image in self._images(key, value):
                if written != image and taken.get(image, split) != split:
                    self.findings.add(
                        written,
                        f"{printable(written)} is the same file as {printable(image)}, by a link: "
                        "an image belongs to one split",
                    )
                    continue
                own[image] = None
                taken.setdefault(image, split)
            result[split] = list(own)
        return result

    def _base(self) -> str:
        """Return the folder that the splits are given from."""
        if self.config.base is not None:
            return self.config.base
        path = self.config.content.get("path")
        if not is_given(path):
            return self.config.folder
        if not isinstance(path, str):
            raise InputError(f"{self.place}: path is {quoted(path)}, which is no folder")
        self._refuse_remote("path", path)
        found = self.tree.find_folder(path, (self.config.folder, ""))
        if found is not None:
            return found
        elsewhere = self.tree.path / self.config.folder / path
        if "\0" not in path and elsewhere.is_dir():
            raise InputError(
                f"{self.place}: its path {quoted(path)} lies outside of "
                f"{printable(str(self.tree.path))}; give --data that folder, or the file "
                f"{printable(posixpath.basename(self.config.name))} itself, whose path is followed"
            )
        self.notes.append(
            f"{printable(self.config.name)} has the path {quoted(path)}, which is not there: its "
            "splits are taken from its own folder"
        )
        return self.config.folder

    def _images(self, key: str, value: Any) -> Iterator[tuple[str, str]]:
        """Yield the images of a split, each after the path that leads to it."""
        entries = value if isinstance(value, list) else [value]
        for entry in entries:
            if not isinstance(entry, str) or not entry.strip():
                raise InputError(
                    f"{self.place}: {key} holds {quoted(entry)}; a split is a folder of images, a "
                    "list of folders, or a text file with a path a line"
                )
            yield from self._entry(key, entry.strip())

    def _entry(self, key: str, entry: str) -> Iterator[tuple[str, str]]:
        self._refuse_remote(key, entry)
        # Some tools write "../train/images" and mean the folder beside the data.yaml.
        plain = entry.replace("\\", "/")
        for written in (entry, plain[3:]) if plain.startswith("../") else (entry,):
            folder = self.tree.find_folder(written, self.folders)
            if folder is not None:
                images = self.tree.images_in(folder)
                if images:
                    yield from images.items()
                    return
            file = self.tree.find(written, self.folders)
            if file is not None and is_image(file):
                yield file, file
                return
            if file is not None:
                yield from self._listed(file)
                return
        what = f"{self.place}: {key}: {quoted(entry)}" if self.config.name else f"{entry}"
        if _GLOB.search(entry):
            raise InputError(
                f"{what} is a pattern, which is not read; name the folder, or list its images in a "
                "text file"
            )
        raise InputError(
            f"{what} leads to no images in {printable(str(self.tree.path))}; name a folder of "
            "images, or a text file that lists them"
        )

    def _listed(self, file: str) -> Iterator[tuple[str, str]]:
        """Yield the images that a text file lists."""
        content = self.tree.read(file, MOST_TEXT)
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            text = self.tree.text(file, MOST_TEXT)
        else:  # names of files are bytes, UTF-8 or not
            text = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
        rows = {row: line.strip() for row, line in enumerate(lines_of(text), 1) if line.strip()}
        folders = list(dict.fromkeys((posixpath.dirname(file), *self.folders)))
        found = {row: self.tree.find(line, folders) for row, line in rows.items()}
        if rows and not any(found.values()):
            found = self._from_elsewhere(file, rows) or found
        for row, line in rows.items():
            image, place = found[row], f"{printable(file)} row {row}"
            if image is None:
                self.findings.add(line, f"{place}: its image {quoted(line)} is missing")
            elif not is_image(image):
                self.findings.add(line, f"{place}: {quoted(line)} is no image")
            else:
                yield self._link(line, image, folders), image
        repeated = sum(map(bool, found.values())) - len(set(found.values()) - {None})
        if repeated:
            self.notes.append(
                f"{printable(file)} lists {count(repeated, 'image')} again, which count once"
            )

    def _link(self, line: str, image: str, folders: Sequence[str]) -> str:
        """Return the link that a line names, or the image where it names that."""
        for folder in folders:
            name = posixpath.normpath(posixpath.join(folder, line.replace("\\", "/")))
            if self.tree.links.get(name) == image:
                return name
        return image

    def _from_elsewhere(self, file: str, rows: Mapping[int, str]) -> dict[int, str | None]:
        """Find the images of a list that was written where the data lay in other folders.

        All have to be found by leaving away the same number of folders.
        """
        parts = {row: line.replace("\\", "/").split("/") for row, line in rows.items()}
        for left in range(1, min(map(len, parts.values()))):
            starts = {tuple(words[:left]) for words in parts.values()}
            if len(starts) > 1:
                break
            found = {row: self.tree.find("/".join(w[left:])) for row, w in parts.items()}
            if all(found.values()) and not self._is_there("/".join(next(iter(starts)))):
                self.notes.append(
                    f"{printable(file)} has paths from {quoted('/'.join(*starts))}, which is not "
                    f"there: they are taken from {printable(str(self.tree.path))}"
                )
                return found
        return {}

    def _is_there(self, folder: str) -> bool:
        return folder.startswith("/") and "\0" not in folder and Path(folder).is_dir()

    def _refuse_remote(self, key: str, entry: str) -> None:
        if _URL.match(entry):
            raise InputError(
                f"{self.place}: {key} is the address {quoted(entry)}; download it, and name the "
                "folder"
            )
