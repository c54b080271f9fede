"""The paper's tables and figures by name, and `reproduce`, which puts ours beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from loss_attention.errors import unknown_name
from loss_attention.paper.figures import FIGURES
from loss_attention.paper.numbers import PAPER_TABLES
from loss_attention.paper.reproduction import Reproduction, Target, write_table
from loss_attention.paper.tables import Cell, Scale, matching, scale, table_at, table_cells
from loss_attention.saving import make_folder
from loss_attention.training.recipe import Accelerator


def _table(name: str) -> Target:
    def write(reproduction: Reproduction, cells: Sequence[Cell], folder: Path) -> list[Path]:
        return write_table(table_at(name, reproduction.scale)[0], cells, reproduction, folder)

    return Target(partial(table_cells, name), write)


TARGETS: dict[str, Target] = {name: _table(name) for name in PAPER_TABLES} | FIGURES


EVERYTHING = "all"


@dataclass(frozen=True)
class Reproduced:
    """What came out.

    Attributes:
        written: the files of every table and figure.
        problems: why cells could not be measured, a line each.
    """

    written: tuple[Path, ...]
    problems: tuple[str, ...]


def reproduce(
    names: Sequence[str],
    scale_name: str,
    out: Path,
    *,
    seeds: int | None = None,
    data_root: Path | None = None,
    workers: int | None = None,
    accelerator: Accelerator = "auto",
    only: str | None = None,
    train: bool = True,
    console: Console | None = None,
) -> Reproduced:
    """Measure what tables and figures need, and write them.

    Args:
        names: of targets, or `all`.
        scale_name: the size to reproduce them at, one of `SCALES`.
        out: the folder of the ledger, of every training and, by scale, of what is written.
        seeds: see `Reproduction`, and so for data_root, workers, accelerator and console.
        data_root: see there.
        workers: see there.
        accelerator: see there.
        only: measure just the cells with this pattern in their path; None: all.
        train: False: show what has been measured so far, and train nothing.
        console: see there.

    Raises:
        InputError: an unknown target or scale, or a pattern that matches nothing.
        RunStopped: stopped by Ctrl-C; the same command continues.
    """
    chosen = scale(scale_name)
    reproduction = Reproduction(
        chosen,
        out,
        seeds=seeds,
        data_root=data_root,
        workers=workers,
        accelerator=accelerator,
        console=console,
    )
    if EVERYTHING in names:
        names = chosen.targets or tuple(TARGETS)
    targets = {name: _target(name, chosen) for name in names}
    cells = {name: target.cells(chosen) for name, target in targets.items()}
    wanted = matching([cell for group in cells.values() for cell in group], only)
    if train:
        reproduction.measure(wanted)
    folder = out / chosen.name
    make_folder(folder)
    written: list[Path] = []
    for name, target in targets.items():
        written += target.write(reproduction, cells[name], folder)
    return Reproduced(tuple(written), tuple(reproduction.problems))


def _target(name: str, scale: Scale) -> Target:
    if name not in TARGETS:
        raise unknown_name("table or figure", name, [*TARGETS, EVERYTHING])
    scale.check(name)
    return TARGETS[name]
