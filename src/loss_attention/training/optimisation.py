"""What a recipe minimises and how: objective, learning rates, optimisers, averaged weights.

The paper gives Adam's procedure for 200 epochs: up to the highest rate over 80 epochs, 40 at it, 40
at a tenth, 40 at a hundredth, and beta2 0.99, then 0.999 from epoch 80. Other lengths take the same
fractions. It prints the ramp as e^(-||1 - T||^2), the formula that it prints for gamma too, and
both are read with the 5 of Laine & Aila, whose procedure this is (see `losses.ramp_up`); unlike
gamma, the rate is not 0 in epoch 0. The paper is silent on the rest: T moves on epoch by epoch
here, as gamma's does. All of these are pure functions of where a run stands.

Muon (Jordan et al. 2024) is for runs of few epochs: convolutions learn in orthogonal steps.
torch.optim.Muon takes matrices only, and its weight decay stands for what is exact here: where a
norm follows a convolution, the length of its weights has no effect but on the relative size of a
step, and can be held constant. A convolution that no norm is known to follow has a length that
matters, and is left to SGD.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from loss_attention.backbones.layers import neighbours
from loss_attention.errors import InputError
from loss_attention.heads import head_entry
from loss_attention.losses import Loss, balanced_weights, loss_for, prior_logits, ramp_up
from loss_attention.model import PatchClassifier
from loss_attention.training.processes import summed
from loss_attention.training.rates import parameter_groups
from loss_attention.training.recipe import Recipe


def make_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """Return the recipe's optimiser of what is not frozen; its rates are set anew at each step.

    Raises:
        InputError: see `parameter_groups`.
    """
    if recipe.optimizer in ("adam", "adamw"):
        kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
        return kind(
            parameter_groups(recipe, model),
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
        parameter_groups(recipe, model),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
        fused=True,
    )


def recipe_loss(recipe: Recipe, labels: Shaped[Tensor, N * K], classes: int) -> Loss:
    """Return what the recipe minimises.

    Args:
        recipe: what to compute.
        labels: of the training images, which class weights follow from; where they are is where
            the loss is computed.
        classes: how many there are.

    Raises:
        InputError: label smoothing or class weights of a loss that has none, equally frequent
            classes where an image may have several, or an objective that data or head cannot have.
    """
    multi_label, objective = labels.ndim == 2, head_entry(recipe.head).objective
    if recipe.objective == "one-vs-rest":
        if objective == "margin":
            raise InputError(
                f"`objective` one-vs-rest is not for the head {recipe.head}: the margin loss that "
                "it is trained with decides each class by itself already"
            )
        objective = "one-vs-rest"
    if recipe.balance == "sampling" and multi_label:
        raise InputError(
            "`balance` sampling is for one label an image; where there are several take weights"
        )
    weighted = recipe.balance == "weights"
    return loss_for(
        objective,
        multi_label=multi_label,
        label_smoothing=recipe.label_smoothing,
        weights=balanced_weights(labels, classes).to(labels.device) if weighted else None,
    )


@torch.no_grad()
def begin_at_prior(recipe: Recipe, model: PatchClassifier, labels: Int[Tensor, " N"]) -> None:
    """Set the classifier's bias to what is known of the classes before any image is seen.

    Args:
        recipe: says whether the classes are balanced, in the loss or by how often they are shown.
        model: one whose classes are each decided by themselves, one-vs-rest.
        labels: of the training images.
    """
    classifier = model.head.get_submodule("classifier")  # of VGG's baseline, several layers
    *_, last = (layer for layer in classifier.modules() if isinstance(layer, nn.Linear))
    balanced = recipe.balance != "none"
    last.bias.copy_(prior_logits(labels, model.spec.num_classes, balanced=balanced))


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


# Jordan's quintic: steepest at 0 among those that keep singular values near 1 once they are there.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
MOMENTUM = 0.6


class Muon(torch.optim.SGD):
    """Muon for the weights of convolutions that a norm follows, SGD for everything else.

    A convolution's weights `(D, C, k, k)` are taken as a matrix of D rows. A step follows the
    orthogonal matrix nearest to the momentum, so that every direction in it counts the same, and
    the matrix is brought back to the length sqrt(D) before each step: one unit a row. Weights that
    are all zero have no length to bring back, and at a rate of 0 nothing moves.

    Args:
        model: whose parameters to train. Frozen ones are left out.
        lr: rate of both.
        momentum: of SGD; Muon's own is 0.6, in Nesterov's form.
        nesterov: the form of SGD's momentum.
        weight_decay: of SGD; Muon needs none, as it holds the length of the weights.
    """

    def __init__(
        self, model: nn.Module, lr: float, *, momentum: float, nesterov: bool, weight_decay: float
    ) -> None:
        filters = [weight for weight in scale_free_filters(model) if weight.requires_grad]
        taken = {id(weight) for weight in filters}
        rest = [p for p in model.parameters() if p.requires_grad and id(p) not in taken]
        plain: dict[str, Any] = {"params": filters, "orthogonal": True, "momentum": 0.0}
        super().__init__(
            [
                plain | {"nesterov": False, "weight_decay": 0.0},
                {"params": rest, "orthogonal": False},
            ],
            lr=lr,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step; gradients are replaced by what was followed."""
        for group in self.param_groups:
            if not group["orthogonal"]:
                continue
            for weight in group["params"]:
                if weight.grad is not None:
                    if group["lr"] > 0:
                        _bring_back(weight)
                    look_ahead = self._look_ahead(weight, weight.grad)
                    weight.grad.copy_(orthogonalised(look_ahead))
        super().step(closure)

    def _look_ahead(self, weight: Tensor, gradient: Tensor) -> Tensor:
        """Return Nesterov's look ahead, after adding the gradient to what is remembered."""
        state = self.state[weight]
        if "muon" not in state:
            state["muon"] = torch.zeros_like(weight)
        remembered: Tensor = state["muon"].mul_(MOMENTUM).add_(gradient)
        return gradient.add(remembered, alpha=MOMENTUM)


def scale_free_filters(model: nn.Module) -> list[nn.Parameter]:
    """Return the weights of convolutions whose length has no effect, as a norm follows them."""
    followed = {
        id(first) for first, second in neighbours(model) if _takes_away_length(first, second)
    }
    users = Counter(
        id(parameter)
        for module in model.modules()
        for parameter in module.parameters(recurse=False)
    )
    # In the order of the modules: a checkpoint knows the parameters of an optimiser by number.
    weights = (
        dict(module.named_parameters(recurse=False)).get("weight")
        for module in model.modules()
        if id(module) in followed
    )
    return [weight for weight in weights if weight is not None and users[id(weight)] == 1]


def _takes_away_length(first: nn.Module, second: nn.Module) -> bool:
    """Whether a norm follows a convolution and makes nothing of the length of its weights."""
    if not isinstance(first, nn.Conv2d):
        return False
    if isinstance(second, nn.BatchNorm2d | nn.SyncBatchNorm | nn.InstanceNorm2d):
        return True
    # A bias is not taken away in a group of channels, and would weigh more or less beside weights.
    return isinstance(second, nn.GroupNorm) and first.bias is None


def _bring_back(weight: Tensor) -> None:
    """Give weights of D rows the length sqrt(D); all but zero ones stay as they are."""
    factor = len(weight) ** 0.5 / weight.norm()
    weight.mul_(factor.where(factor.isfinite(), 1.0))


def orthogonalised(update: Float[Tensor, D * rest]) -> Float[Tensor, D * rest]:
    """Return nearly the orthogonal matrix U V^T of an update U S V^T, of D rows.

    Jordan's Newton-Schulz iteration `X <- a X + b (X X^T) X + c (X X^T)^2 X`, which brings singular
    values to between 0.7 and 1.2. Every step multiplies X by a polynomial of the same symmetric
    matrix, so the product of the polynomials is computed first, from that small matrix alone, and
    applied once. It is float32: errors in a Gram matrix of bf16 would make eigenvalues negative,
    which the iteration blows up.
    """
    a, b, c = COEFFICIENTS
    matrix = update.flatten(1).float()
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    gram, identity = wide @ wide.T, torch.eye(len(wide), device=wide.device)
    product = identity
    for _ in range(ITERATIONS):
        polynomial = a * identity + b * gram + c * (gram @ gram)
        product = polynomial @ product
        gram = polynomial @ gram @ polynomial
    result: Tensor = product @ wide
    result = result if matrix.shape[0] <= matrix.shape[1] else result.T
    return result.reshape(update.shape).to(update.dtype)


class WeightAverage:
    """Averages weights, and batch norm's running statistics with them.

    torch's `AveragedModel` asks the device at each update whether it is the first, which makes the
    host wait for a GPU.

    Args:
        model: begins the average; it is copied.
        decay: how much of the average stays at each step, in [0, 1), once there were many.

    Attributes:
        model: the averaged network.
    """

    def __init__(self, model: PatchClassifier, decay: float) -> None:
        self.model = copy.deepcopy(model)
        self._decay = decay

    @torch.no_grad()
    def update(self, model: PatchClassifier, steps: int) -> None:
        """Add the weights after a step, the first of a run being 0.

        Early ones are soon forgotten: the decay is at most `(1 + steps) / (10 + steps)`, as in
        TensorFlow's ExponentialMovingAverage.
        """
        decay = min(self._decay, (1 + steps) / (10 + steps))
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average(_floats(self.model), _floats(model), steps)


def _floats(model: nn.Module) -> list[Tensor]:
    tensors = chain(model.parameters(), model.buffers())
    return [tensor for tensor in tensors if tensor.is_floating_point()]


def keep_statistics(backbone: nn.Module) -> None:
    """Have a backbone's batch norm normalise by its running statistics, which stay as they are.

    That is its evaluation mode, which `train()` ends; its weights are trained all the same.
    """
    for module in backbone.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


class RunningStatistics:
    """Batch norm's running statistics, which each process has of its own images.

    Args:
        fabric: has the processes.
        models: whose statistics.
    """

    def __init__(self, fabric: Fabric, *models: nn.Module) -> None:
        self._fabric, self._models = fabric, models

    @property
    def tensors(self) -> list[Tensor]:
        """Return those of this process."""
        return [
            statistic
            for model in self._models
            for module in model.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            for statistic in (module.running_mean, module.running_var)
            if statistic is not None
        ]

    def average(self) -> None:
        """Average them over processes, so that all end an epoch the same.

        In float64, where the mean of equal ones is exactly that: once more changes nothing.
        """
        if self._fabric.world_size > 1:
            for statistic in self.tensors:
                total = summed(self._fabric, statistic.double())
                statistic.copy_(total / self._fabric.world_size)

    def gathered(self) -> Tensor | None:
        """Return those of all processes, a row each; None where there is but one process."""
        statistics = self.tensors
        if self._fabric.world_size == 1 or not statistics:
            return None
        mine = torch.cat([one.flatten() for one in statistics])
        rows = mine.new_zeros(self._fabric.world_size, len(mine))
        rows[self._fabric.global_rank] = mine
        return summed(self._fabric, rows)

    def restore(self, rows: Tensor) -> None:
        """Take this process's row of what `gathered` returned; of other processes, their mean."""
        statistics = self.tensors
        same = len(rows) == self._fabric.world_size
        mine = rows[self._fabric.global_rank] if same else rows.double().mean(dim=0)
        mine = mine.to(rows.dtype).to(self._fabric.device)
        parts = torch.split(mine, [one.numel() for one in statistics])
        for statistic, part in zip(statistics, parts, strict=True):
            statistic.copy_(part.view_as(statistic))
