"""Explained bags for other programs: tiles for QuPath, or a table with a row for each bag."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from loss_attention import __version__
from loss_attention.bags.bag_set import BagSet
from loss_attention.bags.explaining import BagQuestion, ExplainedBag
from loss_attention.bags.maps import check_side, tile_size
from loss_attention.bags.model import BagClassifier
from loss_attention.bags.writing import (
    BagSummary,
    Progress,
    counted_bags,
    file_names,
    target_name,
)
from loss_attention.errors import InputError, quoted
from loss_attention.explained.elsewhere import feature, feature_collection
from loss_attention.explained.shards import METADATA_KEY, NUMBERS, ROWS, write_rows
from loss_attention.explained.sources import refuse_to_replace
from loss_attention.saving import make_folder, whole_file, write_whole
from loss_attention.terminal import as_unicode, json_text

MOST_TILES = 5000
TABLES = {"parquet": "bags.parquet", "jsonl": "bags.jsonl"}
FOR, AGAINST = (180, 4, 38), (59, 76, 192)
"""Red and blue, as maps have them."""

TableFormat = Literal["parquet", "jsonl"]


def write_tiles(
    model: BagClassifier,
    bags: BagSet,
    out: Path,
    question: BagQuestion,
    *,
    tile: float | None = None,
    most: int = MOST_TILES,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> BagSummary:
    """Write NAME.geojson for each bag: its strongest instances as tiles that QuPath imports.

    Args:
        model: a classifier of bags.
        bags: to explain; with coordinates.
        out: the folder of the files; see `file_names` for NAME.
        question: what is asked; see `bag_question`.
        tile: side of a tile in pixels of the slide; None: as its coordinates say.
        most: tiles of a bag: those that say most for or against the class.
        overwrite: replace files that are there.
        progress: called with the number of bags done and of all.

    Raises:
        InputError: files in the way, a bag without coordinates or that the model does not take.
        SaveError: a full disk, for instance.
    """
    check_side("tile_size", tile)
    for number, name in enumerate(bags.names):
        if bags.coordinates(number) is None:
            raise InputError(f"bag {quoted(name)} has no coordinates: there are no tiles to write")
    paths = [out / f"{name}.geojson" for name in file_names(bags.names)]
    refuse_to_replace([], paths, overwrite=overwrite)
    make_folder(out)
    summary = BagSummary()
    for path, bag in zip(
        paths, counted_bags(model, bags, question, summary, progress), strict=True
    ):
        content = tiles_of(bag, target_name(model, bag), tile, most)
        summary.left_out += int(np.count_nonzero(bag.signed)) - len(content["features"])
        write_whole(path, json_text(content) + "\n")
        summary.written.append(path)
    return summary


def tiles_of(bag: ExplainedBag, target: str, tile: float | None, most: int) -> dict[str, Any]:
    """Return the strongest instances of a bag as GeoJSON, the strongest first.

    Instances that speak neither for the class nor against it are no tiles.

    Args:
        bag: with coordinates.
        target: what the explained class is called.
        tile: see `write_tiles`.
        most: likewise.
    """
    assert bag.coordinates is not None
    side = tile or bag.tile or tile_size(bag.coordinates)
    order = np.argsort(-np.abs(bag.signed), kind="stable")[:most]
    features = []
    for index in order[bag.signed[order] != 0].tolist():
        x, y = (_whole(edge) for edge in bag.coordinates[index])
        measured = {"evidence": bag.evidence[index], "weight": bag.weights[index]}
        if bag.quantity.name != "evidence":
            measured[bag.quantity.name] = bag.signed[index]
        against = bag.signed[index] < 0
        features.append(
            feature(
                (x, y, _whole(x + side), _whole(y + side)),
                f"{'against' if against else 'for'} {target}",
                AGAINST if against else FOR,
                {name: float(value) for name, value in measured.items()},
                "tile",
            )
        )
    return feature_collection(features)


def _whole(value: float) -> float:
    """Return a coordinate, without a fraction where it has none."""
    value = float(value)
    return int(value) if value.is_integer() else value


def write_table(
    model: BagClassifier,
    bags: BagSet,
    out: Path,
    question: BagQuestion,
    kind: TableFormat,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> BagSummary:
    """Write a row for each bag, all its instances in it, to bags.parquet or bags.jsonl.

    The file is there once it is whole. A few million instances are held at a time.

    Args:
        model: a classifier of bags.
        bags: to explain.
        out: the folder of the file.
        question: what is asked; see `bag_question`.
        kind: of the file.
        overwrite: replace one that is there.
        progress: called with the number of bags done and of all.

    Raises:
        InputError: a file in the way, or bags that the model does not take.
        SaveError: a full disk, for instance.
    """
    path = out / TABLES[kind]
    refuse_to_replace([], [path], overwrite=overwrite)
    make_folder(out)
    summary = BagSummary(written=[path])
    rows = (row_of(model, bag) for bag in counted_bags(model, bags, question, summary, progress))
    with whole_file(path) as file:
        if kind == "parquet":
            _as_parquet(file, rows, model, question)
        else:
            for row in rows:
                plain = {
                    name: value.tolist() if isinstance(value, np.ndarray) else value
                    for name, value in row.items()
                }
                file.write((json_text(plain) + "\n").encode())
    return summary


def row_of(model: BagClassifier, bag: ExplainedBag) -> dict[str, Any]:
    """Return a bag as a row of a table; x and y are None where it has no coordinates."""
    names = model.class_names
    places = bag.coordinates
    found = {
        "bag": as_unicode(bag.name),
        "label": as_unicode(bag.label),
        "class": names[bag.predicted],
        "probability": float(bag.probabilities[bag.predicted]),
        "target": names[bag.target],
        "versus": None if bag.versus is None else names[bag.versus],
        "logits": bag.logits,
        "evidence": bag.evidence,
        "weights": bag.weights,
        "x": None if places is None else places[:, 0].astype(np.float64),
        "y": None if places is None else places[:, 1].astype(np.float64),
    }
    return found if bag.quantity.name == "evidence" else found | {bag.quantity.name: bag.signed}


def _as_parquet(
    file: IO[bytes],
    rows: Iterator[dict[str, Any]],
    model: BagClassifier,
    question: BagQuestion,
) -> None:
    """Write rows in groups of a few million instances."""
    import pyarrow as pa
    from pyarrow import parquet

    floats, places, text = pa.list_(pa.float32()), pa.list_(pa.float64()), pa.string()
    kinds = {"bag": text, "label": text, "class": text, "probability": pa.float32()}
    kinds |= {"target": text, "versus": text, "logits": floats}
    # Not float16: a weight among 100,000 is below what that has to full precision.
    kinds |= {"evidence": floats, "weights": floats, "x": places, "y": places}
    kinds |= {} if question.signed.name == "evidence" else {question.signed.name: floats}
    told = {"version": __version__, "classes": list(model.class_names)}
    schema = pa.schema(list(kinds.items())).with_metadata({METADATA_KEY: json.dumps(told)})
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        held: list[dict[str, list[Any]]] = []
        numbers = 0
        for row in rows:
            held.append({name: [value] for name, value in row.items()})
            numbers += len(row["evidence"])
            if len(held) >= ROWS or numbers >= NUMBERS:
                write_rows(writer, held)
                held, numbers = [], 0
        write_rows(writer, held)
