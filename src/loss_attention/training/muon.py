"""Muon: convolutions learn in orthogonal steps (Jordan et al. 2024), for runs of few epochs.

torch.optim.Muon takes matrices only, and its weight decay stands for what is exact here: where a
norm follows a convolution, the length of its weights has no effect but on the relative size of a
step, and can be held constant. A convolution that no norm is known to follow has a length that
matters, and is left to SGD.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from loss_attention.backbones.layered import neighbours

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
    # In the order of the modules: a checkpoint knows the parameters of an optimiser by their place.
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


def orthogonalised(update: Float[Tensor, "D *rest"]) -> Float[Tensor, "D *rest"]:
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
