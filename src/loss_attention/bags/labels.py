"""What the rows of a table say of bags: their labels, and their patients and splits if any.

A table of instances has a row for each of these, and a list of files a row a file. Either way, what
is said of a bag must be the same in all of its rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from loss_attention.bags.recipe import named_columns
from loss_attention.data.division import SPLITS
from loss_attention.data.formats.cells import read_labels_cell
from loss_attention.data.records import few
from loss_attention.errors import InputError, guarded, printable, quoted
from loss_attention.memory import free_memory

USUAL = {
    "bag": ("bag", "bag_id", "bag_name", "slide", "slide_id"),
    "label": ("label", "class", "bag_label", "target", "y_true"),
    "instance_label": ("instance_label", "instance_class", "tile_label", "patch_label"),
    "x": ("x", "coord_x", "coords_x"),
    "y": ("y", "coord_y", "coords_y"),
    "patient": ("patient", "patient_id", "case", "case_id", "group"),
    "split": ("split", "subset", "partition"),
}
"""What the columns of a table are called, by what they are."""
OF_BAGS = ("bag", "label", "patient", "split")
"""Those that say something of a bag as a whole."""
MOST_FAULTS = 1000
"""Rows that are told of one kind of error; of more there is their number."""
_SEVERAL = re.compile(r"[;|]|^\s*[\[({]")


@dataclass(frozen=True)
class HowRead:
    """How what is said of bags is read.

    Attributes:
        named: what columns are called that do not have their usual names, by what they are.
        required: these columns must be there; else the usual names count where one is not.
        labelled: True: their labels are needed, of two classes at least. None: they are read where
            there are some. False: whatever is said of bags beside their names is left unread. Bags
            without labels have the label 0, and no names of classes.
    """

    named: Mapping[str, str] = field(default_factory=dict)
    required: bool = True
    labelled: bool | None = True

    def given(self, names: Collection[str], what: str) -> str | None:
        """Return the name that was given to a column among these; None: its usual names count."""
        name = self.named.get(what)
        return name if name is not None and (self.required or name in names) else None

    def has(self, names: Collection[str], what: str) -> bool:
        """Return whether one of some columns is what."""
        name = self.given(names, what)
        return any(is_usual(one, (what,)) for one in names) if name is None else name in names


AS_TRAINED = HowRead()
"""What is trained on."""


@dataclass
class BagLabels:
    """What the rows of a table say of bags.

    Attributes:
        names: of the N bags, in the order of their first rows.
        number: which bag each of the S rows is of, shape `(S,)`.
        first: the first row of each bag, from 0, shape `(N,)`.
        class_names: the name of each of the K classes.
        labels: class indices `(N,)`, int64; or, of several labels, 0/1 of shape `(N, K)`, uint8.
        patients: of each bag; empty: it is not said.
        splits: "train", "validation" or "test" for each bag; empty: it is not said.
        faults: a line for each row that is wrong.
    """

    names: tuple[str, ...]
    number: Int[np.ndarray, " S"]
    first: Int[np.ndarray, " N"]
    class_names: tuple[str, ...] = ()
    labels: Shaped[Tensor, N * K] = field(default_factory=lambda: torch.zeros(0))
    patients: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    faults: list[str] = field(default_factory=list)

    @property
    def groups(self) -> Int[Tensor, " N"] | None:
        """The number of each bag's patient; None where there are none."""
        return grouped(self.patients) if self.patients else None

    def note(self, rows: Int[np.ndarray, " n"], line: Callable[[int], str]) -> None:
        """Add a line for each row of a kind that is wrong, from 0; of many, how many more."""
        self.faults += [line(int(row)) for row in rows[:MOST_FAULTS]]
        if len(rows) > MOST_FAULTS:
            self.faults.append(f"and {len(rows) - MOST_FAULTS:,} more rows of this kind")


def how_asked(
    columns: Sequence[str], own: Sequence[str] = (), *, labelled: bool | None = True
) -> HowRead:
    """Return how bags are read that a command names.

    Args:
        columns: what was said of their columns; see `named_columns`.
        own: what the run says of its own, which counts for columns that are there, where nothing
            was said.
        labelled: see `HowRead`.
    """
    return HowRead(named_columns(columns or own), bool(columns), labelled)


def read_csv(path: Path, how: HowRead = AS_TRAINED) -> Any:
    """Return the table of a CSV, after a look at its size; names of bags are texts, as written."""
    where = printable(path.name)
    fits(4 * path.stat().st_size, path)
    header = csv_header(path)
    kinds = ("bag", "patient", "split")
    texts = [name for name in header if is_usual(name, kinds)]
    texts += [name for kind in kinds if (name := how.given(header, kind)) in header and name]
    with guarded(where):
        return checked_table(
            pa.csv.read_csv(
                path,
                parse_options=pa.csv.ParseOptions(delimiter=_delimiter(path)),
                convert_options=pa.csv.ConvertOptions(
                    column_types=dict.fromkeys(texts, pa.string()), strings_can_be_null=True
                ),
            ),
            where,
        )


def csv_header(path: Path) -> list[str]:
    """Return the names of a CSV's columns.

    Raises:
        InputError: it cannot be read.
    """
    with guarded(printable(path.name)):
        options = pa.csv.ParseOptions(delimiter=_delimiter(path))
        with path.open("rb") as file:
            line = file.readline(LONGEST_HEADER)
        if not line.strip():
            return []
        return list(pa.csv.read_csv(pa.BufferReader(line), parse_options=options).column_names)


LONGEST_HEADER = 2**20
"""Bytes of a CSV's first line that are looked at."""


def _delimiter(path: Path) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    with path.open("rb") as file:
        line = file.readline(LONGEST_HEADER)
    return ";" if line.count(b";") > line.count(b",") else ","


def is_usual(name: str, kinds: Iterable[str]) -> bool:
    """Return whether a column is called as those of one of these kinds usually are."""
    return any(name.strip().casefold() in USUAL[kind] for kind in kinds)


def fits(wanted: int, path: Path) -> None:
    """Raise `InputError` where so many bytes are not free."""
    free = free_memory()
    if wanted > free:
        raise InputError(
            f"{printable(path.name)} takes about {wanted / 1e9:.1f} GB to read and "
            f"{free / 1e9:.1f} GB are free; make it a folder of one file a bag"
        )


def checked_table(table: Any, where: str) -> Any:
    """Return a table that has rows, and each column once."""
    if not table.num_rows:
        raise InputError(f"{where}: a table without rows")
    names = table.column_names
    twice = [
        name
        for name, before in zip(sorted(names)[1:], sorted(names)[:-1], strict=True)
        if name == before
    ]
    if twice:
        raise InputError(f"{where}: column {quoted(twice[0])} occurs twice")
    return table


def usual_columns(
    names: Sequence[str], where: str, how: HowRead = AS_TRAINED, kinds: Sequence[str] = tuple(USUAL)
) -> dict[str, str | None]:
    """Return which column is what, by the names that were given and the usual ones.

    Raises:
        InputError: no such column, two that may be it, or none for the bag.
    """
    found: dict[str, str | None] = {}
    other = next((what for what in how.named if what not in kinds), None)
    if other is not None and how.required:
        raise InputError(
            f"{where} says what bags are: it has no column for `columns` {other}, which are of "
            "instances"
        )
    taken = {how.given(names, what) for what in kinds}
    for what in kinds:
        given = how.given(names, what)
        if given is not None and given not in names:
            raise InputError(
                f"{where}: no column {quoted(given)} for the {what} among {few(names)}"
            )
        alike = [name for name in names if is_usual(name, (what,)) and name not in taken]
        if given is None and len(alike) > 1:
            raise InputError(
                f"{where}: {quoted(alike[0])} and {quoted(alike[1])} may both be the {what}: "
                "rename one"
            )
        found[what] = given if given is not None else next(iter(alike), None)
    if found["bag"] is None:
        raise lacking("bag", where)
    return found


def lacking(what: str, where: str) -> InputError:
    """Return the error for a column that is not there."""
    return InputError(
        f"{where}: no column for the {what} (usually {' or '.join(USUAL[what][:2])}): say which it "
        f"is with `columns` {what}=NAME"
    )


def read_labels(
    table: Any,
    columns: Mapping[str, str | None],
    where: str,
    *,
    one_hot: bool = False,
    how: HowRead = AS_TRAINED,
) -> BagLabels:
    """Return what a table says of bags.

    A bag has several labels where they stand in one cell, separated by ; or |, or as a list.

    Args:
        table: of pyarrow.
        columns: which of its columns is what.
        where: what it is called in errors.
        one_hot: where there is no column for labels, columns of 0 and 1 are those of the classes.
        how: whether labels are needed.

    Raises:
        InputError: no labels or all alike, where they are needed; a row without a bag.
    """
    bag, label = columns["bag"], columns["label"]
    assert bag is not None
    bags = table.column(bag)
    if bags.null_count:
        raise InputError(f"{where}: row {_nulls(bags)[0] + 1} has no {quoted(bag)}")
    encoded = bags.combine_chunks().dictionary_encode()
    number = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    _, first = np.unique(number, return_index=True)
    names = tuple(str(one).strip() for one in encoded.dictionary.to_pylist())
    found = BagLabels(names, number, first, labels=torch.zeros(len(names), dtype=torch.int64))
    if how.labelled is False:
        return found
    if label is not None:
        values = _same(table, label, found, where)
        if holds_several(values):
            found.class_names, found.labels = _several(values, label, found, where)
        else:
            found.class_names, found.labels = _classes(values, 2 if how.labelled else 1)
    elif flags := one_hot_columns(table, columns) if one_hot else []:
        found.class_names = tuple(name.strip() for name in flags)
        flagged = [_same(table, name, found, where) for name in flags]
        found.labels = torch.tensor(flagged, dtype=torch.uint8).T.contiguous()
    elif how.labelled:
        raise lacking("label", where)
    if (split := columns.get("split")) is not None:
        found.splits = _splits(_same(table, split, found, where), split, found, where)
    if (patient := columns.get("patient")) is not None:
        found.patients = tuple(str(one).strip() for one in _same(table, patient, found, where))
    if found.patients and found.splits:
        found.faults += divided_patients(found, where)
    return found


def holds_several(values: Iterable[Any]) -> bool:
    """Return whether one of the values of a column is several labels."""
    return any(isinstance(one, str) and _SEVERAL.search(one) for one in set(values))


def one_hot_columns(table: Any, columns: Mapping[str, str | None]) -> list[str]:
    """Return the columns of nothing but 0 and 1 that are nothing else, where there are several."""
    used = set(columns.values())
    found = []
    for name in table.column_names:
        column = table.column(name)
        if name not in used and pa.types.is_integer(column.type) and not column.null_count:
            values = column.to_numpy()
            if ((values == 0) | (values == 1)).all():
                found.append(name)
    return found if len(found) > 1 else []


def divided_patients(said: BagLabels, where: str) -> list[str]:
    """Return a line for each patient with bags in two splits, with a row of each."""
    seen: dict[str, int] = {}
    told: dict[str, str] = {}
    for bag, (patient, split) in enumerate(zip(said.patients, said.splits, strict=True)):
        other = seen.setdefault(patient, bag)
        if split != said.splits[other]:
            rows = f"rows {said.first[other] + 1} and {said.first[bag] + 1}"
            splits = f"{said.splits[other] or 'none'} and {split or 'none'}"
            told.setdefault(
                patient, f"{where}: patient {quoted(patient)} is in two splits, {splits} ({rows})"
            )
    return list(told.values())


def grouped(names: Sequence[str]) -> Int[Tensor, " N"]:
    """Return a number for each name, the same for the same."""
    _, member = np.unique(np.array(names, dtype=object), return_inverse=True)
    return torch.from_numpy(member.astype(np.int64))


def _same(table: Any, name: str, said: BagLabels, where: str) -> list[Any]:
    """Return what a column says of each bag; note rows that say nothing or something else."""
    column = plain_column(table, name)
    rows = _nulls(column)
    said.note(rows, lambda row: f"{where}: row {row + 1} has no {quoted(name)}")
    encoded = column.dictionary_encode()
    values = encoded.dictionary.to_pylist()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    of_bags = codes[said.first]
    other = np.flatnonzero(
        (codes != of_bags[said.number]) & (codes >= 0) & (of_bags[said.number] >= 0)
    )

    def line(row: int) -> str:
        bag = int(said.number[row])
        earlier = f"row {said.first[bag] + 1} {quoted(values[of_bags[bag]])}"
        return (
            f"{where}: row {row + 1} says {name} {quoted(values[codes[row]])} of the bag "
            f"{quoted(said.names[bag])}, and {earlier}"
        )

    said.note(other, line)
    return [None if code < 0 else values[code] for code in of_bags]


def plain_column(table: Any, name: str) -> Any:
    """Return a column in one piece, lists as the text that a cell of a CSV would have."""
    column = table.column(name).combine_chunks()
    if not pa.types.is_nested(column.type):
        return column
    lists = (None if one is None else json.dumps(one, default=str) for one in column.to_pylist())
    return pa.array(lists, type=pa.string())


def _nulls(column: Any) -> Int[np.ndarray, " n"]:
    if not column.null_count:
        return np.zeros(0, dtype=np.int64)
    found: np.ndarray = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))
    return found


def _classes(values: Sequence[Any], least: int) -> tuple[tuple[str, ...], Int[Tensor, " N"]]:
    """Return the names of the classes, at least so many, in order, and the index of each value."""
    try:
        known = sorted(set(values) - {None})
    except TypeError as error:
        raise InputError("labels must be all text or all numbers") from error
    if len(known) < least:
        one = quoted(known[0]) if known else "none"
        raise InputError(f"all bags are of class {one}: at least two classes are needed")
    index = {value: place for place, value in enumerate(known)} | {None: 0}
    return tuple(map(label_text, known)), torch.tensor([index[value] for value in values])


def label_text(value: Any) -> str:
    """Return what a class is called whose label is a text or a number."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _several(
    values: Sequence[Any], name: str, said: BagLabels, where: str
) -> tuple[tuple[str, ...], Int[Tensor, "N K"]]:
    """Return the classes of cells with several labels, and 0 or 1 for each."""
    cells: dict[Any, list[str]] = {None: []}
    for value in dict.fromkeys(values):
        try:
            if value is not None:
                cells[value] = labels_of(value)
        except ValueError as error:
            row = int(said.first[values.index(value)])
            said.faults.append(f"{where}: row {row + 1}: {name} {error}")
            cells[value] = []
    names = tuple(sorted({one for labels in cells.values() for one in labels}))
    index = {one: place for place, one in enumerate(names)}
    found = torch.zeros(len(values), len(names), dtype=torch.uint8)
    for bag, value in enumerate(values):
        for one in cells[value]:
            found[bag, index[one]] = 1
    return names, found


def labels_of(value: Any) -> list[str]:
    """Return the labels of a cell.

    Raises:
        ValueError: it holds none, or what is not a label.
    """
    return [str(one) for one in read_labels_cell(value).labels]


def _splits(values: Sequence[Any], name: str, said: BagLabels, where: str) -> tuple[str, ...]:
    known = {value: SPLITS.get(str(value).strip().casefold()) for value in set(values)}
    wrong = [bag for bag, value in enumerate(values) if value is not None and known[value] is None]
    said.note(
        said.first[wrong],
        lambda row: (
            f"{where}: row {row + 1}: {name} {quoted(values[int(said.number[row])])} is none of "
            f"{', '.join(SPLITS)}"
        ),
    )
    return tuple(known[value] or "" for value in values)
