"""Patch logits too many to hold: computed from features and classifier, a chunk at a time.

Weights, image logits and losses need little of the class vector of a patch: its length, the
logarithm of its softmax at one class, its largest entry. So each chunk of patches is classified,
reduced to that, and forgotten; its logits are computed again when gradients pass. All of it is
exact, and the image's logits are the classifier's answer to the weighted sum of the features, to
which the weighted sum of patch logits is equal because the classifier is linear.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

MOST_HELD = 2**25
"""Of more patch logits (`B * M * K`, with capsules `B * C * M * K`) none are held.

So many take 128 MiB in float32, and training keeps several tensors of their size.
"""
AT_A_TIME = 2**23
"""Logits of a chunk; never less than those of one patch of each image."""


@dataclass
class LogitsOnDemand:
    """`W h + share * b` for each of M features of B images, computed when asked for.

    Attributes:
        features: h, shape `(B, M, D)`.
        bias_share: how much of the bias each has, shape `(B, M)`: 1 for a patch's logits, its
            weight for its evidence.
        weight: W of the classifier, shape `(K, D)`.
        bias: b of the classifier, shape `(K,)`.
    """

    features: Float[Tensor, "B M D"]
    bias_share: Float[Tensor, "B M"]
    weight: Float[Tensor, "K D"]
    bias: Float[Tensor, " K"]

    def each(
        self, function: Callable[[Float[Tensor, "B m K"]], Shaped[Tensor, "B m"]]
    ) -> Shaped[Tensor, "B M"]:
        """Return what a function makes of the logits of each patch, some patches at a time.

        Args:
            function: from the logits of some patches of every image to a value for each patch.
                It is called again in the backward pass, and has to be the same then.
        """

        def of_chunk(features: Tensor, bias_share: Tensor) -> Tensor:
            return function(self._logits(features, bias_share))

        size = max(1, AT_A_TIME // max(1, len(self.features) * len(self.weight)))
        parts = (torch.split(whole, size, dim=1) for whole in (self.features, self.bias_share))
        return torch.cat(
            [
                checkpoint(of_chunk, *chunk, use_reentrant=False, preserve_rng_state=False)
                for chunk in zip(*parts, strict=True)
            ],
            dim=1,
        )

    def of(self, image: Int[Tensor, " n"], classes: Int[Tensor, " n"]) -> Float[Tensor, "n M"]:
        """Return the logits of all patches of an image for a class, for n such pairs."""
        size = max(1, AT_A_TIME // max(1, self.features[0:1].numel()))
        return torch.cat(
            [
                torch.einsum("nmd,nd->nm", self.features[i], self.weight[k])
                + self.bias_share[i] * self.bias[k].unsqueeze(1)
                for i, k in zip(torch.split(image, size), torch.split(classes, size), strict=True)
            ]
        )

    def whole(self) -> Float[Tensor, "B M K"]:
        """Return all of the logits, in as much memory as they take."""
        return self._logits(self.features, self.bias_share)

    def total(self) -> Float[Tensor, "B K"]:
        """Return their sum over the patches."""
        shares = self.bias_share.sum(dim=1, keepdim=True)
        return self._logits(self.features.sum(dim=1, keepdim=True), shares).squeeze(1)

    def mean(self) -> Float[Tensor, "B M"]:
        """Return their mean over the classes."""
        means = LogitsOnDemand(
            self.features,
            self.bias_share,
            self.weight.mean(dim=0, keepdim=True),
            self.bias.mean(dim=0, keepdim=True),
        )
        return means.whole().squeeze(2)

    def weighted(self, weights: Float[Tensor, "B M"]) -> LogitsOnDemand:
        """Return the logits of each patch times its weight."""
        features = self.features * weights.unsqueeze(2)
        return LogitsOnDemand(features, self.bias_share * weights, self.weight, self.bias)

    def real_part(self, mask: Bool[Tensor, "B M"] | None) -> LogitsOnDemand:
        """Return the same with logits of 0 where a patch is masked, whatever its features hold."""
        if mask is None:
            return self
        features = self.features.masked_fill(~mask.unsqueeze(2), 0.0)
        bias_share = self.bias_share.masked_fill(~mask, 0.0)
        return LogitsOnDemand(features, bias_share, self.weight, self.bias)

    def cpu(self) -> LogitsOnDemand:
        """Return the same on the CPU."""
        return LogitsOnDemand(
            self.features.cpu(), self.bias_share.cpu(), self.weight.cpu(), self.bias.cpu()
        )

    def _logits(
        self, features: Float[Tensor, "B m D"], bias_share: Float[Tensor, "B m"]
    ) -> Float[Tensor, "B m K"]:
        # A loss may be computed under autocast; the evidence has to add up all the same.
        with torch.autocast(features.device.type, enabled=False):
            products = F.linear(features, self.weight)
            return products.addcmul_(bias_share.unsqueeze(2), self.bias)


PatchLogits: TypeAlias = Float[Tensor, "B M K"] | LogitsOnDemand
"""The class vector of each patch, held or on demand."""


def too_many(logits: int) -> bool:
    """Say whether so many patch logits are computed on demand rather than held."""
    return logits > MOST_HELD


def each_patch(
    patch_logits: PatchLogits, function: Callable[[Float[Tensor, "B m K"]], Shaped[Tensor, "B m"]]
) -> Shaped[Tensor, "B M"]:
    """Return what a function makes of the logits of each patch; see `LogitsOnDemand.each`."""
    if isinstance(patch_logits, LogitsOnDemand):
        return patch_logits.each(function)
    return function(patch_logits)
