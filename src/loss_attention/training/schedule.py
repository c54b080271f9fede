"""Learning rate, Adam's betas and the regulariser's weight: pure functions of where a run stands.

The paper gives Adam's procedure for 200 epochs: up to the highest rate over 80 epochs, 40 at it, 40
at a tenth, 40 at a hundredth, and beta2 0.99, then 0.999 from epoch 80. Other lengths take the same
fractions. It prints the ramp as e^(-||1 - T||^2), the formula that it prints for gamma too, and
both are read with the 5 of Laine & Aila, whose procedure this is (see `losses.ramp_up`); unlike
gamma, the rate is not 0 in epoch 0. The paper is silent on the rest: T moves on epoch by epoch
here, as gamma's does.
"""

from __future__ import annotations

import math

from loss_attention.losses import ramp_up
from loss_attention.training.recipe import Recipe

ADAM_RAMP, ADAM_FIRST_FALL, ADAM_SECOND_FALL = 0.4, 0.6, 0.8
BETA2_RAMPING, BETA2 = 0.99, 0.999


def learning_rate(recipe: Recipe, step: int, total_steps: int) -> float:
    """Return the learning rate of a step.

    `steps` is the paper's: constant, ten times less from 1/2 of the run, a hundred times less
    from 3/4 of it (epochs 100 and 150 of 200). `paper-adam` is described above. `one-cycle` rises
    in a line over the warm-up and falls along half a cosine to 0.

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
    if recipe.schedule == "paper-adam":
        return recipe.learning_rate * _adam_factor(_epoch_part(recipe, step, total_steps))
    rising = max(1, round(recipe.warmup * total_steps))
    if step < rising:
        return recipe.learning_rate * (step + 1) / rising
    falling = (step + 1 - rising) / max(1, total_steps - rising)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, falling)))


def adam_betas(recipe: Recipe, step: int, total_steps: int) -> tuple[float, float]:
    """Return Adam's beta1 and beta2 at a step; beta1 is the recipe's momentum.

    Adam corrects its second moment by 1 - beta2^steps as if beta2 had always been what it is now.
    Where a short run changes beta2 after few steps, the correction grows and the steps after the
    change are smaller for a while; after the paper's 80 epochs nothing is left of it.

    Example:
        >>> recipe = Recipe("x", "digits", epochs=5, optimizer="adam", schedule="paper-adam")
        >>> [adam_betas(recipe, step, 10)[1] for step in (0, 3, 4, 9)]
        [0.99, 0.99, 0.999, 0.999]
    """
    ramping = recipe.schedule == "paper-adam" and _epoch_part(recipe, step, total_steps) < ADAM_RAMP
    return recipe.momentum, BETA2_RAMPING if ramping else BETA2


def _epoch_part(recipe: Recipe, step: int, total_steps: int) -> float:
    """Return the part of the run that was over when this step's epoch began."""
    return step * recipe.epochs // total_steps / recipe.epochs


def _adam_factor(part: float) -> float:
    if part < ADAM_RAMP:
        return math.exp(-5.0 * (1.0 - part / ADAM_RAMP) ** 2)
    return 10.0 ** -((part >= ADAM_FIRST_FALL) + (part >= ADAM_SECOND_FALL))


def regulariser_weight(recipe: Recipe, epoch: int, *, by_default: bool) -> float:
    """Return gamma for an epoch counted from 0: 0 for heads that train without the regulariser.

    Args:
        recipe: gives `gamma_max`, the part of the epochs that the ramp takes, and `regularise`.
        epoch: counted from 0.
        by_default: whether the recipe's head has the regulariser unless told otherwise.
    """
    wanted = by_default if recipe.regularise is None else recipe.regularise
    return ramp_up(epoch, recipe.gamma_epochs * recipe.epochs, recipe.gamma_max) if wanted else 0.0
