"""Explained bags for other programs: tiles for QuPath, or a table with a row for each bag."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from loss_attention import __version__
from loss_attention.bags.bag_set import BagSet
from loss_attention.bags.explaining import BagQuestion, ExplainedBag
from loss_attention.bags.maps import check_side, tile_size
from loss_attention.bags.model import BagClassifier
from loss_attention.bags.saved import as_bytes
from loss_attention.bags.writing import (
    BagSummary,
    Progress,
    counted_bags,
    file_names,
    target_name,
)
from loss_attention.errors import InputError, quoted
from loss_attention.explained.elsewhere import feature, feature_collection
from loss_attention.explained.shards import (
    Shard,
    refuse_more_shards,
    refuse_other_shards,
    shard_to_write,
    table_to_write,
)
from loss_attention.explained.sources import refuse_to_replace
from loss_attention.saving import make_folder, whole_file, write_whole
from loss_attention.terminal import as_unicode, json_text

MOST_TILES = 5000
JSON_LINES = "bags.jsonl"
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

    Instances that speak neither for the class nor against it are not tiles.

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
    shards: Sequence[Shard] = (Shard(),),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> BagSummary:
    """Write a row for each bag, all its instances in it, to Parquet or to bags.jsonl.

    A file is there once it is whole. A few million instances are held at a time. A Parquet file is
    a shard, as those of images are: one that is there is left as it is.

    Args:
        model: a classifier of bags.
        bags: to explain.
        out: the folder of the files.
        question: what is asked; see `bag_question`.
        kind: of the files.
        shards: the parts of the bags that are written, one after the other; of Parquet.
        overwrite: replace what is there.
        progress: called with the number of bags done and of all of these shards.

    Raises:
        InputError: a file in the way; a shard of other bags, of another model or question or of
            another number of shards; one that another process writes; more shards than bags; or
            bags that the model does not take.
        SaveError: a full disk, for instance.
    """
    if kind == "parquet":
        return _write_shards(model, bags, out, question, shards, overwrite, progress)
    if tuple(shards) != (Shard(),):
        raise InputError("`shard` is for `format` parquet, not for jsonl")
    path = out / JSON_LINES
    refuse_to_replace([], [path], overwrite=overwrite)
    make_folder(out)
    summary = BagSummary(written=[path])
    with whole_file(path) as file:
        for bag in counted_bags(model, bags, question, summary, progress):
            plain = {
                name: value.tolist() if isinstance(value, np.ndarray) else value
                for name, value in row_of(model, bag).items()
            }
            file.write((json_text(plain) + "\n").encode())
    return summary


def _write_shards(
    model: BagClassifier,
    bags: BagSet,
    out: Path,
    question: BagQuestion,
    shards: Sequence[Shard],
    overwrite: bool,
    progress: Progress | None,
) -> BagSummary:
    """Write shards one after the other, but for those that are there."""
    for shard in shards:
        asked = f"`shard` {shard.number}/{shard.of}"
        refuse_more_shards(shard.of, asked, len(bags), "bags")
        refuse_other_shards(out, shard.of, f"{asked} one of {shard.of}")
    make_folder(out)
    parts = [bags.subset(shard.part(bags.names)) for shard in shards]
    digest, schema = _digest_of(model, question, bags), _schema(question)
    summary, whole, there = BagSummary(), sum(map(len, parts)), 0
    for shard, part in zip(shards, parts, strict=True):

        def told(done: int, _: int, before: int = there) -> None:
            if progress is not None:
                progress(before + done, whole)

        known = digest(part)
        with shard_to_write(out, shard, known, "bags", overwrite=overwrite) as file:
            if file is None:
                summary.skipped.append(out / shard.file)
                there += len(part)
                continue
            about = {"version": __version__, "classes": list(model.class_names), "digest": known}
            with table_to_write(file, schema, about) as write:
                for bag in counted_bags(model, part, question, summary, told):
                    row = row_of(model, bag)
                    write({name: [value] for name, value in row.items()}, len(bag.evidence))
        summary.written.append(out / shard.file)
    return summary


def _digest_of(
    model: BagClassifier, question: BagQuestion, bags: BagSet
) -> Callable[[BagSet], str]:
    """Return a function of a shard's bags, which tells it from any other shard.

    That is: of other bags, of features that are no longer the same, of another model or question.
    """
    begun = hashlib.sha256(as_bytes(model))
    asked = (question.target, question.versus, question.map)
    begun.update(repr((asked, bags.class_names, bags.instances.fingerprint())).encode())

    def digest(part: BagSet) -> str:
        whole = begun.copy()
        names = [as_unicode(name) for name in part.names]
        whole.update(repr((names, part.rows.tolist(), part.labels.tolist())).encode())
        return whole.hexdigest()

    return digest


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


def _schema(question: BagQuestion) -> Any:
    """Return the Arrow schema of the table."""
    import pyarrow as pa

    floats, places, text = pa.list_(pa.float32()), pa.list_(pa.float64()), pa.string()
    kinds = {"bag": text, "label": text, "class": text, "probability": pa.float32()}
    kinds |= {"target": text, "versus": text, "logits": floats}
    # Not float16: a weight among 100,000 is below what that has to full precision.
    kinds |= {"evidence": floats, "weights": floats, "x": places, "y": places}
    kinds |= {} if question.signed.name == "evidence" else {question.signed.name: floats}
    return pa.schema(list(kinds.items()))
