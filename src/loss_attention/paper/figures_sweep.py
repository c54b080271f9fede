"""Figure 7: the trainings of the sweep over gamma_max and the threshold, and their curves.

matplotlib loads when the figure is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from loss_attention.paper.cells import Cell, training_key
from loss_attention.paper.figures_captions import data_words, facts, seed_words
from loss_attention.paper.numbers import PAPER_TABLES, RESNET, VGG
from loss_attention.paper.reproduction import Reproduction
from loss_attention.paper.scales import Scale
from loss_attention.paper.tables import BACKBONES, MEASURES
from loss_attention.training.recipes import paper_recipe

if TYPE_CHECKING:
    from loss_attention.paper.figures_curves import Panel, Point
    from loss_attention.paper.figures_layout import Drawing

GAMMAS: tuple[float, ...] = (0.0, 0.1, 0.5, 1.0, 5.0)
"""The paper names 0, 0.1, 0.5 and 5; it prints no list."""
THRESHOLDS: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 1.0)
"""Ours: the paper names 0, 0.1 and 1."""
USUAL = 0.1
"""Both parameters, where the other one varies."""
SWEPT = ("Accuracy", "AP", "Precision", "Recall")
LOCALISED = ("AP", "Precision", "Recall")
"""Measures whose floors are drawn."""


def swept(scale: Scale) -> dict[str, tuple[float, ...]]:
    """Return the points of Figure 7: of each parameter, the other one being `USUAL`."""
    if scale.name == "smoke":  # Table VI's trainings and one at each far end
        return {"gamma_max": (0.0, USUAL, GAMMAS[-1]), "xi": (0.0, USUAL, THRESHOLDS[-1])}
    return {"gamma_max": GAMMAS, "xi": THRESHOLDS}


def _setting(parameter: str, value: float) -> str:
    """Return what Table VI calls a point of the sweep."""
    both = {"gamma_max": USUAL, "xi": USUAL} | {parameter: value}
    return ", ".join(f"{name} {at:g}" for name, at in both.items())


def sweep_cells(scale: Scale) -> tuple[Cell, ...]:
    """Return the cells of Figure 7; those of Table VI are among them, with the same trainings.

    Raises:
        InputError: the scale is not made for this figure.
    """
    scale.check("figure7")
    cells = {}
    for parameter, values in swept(scale).items():
        for backbone in (VGG, RESNET):
            base = paper_recipe("tiny-imagenet", BACKBONES[backbone])
            for value in values:
                both = {"gamma_max": USUAL, "threshold": USUAL}
                both["gamma_max" if parameter == "gamma_max" else "threshold"] = value
                recipe = scale.recipe(replace(base, **both))  # type: ignore[arg-type]
                labels = (backbone, _setting(parameter, value))
                for column in SWEPT:
                    paper = _printed(column, labels)
                    cells[labels, column] = Cell(labels, column, paper, MEASURES[column], recipe)
    return tuple(cells.values())


def _printed(column: str, labels: tuple[str, ...]) -> float | None:
    """Return the paper's figure of a point, which Table VI has for some of them."""
    try:
        return PAPER_TABLES["table6"].value(column, *labels)
    except KeyError:
        return None


def sweep_panels(reproduction: Reproduction, cells: Sequence[Cell]) -> list[Panel]:
    """Return Figure 7's eight pairs of axes with what is measured so far."""
    from loss_attention.paper.figures_curves import Panel, Point

    by_place = {(cell.labels, cell.column): cell for cell in cells}

    def point(backbone: str, parameter: str, value: float, column: str) -> Point:
        cell = by_place[(backbone, _setting(parameter, value)), column]
        result = reproduction.result(cell)
        if result is None:
            return Point(value, paper=cell.paper)
        floors = result.floors if column in LOCALISED else {}
        return Point(value, result.mean, result.deviation, cell.paper, floors)

    return [
        Panel(
            parameter,
            column,
            {
                backbone: tuple(point(backbone, parameter, value, column) for value in values)
                for backbone in (VGG, RESNET)
            },
        )
        for parameter, values in swept(reproduction.scale).items()
        for column in SWEPT
    ]


def figure7(reproduction: Reproduction, cells: Sequence[Cell]) -> tuple[Drawing, str]:
    """Return the figure with what is measured so far, and its caption."""
    from loss_attention.paper.figures_curves import draw_curves

    caption = (
        "Figure 7. The effect of gamma_max (a to d, xi = 0.1) and of the threshold xi (e to h, "
        "gamma_max = 0.1) on Loss-Attention (convolutional): accuracy, box AP, patch precision and "
        "patch recall, mean over seeds, bars the sample deviation. gamma_max is drawn linearly up "
        "to 0.1 and logarithmically above. Hollow marks: the paper's figures on Tiny ImageNet, of "
        "which it prints those of Table VI; the other points are our choice. Grey and thin lines: "
        f"what constant answers score. {_measured(reproduction, cells)}"
    )
    return draw_curves(sweep_panels(reproduction, cells), caption), caption


def _measured(reproduction: Reproduction, cells: Sequence[Cell]) -> str:
    """Say what the curves are of, and how much of it is there."""
    recipes = {training_key(cell.recipe): cell.recipe for cell in cells if cell.recipe}
    records = {key: reproduction.ledger.seeds(key) for key in recipes}
    found = [of_one for of_one in records.values() if of_one]
    data = data_words(found[0][0]) if found else next(iter(recipes.values())).data
    missing = len(records) - len(found)
    absent = f" Missing, as not measured yet: {missing} of {len(records)} trainings."
    counts = [len(of_one) for of_one in found]
    return facts(reproduction.scale, data, seed_words(counts)) + (absent if missing else "")
