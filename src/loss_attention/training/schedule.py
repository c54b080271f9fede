"""The learning rate and the regulariser's weight, as pure functions of where a run stands."""

from __future__ import annotations

import math

from loss_attention.losses import ramp_up
from loss_attention.training.recipe import Recipe


def learning_rate(recipe: Recipe, step: int, total_steps: int) -> float:
    """Return the learning rate of a step.

    `steps` is the paper's: constant, ten times less from 1/2 of the run, a hundred times less
    from 3/4 of it (epochs 100 and 150 of 200). `one-cycle` rises in a line over the warm-up and
    falls along half a cosine to 0.

    Args:
        recipe: gives the schedule, its highest rate and its warm-up.
        step: counted from 0, below `total_steps`.
        total_steps: steps of the whole run.

    Example:
        >>> recipe = Recipe("x", "digits", learning_rate=0.1)
        >>> [round(learning_rate(recipe, step, 8), 4) for step in (0, 3, 4, 6)]
        [0.1, 0.1, 0.01, 0.001]
    """
    part = step / total_steps
    if recipe.schedule == "steps":
        return recipe.learning_rate * 10.0 ** -((part >= 0.5) + (part >= 0.75))
    rising = max(1, round(recipe.warmup * total_steps))
    if step < rising:
        return recipe.learning_rate * (step + 1) / rising
    falling = (step + 1 - rising) / max(1, total_steps - rising)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, falling)))


def regulariser_weight(recipe: Recipe, epoch: int, *, by_default: bool) -> float:
    """Return gamma for an epoch counted from 0: 0 for heads that train without the regulariser.

    Args:
        recipe: gives `gamma_max`, the part of the epochs that the ramp takes, and `regularise`.
        epoch: counted from 0.
        by_default: whether the recipe's head has the regulariser unless told otherwise.
    """
    wanted = by_default if recipe.regularise is None else recipe.regularise
    return ramp_up(epoch, recipe.gamma_epochs * recipe.epochs, recipe.gamma_max) if wanted else 0.0
