"""The tables and figures that `reproduce` knows, by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from loss_attention.paper.cells import Cell
from loss_attention.paper.numbers import PAPER_TABLES
from loss_attention.paper.reproduction import Reproduction
from loss_attention.paper.tables import table_cells
from loss_attention.paper.target import Target
from loss_attention.paper.writing import write_table


def _table(name: str) -> Target:
    paper = PAPER_TABLES[name]

    def write(reproduction: Reproduction, cells: Sequence[Cell], folder: Path) -> list[Path]:
        return write_table(paper, cells, reproduction, folder)

    return Target(name, paper.title, lambda scale: table_cells(name, scale), write)


TARGETS: dict[str, Target] = {name: _table(name) for name in PAPER_TABLES}
