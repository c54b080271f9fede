"""Several trainings side by side: a process for each, and a GPU for each process, if there are."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any

import torch
from rich.console import Console

from loss_attention.errors import InputError, ReportedError
from loss_attention.interruption import (
    RunStopped,
    StopRequest,
    blocked_signals,
    leave_signals_to_the_parent,
    shared_byte,
)
from loss_attention.paper.datasets import Shelf
from loss_attention.paper.ledger import Record
from loss_attention.paper.trainings import train
from loss_attention.training.environment import choose_accelerator
from loss_attention.training.recipe import Accelerator, Recipe

LOOK_EVERY = 1.0
"""Seconds between the looks at whether Ctrl-C was pressed."""


@dataclass(frozen=True)
class Setting:
    """What every worker needs to know."""

    out: Path
    data_root: Path | None
    accelerator: Accelerator


def count_workers(wanted: int | None, accelerator: Accelerator) -> int:
    """Return how many trainings to run side by side.

    Args:
        wanted: as many; None: one for each GPU, or one on a CPU.
        accelerator: what to train on.

    Raises:
        InputError: fewer than one, or more than a CPU has cores.
    """
    cuda = choose_accelerator(accelerator, 1) == "cuda"
    if wanted is None:
        return torch.cuda.device_count() if cuda else 1
    cores = os.cpu_count() or 1
    if wanted < 1:
        raise InputError(f"--workers must be at least 1, got {wanted}")
    if not cuda and wanted > cores:
        raise InputError(f"--workers {wanted}: this CPU has {cores} cores")
    return wanted


def train_side_by_side(
    recipes: Sequence[Recipe], workers: int, setting: Setting
) -> Iterator[tuple[Recipe, Record | ReportedError]]:
    """Train recipes in several processes; yield each with its record or problem as it ends.

    Raises:
        RunStopped: stopped by a signal; every process has finished its step and saved.
    """
    context = multiprocessing.get_context("spawn")
    with blocked_signals():  # Python begins a process for the queue, which a signal would end
        places = context.Queue()
    for device in _devices(workers, setting.accelerator):
        places.put(device)
    shared = shared_byte(context)
    stop = StopRequest(shared)
    with (
        stop.listening(),
        ProcessPoolExecutor(workers, context, _begin, (places, setting, workers, shared)) as pool,
    ):
        with blocked_signals():  # processes begin with them blocked
            running = {pool.submit(_train, recipe): recipe for recipe in recipes}
        while running:
            done, _ = wait(running, timeout=LOOK_EVERY, return_when=FIRST_COMPLETED)
            if stop.requested:
                for future in running:
                    future.cancel()
            for future in done:
                recipe = running.pop(future)
                if (outcome := _outcome(future)) is not None:
                    yield recipe, outcome
    if stop.requested:
        raise RunStopped("stopped; the same command continues", stop.number)


def _outcome(future: Future[Record]) -> Record | ReportedError | None:
    """Return what came of a training; None: it was stopped."""
    if future.cancelled():
        return None
    error = future.exception()
    if isinstance(error, RunStopped):
        return None
    return error if isinstance(error, ReportedError) else future.result()


def _devices(workers: int, accelerator: Accelerator) -> list[str | None]:
    """Return the GPU of each worker as CUDA_VISIBLE_DEVICES names it; None on a CPU."""
    if choose_accelerator(accelerator, 1) != "cuda":
        return [None] * workers
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    return [gpus[i % len(gpus)] for i in range(workers)]


# What a worker keeps from one training to the next.
_worker: dict[str, Any] = {}


def _begin(places: Any, setting: Setting, workers: int, shared: Any) -> None:
    leave_signals_to_the_parent()
    try:
        device = places.get(timeout=60)
    except Empty:
        device = None
    if device is None:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    _worker["setting"], _worker["stop"] = setting, StopRequest(shared)
    _worker["shelf"] = Shelf(setting.data_root, Console(quiet=True))


def _train(recipe: Recipe) -> Record:
    setting: Setting = _worker["setting"]
    stop: StopRequest = _worker["stop"]
    if stop.requested:
        raise RunStopped("stopped; the same command continues", stop.number)
    shelf = _worker["shelf"]
    return train(recipe, setting.out, shelf, setting.accelerator, None, stop).record
