"""What a table or figure is made of: cells, and the training that each of them measures."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from loss_attention.errors import InputError
from loss_attention.training.recipe import Recipe

PARAMETERS = "parameters"
"""The measure that needs no training: millions of parameters at the paper's size."""
EPOCH_SECONDS = "epoch_seconds"
"""The measure that the training itself takes: mean seconds of an epoch, without validation."""
NO_TRACE: dict[str, object] = {
    "image_size": None,
    "resize": "squash",
    "classes": (),
    "masks": False,
    "skip_broken": False,
    "in_channels": 3,
    "limit_images": None,
    "crop_padding": 4,
    "horizontal_flip": True,
    "alternate_flips": False,
    "cutout": 0,
    "validation_fraction": 0.1,
    "backbone": None,
    "head": None,
    "width": 1.0,
    "strided_layers": (),
    "patch_kernel": 9,
    "patch_stride": 4,
    "threshold": 0.1,
    "gamma_max": 0.1,
    "gamma_epochs": 0.4,
    "regularise": None,
    "label_smoothing": 0.0,
    "epochs": 200,
    "batch_size": 128,
    "learning_rate": 0.1,
    "optimizer": "sgd",
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 0.0005,
    "average_weights": 0.0,
    "schedule": "steps",
    "warmup": 0.25,
    "precision": "auto",
}
"""By field of a recipe, the value that leaves no trace in the key of a training.

Frozen: these are the defaults of version 0.1, and stay so when a default changes. A new field has
here what earlier versions did without it. Every backbone and head leaves a trace.
"""


@dataclass(frozen=True)
class Cell:
    """One figure of the paper, and how we measure it.

    Attributes:
        labels: what its row is called, from the outermost group to the method.
        column: what its column is called.
        paper: the paper's figure; None where it prints none.
        measure: the name of a measure of `evaluation.evaluate`, `PARAMETERS` or `EPOCH_SECONDS`.
        recipe: what to train, at the scale in question, any seed; None for a network of others,
            which the paper cites and we do not build.
        factor: from our unit to the paper's, 100 for a percentage.
        weights: the trained weights are needed, not the figure alone.
    """

    labels: tuple[str, ...]
    column: str
    paper: float | None
    measure: str
    recipe: Recipe | None
    factor: float = 100.0
    weights: bool = False

    @property
    def path(self) -> str:
        """Return labels and column in a line, which `--only` patterns are held against."""
        return "/".join((*self.labels, self.column))

    @property
    def trained(self) -> bool:
        """Whether measuring it takes a training."""
        return self.recipe is not None and self.measure != PARAMETERS


def training_key(recipe: Recipe) -> str:
    """Return what identifies a training: a readable name and a hash of what decides its figures.

    Recipes that differ in name and seed alone are the same training, so tables share it. What
    `NO_TRACE` names leaves none, so that neither a new field nor a new default changes a key. The
    data counts by its name and not by where it lies.

    Example:
        >>> training_key(Recipe("x", "digits", head="mean", seed=3))
        'digits-resnet18-mean-bd089bd8'
    """
    values = asdict(recipe)
    decisive = {name: values[name] for name, none in NO_TRACE.items() if values[name] != none}
    decisive["data"] = recipe.data
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:8]
    return f"{recipe.data}-{recipe.backbone}-{recipe.head}-{digest}".replace("/", "_")


def matching(cells: Sequence[Cell], pattern: str | None) -> list[Cell]:
    """Return the cells whose path has every word of a pattern in it, in any case and order.

    A word that ends in a digit ends there: CIFAR-10 does not mean CIFAR-100.

    Args:
        cells: all cells of the targets in question.
        pattern: words, divided by spaces; None: every cell.

    Raises:
        InputError: the pattern matches no cell.
    """
    words = [
        re.compile(re.escape(word) + (r"(?!\d)" if word[-1].isdigit() else ""), re.IGNORECASE)
        for word in (pattern or "").split()
    ]
    found = [cell for cell in cells if all(word.search(cell.path) for word in words)]
    if pattern is not None and not found:
        raise InputError(
            f"--only {pattern!r} matches none of {len(cells)} cells, {cells[0].path!r} for example"
        )
    return found
