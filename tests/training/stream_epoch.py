"""What each process of a test does, in a file of its own: spawned processes import it from here."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from training.stored import load_stored
from training.tiny import start_run, tiny_recipe

from loss_attention.data.sample import ImageSet
from loss_attention.data.streaming import StreamedSet
from loss_attention.training.job import build_model, continue_run, make_trainer
from loss_attention.training.recipe import RunOptions
from loss_attention.training.run_folder import RunFolder
from loss_attention.training.trainer import Trainer


class StreamedEpoch:
    """Trains an epoch on streamed images, and saves which of them this process decoded."""

    def __init__(self, data: Path, folder: Path) -> None:
        self.data, self.folder = data, folder

    def __call__(self, fabric: Fabric) -> None:
        torch.set_num_threads(1)
        recipe, splits = tiny_recipe(epochs=1), load_stored(self.data, workers=1)
        model = build_model(recipe, splits)
        nothing = splits.trainval.subset(torch.arange(0))
        run = RunFolder(self.folder)
        trainer = make_trainer(fabric, recipe, model, splits.trainval, nothing, run)
        seen: list[str] = []
        take = StreamedSet.take

        def watched(self: StreamedSet, index: torch.Tensor) -> ImageSet:
            table = self.images.reader.table
            seen.extend(table.names[number] for number in self.images.numbers[index].tolist())
            return take(self, index)

        StreamedSet.take = watched  # type: ignore[method-assign]
        try:
            trainer.train()
        finally:
            StreamedSet.take = take  # type: ignore[method-assign]
        assert not multiprocessing.active_children()
        rank = f"rank{fabric.global_rank}of{fabric.world_size}.pt"
        torch.save({"seen": seen, "state": model.state_dict()}, self.folder / rank)


def train_in_a_group_of_its_own(told: Connection, data: Path, folder: Path) -> None:
    """Train in a process that this test may kill; tell the workers, and how it ended."""
    os.setsid()
    splits = load_stored(data, workers=2)
    options = RunOptions(accelerator="cpu", checkpoint_every_steps=2)
    run = start_run(folder, tiny_recipe(epochs=60), splits, options)
    train_step, steps = Trainer.train_step, iter(range(1, 1000))

    def watched(self: Trainer, batch: Any, gamma: float) -> None:
        train_step(self, batch, gamma)
        if next(steps) == 9:  # in the second epoch
            told.send([child.pid for child in multiprocessing.active_children()])

    Trainer.train_step = watched  # type: ignore[method-assign]
    told.send(continue_run(run, splits))
