"""Tables of text, a row at a time: CSV of any usual separator, JSON lines, JSON arrays.

Text is UTF-8, or UTF-16 or UTF-32 as its first bytes tell. The separator is the one that makes most
known columns of the header, so that one inside a cell is never taken for it. A row that is
malformed is told as such, and the next one is read.
"""

from __future__ import annotations

import csv
import io
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from loss_attention.data.columns import LISTED_NAMES, plain_name
from loss_attention.data.tree import Tree
from loss_attention.errors import InputError, guarded, printable, quoted, reason

SEPARATED = (".csv", ".tsv", ".txt")
LINES = (".jsonl", ".ndjson", ".json")
_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar", " ": "space"}
MOST_DIGITS = 1000
"""Longer numbers are none that anyone counts by."""
_HEADER_LENGTH = 2**16
_HEADER_ROWS = 20  # rows of JSON whose keys are taken for the header
_BLOCK = 4096
_CELLS = threading.Lock()


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
        file: its path in the tree.
        header: its columns as they are written; of JSON, the keys of the first rows.
        rows: reads them; columns have their plain names there.
    """

    file: str
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
        InputError: not text, a column that is there twice, or a JSON array that is broken.
    """
    place = f"{where}: {printable(file)}"
    with guarded(place):
        text = _decoded(tree.read(file), place, lenient=lenient)
        if file.lower().endswith(LINES):
            return _json_table(file, text, place)
        table = _separated_table(file, text, place)
        twice = _twice(name for name in table.columns if name in LISTED_NAMES)
        if twice is not None and not lenient:
            raise InputError(f"{place} has the column {twice} twice; leave one of them out")
        return table


def _decoded(content: bytes, place: str, *, lenient: bool) -> str:
    encoding = json.detect_encoding(content)  # by the byte order mark, else by where zeros are
    try:
        text = content.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        if lenient:
            return content.decode("latin-1")
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{place} is no {encoding.upper()} text ({error.reason}, byte {error.start} in line "
            f"{line}); save it as UTF-8"
        ) from error
    if "\0" in text and not lenient:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"{place} holds zero bytes, in line {line}: it is damaged, or no text")
    return text.removeprefix("\ufeff")


def _separated_table(file: str, text: str, place: str) -> TextTable:
    marks = _marks(file, text)

    def records() -> Iterator[tuple[int, list[str], str]]:
        return _records(text, *marks)

    first = next((found for found in records() if any(found[1]) or found[2]), (0, [], ""))
    start, header, fault = first
    if fault:
        raise InputError(f"{place} row {start} {fault}")
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

    return TextTable(file, tuple(name.strip() for name in header), rows)


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
    known = {mark: len(_known(header)) for mark, header in found.items()}
    if known[" "] < max(2, len(found[" "])):  # a space is in many a name
        del known[" "], found[" "]
    if any(known.values()):
        return max(known, key=lambda mark: known[mark]), quote
    if file.lower().endswith(".tsv"):
        return "\t", quote
    return max(found, key=lambda mark: len(found[mark])), quote


def _known(header: list[str]) -> frozenset[str]:
    return LISTED_NAMES.intersection(map(plain_name, header))


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


def _json_table(file: str, text: str, place: str) -> TextTable:
    if text.lstrip().startswith("["):
        array = _array(text, place)
        if array is not None:
            return _of_objects(file, lambda: enumerate(map(_checked, array), 1))
    elif file.lower().endswith(".json") and (whole := _whole(text)) is not None:
        return _of_objects(file, lambda: iter([(1, whole)]))

    def entries() -> Iterator[tuple[int, Any]]:
        # Not `splitlines`, which also splits at marks that may stand inside of a text.
        for number, match in enumerate(re.finditer(r"[^\r\n]*(\r\n|\n|\r|$)", text), 1):
            if line := match[0].strip():
                yield number, _parsed(line)

    return _of_objects(file, entries)


class _Malformed(str):
    """What is wrong with a row of JSON, in place of its values."""


def _of_objects(file: str, entries: Callable[[], Iterator[tuple[int, Any]]]) -> TextTable:
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
    return TextTable(file, tuple(header), rows)


def _array(text: str, place: str) -> list[Any] | None:
    """Return the entries of an array that a text is; None where each of its lines is one."""
    try:
        entries = _loads(text)
    except (ValueError, RecursionError) as error:
        first = re.split(r"[\r\n]", text.strip(), maxsplit=1)[0]
        if isinstance(_parsed(first, lists=True), list):
            return None
        raise InputError(f"{place} is no JSON: {reason(error)}") from error
    # A file of one line is an array of objects, or that line's values without names.
    return entries if isinstance(entries, list) else None


def _whole(text: str) -> Any:
    """Return the one object that a text is; None where it is something else."""
    try:
        value = _loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _parsed(line: str, *, lists: bool = False) -> Any:
    try:
        value = _loads(line)
    except (ValueError, RecursionError) as error:
        return _Malformed(f"is no JSON: {reason(error)}")
    return value if lists and isinstance(value, list) else _checked(value)


def _checked(value: Any) -> Any:
    if isinstance(value, dict):
        return value
    return _Malformed(f'is no JSON object, {{"image": ..., "label": ...}}, but {quoted(value)}')


def _loads(text: str) -> Any:
    return json.loads(text, strict=False, object_pairs_hook=_once, parse_int=_int)


def _int(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"it holds a number of {len(digits):,} digits")
    return int(digits)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; of a key that is there twice, JSON readers would keep the last value."""
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
