"""The engine under every table and figure: train what is missing, look up what is known.

A table of the paper is written with ours beside it: on the terminal, as Markdown and as JSON.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from loss_attention.errors import InputError, ReportedError
from loss_attention.model import PatchClassifier, create_model
from loss_attention.paper.numbers import PaperTable
from loss_attention.paper.tables import EPOCH_SECONDS, PARAMETERS, Cell, Scale, training_key
from loss_attention.paper.trainings import (
    LEDGER_FILE,
    Ledger,
    MissingDataError,
    Record,
    Shelf,
    Trained,
    count_workers,
    is_trained,
    train,
    train_side_by_side,
)
from loss_attention.report.tables import Column, Table, show_table
from loss_attention.saving import write_whole
from loss_attention.terminal import json_text, markdown_table, say_line
from loss_attention.training.recipe import Accelerator, Recipe

PAPER_IMAGE_CLASSES = 10
"""Table II counts parameters for CIFAR-10's classes."""


@dataclass(frozen=True)
class Result:
    """What we measured for a cell, in the paper's unit.

    Attributes:
        values: one for each seed.
        baselines: what trivial baselines score on the same images, by name, mean over seeds.
    """

    values: tuple[float, ...]
    baselines: dict[str, float]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.values)

    @property
    def standard_deviation(self) -> float | None:
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
            raise InputError(f"`seeds` must be at least 1, got {seeds}")
        if data_root is not None and not data_root.is_dir():
            raise InputError(f"`data_root` {data_root} is not a folder")
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
            outcomes = train_side_by_side(
                todo, self.workers, self.out, self.shelf.data_root, self.accelerator
            )
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
        if cell.metric == PARAMETERS:
            return Result((parameters(cell.recipe) / 1e6,), {})
        records = self.ledger.seeds(training_key(cell.recipe))
        values = [record.metrics.get(cell.metric) for record in records]
        known = tuple(cell.factor * value for value in values if value is not None)
        baselines: dict[str, list[float]] = {}
        for record in records:
            for name, value in record.baselines.get(cell.metric, {}).items():
                if value is not None:
                    baselines.setdefault(name, []).append(cell.factor * value)
        means = {name: statistics.fmean(found) for name, found in baselines.items()}
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
            recipe.model_spec(
                num_classes=PAPER_IMAGE_CLASSES,
                image_size=(32, 32),
                in_channels=3,
                strided_layers=(),
            )
        )


@dataclass(frozen=True)
class Target:
    """A table or figure of the paper.

    Attributes:
        cells: what has to be trained and measured for it, at a scale.
        write: makes its files in a folder from what has been measured, shows what belongs on the
            terminal, and returns the files' paths. It has to cope with cells that are not measured.
    """

    cells: Callable[[Scale], tuple[Cell, ...]]
    write: Callable[[Reproduction, Sequence[Cell], Path], list[Path]]


MEASURED, NOT_MEASURED = "measured", "not measured"
NOT_OURS = "cited"
"""A number that the paper takes from others, whose network we do not build."""
UNDEFINED = "undefined"
"""Measured, and there was nothing to divide by: no right patch at all, say."""
ABSENT = "-"
Rows = list[tuple[tuple[str, ...], list[str]]]
"""The labels of each row, and the texts of its cells."""
LOCALISATION_METRICS = ("gt_known_loc_patches", "patch_precision", "patch_recall", "patch_f1")


def write_table(
    paper: PaperTable, cells: Sequence[Cell], reproduction: Reproduction, folder: Path
) -> list[Path]:
    """Show a table on the terminal and write it as Markdown and JSON; return the files."""
    results = [
        (cell, result, _state(cell, result, reproduction))
        for cell, result in zip(cells, map(reproduction.result, cells), strict=True)
    ]
    texts = {
        (cell.labels, cell.column): _text(cell, result, state) for cell, result, state in results
    }
    rows = [
        (row.labels, [texts.get((row.labels, column), ABSENT) for column in paper.columns])
        for row in paper.rows
    ]
    title = f"{paper.name}, scale {reproduction.scale.name}: {paper.title}"
    notes = _notes(paper, cells, reproduction)
    show_table(_terminal(title, paper, rows, notes), reproduction.console)

    markdown, data = folder / f"{paper.name}.md", folder / f"{paper.name}.json"
    write_whole(markdown, _markdown(title, paper, rows, notes))
    content = {
        "format_version": 2,
        "table": paper.name,
        "title": paper.title,
        "scale": reproduction.scale.name,
        "notes": notes,
        "cells": [_cell_json(cell, result, state) for cell, result, state in results],
    }
    write_whole(data, json_text(content, indent=1) + "\n")
    return [markdown, data]


def _text(cell: Cell, result: Result | None, state: str) -> str:
    """Return a cell's lines: the paper's number, ours, the difference, the best baseline."""
    digits = 0 if cell.metric == EPOCH_SECONDS else 2
    lines = [] if cell.paper is None else [f"{cell.paper:.{digits}f}"]
    if result is None:
        return "\n".join([*lines, state])
    spread = (
        "" if result.standard_deviation is None else f" ± {result.standard_deviation:.{digits}f}"
    )
    lines.append(f"{result.mean:.{digits}f}{spread}")
    if cell.paper is not None:
        # Rounded first, so that no difference is a negative zero.
        lines.append(f"({round(result.mean - cell.paper, digits) + 0.0:+.{digits}f})")
    if cell.metric in LOCALISATION_METRICS and result.baselines:
        lines.append(f"trivial {max(result.baselines.values()):.{digits}f}")
    return "\n".join(lines)


def _state(cell: Cell, result: Result | None, reproduction: Reproduction) -> str:
    """Return whether a cell has a number of ours, or why not."""
    if result is not None:
        return MEASURED
    if cell.recipe is None:
        return NOT_OURS
    return UNDEFINED if reproduction.ledger.seeds(training_key(cell.recipe)) else NOT_MEASURED


def _terminal(title: str, paper: PaperTable, rows: Rows, notes: Sequence[str]) -> Table:
    """Return the table for 80 columns: a row's labels stand one under the other."""
    columns = [Column(name, narrow=_in_lines(name)) for name in paper.columns]
    label = Column(", ".join(paper.headings), "left", "\n".join(paper.headings))
    shown = [(_in_lines(*labels), *texts) for labels, texts in rows]
    return Table((label, *columns), shown, title, notes, ruled=True)


def _in_lines(*labels: str) -> str:
    return "\n".join(labels).replace(", ", "\n")


def _markdown(title: str, paper: PaperTable, rows: Rows, notes: Sequence[str]) -> str:
    cells = [(*labels, *(text.replace("\n", "<br>") for text in texts)) for labels, texts in rows]
    align = "l" * len(paper.headings) + "r" * len(paper.columns)
    table = markdown_table((*paper.headings, *paper.columns), cells, align)
    return "\n".join([f"# {title}", "", table, "", *(f"- {note}" for note in notes)]) + "\n"


def _notes(paper: PaperTable, cells: Sequence[Cell], reproduction: Reproduction) -> list[str]:
    scale = reproduction.scale
    counts = sorted({len(r.values) for c in cells if c.trained and (r := reproduction.result(c))})
    ends = dict.fromkeys([*counts[:1], *counts[-1:]])
    seeds = f" Seeds measured: {' to '.join(map(str, ends))}." if counts else ""
    notes = [
        "Each cell: the paper's number where it prints one, ours as mean ± sample standard "
        "deviation over seeds, and in brackets ours less the paper's. Percent, if the column does "
        f"not say otherwise. Scale {scale.name}: {scale.summary}.{seeds}"
    ]
    if any(cell.metric in LOCALISATION_METRICS for cell in cells):
        notes.append("Trivial: the best that a constant answer scores on the same images.")
    return [*notes, *(f"The paper: {doubt}" for doubt in paper.doubts)]


def _cell_json(cell: Cell, result: Result | None, state: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "labels": list(cell.labels),
        "column": cell.column,
        "paper": cell.paper,
        "metric": cell.metric,
        "state": state,
    }
    if result is not None:
        found |= {
            "values": list(result.values),
            "mean": result.mean,
            "standard_deviation": result.standard_deviation,
            "difference": None if cell.paper is None else result.mean - cell.paper,
            "baselines": result.baselines,
        }
    if cell.recipe is not None:
        found["training"] = training_key(cell.recipe) if cell.trained else None
        found["recipe"] = asdict(cell.recipe)
    return found
