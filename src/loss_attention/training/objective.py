"""What a recipe minimises, and the optimiser that does it."""

from __future__ import annotations

import torch
from torch import nn

from loss_attention.heads.catalog import HEADS
from loss_attention.losses import Loss, loss_for
from loss_attention.training.muon import Muon
from loss_attention.training.recipe import Recipe


def make_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """Return the recipe's optimiser; its rates are set anew at each step."""
    if recipe.optimizer == "adam":
        return torch.optim.Adam(
            model.parameters(),
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
    if recipe.optimizer == "muon":
        return Muon(
            model,
            recipe.learning_rate,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
        )
    return torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
        fused=True,
    )


def recipe_loss(recipe: Recipe, *, multi_label: bool) -> Loss:
    """Return what the recipe minimises.

    Raises:
        InputError: label smoothing of a loss that has none.
    """
    objective = HEADS[recipe.head].objective
    return loss_for(objective, multi_label=multi_label, label_smoothing=recipe.label_smoothing)
