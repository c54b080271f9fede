"""What a table or figure has to offer, so that `reproduce` can make it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from loss_attention.paper.cells import Cell
from loss_attention.paper.reproduction import Reproduction
from loss_attention.paper.scales import Scale


@dataclass(frozen=True)
class Target:
    """A table or figure of the paper.

    Attributes:
        name: what the command calls it.
        title: what it shows.
        cells: what has to be trained and measured for it, at a scale.
        write: makes its files in a folder from what has been measured, shows what belongs on the
            terminal, and returns the files' paths. It has to cope with cells that are not measured.
    """

    name: str
    title: str
    cells: Callable[[Scale], tuple[Cell, ...]]
    write: Callable[[Reproduction, Sequence[Cell], Path], list[Path]]
