"""What an actor of Ray runs: it keeps the model, and writes one shard after the other."""

from __future__ import annotations

import os
import pickle
import platform
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch

from loss_attention import __version__
from loss_attention.errors import InputError, KilledError, ReportedError, reason
from loss_attention.explained.questions import OwnQuestion
from loss_attention.explained.shards import Shard, TableSummary, write_shard
from loss_attention.explained.sources import Job
from loss_attention.model import PatchClassifier
from loss_attention.training.devices import choose_device

TRIES_FILE = ".shard-{:05}.tries"
"""Has a byte for each time that the shard was begun."""
TRIES = 5
"""How often a shard is begun whose actors die; for want of memory, say, all would."""
PATIENCE = 60.0
"""Seconds for which a shard may be locked still: the system frees a dead actor's lock."""
VERSIONS = {"loss-attention": __version__, "torch": torch.__version__}


class Order(NamedTuple):
    """What every actor is sent.

    Attributes:
        model: on the CPU.
        question: what is asked of it.
        out: the folder of the shards.
        of: how many there are.
        batch_size: images at a time, of large ones fewer.
        overwrite: write what is there anew.
        device: what the actor computes on: "cpu" or "cuda".
        threads: how many compute there; sums of floats depend on it.
        folder: where paths begin; None: they are absolute.
        versions: of what gives the numbers, which are to be the same on all machines.
    """

    model: PatchClassifier
    question: OwnQuestion
    out: Path
    of: int
    batch_size: int
    overwrite: bool
    device: str
    threads: int
    folder: Path | None
    versions: Mapping[str, str]


class ShardWriter:
    """What an actor runs: it keeps the model, and writes one shard after the other."""

    def __init__(self, order: Order) -> None:
        self._order = order

    def __call__(self, rows: Any) -> Any:
        """Write the shard of an Arrow table's one row, and return a row that says how it went."""
        import pyarrow as pa

        [row] = rows.to_pylist()
        said: dict[str, Any] = {"number": row["number"], "unreadable": [], "error": None}
        try:
            said["unreadable"] = self._written(row).unreadable
        except ReportedError as error:  # the command tells it in its one line
            said["error"] = pickle.dumps(error)
        kinds = [("number", pa.int64()), ("unreadable", pa.list_(pa.string()))]
        return pa.Table.from_pylist([said], pa.schema([*kinds, ("error", pa.binary())]))

    def _written(self, row: Mapping[str, Any]) -> TableSummary:
        order = self._order
        model = self._model  # first, as it takes the actor to where the paths begin
        if not order.out.is_dir():
            raise InputError(
                f"the machine {platform.node()} has no folder {order.out}: `out` is to be one that "
                "all machines share"
            )
        tries = order.out / TRIES_FILE.format(row["number"])
        with tries.open("ab") as file:  # Ray itself would hand a shard out for ever
            file.write(b".")
        if tries.stat().st_size > TRIES:
            raise KilledError(
                f"{TRIES} actors died with shard {row['number']}/{order.of}, most likely for want "
                "of memory; try fewer `workers`"
            )
        return write_shard(
            model,
            order.question,
            [Job(Path(os.fsdecode(path)), None, None) for path in row["paths"]],
            order.out,
            Shard(row["number"], order.of),
            row["digest"],
            batch_size=order.batch_size,
            overwrite=order.overwrite,
            patience=PATIENCE,
        )

    @cached_property
    def _model(self) -> PatchClassifier:
        order, machine = self._order, platform.node()
        if order.versions != VERSIONS:
            names = [
                " and ".join(f"{name} {version}" for name, version in versions.items())
                for versions in (VERSIONS, order.versions)
            ]
            raise InputError(
                f"the machine {machine} has {names[0]}, and this command is of {names[1]}: install "
                "the same on all"
            )
        if order.folder is not None:
            try:
                os.chdir(order.folder)
            except OSError as error:
                raise InputError(
                    f"the machine {machine} cannot enter {order.folder} ({reason(error)}): name "
                    "images and `out` in folders that all machines share"
                ) from error
        torch.set_num_threads(order.threads)
        return order.model.to(choose_device("cuda" if order.device == "cuda" else "cpu"))
