"""The tiny run in a process of its own, so that it can be stopped and killed."""

from __future__ import annotations

import gc
import os
import signal
import time
from dataclasses import dataclass, fields, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning_fabric import Fabric
from training.tiny import start_run, tiny_recipe, tiny_splits

from loss_attention.data.sample import ImageSet
from loss_attention.interruption import StopRequest
from loss_attention.training import processes
from loss_attention.training.job import RunOptions, continue_run
from loss_attention.training.run_folder import RunFolder
from loss_attention.training.trainer import Trainer

EPOCHS, STEPS = 12, 12 * 6


def begun(folder: Path, devices: int = 1) -> RunFolder:
    """The run, as it stands or new."""
    if (folder / "run.json").exists():
        return RunFolder.open(folder)
    options = RunOptions(devices=devices, accelerator="cpu", checkpoint_every_steps=2)
    return start_run(folder, tiny_recipe(epochs=EPOCHS), tiny_splits(), options, overwrite=True)


def to_the_end(folder: Path) -> None:
    """Train what is left of a run."""
    assert continue_run(begun(folder), tiny_splits())


def to_the_end_in_two(told: Connection, folder: Path) -> None:
    """Likewise, in two processes that are forked and not spawned: they need not import torch."""
    torch.set_num_threads(1)
    processes.Fabric = partial(forking, processes.Fabric)  # type: ignore[misc, assignment]
    run = begun(folder, devices=2)
    told.send(continue_run(run, tiny_splits()))


def forking(fabric: type[Fabric], **options: Any) -> Fabric:
    assert options.pop("strategy") == "ddp_spawn"
    return fabric(strategy="ddp_fork", **options)


def train_until_killed(told: Connection, folder: Path, steps: int) -> None:
    """Say "now" after so many steps, and go on for a few more; the kill must not come too late."""
    torch.set_num_threads(1)
    train_step, done = Trainer.train_step, 0

    def watched(self: Trainer, batch: Any, gamma: float) -> None:
        nonlocal done
        train_step(self, batch, gamma)
        done += 1
        if done == steps:
            told.send("now")
        if done == steps + 4:
            signal.pause()

    Trainer.train_step = watched  # type: ignore[method-assign]
    continue_run(begun(folder), tiny_splits())


@dataclass(frozen=True)
class Interrupting(ImageSet):
    """Images of which a certain step of a run, once, sends a signal and waits until it is heard."""

    step: int = 0
    process: int = 0
    number: int = signal.SIGINT

    taken: ClassVar[int] = 0

    def take(self, index: torch.Tensor) -> ImageSet:
        if torch.is_grad_enabled():  # training rather than validation
            Interrupting.taken += 1
            # Of several processes the first has the first image of each step.
            if Interrupting.taken == self.step and os.environ.get("LOCAL_RANK", "0") == "0":
                self._interrupt()
        return super().take(index)

    def _interrupt(self) -> None:
        os.kill(self.process, self.number)
        requests = [one for one in gc.get_objects() if isinstance(one, StopRequest)]
        while not any(request.requested for request in requests):
            time.sleep(0.01)


def train_interrupted(told: Connection, folder: Path, devices: int, step: int) -> None:
    """Train, sent a signal in the middle of a step; tell how it ended."""
    torch.set_num_threads(1)
    run, splits = begun(folder, devices), tiny_splits()
    values = {field.name: getattr(splits.trainval, field.name) for field in fields(splits.trainval)}
    images = Interrupting(**values, step=step, process=os.getpid())
    told.send(continue_run(run, replace(splits, trainval=images)))


def hold_lock(told: Connection, folder: Path) -> None:
    with RunFolder(folder).locked():
        told.send("held")
        signal.pause()
