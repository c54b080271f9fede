"""A data set, a recipe and a script small enough to train in a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from loss_attention.data.sample import ImageSet, Splits
from loss_attention.training.job import begin_run, continue_run
from loss_attention.training.recipe import Recipe, RunOptions
from loss_attention.training.run_folder import RunFolder
from loss_attention.training.trainer import Trainer

CLASSES = ("left", "right")


def tiny_splits(images: int = 46, seed: int = 0, held_out: float = 0.1) -> Splits:
    """Noise of 12 x 12 pixels with a bright square in its left or right half."""
    generator = torch.Generator().manual_seed(seed)

    def some(count: int) -> ImageSet:
        pixels = torch.randint(0, 100, (count, 1, 12, 12), generator=generator, dtype=torch.uint8)
        labels = torch.randint(0, 2, (count,), generator=generator)
        boxes = torch.zeros(count, 1, 4)
        for i, label in enumerate(labels.tolist()):
            x, y = 1 + 6 * label, 4
            pixels[i, 0, y : y + 4, x : x + 4] = 255
            boxes[i, 0] = torch.tensor([x, y, x + 4, y + 4])
        return ImageSet(pixels, labels, CLASSES, boxes, labels.unsqueeze(1))

    return Splits(some(images), some(20), "bright squares", validation_fraction=held_out)


def tiny_recipe(**changes: Any) -> Recipe:
    recipe = Recipe(
        name="tiny",
        data="tiny",
        in_channels=1,
        crop_padding=1,
        horizontal_flip=False,
        backbone="vgg11_bn",
        width=0.06,
        strided_layers=(8,),
        patch_kernel=2,
        patch_stride=1,
        epochs=4,
        batch_size=8,
        learning_rate=0.05,
        precision="32",
    )
    return replace(recipe, **changes)


def new_run(path: Path, recipe: Recipe, *, overwrite: bool = False) -> RunFolder:
    """A run's folder with a recipe and nothing else in it."""
    run = RunFolder(path)
    with run.claimed(overwrite=overwrite):
        run.begin(recipe, {})
    return run


def start_run(
    path: Path, recipe: Recipe, splits: Splits, options: RunOptions, *, overwrite: bool = False
) -> RunFolder:
    """The folder of a new run, as `train` begins it."""
    run = RunFolder(path)
    with run.claimed(overwrite=overwrite):
        begin_run(run, recipe, splits, options)
    return run


def run_stopped_at(
    path: Path,
    recipe: Recipe,
    splits: Splits,
    steps: Sequence[int],
    patch: pytest.MonkeyPatch,
    options: RunOptions | None = None,
) -> RunFolder:
    """Train to the end, but stopped after each of these steps and resumed."""
    run = start_run(path, recipe, splits, options or RunOptions(accelerator="cpu"))
    train_step = Trainer.train_step
    for stop_at in steps:

        def until(self: Trainer, batch: Any, gamma: float, stop_at: int = stop_at) -> None:
            train_step(self, batch, gamma)
            self.stop.requested = self._finished_steps + 1 >= stop_at

        patch.setattr(Trainer, "train_step", until)
        assert not continue_run(run, splits)
    patch.setattr(Trainer, "train_step", train_step)
    assert continue_run(run, splits)
    return run
