"""YOLO text files: one an image, with a line `CLASS X Y WIDTH HEIGHT` (or a polygon) an object.

Centres and sizes, or the polygon's corners, are fractions of the image's size. `images/.../A.jpg`
has its text in `labels/.../A.txt`, or beside it. An image without objects has an empty text file.
What the classes are called is told in `data.yaml` and its like, see `yolo_config.py`.

`data.yaml` gives the splits `train`, `val` and `test` each as a folder, a list of folders, or a
text file with an image a line, from the folder `path` or its own. Without these, `train.txt` and
such may list them, or else folders are named after them.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from loss_attention.data.decoding import is_image
from loss_attention.data.division import by_split, split_of
from loss_attention.data.formats.yolo_config import (
    MOST_BYTES,
    MOST_TEXT,
    Classes,
    Config,
    declares_splits,
    describes_data,
    find_classes,
    find_config,
    is_given,
    lines_of,
    names_classes,
    read_yaml,
    split_named_by,
)
from loss_attention.data.records import Box, Findings, Part, Record, Source, count
from loss_attention.data.tree import Tree, open_tree
from loss_attention.errors import InputError, guarded, printable, quoted

_SEEN = 20  # files looked into to tell the layout
_LISTS = ("train.txt", "val.txt", "valid.txt", "test.txt")
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
_GLOB = re.compile(r"[*?\[\]]")
_WHOLE = re.compile(r"\d{1,9}", re.ASCII)
_NUMBER = re.compile(
    r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?|[+-]?(nan|inf(inity)?)", re.I | re.A
)


def open_yolo(
    tree: Tree, where: str, masks: bool, _known: str | None
) -> tuple[Tree, Source] | None:
    """Return the images of a tree, if a data.yaml or text files say that they are YOLO's.

    Raises:
        InputError: they are, and it is not clear which data.yaml is meant, or see `_read`.
    """
    images = list(filter(is_image, tree.names))
    texts = [text for image in images if (text := _text_of(image, tree)) is not None]
    certain = any(_is_yolo(tree, text) for text in texts[:_SEEN])
    config = find_config(tree, where, certain=certain)
    named = any(map(names_classes, tree.names)) and any(_may_be(tree, t) for t in texts[:_SEEN])
    declared = config is not None and (bool(texts) or declares_splits(config))
    if not images or not (certain or named or declared):
        return None
    config = find_config(tree, where, certain=True)
    return tree, _read(tree, images, config, where, masks=masks)


def open_data_yaml(path: Path, where: str, *, masks: bool) -> tuple[Tree, Source]:
    """Return the files and images of a data.yaml; its `path` is followed wherever it leads.

    Raises:
        InputError: it is none, or see `_read`.
    """
    with guarded(where), path.open("rb") as file:
        content = read_yaml(file.read(MOST_BYTES + 1))
    if not describes_data(content):
        raise InputError(f"{where} is not a YAML file of a data set: it has no `names` of classes")
    home = path.parent
    base = content.get("path")
    elsewhere = home / base if isinstance(base, str) and "\0" not in base else home
    outside = elsewhere.is_dir() and home.resolve() not in (
        elsewhere.resolve(),
        *elsewhere.resolve().parents,
    )
    tree = open_tree(elsewhere if outside else home)
    config = Config(path.name, content, base="" if outside else None)
    images = list(filter(is_image, tree.names))
    return tree, _read(tree, images, config, where, masks=masks)


def _read(
    tree: Tree, images: list[str], config: Config | None, where: str, *, masks: bool
) -> Source:
    """Return images with what their label files say.

    Raises:
        InputError: no names of the classes, or a split that is not there.
    """
    findings = Findings()
    classes, notes = find_classes(tree, config, where)
    if config is not None and "kpt_shape" in config.content:
        raise InputError(
            f"{where}: {config.name} declares key points (kpt_shape), which are not read; boxes "
            "and polygons are"
        )
    splits, said = _divide(tree, images, config, where, findings)
    rows = _Rows(tree, classes, findings, masks=masks)
    parts, described = [], set()
    for split, own in splits.items():
        records = []
        for image in own:
            text = _text_of(image, tree)
            if text is None:
                empty = f"{posixpath.splitext(posixpath.basename(image))[0]}.txt"
                what = f"the image {image} has no annotation; one without objects has an empty"
                findings.add(image, f"{what} {empty}")
                continue
            described.add(text)
            records.append(rows.record(image, text))
        parts.append(Part(split, records))
    for text in _alone(tree, images, described):
        findings.add(text, f"{text} row 1: its image is missing")
    names = tuple(classes.names.values())
    return findings.finish(Source(where, tuple(parts), names, True, notes=(*notes, *said)))


def _text_of(image: str, tree: Tree) -> str | None:
    """Return an image's label file: in `labels` for the last `images` of its path, or beside."""
    own = f"{posixpath.splitext(image)[0]}.txt"
    parts = own.split("/")
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        found = tree.find("/".join([*parts[:last], "labels", *parts[last + 1 :]]))
        if found is not None:
            return found
    return tree.find(own)


def _is_yolo(tree: Tree, text: str) -> bool:
    """Return whether a text's first line is a whole number and fractions."""
    try:
        first = _first_words(tree, text)
    except InputError:
        return False
    if len(first) < 5 or not all(map(_NUMBER.fullmatch, first)):
        return False
    numbers = [float(word) for word in first]
    return numbers[0].is_integer() and not any(abs(n) > 2 for n in numbers[1:])


def _may_be(tree: Tree, text: str) -> bool:
    """Return whether a text may be meant as YOLO's, not as a caption: empty, or mostly numbers."""
    try:
        first = re.split(r"[\s,;]+", " ".join(_first_words(tree, text)))
    except InputError:
        return True
    return first == [""] or sum(bool(_NUMBER.fullmatch(word)) for word in first) >= 4


def _first_words(tree: Tree, text: str) -> list[str]:
    lines = lines_of(tree.text(text, MOST_TEXT))
    return next((line.split() for line in lines if line.strip()), [])


def _alone(tree: Tree, images: list[str], described: set[str]) -> Iterator[str]:
    """Yield the label files in the folders of those described that no image has."""
    folders = {posixpath.dirname(text) for text in described}
    others = [
        name
        for name in tree.names
        if name.endswith(".txt")
        and name not in described
        and posixpath.dirname(name) in folders
        and not names_classes(name)
    ]
    if others:
        expected = {_text_of(image, tree) for image in images}
        yield from (name for name in others if name not in expected and _is_yolo(tree, name))


class _Rows:
    """Reads label files."""

    def __init__(self, tree: Tree, classes: Classes, findings: Findings, *, masks: bool) -> None:
        self.tree, self.classes, self.findings, self.masks = tree, classes, findings, masks
        self.index = {number: k for k, number in enumerate(classes.names)}

    def record(self, image: str, text: str) -> Record:
        """Return the record of an image; what is wrong with its label file is noted."""
        origin, boxes = f"{text} row", []
        polygons: list[tuple[Any, ...]] = []
        lines: list[str] = []
        with self.findings.noting(image, text):
            lines = lines_of(self.tree.text(text, MOST_TEXT))
        for row, line in enumerate(lines, start=1):
            words = line.split()
            if not words:
                continue
            fault = self._fault(words)
            if fault:
                self.findings.add(image, f"{origin} {row}{fault}")
                continue
            label, numbers = self.index[int(words[0])], [float(word) for word in words[1:]]
            boxes.append(Box(label, *_corners(numbers), row))
            if self.masks and len(numbers) > 4:
                polygons.append((label, [numbers], row))
        return Record(
            image,
            self.tree.content(image),
            sorted({box.label for box in boxes}),
            self.findings.boxes(image, origin, boxes),
            self.findings.mask(image, len(boxes), polygons, relative=True, origin=origin),
            origin=origin,
            relative=True,
        )

    def _fault(self, words: list[str]) -> str:
        """Return what is wrong with a row, as the end of a sentence."""
        if wrong := [word for word in words if not _NUMBER.fullmatch(word)]:
            return f": {quoted(wrong[0])} is not a number; a row is CLASS X Y WIDTH HEIGHT"
        numbers = [float(word) for word in words[1:]]
        if not _WHOLE.fullmatch(words[0]):
            return f": class {quoted(words[0])} is not a whole number from 0"
        if int(words[0]) not in self.classes.names:
            return f": class {int(words[0])} has no name in {self.classes.file}"
        if len(numbers) == 5:
            return " has five numbers after the class; four are a box (is the last a confidence?)"
        if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
            return " is neither four numbers nor a polygon"
        if far := [word for word in words[1:] if not abs(float(word)) <= 2]:  # or NaN
            what = "a fraction of a size" if math.isfinite(float(far[0])) else "a finite number"
            return f": {quoted(far[0])} is not {what}; YOLO's run from 0 to 1"
        return ""


def _corners(numbers: list[float]) -> tuple[float, float, float, float]:
    if len(numbers) == 4:
        x, y, width, height = numbers
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    across, down = numbers[::2], numbers[1::2]
    return min(across), min(down), max(across), max(down)


def _divide(
    tree: Tree, images: Sequence[str], config: Config | None, where: str, findings: Findings
) -> tuple[dict[str, list[str]], list[str]]:
    """Return the images of each split, as declared or else by the names of folders, and notes.

    Raises:
        InputError: a declared split that is not there.
    """
    if config is not None and declares_splits(config):
        said = printable(config.name)
    else:
        lists = [name for name in _LISTS if name in tree.files and _lists_images(tree, name)]
        if not lists:
            found = [(image, split_of(PurePosixPath(image).parent)) for image in images]
            return by_split(found, str, where), []
        config = Config("", {posixpath.splitext(name)[0]: name for name in lists}, base="")
        said = " and ".join(lists)
    declared = _Declared(tree, config, where, findings)
    splits, notes = declared.splits(), declared.notes
    used = {image for split in splits.values() for image in split}
    left = [image for image in images if image not in used]
    if left:
        example = f" ({printable(left[0])}{', say' if len(left) > 1 else ''})"
        notes.append(f"{count(len(left), 'image')} in no split that {said} names left out{example}")
    return splits, notes


def _lists_images(tree: Tree, name: str) -> bool:
    try:
        lines = lines_of(tree.text(name, MOST_TEXT))
    except InputError:  # names of files that are not UTF-8
        return True
    return any(is_image(line.strip()) for line in lines)


class _Declared:
    """The splits of a data.yaml."""

    def __init__(self, tree: Tree, config: Config, where: str, findings: Findings) -> None:
        self.tree, self.config, self.findings = tree, config, findings
        self.location = f"{where}: {config.name}" if config.name else where
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
                raise InputError(
                    f"{self.location}: {keys[split]} and {key} are one split; keep one"
                )
            keys[split] = key
            own: dict[str, None] = {}
            for written, image in self._images(key, value):
                if written != image and taken.get(image, split) != split:
                    self.findings.add(
                        written,
                        f"{written} is the same file as {image}, by a link: an image belongs to "
                        "one split",
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
            raise InputError(f"{self.location}: path is {quoted(path)}, which is not a folder")
        self._refuse_remote("path", path)
        found = self.tree.find_folder(path, (self.config.folder, ""))
        if found is not None:
            return found
        elsewhere = self.tree.path / self.config.folder / path
        if "\0" not in path and elsewhere.is_dir():
            raise InputError(
                f"{self.location}: its path {quoted(path)} lies outside of {self.tree.path}; give "
                f"`data` that folder, or the file {posixpath.basename(self.config.name)} itself, "
                "whose path is followed"
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
                    f"{self.location}: {key} holds {quoted(entry)}; a split is a folder of images, "
                    "a list of folders, or a text file with a path a line"
                )
            yield from self._entry(key, entry.strip())

    def _entry(self, key: str, entry: str) -> Iterator[tuple[str, str]]:
        self._refuse_remote(key, entry)
        # Some tools write "../train/images" and mean the folder beside the data.yaml.
        plain = entry.replace("\\", "/")
        for written in (entry, plain[3:]) if plain.startswith("../") else (entry,):
            folder = self.tree.find_folder(written, self.folders)
            if folder is not None and (images := self.tree.images_in(folder)):
                yield from images.items()
                return
            file = self.tree.find(written, self.folders)
            if file is not None:
                yield from ((file, file),) if is_image(file) else self._listed(file)
                return
        what = f"{self.location}: {key}: {quoted(entry)}" if self.config.name else entry
        if _GLOB.search(entry):
            raise InputError(
                f"{what} is a pattern, which is not read; name the folder, or list its images in a "
                "text file"
            )
        raise InputError(
            f"{what} leads to no images in {self.tree.path}; name a folder of images, or a text "
            "file that lists them"
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
            image, location = found[row], f"{file} row {row}"
            if image is None:
                self.findings.add(line, f"{location}: its image {quoted(line)} is missing")
            elif not is_image(image):
                self.findings.add(line, f"{location}: {quoted(line)} is not an image")
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
            (start,) = map("/".join, starts)
            absolute = start.startswith("/") and "\0" not in start
            if all(found.values()) and not (absolute and Path(start).is_dir()):
                self.notes.append(
                    f"{printable(file)} has paths from {quoted(start)}, which is not there: they "
                    f"are taken from {printable(str(self.tree.path))}"
                )
                return found
        return {}

    def _refuse_remote(self, key: str, entry: str) -> None:
        if _URL.match(entry):
            raise InputError(
                f"{self.location}: {key} is the address {quoted(entry)}; download it, and name the "
                "folder"
            )
