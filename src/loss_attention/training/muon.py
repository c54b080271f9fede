"""Muon: convolutions learn in orthogonal steps (Jordan et al. 2024), for runs of few epochs.

torch.optim.Muon takes matrices only, and its weight decay stands for what is exact here: behind a
convolution comes batch norm, so that the length of its weights has no effect but on the relative
size of a step, and can be held constant.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

# Jordan's quintic: steepest at 0 among those that keep singular values near 1 once they are there.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
MOMENTUM = 0.6


class Muon(torch.optim.SGD):
    """Muon for the weights of convolutions, SGD for everything else.

    A convolution's weights `(D, C, k, k)` are taken as a matrix of D rows. A step follows the
    orthogonal matrix nearest to the momentum, so that every direction in it counts the same, and
    the matrix is brought back to the length sqrt(D) before each step: one unit a row.

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
        filters = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]
        filters = [weight for weight in filters if weight.requires_grad]
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
                    weight.mul_(len(weight) ** 0.5 / weight.norm())
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
