"""The tables and figures that `reproduce` knows, by name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from loss_attention.paper.cells import Cell
from loss_attention.paper.figures import FIGURES
from loss_attention.paper.numbers import PAPER_TABLES
from loss_attention.paper.reproduction import Reproduction
from loss_attention.paper.tables import table_at, table_cells
from loss_attention.paper.target import Target
from loss_attention.paper.writing import write_table


def _table(name: str) -> Target:
    def write(reproduction: Reproduction, cells: Sequence[Cell], folder: Path) -> list[Path]:
        return write_table(table_at(name, reproduction.scale).table, cells, reproduction, folder)

    return Target(name, PAPER_TABLES[name].title, partial(table_cells, name), write)


TARGETS: dict[str, Target] = {name: _table(name) for name in PAPER_TABLES} | FIGURES
