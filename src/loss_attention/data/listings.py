"""Which tables of a folder list its images, so that none that does is passed over for folder names.

A table is used if it has a column of images and one of labels or objects, by any of their usual
names. One that is not used, but holds paths of images, or is called like a list of labels, or lies
beside images without class folders, is refused: what it says would go unheard otherwise. Any other
(the losses of a run, say) is named in a note.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from loss_attention.data.columns import LABEL_NAMES, LISTED_IMAGES, named_column, plain_name
from loss_attention.data.file_types import is_image
from loss_attention.data.records import MOST_NAMED, Source, count
from loss_attention.data.rows import LINES, SEPARATED, TextTable, open_table
from loss_attention.data.splits import SPLITS
from loss_attention.data.tree import Tree
from loss_attention.errors import InputError, printable

_ROWS = 20  # looked at
_MOST_TEXTS = 400
_BROKEN = 2**16  # bytes looked at where a table cannot be read as one
_MOST_JSON = 20  # a folder of more has one an image
_DEEPEST = 3
_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
_NOT_READ = re.compile(
    r".*\.(xlsx?|ods|numbers|feather|arrow|pkl|pickle|npy|npz|mat|h5|hdf5|db|sqlite3?"
    r"|(csv|tsv|jsonl?|ndjson)\.(gz|bz2|xz|zst))",
    re.IGNORECASE,
)
_LABEL_LIST = re.compile(
    r"(.*[_. -])?(labels?|annotations?|metadata|ground[_ -]?truth|gt|manifest|targets?)"
    rf"([_. -]?({'|'.join(SPLITS)}))?"
)
_NO_CLASSES = re.compile(
    "|images?|imgs?|jpegimages|pictures?|pics|photos?|data|files?|masks?|annotations?|labels?"
)


@dataclass(frozen=True)
class Tables:
    """The tables of a folder.

    Attributes:
        used: those that list its images.
        notes: a line on others.
    """

    used: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def beside(self, source: Source) -> Source:
        """Return what was read, with the notes on tables that were not."""
        return replace(source, notes=(*source.notes, *self.notes))


def find_tables(tree: Tree, where: str) -> Tables:
    """Return the tables of a tree that list images: at its top, or beside images as metadata.

    Raises:
        InputError: a table that most likely lists images and is not understood.
    """
    looks = [_Look(tree, name, where) for name in _candidates(tree)]
    used = [look.file for look in looks if look.used]
    if not any("/" not in name for name in used):
        deep = [_Look(tree, name, where) for name in _deep(tree, looks)]
        looks += deep
        used += [look.file for look in deep if look.used]
    surroundings = _Surroundings(tree)
    for look in looks:
        if not look.used:
            look.refuse_if_meant(surroundings, beside=bool(used))
    seen = {look.file: look.used for look in looks}
    spare = [
        name
        for name in (*seen, *(name for name in tree.names if name not in seen))
        if not seen.get(name)
        and (name.lower().endswith(_TABLES) or (name in seen and _called_so(name)))
    ]
    spare += _unread(surroundings, where, refusing=not used)
    return Tables(tuple(used), _noted(spare))


def _noted(spare: Sequence[str]) -> tuple[str, ...]:
    if not spare:
        return ()
    named = ", ".join(map(printable, spare[:MOST_NAMED]))
    more = " and more" if len(spare) > MOST_NAMED else ""
    tables = count(len(spare), "table")
    return (f"{tables} not used, without columns of images and labels: {named}{more}",)


def _candidates(tree: Tree) -> Iterator[str]:
    """Yield the tables at the top, and those called metadata wherever they are."""
    objects = [name for name in tree.names if "/" not in name and name.lower().endswith(".json")]
    for name in tree.names:
        path = PurePosixPath(name.lower())
        top = len(path.parts) == 1
        if path.suffix == ".json" and len(objects) > _MOST_JSON and not _called_so(name):
            continue
        if (top and path.suffix in (*SEPARATED, *LINES)) or (
            path.stem == "metadata" and path.suffix in _TABLES
        ):
            yield name


def _deep(tree: Tree, looks: list[_Look]) -> list[str]:
    """Return tables in folders that are called like lists of labels."""
    seen = {look.file for look in looks}
    found = [
        name
        for name in tree.names
        if name.lower().endswith(_TABLES)
        and 1 < len(PurePosixPath(name).parts) <= _DEEPEST
        and name not in seen
        and _called_so(name)
    ]
    return found if len(found) <= _MOST_JSON else []


def _called_so(name: str) -> bool:
    """Return whether a table is called like a list of labels, or like a split."""
    stem = PurePosixPath(name.lower()).stem
    return stem in SPLITS or _LABEL_LIST.fullmatch(stem) is not None


def _unread(surroundings: _Surroundings, where: str, *, refusing: bool) -> list[str]:
    """Return tables in formats that are not read; refuse those that are meant."""
    found = [
        name for name in surroundings.tree.names if "/" not in name and _NOT_READ.fullmatch(name)
    ]
    for name in found if refusing and not surroundings.parquet else ():
        stem = name.partition(".")[0]
        if surroundings.images and (_called_so(stem) or not surroundings.class_folders):
            raise InputError(
                f"{where}: {printable(name)} is a table in a format that is not read; save it as "
                "CSV, or move it elsewhere if it does not list the images"
            )
    return found


class _Surroundings:
    """What lies around tables."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree

    @cached_property
    def images(self) -> list[str]:
        """All images."""
        return list(filter(is_image, self.tree.names))

    @cached_property
    def stems(self) -> frozenset[str]:
        """Names of images without folder and suffix; short numbers may count anything."""
        stems = {PurePosixPath(name).stem for name in self.images}
        return frozenset(stem for stem in stems if not (stem.isdecimal() and len(stem) < 5))

    @cached_property
    def class_folders(self) -> bool:
        """Whether images lie in folders that are certainly classes."""
        classes = set()
        for name in self.images:
            folders = name.split("/")[:-1]
            split = SPLITS.get(folders[0].lower(), "") if folders else ""
            if split:
                folders = folders[1:]
            if split in ("", "train"):
                classes.add(folders[0].lower() if folders else "")
        return len(classes) > 1 and not any(map(_NO_CLASSES.fullmatch, classes))

    @cached_property
    def parquet(self) -> bool:
        """Whether there are parquet files, which hold images and labels of their own."""
        return any(name.lower().endswith(".parquet") for name in self.tree.names)


class _Look:
    """The beginning of one table."""

    def __init__(self, tree: Tree, file: str, where: str) -> None:
        self.tree, self.file, self.where = tree, file, where
        self.broken: InputError | None = None
        self.called_so = _called_so(file)
        self.any_text = file.lower().endswith((".json", ".txt"))
        self.table: TextTable | None = None
        self.rows: list[Mapping[str, Any]] = []
        self.fault = ""
        try:
            self._open(lenient=False)
        except InputError as error:
            self.broken = error
            try:
                self._open(lenient=True)
            except InputError:
                self.table = None

    def _open(self, *, lenient: bool) -> None:
        self.table = open_table(self.tree, self.file, self.where, lenient=lenient)
        rows = list(islice(self.table.rows(), _ROWS))
        self.rows = [row.values for row in rows]
        self.fault = next((f"row {row.number} {row.fault}" for row in rows if row.fault), "")

    @property
    def image(self) -> str | None:
        """Its column of images."""
        return named_column(self.table.columns, LISTED_IMAGES) if self.table else None

    @property
    def used(self) -> bool:
        """Whether it lists images with labels, broken as it may be otherwise."""
        if self.table is None or self.image is None:
            return False
        columns = self.table.columns
        labelled = named_column(columns, (*LABEL_NAMES, "objects")) is not None
        single = not self.any_text or not any(
            isinstance(row.get(self.image), (list, dict)) for row in self.rows
        )
        return labelled and single

    def refuse_if_meant(self, surroundings: _Surroundings, *, beside: bool) -> None:
        """Raise where this table is most likely meant to be read.

        Args:
            surroundings: what lies around it.
            beside: other tables list the images.
        """
        certain = self._lists_images(surroundings)
        alone = self.tree.names == (self.file,)
        unclear = bool(surroundings.images) and not surroundings.class_folders
        unread = self.broken is not None or self.table is None or not self.table.header
        if beside:
            meant = self.called_so and (certain or (unread and not self.any_text))
        elif self.file.lower().endswith(".txt"):
            meant = certain and (self.called_so or alone)
        elif self.any_text:
            meant = certain and (self.called_so or alone or unclear or self._names_images())
        elif surroundings.parquet and not surroundings.class_folders:
            meant = self.called_so and certain
        else:
            meant = certain or self.called_so or alone or unclear
        if meant:
            raise self._error()

    def _names_images(self) -> bool:
        """Return whether it holds paths of two images that are there."""
        paths = {text for row in self.rows for text in _texts([row]) if _is_path(text)}
        return sum(self.tree.find(path) is not None for path in paths) > 1

    def _lists_images(self, surroundings: _Surroundings) -> bool:
        """Return whether it holds paths or names of images."""
        if self.table is None or (self.fault and not self.table.header):
            text = self.tree.read(self.file)[:_BROKEN].replace(b"\0", b"").decode("latin-1")
            return any(map(_is_path, re.split(r"[\s,;|\"']+", text)))
        if any(_is_path(word) for name in self.table.header for word in (name, *name.split()[:1])):
            return True
        if self.image is not None and self.file.lower().endswith(LINES):
            return True
        columns = [[row.get(name) for row in self.rows] for name in self.table.columns]
        for cells in columns:
            texts = [text.strip() for text in _texts(cells)]
            if self.file.lower().endswith(".txt"):  # lines of words
                texts = [word for text in texts for word in text[: _ROWS * _ROWS].split()]
            if any(map(_is_path, texts)):
                return True
            if texts and 2 * sum(text in surroundings.stems for text in texts) >= len(texts):
                return True
        return False

    def _error(self) -> InputError:
        place = f"{self.where}: {printable(self.file)}"
        if self.broken is not None:
            return self.broken
        assert self.table is not None
        header = [printable(name[:60]) for name in self.table.header[:MOST_NAMED]]
        columns = ", ".join(header) + (", ..." if len(self.table.header) > MOST_NAMED else "")
        if not header:
            what = self.fault or "is empty"
            return InputError(f"{place} {what}; move it elsewhere if it is not to be read")
        if self.file.lower().endswith(LINES) and (self.any_text or self.image is None):
            return InputError(
                f"{place} is no table of images: it has {columns}. Write a list of objects, an "
                'image each, {"image": "a.png", "label": "cat"}, or move it elsewhere if it does '
                "not list the images"
            )
        if any(map(_is_path, self.table.header)):
            return InputError(
                f"{place} begins with an image and not with names of columns ({columns}); put a "
                "row such as image,label above"
            )
        if self.image is not None:
            return InputError(
                f"{place} has no label column among {columns}; it may be called "
                f"{', '.join(LABEL_NAMES)}; move the table elsewhere if it is not to be read"
            )
        return InputError(
            f"{place} is no CSV or JSON-lines file with a column of images: it has {columns}. "
            f"Images may be called {', '.join(LISTED_IMAGES)}, labels {', '.join(LABEL_NAMES)}; "
            "move the table elsewhere if it does not list the images"
        )


def _texts(values: Iterable[Any]) -> Iterator[str]:
    """Yield texts in values, some of those within lists and objects too."""
    left = list(islice(values, _ROWS))
    for _ in range(_MOST_TEXTS):
        if not left:
            return
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, (list, dict)):
            left += islice(value, _ROWS)
            left += islice(value.values(), _ROWS) if isinstance(value, dict) else ()


def _is_path(text: str) -> bool:
    return is_image(text.strip().replace("\\", "/")) and bool(plain_name(text))
