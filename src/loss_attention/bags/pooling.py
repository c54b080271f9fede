"""The ways of weighing the instances of a bag, by name.

Each gives a bag's decision as a sum over instances, so that each has exact evidence. What an
instance says by itself (`scores`) is computed wherever the instance is; how much it counts beside
the others (`weights`) needs the few numbers of all of them. So a bag of any size is decided on
exactly, a part of its instances at a time.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from loss_attention.attention import patch_weights, real_part
from loss_attention.errors import unknown_name
from loss_attention.heads.patches import (
    ATTENTION_UNITS,
    AttentionPooling,
    MeanPooling,
    softmax_over,
)

Weights = Float[Tensor, "B M"] | Float[Tensor, "B M K"]


class Pooling(nn.Module):
    """How much each instance of a bag counts; without scores, the class vectors alone say it."""

    def scores(self, features: Float[Tensor, "S D"]) -> Float[Tensor, " S"] | None:  # noqa: ARG002
        """Return a number for each instance, from its features alone; None: there is none."""
        return None

    @abstractmethod
    def weights(
        self,
        logits: Float[Tensor, "B M K"],
        scores: Float[Tensor, "B M"] | None,
        mask: Bool[Tensor, "B M"] | None,
    ) -> Weights:
        """Return the weight of each instance of each bag, or one for each class.

        Non-negative, 0 where the mask is False, and with a sum of 1 over the instances.
        """


class Mean(Pooling):
    """Every instance counts alike."""

    def __init__(self) -> None:
        super().__init__()
        self.uniform = MeanPooling()

    def weights(
        self,
        logits: Float[Tensor, "B M K"],
        scores: Float[Tensor, "B M"] | None,  # noqa: ARG002
        mask: Bool[Tensor, "B M"] | None,
    ) -> Weights:
        """Return 1/M."""
        weights: Tensor = self.uniform(logits, logits, mask)
        return weights


class Attention(Pooling):
    """Attention pooling, plain or gated (Ilse et al. 2018, Eqs. 7 to 9).

    Args:
        channels: D, features of an instance where it is weighed.
        gated: with the sigmoid gate.
    """

    def __init__(self, channels: int, *, gated: bool) -> None:
        super().__init__()
        self.attention = AttentionPooling(channels, ATTENTION_UNITS, gated=gated)

    def scores(self, features: Float[Tensor, "S D"]) -> Float[Tensor, " S"]:
        """Return what the softmax is taken of."""
        return self.attention.scores(features)

    def weights(
        self,
        logits: Float[Tensor, "B M K"],  # noqa: ARG002
        scores: Float[Tensor, "B M"] | None,
        mask: Bool[Tensor, "B M"] | None,
    ) -> Weights:
        """Return the softmax over the instances."""
        assert scores is not None
        return softmax_over(scores, mask)


class LossAttention(Pooling):
    """The paper's weights: the length of each class vector (Shi et al. 2021, Eq. 5).

    Args:
        threshold: xi; see `attention.patch_weights`.
    """

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def weights(
        self,
        logits: Float[Tensor, "B M K"],
        scores: Float[Tensor, "B M"] | None,  # noqa: ARG002
        mask: Bool[Tensor, "B M"] | None,
    ) -> Weights:
        """Return Eq. 5's weights."""
        return patch_weights(logits, self.threshold, mask)


class ExponentialLossAttention(Pooling):
    """The first form of loss-based attention: `sum_k exp(p_mk)` (Shi et al., AAAI 2020)."""

    def weights(
        self,
        logits: Float[Tensor, "B M K"],
        scores: Float[Tensor, "B M"] | None,  # noqa: ARG002
        mask: Bool[Tensor, "B M"] | None,
    ) -> Weights:
        """Return the softmax over the instances of `log sum_k exp(p_mk)`."""
        return softmax_over(torch.logsumexp(real_part(logits, mask), dim=2), mask)


class OfClasses(Pooling):
    """Weights of each class by what instances say to it alone.

    Args:
        positive: the class that a bag of two classes is searched for, by whose weights both are
            decided; None: each class has weights of its own.
    """

    def __init__(self, positive: int | None) -> None:
        super().__init__()
        self.positive = positive

    def weights(
        self,
        logits: Float[Tensor, "B M K"],
        scores: Float[Tensor, "B M"] | None,  # noqa: ARG002
        mask: Bool[Tensor, "B M"] | None,
    ) -> Weights:
        """Return those of the positive class, or of all."""
        real = real_part(logits, mask)
        if self.positive is None:
            return self.of_each(real, mask)
        return self.of_each(real[:, :, self.positive, None], mask).squeeze(2)

    @abstractmethod
    def of_each(
        self, real: Float[Tensor, "B M k"], mask: Bool[Tensor, "B M"] | None
    ) -> Float[Tensor, "B M k"]:
        """Return the weights of some classes, from logits that are 0 where they are masked."""


class PositiveEvidence(OfClasses):
    """Weights from what speaks for a class alone, `relu(p_mk)`: nothing outvotes it.

    The decision on a class is `sum_m p_mk^2 / sum_m p_mk` over the instances that speak for it, so
    that an instance which speaks against it takes nothing away while another speaks for it. Where
    none does, all count alike.
    """

    def of_each(
        self, real: Float[Tensor, "B M k"], mask: Bool[Tensor, "B M"] | None
    ) -> Float[Tensor, "B M k"]:
        """Return the positive parts over their sum."""
        positive = torch.relu(real)
        total = positive.sum(dim=1, keepdim=True)
        some = torch.ones_like(positive) if mask is None else mask.to(positive).unsqueeze(2)
        uniform = (some / some.sum(dim=1, keepdim=True)).expand_as(positive)
        return torch.where(total > 0, positive / total.where(total > 0, 1.0), uniform)


class Max(OfClasses):
    """The one instance that speaks most for a class decides on it (mi-Net, Wang et al. 2018)."""

    def of_each(
        self, real: Float[Tensor, "B M k"], mask: Bool[Tensor, "B M"] | None
    ) -> Float[Tensor, "B M k"]:
        """Return 1 for that instance and 0 for all others."""
        if mask is not None:
            real = real.masked_fill(~mask.unsqueeze(2), -torch.inf)
        return torch.zeros_like(real).scatter_(1, real.argmax(dim=1, keepdim=True), 1.0)


@dataclass(frozen=True)
class PoolingEntry:
    """A way of weighing instances.

    Attributes:
        build: from the width of the weighed features, the threshold and the positive class.
        summary: what it does, in a line.
        centred: patch logits are centred unless told otherwise; see `attention.centred`.
        regularised: trained with the patch regulariser, Eq. 9 or 10, unless told otherwise.
        additive: instances are classified after they were weighed (Javed et al. 2022).
        has_threshold: `threshold` has a meaning.
    """

    build: Callable[[int, float, int | None], Pooling]
    summary: str
    centred: bool = False
    regularised: bool = False
    additive: bool = False
    has_threshold: bool = False


POOLINGS: dict[str, PoolingEntry] = {
    "mean": PoolingEntry(lambda *_: Mean(), "every instance counts alike", centred=True),
    "max": PoolingEntry(
        lambda _width, _threshold, positive: Max(positive),
        "the one instance that speaks most for a class",
        centred=True,
    ),
    "attention": PoolingEntry(
        lambda width, *_: Attention(width, gated=False), "attention (Ilse et al. 2018)"
    ),
    "gated-attention": PoolingEntry(
        lambda width, *_: Attention(width, gated=True), "gated attention (Ilse et al. 2018)"
    ),
    "additive": PoolingEntry(
        lambda width, *_: Attention(width, gated=False),
        "attention before the classifier (Javed et al. 2022)",
        additive=True,
    ),
    "loss-attention": PoolingEntry(
        lambda _width, threshold, _positive: LossAttention(threshold),
        "class vectors by their length, centred",
        centred=True,
        regularised=True,
        has_threshold=True,
    ),
    "loss-attention-uncentred": PoolingEntry(
        lambda _width, threshold, _positive: LossAttention(threshold),
        "class vectors by their length, as printed (Shi et al. 2021)",
        regularised=True,
        has_threshold=True,
    ),
    "loss-attention-2020": PoolingEntry(
        lambda *_: ExponentialLossAttention(),
        "class vectors by the sum of their exponentials (Shi et al. 2020)",
        regularised=True,
    ),
    "positive-evidence": PoolingEntry(
        lambda _width, _threshold, positive: PositiveEvidence(positive),
        "what speaks for a class, by how much",
        centred=True,
        regularised=True,
    ),
}
"""All ways of weighing instances, by the name that the command takes."""


def pooling_named(name: str) -> PoolingEntry:
    """Return the way of weighing of a name.

    Raises:
        InputError: there is none of that name; the nearest is named.
    """
    if name not in POOLINGS:
        raise unknown_name("pooling", name, POOLINGS)
    return POOLINGS[name]
