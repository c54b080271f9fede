"""The paper's Figures 4 to 7 with our networks: what they need trained, and their files.

matplotlib loads when a figure is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from rich.text import Text
from torch import Tensor

from loss_attention.data.sample import ImageSet
from loss_attention.errors import InputError
from loss_attention.geometry import box_area
from loss_attention.metrics.boxes import relevant_boxes
from loss_attention.paper.cells import Cell, training_key
from loss_attention.paper.ledger import Record
from loss_attention.paper.numbers import CONV, LOSS_ATTENTION, PAPER_TABLES, RESNET, VGG
from loss_attention.paper.reproduction import Reproduction
from loss_attention.paper.scales import Scale
from loss_attention.paper.tables import BACKBONES, MEASURES, table_at
from loss_attention.paper.trainings import Trained, run_path
from loss_attention.recipes import paper_recipe

if TYPE_CHECKING:
    from loss_attention.paper.figures_curves import Panel, Point
    from loss_attention.paper.figures_layout import Drawing
    from loss_attention.paper.figures_pictures import Sample

HEAT_MAP_SAMPLES, SAMPLES = 6, 12
SEED = 0
"""Whose networks Figures 4 to 6 show."""
GAMMAS: tuple[float, ...] = (0.0, 0.1, 0.5, 1.0, 5.0)
"""The paper names 0, 0.1, 0.5 and 5; it prints no list."""
THRESHOLDS: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 1.0)
"""Ours: the paper names 0, 0.1 and 1."""
USUAL = 0.1
"""Both parameters, where the other one varies."""
SWEPT = ("Accuracy", "AP", "Precision", "Recall")
LOCALISED = ("AP", "Precision", "Recall")
"""Measures whose floors are drawn."""


@dataclass(frozen=True)
class FigureTarget:
    """A figure of the paper: what has to be trained for it, and what draws it."""

    title: str
    cells: Callable[[Scale], tuple[Cell, ...]]
    write: Callable[[Reproduction, Sequence[Cell], Path], list[Path]]
