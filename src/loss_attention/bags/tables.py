"""Bags in one table, CSV or parquet: a row an instance, with the bag that it is of.

Columns are known by their usual names: the bag and its label, and, where there are such, the label
of the instance, its place, the patient and the split. All others are features.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import torch
from jaxtyping import Float, Int
from torch import Tensor

from loss_attention.bags.bag_set import BagSet, PackedInstances
from loss_attention.data.division import SPLITS
from loss_attention.errors import InputError, guarded, printable, quoted
from loss_attention.memory import free_memory

ENDINGS = (".csv", ".tsv", ".parquet")

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

BYTES = 8
"""Of a number, at most, while a table is read; twice, as it is copied once."""


class Columns(NamedTuple):
    """Which columns of a table are what; None: it has none such."""

    bag: str
    label: str | None
    instance_label: str | None
    x: str | None
    y: str | None
    patient: str | None
    split: str | None
    features: tuple[str, ...]


def is_bag_table(path: Path) -> bool:
    """Return whether a file is called as a table is that this module reads."""
    return path.suffix.lower() in ENDINGS


def read_bag_table(
    path: Path, named: dict[str, str] | None = None, *, labelled: bool = True
) -> BagSet:
    """Read bags from a table.

    Args:
        path: a CSV or parquet file.
        named: what columns are called that do not have their usual names, by what they are.
        labelled: False: whatever it says of labels is left unread, and need not be there; the bags
            have the label 0 then, and no names of classes.

    Raises:
        InputError: a file that is none or too large to read, a column that is missing or twice
            there, features that are no numbers or not finite, a bag without a label or of two
            labels, splits or patients, or a split that is none.
    """
    table = _table(path)
    where = printable(path.name)
    columns = _columns(table.column_names, named or {}, where, labelled=labelled)
    bags = table.column(columns.bag)
    _whole(bags, columns.bag, where)
    encoded = bags.combine_chunks().dictionary_encode()
    number = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    names = tuple(str(one) for one in encoded.dictionary.to_pylist())
    order = np.argsort(number, kind="stable")
    sizes = np.bincount(number, minlength=len(names)).astype(np.int64)
    first = np.concatenate([[0], np.cumsum(sizes)])[:-1]

    def of_bag(column: str) -> list[Any]:
        """Return what a column says of each bag, which it must say alike in all rows."""
        return _same(table.column(column), column, number, order[first], names, where)

    classes: tuple[str, ...] = ()
    labels = torch.zeros(len(names), dtype=torch.int64)
    if labelled:
        assert columns.label is not None
        classes, labels = _classes(of_bag(columns.label))
    values = _features(table, columns.features, where)[order]
    positions = None
    if columns.x is not None and columns.y is not None:
        positions = _features(table, (columns.x, columns.y), where)[order]
    known = None
    if labelled and columns.instance_label is not None:
        known = _instance_labels(table, columns.instance_label, classes, where)[order]
    splits: tuple[str, ...] = ()
    if columns.split is not None:
        splits = tuple(_split(one, columns.split, where) for one in of_bag(columns.split))
    groups = None
    if columns.patient is not None:
        _, member = np.unique([str(one) for one in of_bag(columns.patient)], return_inverse=True)
        groups = torch.from_numpy(member.astype(np.int64))
    return BagSet(
        instances=PackedInstances(values, sizes, positions),
        rows=np.arange(len(names)),
        labels=labels,
        class_names=classes,
        names=names,
        instance_labels=None if known is None else tuple(np.split(known, np.cumsum(sizes)[:-1])),
        groups=groups,
        splits=splits,
    )


def _table(path: Path) -> Any:
    """Return the table of a file, after a look at its size."""
    with guarded(f"{printable(str(path))}"):
        if path.suffix.lower() == ".parquet":
            facts = pa.parquet.read_metadata(path)
            _fits(2 * BYTES * facts.num_rows * facts.num_columns, path)
            table = pa.parquet.read_table(path)
        else:
            _fits(4 * path.stat().st_size, path)
            tabs = path.suffix.lower() == ".tsv"
            table = pa.csv.read_csv(
                path, parse_options=pa.csv.ParseOptions(delimiter="\t" if tabs else ",")
            )
    if not table.num_rows:
        raise InputError(f"{printable(path.name)}: a table without rows")
    twice = [name for name in table.column_names if table.column_names.count(name) > 1]
    if twice:
        raise InputError(f"{printable(path.name)}: column {quoted(twice[0])} is there twice")
    return table


def _fits(wanted: int, path: Path) -> None:
    free = free_memory()
    if wanted > free:
        raise InputError(
            f"{printable(path.name)} takes about {wanted / 1e9:.1f} GB to read and "
            f"{free / 1e9:.1f} GB are free; make it a folder of one file a bag"
        )


def _columns(names: Sequence[str], named: dict[str, str], where: str, *, labelled: bool) -> Columns:
    """Return which column is what, by the names that were given and the usual ones."""
    found: dict[str, str | None] = {}
    for what, usual in USUAL.items():
        given = named.get(what)
        if given is not None and given not in names:
            raise InputError(f"{where}: no column {quoted(given)} for `{what}`")
        alike = [name for name in names if name.strip().casefold() in usual]
        if given is None and len(alike) > 1:
            raise InputError(
                f"{where}: {quoted(alike[0])} and {quoted(alike[1])} may both be the {what}: "
                f"say which, {what}=COLUMN"
            )
        found[what] = given if given is not None else next(iter(alike), None)
    bag, label = found["bag"], found["label"]
    if bag is None or (label is None and labelled):
        lacking = "bag" if bag is None else "label"
        raise InputError(
            f"{where}: no column for the {lacking} (usually {' or '.join(USUAL[lacking][:2])}): "
            f"say which it is, {lacking}=COLUMN"
        )
    if (found["x"] is None) != (found["y"] is None):
        raise InputError(f"{where}: a column of one coordinate without the other")
    taken = set(found.values())
    features = tuple(name for name in names if name not in taken)
    if not features:
        raise InputError(f"{where}: no column is left for features")
    return Columns(
        bag,
        label,
        found["instance_label"],
        found["x"],
        found["y"],
        found["patient"],
        found["split"],
        features,
    )


def _features(table: Any, columns: Sequence[str], where: str) -> Float[np.ndarray, "S D"]:
    """Return columns of numbers side by side, float32."""
    values = np.empty((table.num_rows, len(columns)), dtype=np.float32)
    for place, name in enumerate(columns):
        column = table.column(name)
        kind = column.type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise InputError(
                f"{where}: column {quoted(name)} holds {kind} and no numbers: a feature must be "
                "a number; leave the column out, or say what it is"
            )
        values[:, place] = column.to_numpy()
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, place = bad[0]
        raise InputError(
            f"{where}: row {row + 1}, column {quoted(columns[place])} is "
            f"{'missing' if np.isnan(values[row, place]) else 'infinite'}"
        )
    return values


def _whole(column: Any, name: str, where: str) -> None:
    """Raise `InputError` where a column has no value."""
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise InputError(f"{where}: row {row + 1} has no {quoted(name)}")


def _same(
    column: Any,
    name: str,
    number: Int[np.ndarray, " S"],
    first: Int[np.ndarray, " N"],
    names: Sequence[str],
    where: str,
) -> list[Any]:
    """Return the value of each bag, which must be the same in all of its rows."""
    _whole(column, name, where)
    encoded = column.combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    of_bags = codes[first]
    other = np.flatnonzero(codes != of_bags[number])
    if len(other):
        row, bag = int(other[0]), int(number[other[0]])
        values = encoded.dictionary.to_pylist()
        raise InputError(
            f"{where}: row {row + 1} says {name} {quoted(values[codes[row]])} of the bag "
            f"{quoted(names[bag])}, and row {first[bag] + 1} {quoted(values[of_bags[bag]])}"
        )
    values = encoded.dictionary.to_pylist()
    return [values[code] for code in of_bags]


def _classes(values: Sequence[Any]) -> tuple[tuple[str, ...], Int[Tensor, " N"]]:
    """Return the names of the classes, in order, and the index of each value."""
    try:
        known = sorted(set(values))
    except TypeError as error:
        raise InputError("labels must be all text or all numbers") from error
    if len(known) < 2:
        raise InputError(f"all bags are of class {quoted(known[0])}: two at least are needed")
    index = {value: place for place, value in enumerate(known)}
    names = tuple(f"{one:g}" if isinstance(one, float) else str(one) for one in known)
    return names, torch.tensor([index[value] for value in values])


def _instance_labels(
    table: Any, name: str, classes: Sequence[str], where: str
) -> Int[np.ndarray, " S"]:
    """Return the class of each instance."""
    column = table.column(name)
    _whole(column, name, where)
    index = {one: place for place, one in enumerate(classes)}
    found = np.empty(table.num_rows, dtype=np.int64)
    for row, value in enumerate(column.to_pylist()):
        text = f"{value:g}" if isinstance(value, float) else str(value)
        if text not in index:
            raise InputError(
                f"{where}: row {row + 1}: {name} {quoted(value)} is no class of a bag "
                f"({', '.join(map(printable, classes))})"
            )
        found[row] = index[text]
    return found


def _split(value: Any, name: str, where: str) -> str:
    split = SPLITS.get(str(value).strip().casefold())
    if split is None:
        raise InputError(f"{where}: {name} {quoted(value)} is none of {', '.join(SPLITS)}")
    return split
