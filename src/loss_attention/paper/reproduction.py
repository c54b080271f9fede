"""The engine under every table and figure: measure what is missing, look up what is known."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from loss_attention.errors import InputError, ReportedError
from loss_attention.models import PatchClassifier, create_model
from loss_attention.paper.cells import PARAMETERS, Cell, training_key
from loss_attention.paper.datasets import MissingDataError, Shelf
from loss_attention.paper.ledger import LEDGER_FILE, Ledger, Record
from loss_attention.paper.scales import Scale
from loss_attention.paper.trainings import Trained, is_trained, train
from loss_attention.paper.workers import Setting, count_workers, train_side_by_side
from loss_attention.terminal import say_line
from loss_attention.training.recipe import Accelerator, Recipe

PAPER_IMAGE_CLASSES = 10
"""Table II counts parameters for CIFAR-10's classes."""


@dataclass(frozen=True)
class Result:
    """What we measured for a cell, in the paper's unit.

    Attributes:
        values: one for each seed.
        floors: what constant answers score on the same images, by name, mean over seeds.
    """

    values: tuple[float, ...]
    floors: dict[str, float]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over seeds; None for a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


class Reproduction:
    """Trains what cells need and knows what came out.

    Args:
        scale: the size to reproduce at.
        out: the folder of the ledger and of every training.
        seeds: how many seeds to train, 0 up; None: as many as the scale has.
        data_root: a folder with data sets in it.
        workers: trainings side by side, each on a GPU of its own where there are some; None: as
            many as there are GPUs, or one.
        accelerator: what to train on.
        console: where to show progress.

    Attributes:
        problems: why cells could not be measured, a line each.
    """

    def __init__(
        self,
        scale: Scale,
        out: Path,
        *,
        seeds: int | None = None,
        data_root: Path | None = None,
        workers: int | None = None,
        accelerator: Accelerator = "auto",
        console: Console | None = None,
    ) -> None:
        self.scale, self.out = scale, out
        self.seeds = scale.seeds if seeds is None else seeds
        if self.seeds < 1:
            raise InputError(f"--seeds must be at least 1, got {seeds}")
        if data_root is not None and not data_root.is_dir():
            raise InputError(f"--data-root {data_root} is no folder")
        self.workers, self.accelerator = count_workers(workers, accelerator), accelerator
        self.console = console or Console(quiet=True)
        self.shelf = Shelf(data_root, self.console)
        self.ledger = Ledger(out / LEDGER_FILE)
        self.problems: dict[str, None] = {}

    def measure(self, cells: Iterable[Cell]) -> None:
        """Train and evaluate what these cells need and the ledger does not have yet.

        Trainings that cannot be done leave a line in `problems`, and the rest goes on.
        """
        todo = self.missing(cells)
        outcomes: Iterable[tuple[Recipe, Record | ReportedError]] = self._one_by_one(todo)
        if self.workers > 1 and len(todo) > 1:
            say_line(self.console, f"{len(todo)} trainings, {self.workers} side by side")
            setting = Setting(self.out, self.shelf.data_root, self.accelerator)
            outcomes = train_side_by_side(todo, self.workers, setting)
        for number, (recipe, outcome) in enumerate(outcomes, start=1):
            if isinstance(outcome, Record):
                self.ledger.add(outcome)
                words = f"{outcome.minutes:.1f} minutes"
            else:
                line = str(outcome)
                if not isinstance(outcome, MissingDataError):
                    line = f"{training_key(recipe)}, seed {recipe.seed}: {line}"
                self.problems[line] = None
                words = f"not measured: {line}"
            say_line(
                self.console,
                f"[{number}/{len(todo)}] {training_key(recipe)}, seed {recipe.seed}: {words}",
            )

    def _one_by_one(self, todo: list[Recipe]) -> Iterator[tuple[Recipe, Record | ReportedError]]:
        for recipe in todo:
            try:
                yield recipe, self._train(recipe).record
            except ReportedError as error:
                yield recipe, error

    def missing(self, cells: Iterable[Cell]) -> list[Recipe]:
        """Return what is still to train for these cells, seed by seed, each training once."""
        wanted: dict[str, Recipe] = {}
        weights: set[str] = set()
        for cell in cells:
            if cell.trained and cell.recipe is not None:
                key = training_key(cell.recipe)
                wanted.setdefault(key, cell.recipe)
                weights |= {key} if cell.weights else set()
        seeded = [replace(r, seed=seed) for seed in range(self.seeds) for r in wanted.values()]
        return [
            recipe
            for recipe in seeded
            if self.ledger.get(key := training_key(recipe), recipe.seed) is None
            or (key in weights and not is_trained(self.out, recipe))
        ]

    def result(self, cell: Cell) -> Result | None:
        """Return what has been measured for a cell, over all seeds there are; None: nothing yet."""
        if cell.recipe is None:
            return None
        if cell.measure == PARAMETERS:
            return Result((parameters(cell.recipe) / 1e6,), {})
        records = self.ledger.seeds(training_key(cell.recipe))
        values = [record.measures.get(cell.measure) for record in records]
        known = tuple(cell.factor * value for value in values if value is not None)
        floors: dict[str, list[float]] = {}
        for record in records:
            for name, value in record.floors.get(cell.measure, {}).items():
                if value is not None:
                    floors.setdefault(name, []).append(cell.factor * value)
        means = {name: statistics.fmean(found) for name, found in floors.items()}
        return Result(known, means) if known else None

    def trained(self, recipe: Recipe, seed: int = 0) -> Trained:
        """Return a trained model with its data, training it first where that is not done.

        Raises:
            InputError: the data is not here, or the training failed.
        """
        trained = self._train(replace(recipe, seed=seed))
        if self.ledger.get(trained.record.training, seed) is None:
            self.ledger.add(trained.record)
        return trained

    def _train(self, recipe: Recipe) -> Trained:
        return train(recipe, self.out, self.shelf, self.accelerator, self.console)


def parameters(recipe: Recipe) -> int:
    """Count the parameters of a recipe's network for 32 x 32 colour images of 10 classes."""
    model = build_empty(recipe)
    return sum(parameter.numel() for parameter in model.parameters())


def build_empty(recipe: Recipe) -> PatchClassifier:
    """Build a recipe's network for 10 classes without memory for its weights."""
    with torch.device("meta"):
        return create_model(
            recipe.backbone,
            head=recipe.head,
            num_classes=PAPER_IMAGE_CLASSES,
            width=recipe.width,
            patch_kernel=recipe.patch_kernel,
            patch_stride=recipe.patch_stride,
            image_size=(32, 32),
        )
