"""Bags explained to Parquet in shards: whole or not there, and gone on with."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bags.test_bag_pictures import made
from filelock import FileLock
from pyarrow import parquet

from loss_attention.bags import elsewhere
from loss_attention.bags.bag_set import BagSet, PackedInstances
from loss_attention.bags.elsewhere import row_of, write_table
from loss_attention.bags.explaining import bag_question
from loss_attention.bags.model import BagClassifier
from loss_attention.bags.writing import said
from loss_attention.errors import InputError
from loss_attention.explained.shards import Shard


def many(count: int = 7, corner: int = 0) -> BagSet:
    """Bags of three to five instances, the first of each at a corner."""
    random, sizes = np.random.default_rng(2), 3 + np.arange(count) % 3
    values = random.normal(size=(int(sizes.sum()), 4)).astype(np.float32)
    places = corner + 10 * np.arange(2 * len(values)).reshape(-1, 2)
    names = tuple(f"s{number}" for number in range(count))
    labels = torch.arange(count) % 2
    packed = PackedInstances(values, sizes, places)
    return BagSet(packed, np.arange(count), labels, ("no", "yes"), names)


def shards(model: BagClassifier, bags: BagSet, out: Path, *names: str, **how: Any) -> Any:
    """Write shards, the predicted classes explained."""
    asked = [Shard.named(name) for name in names]
    question = bag_question(model, target=how.pop("target", None))
    return write_table(model, bags, out, question, "parquet", shards=asked, **how)


def test_shards_together_are_the_whole_table(tmp_path: Path) -> None:
    model, bags, told = made("loss-attention"), many(), []
    whole = shards(model, bags, tmp_path / "whole", "1/1")
    assert [path.name for path in whole.written] == ["part-00001-of-00001.parquet"]
    one = shards(model, bags, tmp_path / "out", "2/3")
    summary = shards(
        model,
        bags,
        tmp_path / "out",
        *("1/3", "2/3", "3/3"),
        progress=lambda done, of: told.append((done, of)),
    )
    assert summary.skipped == one.written == [tmp_path / "out" / "part-00002-of-00003.parquet"]
    assert told == [(1, 7), (2, 7), (5, 7), (6, 7), (7, 7)]
    assert said(summary, tmp_path / "out") == [
        f"5 bags explained in {tmp_path / 'out'}",
        f"{one.written[0]} exists already: skipped",
    ]
    parts = sorted((tmp_path / "out").glob("*.parquet"))
    rows = [row for part in parts for row in parquet.read_table(part).to_pylist()]
    assert rows == parquet.read_table(whole.written[0]).to_pylist()
    assert [row["bag"] for row in rows] == [f"s{number}" for number in range(7)]


def test_a_shard_of_other_bags_is_refused(tmp_path: Path) -> None:
    model, bags, out = made("loss-attention"), many(), tmp_path / "out"
    shards(model, bags, out, "1/2")
    before = (out / "part-00001-of-00002.parquet").stat().st_mtime_ns
    assert shards(model, bags, out, "1/2").skipped
    assert (out / "part-00001-of-00002.parquet").stat().st_mtime_ns == before
    relabelled = replace(bags, labels=1 - bags.labels)
    moved = many(corner=1)
    renamed = replace(bags, names=tuple(reversed(bags.names)))
    for other in (relabelled, moved, renamed):
        with pytest.raises(InputError, match="is a shard of other bags, of another model or of"):
            shards(model, other, out, "1/2")
    with pytest.raises(InputError, match="is a shard of other bags"):
        shards(made("max"), bags, out, "1/2")
    with pytest.raises(InputError, match="is a shard of other bags"):
        shards(model, bags, out, "1/2", target="yes")
    with pytest.raises(InputError, match=r"one of 2 shards, and `shard` 1/3 one of 3"):
        shards(model, bags, out, "1/3")
    with pytest.raises(InputError, match="there are 7 bags, so at most 7 shards"):
        shards(model, bags, tmp_path / "other", "1/8")
    assert not (tmp_path / "other").exists()
    with (
        FileLock(out / ".part-00002-of-00002.parquet.lock"),
        pytest.raises(InputError, match="another process is writing shard 2/2"),
    ):
        shards(model, bags, out, "2/2")
    assert shards(model, renamed, out, "1/2", overwrite=True).written
    with pytest.raises(InputError, match="`shard` is for `format` parquet, not for jsonl"):
        write_table(model, bags, out, bag_question(model), "jsonl", shards=[Shard(1, 2)])


def test_what_was_cut_short_leaves_whole_shards_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, bags = made("loss-attention"), many()

    def stopped(done: int, _of: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shards(model, bags, tmp_path, "1/3", "2/3", "3/3", progress=stopped)
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["part-00001-of-00003.parquet"]
    summary = shards(model, bags, tmp_path, "1/3", "2/3", "3/3")
    assert [len(summary.skipped), len(summary.written)] == [1, 2]


def test_few_bags_are_held_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: set[int] = set()
    most = 0

    def row(model: BagClassifier, bag: Any) -> dict[str, Any]:
        nonlocal most
        alive.add(id(bag.evidence))
        weakref.finalize(bag.evidence, alive.discard, id(bag.evidence))
        most = max(most, len(alive))
        return row_of(model, bag)

    monkeypatch.setattr(elsewhere, "row_of", row)
    monkeypatch.setattr("loss_attention.explained.shards.NUMBERS", 8)
    model = made("loss-attention")
    for count in (6, 30):
        shards(model, many(count), tmp_path / str(count), "1/1")
        assert most <= 5, most
