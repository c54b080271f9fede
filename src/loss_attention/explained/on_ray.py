"""All shards of a table at once, on one machine or many: actors of Ray hold the model.

Ray Data hands the shards out, one to an actor at a time, and hands a shard out again whose actor
died. What an actor does with one is what the local engine does with it (`shards.write_shard`): the
same batches on as many threads, and a file that has its name once it is whole. So the files are the
local engine's, byte for byte, and those that are there already are left as they are.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from loss_attention.data.tree import given_images
from loss_attention.errors import InputError, KilledError, quoted, reason
from loss_attention.explained.actors import TRIES, TRIES_FILE, VERSIONS, Order, ShardWriter
from loss_attention.explained.pipeline import cores
from loss_attention.explained.questions import OwnQuestion
from loss_attention.explained.shards import (
    Shard,
    digest_of,
    is_there,
    refuse_more_shards,
    refuse_other_shards,
)
from loss_attention.interruption import ending_on_signals
from loss_attention.model import PatchClassifier
from loss_attention.saving import SaveError, make_folder, remove_leftovers
from loss_attention.training.recipe import Accelerator

IMAGES_A_SHARD = 10_000
ADDRESS, LOCAL = "RAY_ADDRESS", "local"


@dataclass
class ClusterSummary:
    """What became of the shards.

    Attributes:
        shards: how many there are.
        skipped: how many of them were there already, whole.
        rows: of those that were written, one for each image.
        unreadable: a line for each image that could not be read or explained: those of these rows.
        unread: see `ExplainSummary`.
    """

    shards: int
    skipped: int = 0
    rows: int = 0
    unreadable: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def explain_on_ray(
    model: PatchClassifier,
    question: OwnQuestion,
    paths: Sequence[Path],
    out: Path,
    *,
    shards: int | None = None,
    workers: int | None = None,
    accelerator: Accelerator = "auto",
    batch_size: int = 64,
    overwrite: bool = False,
    progress: Callable[..., None] | None = None,
) -> ClusterSummary:
    """Explain image files to Parquet, all shards that are missing, on the machines of a cluster.

    The cluster is that of `RAY_ADDRESS`, or that which the program around this one is connected to;
    without either, one is begun on this machine, and ended again. All machines need the same
    versions, and see the images and `out` under the same paths.

    Args:
        model: a trained model with patches, on the CPU.
        question: what is asked of it; see `own_question`.
        paths: image files, and folders whose images are taken.
        out: the folder of the shards.
        shards: how many there are; None: one for each 10,000 images.
        workers: actors, each with the model; None: as many as there are GPUs, or as many as find
            cores. Each takes as many cores as torch has threads here.
        accelerator: what they compute on; auto: GPUs, if the cluster has any.
        batch_size: images at a time, of large ones fewer.
        overwrite: write shards anew that are there.
        progress: called with the number of images done and of all, whenever a shard is written.

    Raises:
        InputError: Ray is not installed, or no cluster answers; it has no such accelerator, or no
            machine with enough cores; other shards than those that would be written are there; see
            `explain_table`.
        SaveError: a full disk; files that this machine does not see.
        KilledError: actors died again and again.
    """
    ray = _imported()
    found = given_images(paths, out)
    of = math.ceil(len(found.images) / IMAGES_A_SHARD) if shards is None else shards
    if of < 1:
        raise InputError(f"`shards` must be at least 1, got {of}")
    refuse_more_shards(of, f"`shards` {of}", len(found.images))
    refuse_other_shards(out, of, f"`shards` is {of}")
    make_folder(out)
    rows = _missing(found.images, out, of, digest_of(model, question), overwrite=overwrite)
    summary = ClusterSummary(of, of - len(rows), unread=found.unread)
    if not rows:
        return summary
    summary.rows = sum(len(row["paths"]) for row in rows)
    absolute = all(path.is_absolute() for path in (out, *found.images))
    with _tries(out, rows), _cluster(ray, workers) as machines:
        order = Order(
            model=model,
            question=question,
            out=out,
            of=of,
            batch_size=batch_size,
            overwrite=overwrite,
            device=_device(accelerator, machines),
            threads=torch.get_num_threads(),
            folder=None if absolute else Path.cwd(),
            versions=VERSIONS,
        )
        actors = _actors(order.device, machines, order.threads, workers)
        unreadable: dict[int, list[str]] = {}
        done = 0
        with closing(_answers(ray, order, rows, *actors)) as answers:
            for said in answers:
                if said["error"] is not None:
                    raise pickle.loads(said["error"])
                unreadable[said["number"]] = said["unreadable"]
                done += len(Shard(said["number"], of).part(found.images))
                if progress is not None:
                    progress(done, summary.rows)
    remove_leftovers(out)  # of actors that died
    _require_files(out, [Shard(number, of) for number in unreadable])
    lines = [line for number in sorted(unreadable) for line in unreadable[number]]
    summary.unreadable = [*found.odd, *lines]
    return summary


def _missing(
    images: Sequence[Path],
    out: Path,
    of: int,
    digest: Callable[[Sequence[Path]], str],
    *,
    overwrite: bool,
) -> list[dict[str, Any]]:
    """Return what actors are sent of each shard that is to be written."""
    rows = []
    for shard in (Shard(number, of) for number in range(1, of + 1)):
        own = [images[number] for number in shard.part(images)]
        told = digest(own)
        if overwrite or not is_there(out / shard.file, told):
            paths = list(map(os.fsencode, own))
            rows.append({"number": shard.number, "digest": told, "paths": paths})
    return rows


@contextmanager
def _tries(out: Path, rows: Sequence[Mapping[str, Any]]) -> Iterator[None]:
    """Have all shards begun for the first time, and leave no files that say how often."""
    files = [out / TRIES_FILE.format(row["number"]) for row in rows]
    for file in files:
        file.unlink(missing_ok=True)
    try:
        yield
    finally:
        for file in files:
            file.unlink(missing_ok=True)


def _imported() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError(
            f'`engine` ray needs Ray ({reason(error)}): pip install "loss-attention[scale]"'
        ) from error
    return ray


@contextmanager
def _cluster(ray: Any, workers: int | None) -> Iterator[Sequence[Mapping[str, float]]]:
    """Connect to a cluster, or begin one here, and yield what each of its machines has."""
    if ray.is_initialized():  # by the program around this one, which ends it too
        yield _machines(ray)
        return
    address = os.environ.get(ADDRESS) or LOCAL
    how: dict[str, Any] = {}
    if address == LOCAL:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        threads = torch.get_num_threads()
        how["num_cpus"] = threads * (workers or max(1, cores() // threads))
        how["include_dashboard"] = False
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **how)
    except Exception as error:  # of many kinds
        if address == LOCAL:
            raise KilledError(f"Ray does not begin here: {reason(error)}") from error
        raise InputError(
            f"no Ray cluster answers at {ADDRESS} {quoted(address)} ({reason(error)}); without "
            f"{ADDRESS}, one is begun on this machine"
        ) from error
    try:
        with ending_on_signals():  # Ray has put a handler of its own in the command's place
            yield _machines(ray)
    finally:
        ray.shutdown()


def _machines(ray: Any) -> list[Mapping[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _device(accelerator: Accelerator, machines: Sequence[Mapping[str, float]]) -> str:
    """Return what all actors compute on, "cpu" or "cuda"."""
    gpus = sum(machine.get("GPU", 0) for machine in machines)
    if accelerator == "auto":
        built = torch.version.cuda is not None or torch.version.hip is not None
        return "cuda" if gpus and built else "cpu"
    if accelerator not in ("cpu", "cuda"):
        raise InputError(f"`accelerator` {accelerator}: actors compute on cpu or on cuda")
    if accelerator == "cuda" and not gpus:
        raise InputError("`accelerator` cuda: the cluster has no GPU; use `accelerator` cpu")
    return accelerator


def _actors(
    device: str, machines: Sequence[Mapping[str, float]], threads: int, workers: int | None
) -> tuple[int, dict[str, float]]:
    """Return how many actors there are, and what each of them takes of its machine.

    Example:
        >>> _actors("cpu", [{"CPU": 8}, {"CPU": 2}], threads=4, workers=None)
        (2, {'num_cpus': 4})
        >>> _actors("cuda", [{"CPU": 8, "GPU": 2}], threads=4, workers=4)
        (4, {'num_cpus': 1, 'num_gpus': 0.5})
    """
    if device == "cuda":
        gpus = int(sum(machine.get("GPU", 0) for machine in machines))
        actors = workers or gpus
        return actors, {"num_cpus": 1, "num_gpus": 1 / math.ceil(actors / gpus)}
    have = [int(machine.get("CPU", 0)) for machine in machines]
    if max(have, default=0) < threads:
        raise InputError(
            f"each actor takes {threads} cores, as many as torch has threads here, and no machine "
            f"of the cluster has more than {max(have, default=0)}; set OMP_NUM_THREADS to fewer"
        )
    return workers or sum(count // threads for count in have), {"num_cpus": threads}


def _answers(
    ray: Any, order: Order, rows: Sequence[Mapping[str, Any]], actors: int, each: dict[str, float]
) -> Generator[Mapping[str, Any]]:
    """Yield what actors say of the shards, in the order in which they are written."""
    import pyarrow as pa

    kinds = [("number", pa.int64()), ("digest", pa.string()), ("paths", pa.list_(pa.binary()))]
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = -1  # a shard may take hours
    context.max_consecutive_actor_init_deaths = TRIES
    with _quiet(), ray.data.DataContext.current(context):
        # A table is a block, and a block a task.
        blocks = [pa.Table.from_pylist([row], pa.schema(kinds)) for row in rows]
        data = ray.data.from_arrow(blocks).map_batches(
            ShardWriter,
            fn_constructor_args=(order,),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(
                size=min(actors, len(rows)), max_tasks_in_flight_per_actor=1
            ),
            **each,
        )
        try:
            for table in data.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            ):
                yield from table.to_pylist()
        except ray.exceptions.UserCodeException:
            raise
        except ray.exceptions.RayError as error:
            raise KilledError(f"Ray ended the actors: {reason(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Ray Data says to itself in its files: the command has its own bar."""
    talking = [
        handler
        for handler in logging.getLogger("ray.data").handlers
        if isinstance(handler, logging.StreamHandler)
    ]
    levels = [handler.level for handler in talking]
    for handler in talking:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for handler, level in zip(talking, levels, strict=True):
            handler.setLevel(level)


@contextmanager
def silenced() -> Iterator[None]:
    """Drop what is written to standard error, for a command that says all it has to say later.

    Ray's compiled part writes there, of every pool of actors, that their arguments might be lost.
    """
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _require_files(out: Path, shards: Sequence[Shard]) -> None:
    """Raise `SaveError` unless the actors wrote where this machine reads."""
    there = {path.name for path in out.iterdir()}
    for shard in shards:
        if shard.file not in there:
            raise SaveError(
                f"{shard.file} was written to another {out} than that of this machine: `out` is to "
                "be a folder that all machines share"
            )
