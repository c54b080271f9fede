"""Bags in one table, CSV or parquet: a row an instance, with the bag that it is of.

Columns are known by their usual names, or by those that are given: the bag and its label, and,
where there are such, the label of the instance, its place, the patient and the split. All others
are features.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from jaxtyping import Float, Int

from loss_attention.bags.bag_set import BagSet, PackedInstances
from loss_attention.bags.labels import (
    AS_TRAINED,
    BagLabels,
    HowRead,
    checked_table,
    fits,
    label_text,
    labels_of,
    lacking,
    plain_column,
    read_labels,
    usual_columns,
)
from loss_attention.data.records import few
from loss_attention.errors import InputError, guarded, printable, quoted

ENDINGS = (".csv", ".tsv", ".parquet")

BYTES = 8
"""Of a number, at most, while a table is read; twice, as it is copied once."""


class Columns(NamedTuple):
    """Which column of a table is what, None where there is none such, and those of features."""

    found: dict[str, str | None]
    features: tuple[str, ...]


def is_bag_table(path: Path) -> bool:
    """Return whether a file is called as a table is that this module reads."""
    return path.suffix.lower() in ENDINGS


def read_bag_table(path: Path, how: HowRead = AS_TRAINED) -> BagSet:
    """Read bags from a table.

    Args:
        path: a CSV or parquet file.
        how: what columns are called, and whether labels are needed.

    Raises:
        InputError: a file that is none or too large to read, a column that is missing or twice
            there, features that are not numbers or not finite, a bag without a label or of two
            labels, splits or patients, a split that is none, or a patient in two.
    """
    table = _table(path)
    where = printable(path.name)
    columns = _columns(table.column_names, where, how)
    said = read_labels(table, columns.found, where, how=how)
    if said.faults:
        raise InputError(said.faults[0])
    order = np.argsort(said.number, kind="stable")
    sizes = np.bincount(said.number, minlength=len(said.names)).astype(np.int64)
    values = _features(table, columns.features, where)[order]
    positions = None
    if columns.found["x"] is not None and columns.found["y"] is not None:
        positions = _features(table, (columns.found["x"], columns.found["y"]), where)[order]
    known = None
    if said.class_names and columns.found["instance_label"] is not None:
        name = columns.found["instance_label"]
        known = _instance_labels(table, name, said, where)[order]
    return BagSet(
        instances=PackedInstances(values, sizes, positions),
        rows=np.arange(len(said.names)),
        labels=said.labels,
        class_names=said.class_names,
        names=said.names,
        instance_labels=None if known is None else tuple(np.split(known, np.cumsum(sizes)[:-1])),
        groups=said.groups,
        splits=said.splits,
    )


def _table(path: Path) -> Any:
    """Return the table of a file, after a look at its size."""
    with guarded(f"{printable(str(path))}"):
        if path.suffix.lower() == ".parquet":
            facts = pa.parquet.read_metadata(path)
            fits(2 * BYTES * facts.num_rows * facts.num_columns, path)
            table = pa.parquet.read_table(path)
        else:
            fits(4 * path.stat().st_size, path)
            tabs = path.suffix.lower() == ".tsv"
            table = pa.csv.read_csv(
                path, parse_options=pa.csv.ParseOptions(delimiter="\t" if tabs else ",")
            )
    return checked_table(table, printable(path.name))


def _columns(names: Sequence[str], where: str, how: HowRead) -> Columns:
    """Return which column is what."""
    found = usual_columns(names, where, how)
    if how.labelled and found["label"] is None:
        raise lacking("label", where)
    if (found["x"] is None) != (found["y"] is None):
        raise InputError(f"{where}: a column of one coordinate without the other")
    taken = set(found.values())
    features = tuple(name for name in names if name not in taken)
    if not features:
        raise InputError(
            f"{where}: no column is left for features; of bags in files, name their folder"
        )
    return Columns(found, features)


def _features(table: Any, columns: Sequence[str], where: str) -> Float[np.ndarray, "S D"]:
    """Return columns of numbers side by side, float32."""
    values = np.empty((table.num_rows, len(columns)), dtype=np.float32)
    for place, name in enumerate(columns):
        column = table.column(name)
        kind = column.type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise InputError(
                f"{where}: column {quoted(name)} holds {kind}, not numbers: a feature must be "
                "a number; leave the column out, or say with `columns` what it is"
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


def _instance_labels(table: Any, name: str, said: BagLabels, where: str) -> Int[np.ndarray, "S *K"]:
    """Return the class of each instance; of bags with several labels, 0 or 1 for each class."""
    column = plain_column(table, name)
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise InputError(f"{where}: row {row + 1} has no {quoted(name)}")
    index = {one: place for place, one in enumerate(said.class_names)}
    several = said.labels.ndim == 2
    encoded = column.dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    known = encoded.dictionary.to_pylist()
    found = np.zeros((len(known), len(index)) if several else len(known), dtype=np.int64)
    for code, value in enumerate(known):
        try:
            labels = _labels_of(value) if several else [label_text(value)]
        except ValueError as error:
            raise InputError(f"{where}: row {_row_of(codes, code)}: {name} {error}") from error
        unknown = [one for one in labels if one not in index]
        if unknown:
            raise InputError(
                f"{where}: row {_row_of(codes, code)}: {name} {quoted(unknown[0])} is not a "
                f"class of a bag ({few(said.class_names)})"
            )
        places = [index[one] for one in labels]
        if several:
            found[code, places] = 1
        else:
            (found[code],) = places
    of_instances: np.ndarray = found[codes]
    return of_instances


def _labels_of(cell: Any) -> list[str]:
    """Return the classes of an instance of a bag with several; an empty cell has none."""
    return [] if isinstance(cell, str) and not cell.strip() else labels_of(cell)


def _row_of(codes: Int[np.ndarray, " S"], code: int) -> int:
    """Return the first row with a value, from 1."""
    return int(np.argmax(codes == code)) + 1
