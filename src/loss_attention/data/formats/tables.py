"""Tables of text: which of a folder list its images, and how their rows are read.

A table is used if it has a column of images and one of labels or objects, by any of their usual
names. One that is not used, but holds paths of images, or is called like a list of labels, or lies
beside images without class folders, is refused: what it says would go unheard otherwise. Any other
(the losses of a run, say) is named in a note.

Tables are CSV of any usual separator, JSON lines or JSON arrays, in UTF-8, or UTF-16 or UTF-32 as
their first bytes tell. The separator is the one that makes most known columns of the header, so
that one inside a cell is never taken for it. A row that is malformed is told as such, and the next
one is read.
"""

from __future__ import annotations

import csv
import io
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from loss_attention.data.decoding import is_image
from loss_attention.data.division import SPLITS
from loss_attention.data.formats.cells import (
    LABEL_NAMES,
    LISTED_IMAGES,
    LISTED_NAMES,
    named_column,
    plain_name,
)
from loss_attention.data.records import MOST_NAMED, Source, count, few
from loss_attention.data.tree import Tree
from loss_attention.errors import InputError, guarded, quoted, reason

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
_SEPARATED = (".csv", ".tsv", ".txt")
_LINES = (".jsonl", ".ndjson", ".json")
_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar", " ": "space"}
_MOST_DIGITS = 1000  # longer numbers are none that anyone counts by
_HEADER_LENGTH = 2**16
_HEADER_ROWS = 20  # rows of JSON whose keys are taken for the header
_BLOCK = 4096
_CELLS = threading.Lock()


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
    top, deep = _candidates(tree)
    looks = [_Look(tree, name, where) for name in top]
    if not any(look.used and "/" not in look.file for look in looks):
        looks += [_Look(tree, name, where) for name in deep]
    used = [look.file for look in looks if look.used]
    surroundings = _Surroundings(tree)
    for look in looks:
        if not look.used:
            look.refuse_if_meant(surroundings, beside=bool(used))
    seen = {look.file: look.used for look in looks}
    spare = [name for name in seen if name.lower().endswith(_TABLES) or _called_so(name)]
    spare += [name for name in tree.names if name.lower().endswith(_TABLES) and name not in seen]
    spare = [name for name in spare if not seen.get(name)]
    spare += _unread(surroundings, where, refusing=not used)
    if not spare:
        return Tables(tuple(used))
    said = f"{count(len(spare), 'table')} not used, without columns of images and labels"
    return Tables(tuple(used), (f"{said}: {few(spare)}",))


def _candidates(tree: Tree) -> tuple[list[str], list[str]]:
    """Return the tables at the top, with those called metadata wherever they are, and others.

    The others lie in folders and are called like lists of labels.
    """
    names = [name for name in tree.names if name.lower().endswith((*_SEPARATED, *_LINES))]
    objects = [name for name in names if "/" not in name and name.lower().endswith(".json")]
    top, deep = [], []
    for name in names:
        path = PurePosixPath(name.lower())
        if "/" not in name:
            if path.suffix != ".json" or len(objects) <= _MOST_JSON or _called_so(name):
                top.append(name)
        elif path.suffix in _TABLES and path.stem == "metadata":
            top.append(name)
        elif path.suffix in _TABLES and len(path.parts) <= _DEEPEST and _called_so(name):
            deep.append(name)
    return top, deep if len(deep) <= _MOST_JSON else []


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
                f"{where}: {name} is a table in a format that is not read; save it as "
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
        self.called_so = _called_so(file)
        self.any_text = file.lower().endswith((".json", ".txt"))
        self.broken: InputError | None = None
        self.table: TextTable | None = None
        rows: list[Row] = []
        for lenient in (False, True):
            try:
                self.table = open_table(tree, file, where, lenient=lenient)
                rows = list(islice(self.table.rows(), _ROWS))
                break
            except InputError as error:
                self.broken, self.table = self.broken or error, None
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
        if self.image is not None and self.file.lower().endswith(_LINES):
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
        location = f"{self.where}: {self.file}"
        if self.broken is not None:
            return self.broken
        assert self.table is not None
        header = [name[:60] for name in self.table.header[:MOST_NAMED]]
        columns = ", ".join(header) + (", ..." if len(self.table.header) > MOST_NAMED else "")
        if not header:
            what = self.fault or "is empty"
            return InputError(f"{location} {what}; move it elsewhere if it is not to be read")
        if self.file.lower().endswith(_LINES) and (self.any_text or self.image is None):
            return InputError(
                f"{location} is not a table of images: it has {columns}. Write a list of objects, "
                'one for each image, such as {"image": "a.png", "label": "cat"}, or move it '
                "elsewhere if it does not list the images"
            )
        if any(map(_is_path, self.table.header)):
            return InputError(
                f"{location} begins with an image and not with names of columns ({columns}); put a "
                "row such as image,label above"
            )
        if self.image is not None:
            return InputError(
                f"{location} has no label column among {columns}; it may be called "
                f"{', '.join(LABEL_NAMES)}; move the table elsewhere if it is not to be read"
            )
        return InputError(
            f"{location} is not a CSV or JSON-lines file with a column of images: it has "
            f"{columns}. Images may be called {', '.join(LISTED_IMAGES)}, labels "
            f"{', '.join(LABEL_NAMES)}; move the table elsewhere if it does not list the images"
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


class Row(NamedTuple):
    """A row of a table: its number, what its columns hold, or what is wrong with all of it.

    Numbers are those of a spreadsheet, where a header is row 1; in JSON they count lines, or the
    entries of an array.
    """

    number: int
    values: Mapping[str, Any]
    fault: str = ""


@dataclass(frozen=True)
class TextTable:
    """A table of text.

    Attributes:
        header: its columns as they are written; of JSON, the keys of the first rows.
        rows: reads them; columns have their plain names there.
    """

    header: tuple[str, ...]
    rows: Callable[[], Iterator[Row]]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns' plain names."""
        return tuple(map(plain_name, self.header))


def open_table(tree: Tree, file: str, where: str, *, lenient: bool = False) -> TextTable:
    """Return a table of text; its rows are read when they are asked for.

    Args:
        tree: where the file is.
        file: its path there.
        where: what the data is called in an error.
        lenient: go on where its encoding or its columns are refused, to see what it would hold.

    Raises:
        InputError: not text, a column that occurs twice, or a JSON array that is broken.
    """
    location = f"{where}: {file}"
    with guarded(location):
        text = _decoded(tree.read(file), location, lenient=lenient)
        if file.lower().endswith(_LINES):
            return _json_table(file, text, location)
        table = _separated_table(file, text, location)
        twice = _twice(name for name in table.columns if name in LISTED_NAMES)
        if twice is not None and not lenient:
            raise InputError(f"{location} has the column {twice} twice; leave one of them out")
        return table


def _decoded(content: bytes, location: str, *, lenient: bool) -> str:
    encoding = json.detect_encoding(content)  # by the byte order mark, else by where zeros are
    try:
        text = content.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        if lenient:
            return content.decode("latin-1")
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{location} is not {encoding.upper()} text ({error.reason}, byte {error.start} in "
            f"line {line}); save it as UTF-8"
        ) from error
    if "\0" in text and not lenient:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"{location} holds zero bytes, in line {line}: it is damaged, or no text")
    return text.removeprefix("\ufeff")


def _separated_table(file: str, text: str, location: str) -> TextTable:
    marks = _marks(file, text)
    records = partial(_records, text, *marks)
    start, header, fault = next((r for r in records() if any(r[1]) or r[2]), (0, [], ""))
    if fault:
        raise InputError(f"{location} row {start} {fault}")
    columns = tuple(map(plain_name, header))

    def rows() -> Iterator[Row]:
        for number, cells, fault in records():
            if number <= start or not (fault or any(cells)):
                continue
            if not fault and any(cells[len(columns) :]):
                fault = (
                    f"has {len(cells)} cells, the header {len(columns)}: put those with "
                    f"{_SEPARATORS[marks[0]]}s into quotes"
                )
            yield Row(number, dict(zip(columns, cells, strict=False)), fault)

    return TextTable(tuple(name.strip() for name in header), rows)


def _marks(file: str, text: str) -> tuple[str, str]:
    """Return the separator of a table and what its cells are quoted by."""
    head = text[:_HEADER_LENGTH]
    if said := re.match(r"\s*sep=(.)[\r\n]", head):  # how Excel is told, and tells
        return said[1], '"'
    quote = "'" if re.match(r"\s*'[^'\r\n]*'\s*([,;|\t]|$)", head, re.MULTILINE) else '"'
    found: dict[str, list[str]] = {}
    for mark in _SEPARATORS:
        records = _records(head, mark, quote)
        found[mark] = next((cells for _, cells, _ in records if any(cells)), [])
    known = {
        mark: len(LISTED_NAMES.intersection(map(plain_name, header)))
        for mark, header in found.items()
    }
    if known[" "] < max(2, len(found[" "])):  # a space is in many a name
        del known[" "], found[" "]
    if any(known.values()):
        return max(known, key=lambda mark: known[mark]), quote
    if file.lower().endswith(".tsv"):
        return "\t", quote
    return max(found, key=lambda mark: len(found[mark])), quote


def _records(text: str, separator: str, quote: str) -> Iterator[tuple[int, list[str], str]]:
    """Yield number, cells and fault of each record; lines end as on any machine."""
    lines = io.StringIO(text, newline="")
    reader = csv.reader(
        lines, delimiter=separator, quotechar=quote, skipinitialspace=True, strict=True
    )
    start = 1
    while block := _block(reader, len(text)):
        for number, (cells, fault) in enumerate(block, start):
            is_mark = number == 1 and re.fullmatch("sep=.?", "".join(cells))
            yield number, [] if is_mark else cells, fault
        start += len(block)


def _block(reader: Iterator[list[str]], longest: int) -> list[tuple[list[str], str]]:
    """Return the next records.

    How long a cell may be is one number for the whole program, so it is raised only as long as a
    lock is held.
    """
    with _CELLS:
        before = csv.field_size_limit()
        csv.field_size_limit(max(before, longest))
        try:
            return list(islice(_told(reader), _BLOCK))
        finally:
            csv.field_size_limit(before)


def _told(reader: Iterator[list[str]]) -> Iterator[tuple[list[str], str]]:
    while True:
        try:
            yield next(reader), ""
        except StopIteration:
            return
        except csv.Error as error:
            said = "its quotes do not close" if "end of data" in str(error) else str(error)
            yield [], f"is malformed: {said}"


def _json_table(file: str, text: str, location: str) -> TextTable:
    if text.lstrip().startswith("["):
        array = _array(text, location)
        if array is not None:
            return _of_objects(lambda: enumerate(map(_checked, array), 1))
    elif file.lower().endswith(".json") and isinstance(whole := _parsed(text), dict):
        return _of_objects(lambda: iter([(1, whole)]))

    def entries() -> Iterator[tuple[int, Any]]:
        # Not `splitlines`, which also splits at marks that may stand inside of a text.
        for number, match in enumerate(re.finditer(r"[^\r\n]*(\r\n|\n|\r|$)", text), 1):
            if line := match[0].strip():
                yield number, _parsed(line)

    return _of_objects(entries)


class _Malformed(str):
    """What is wrong with a row of JSON, in place of its values."""


def _of_objects(entries: Callable[[], Iterator[tuple[int, Any]]]) -> TextTable:
    def rows() -> Iterator[Row]:
        for number, value in entries():
            if isinstance(value, _Malformed):
                yield Row(number, {}, str(value))
                continue
            values = {plain_name(key): cell for key, cell in value.items()}
            twice = _twice(map(plain_name, value)) if len(values) < len(value) else None
            yield Row(number, values, f"has {twice} twice" if twice in LISTED_NAMES else "")

    header: dict[str, None] = {}
    for _, value in islice(entries(), _HEADER_ROWS):
        if not isinstance(value, _Malformed):
            header.update(dict.fromkeys(value))
    return TextTable(tuple(header), rows)


def _array(text: str, location: str) -> list[Any] | None:
    """Return the entries of an array that a text is; None where each of its lines is one."""
    try:
        entries = _loads(text)
    except (ValueError, RecursionError) as error:
        with suppress(ValueError, RecursionError):
            if isinstance(_loads(re.split(r"[\r\n]", text.strip(), maxsplit=1)[0]), list):
                return None
        raise InputError(f"{location} is not valid JSON: {reason(error)}") from error
    # A file of one line is an array of objects, or that line's values without names.
    return entries if isinstance(entries, list) else None


def _parsed(line: str) -> Any:
    try:
        return _checked(_loads(line))
    except (ValueError, RecursionError) as error:
        return _Malformed(f"is not valid JSON: {reason(error)}")


def _checked(value: Any) -> Any:
    if isinstance(value, dict):
        return value
    return _Malformed(f'is not a JSON object, {{"image": ..., "label": ...}}, but {quoted(value)}')


def _loads(text: str) -> Any:
    return json.loads(text, strict=False, object_pairs_hook=_once, parse_int=_int)


def _int(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"it holds a number of {len(digits):,} digits")
    return int(digits)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; of a key that occurs twice, JSON readers would keep the last value."""
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError(f"it has {quoted(_twice(name for name, _ in pairs))} twice")
    return values


def _twice(names: Iterable[str]) -> str | None:
    """Return the first name that comes a second time."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
