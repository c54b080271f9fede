"""The paper's Figures 4 to 7 with our networks, as targets of `reproduce`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from loss_attention.errors import InputError
from loss_attention.paper.cells import Cell
from loss_attention.paper.figures_captions import data_words, facts
from loss_attention.paper.figures_networks import figure4, figure5, figure6
from loss_attention.paper.figures_sweep import figure7, sweep_cells
from loss_attention.paper.numbers import CONV, LOSS_ATTENTION, RESNET
from loss_attention.paper.reproduction import Reproduction
from loss_attention.paper.scales import Scale
from loss_attention.paper.tables import table_cells
from loss_attention.paper.target import Target
from loss_attention.paper.trainings import Trained, is_trained, run_path
from loss_attention.terminal import say

if TYPE_CHECKING:
    from loss_attention.paper.figures_layout import Drawing

SEED = 0
"""Whose networks Figures 4 to 6 show."""

Write = Callable[[Reproduction, Sequence[Cell], Path], list[Path]]


def _coco_cells(name: str, *methods: str) -> Callable[[Scale], tuple[Cell, ...]]:
    """Return what gives Table V's cells of the convolutional ResNet18 with these methods."""

    def cells(scale: Scale) -> tuple[Cell, ...]:
        scale.check(name)
        found = {cell.labels: cell for cell in table_cells("table5", scale) if cell.column == "mAP"}
        return tuple(replace(found[RESNET, CONV, method], weights=True) for method in methods)

    return cells


def _pictures(
    name: str, draw: Callable[[Mapping[str, Trained], str], tuple[Drawing, str]]
) -> Write:
    """Return what draws a figure of trained networks, and leaves it out where they are not."""

    def write(reproduction: Reproduction, cells: Sequence[Cell], folder: Path) -> list[Path]:
        recipes = {cell.labels[-1]: cell.recipe for cell in cells if cell.recipe is not None}
        for recipe in recipes.values():
            seeded = replace(recipe, seed=SEED)
            if not is_trained(reproduction.out, seeded):
                run = run_path(reproduction.out, seeded)
                _say(reproduction, f"{name} is not drawn: no trained weights in {run}")
                return []
        try:
            networks = {
                method: reproduction.trained(recipe, SEED) for method, recipe in recipes.items()
            }
            data = data_words(networks[LOSS_ATTENTION].record)
            drawing, caption = draw(networks, facts(reproduction.scale, data, f"seed {SEED}"))
        except InputError as error:
            problem = f"{name} is not drawn: {error}"
            reproduction.problems[problem] = None
            _say(reproduction, problem)
            return []
        return _save(name, drawing, caption, reproduction, folder)

    return write


def _sweep(reproduction: Reproduction, cells: Sequence[Cell], folder: Path) -> list[Path]:
    drawing, caption = figure7(reproduction, cells)
    return _save("figure7", drawing, caption, reproduction, folder)


def _save(
    name: str, drawing: Drawing, caption: str, reproduction: Reproduction, folder: Path
) -> list[Path]:
    from loss_attention.paper.figures_layout import save_drawing

    _say(reproduction, caption)
    scale = reproduction.scale
    about = {"scale": scale.name, "scale_summary": scale.summary}
    return save_drawing(name, drawing, caption, folder, about)


def _say(reproduction: Reproduction, words: str) -> None:
    say(reproduction.console, words)


_TARGETS = (
    Target(
        "figure4",
        "Heat maps beside Grad-CAM; ResNet18 on COCO",
        _coco_cells("figure4", "Baseline", LOSS_ATTENTION),
        _pictures("figure4", figure4),
    ),
    Target(
        "figure5",
        "Selected patches; ResNet18 on COCO",
        _coco_cells("figure5", LOSS_ATTENTION),
        _pictures("figure5", figure5),
    ),
    Target(
        "figure6",
        "Predicted and true boxes; ResNet18 on COCO",
        _coco_cells("figure6", LOSS_ATTENTION),
        _pictures("figure6", figure6),
    ),
    Target("figure7", "Effect of gamma_max and xi; Tiny ImageNet", sweep_cells, _sweep),
)
FIGURES: dict[str, Target] = {target.name: target for target in _TARGETS}
