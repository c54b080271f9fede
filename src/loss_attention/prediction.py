"""What a forward pass returns: the logits and everything that they were made of."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from loss_attention.attention import check_mask, per_patch, real_part
from loss_attention.geometry import PatchGrid
from loss_attention.many_classes import LogitsOnDemand

# All of these are not frozen: Fabric rebuilds a module's outputs in full precision, which needs
# settable fields.


@dataclass
class ImagePrediction:
    """The prediction of a network without patches: logits and nothing to point at."""

    logits: Float[Tensor, "B K"]


class WeightedPrediction(ImagePrediction):
    """The prediction of any network that weighs patches.

    It names what its kinds share; each is a dataclass that lists these fields in its own order.

    Attributes:
        patch_weights: `alpha_m`, shape `(B, M)`, float32; non-negative, each row sums to 1.
        grid: where the patches lie in the input image.
        selection: a patch is selected when its weight is greater than `selection / M`.
        mask: True where a patch is real, for bags of unequal size; None: all are. A masked patch
            may hold anything, NaN included: it counts for nothing here, neither in M.
    """

    patch_weights: Float[Tensor, "B M"]
    grid: PatchGrid
    selection: float
    mask: Bool[Tensor, "B M"] | None = None

    @property
    @abstractmethod
    def patch_scores(self) -> Float[Tensor, "B M K"]:
        """What each patch by itself says to each class: its own class is that of the highest.

        Of several labels, it says yes to those above 0.
        """

    def each_patch(
        self, function: Callable[[Float[Tensor, "B m K"]], Shaped[Tensor, "B m"]]
    ) -> Shaped[Tensor, "B M"]:
        """Return what a function makes of the scores of each patch.

        Args:
            function: from the scores of some or all patches of every image to a value for each of
                these patches; where the scores are not held, it sees some patches at a time.
        """
        return function(self.patch_scores)

    @property
    def selected(self) -> Bool[Tensor, "B M"]:
        """True for the patches that count as chosen by the network."""
        return self.real_weights > per_patch(self.selection, self.patch_weights, self.mask)

    @property
    def real_weights(self) -> Float[Tensor, "B M"]:
        """The patch weights, with 0 for masked patches."""
        return _real_weights(self.patch_weights, self.mask)


class EvidencePrediction(WeightedPrediction):
    """The prediction of any network whose answer is exactly a sum over patches.

    Its kinds have the patch logits `p_m` as `patch_logits`, shape `(B, M, K)`, which are also their
    patch scores.
    """

    @property
    @abstractmethod
    def evidence(self) -> Float[Tensor, "B M K"]:
        """What each patch adds to each class; sums over M to `logits`."""

    @property
    def mean_evidence(self) -> Float[Tensor, "B M"]:
        """What each patch adds to the mean of all logits."""
        return self.evidence.mean(dim=2)

    @abstractmethod
    def evidence_at(
        self, image: Int[Tensor, " n"], classes: Int[Tensor, " n"]
    ) -> Float[Tensor, "n M"]:
        """Return the evidence of all patches of an image for a class, for n such pairs."""

    def evidence_of(self, target: Int[Tensor, " B"]) -> Float[Tensor, "B M"]:
        """Return the evidence of each patch for one class of each image."""
        return self.evidence_at(torch.arange(len(target), device=target.device), target)


@dataclass
class PatchPrediction(EvidencePrediction):
    """The prediction of a patch network, with the evidence that adds up to it.

    Attributes:
        logits: the image's class vector, shape `(B, K)`, float32.
        patch_logits: `p_m`, the class vector of each patch, shape `(B, M, K)`, float32.
        patch_weights: `alpha_m`, shape `(B, M)`, float32; non-negative, each row sums to 1.
        grid: where the patches lie in the input image.
        selection: a patch is selected when its weight is greater than `selection / M`.
        mask: True where a patch is real; None: all are. See `WeightedPrediction`.
    """

    patch_logits: Float[Tensor, "B M K"]
    patch_weights: Float[Tensor, "B M"]
    grid: PatchGrid
    selection: float
    mask: Bool[Tensor, "B M"] | None = field(default=None, kw_only=True)

    @property
    def patch_scores(self) -> Float[Tensor, "B M K"]:
        """The patch logits, with zeros for masked patches."""
        return real_part(self.patch_logits, self.mask)

    @property
    def evidence(self) -> Float[Tensor, "B M K"]:
        """`alpha_m * p_m`, what each patch adds to each class; sums over M to `logits`."""
        return self.real_weights.unsqueeze(-1) * self.patch_scores

    def evidence_at(
        self, image: Int[Tensor, " n"], classes: Int[Tensor, " n"]
    ) -> Float[Tensor, "n M"]:
        """Return the evidence of all patches of an image for a class, for n such pairs."""
        return self.real_weights[image] * self.patch_scores[image, :, classes]


@dataclass
class CapsulePrediction(PatchPrediction):
    """The prediction of a capsule network, each patch of which has C capsules (Eq. 6).

    `patch_logits` are the sum of a patch's capsule logits over its channels. The evidence is
    `sum over c of alpha_cm p_cm`, which is not patch weight times patch logits: Eq. 6b subtracts
    the threshold from the weight of a patch and Eq. 6c does not from that of its capsules, so the
    latter do not sum to the former.

    Attributes:
        capsule_logits: `p_cm`, the class vector of each capsule, shape `(B, C, M, K)`, float32.
        capsule_weights: `alpha_cm` of Eq. 6c, shape `(B, C, M)`, float32; non-negative, sums to 1
            for each image.
    """

    capsule_logits: Float[Tensor, "B C M K"]
    capsule_weights: Float[Tensor, "B C M"]

    @property
    def evidence(self) -> Float[Tensor, "B M K"]:
        """`sum over c of alpha_cm p_cm`; sums over M to `logits` (Eqs. 6d and 6e)."""
        return torch.einsum("bcm,bcmk->bmk", *self._of_capsules)

    def evidence_at(
        self, image: Int[Tensor, " n"], classes: Int[Tensor, " n"]
    ) -> Float[Tensor, "n M"]:
        """Return the evidence of all patches of an image for a class, for n such pairs."""
        weights, logits = self._of_capsules
        return (weights[image] * logits[image, :, :, classes]).sum(dim=1)

    @property
    def _of_capsules(self) -> tuple[Float[Tensor, "B C M"], Float[Tensor, "B C M K"]]:
        """Weights and logits of the capsules, with zeros for those of masked patches."""
        mask = None if self.mask is None else self.mask.unsqueeze(1)
        return _real_weights(self.capsule_weights, mask), real_part(self.capsule_logits, mask)


@dataclass
class ManyClassPrediction(EvidencePrediction):
    """The prediction of a patch network, with or without capsules, with too many patch logits.

    A head returns it where it would otherwise hold more than `many_classes.MOST_HELD` values. It
    answers what a `PatchPrediction` does, and computes the answer from the features and the
    classifier: `each_patch`, `evidence_at` and `mean_evidence` in bounded memory, also backwards,
    while `patch_logits` and `evidence` are as large as they are. The classifier's weights are
    referred to and not copied, so read it before the next step of an optimiser.

    Attributes:
        logits: the image's class vector, shape `(B, K)`, float32.
        lazy_patch_logits: `p_m`, or the sum over a patch's capsules `p_cm`.
        lazy_evidence: what each patch adds to each class; sums over M to `logits`.
        patch_weights: `alpha_m`, shape `(B, M)`, float32; non-negative, each row sums to 1.
        grid: where the patches lie in the input image.
        selection: a patch is selected when its weight is greater than `selection / M`.
        mask: True where a patch is real; None: all are. See `WeightedPrediction`.
    """

    lazy_patch_logits: LogitsOnDemand
    lazy_evidence: LogitsOnDemand
    patch_weights: Float[Tensor, "B M"]
    grid: PatchGrid
    selection: float
    mask: Bool[Tensor, "B M"] | None = field(default=None, kw_only=True)

    @property
    def patch_logits(self) -> Float[Tensor, "B M K"]:
        """All of the patch logits, computed now; zeros for masked patches."""
        return self.lazy_patch_logits.real_part(self.mask).whole()

    @property
    def patch_scores(self) -> Float[Tensor, "B M K"]:
        """The patch logits, computed now."""
        return self.patch_logits

    def each_patch(
        self, function: Callable[[Float[Tensor, "B m K"]], Shaped[Tensor, "B m"]]
    ) -> Shaped[Tensor, "B M"]:
        """Return what a function makes of the logits of each patch, some patches at a time."""
        return self.lazy_patch_logits.real_part(self.mask).each(function)

    @property
    def evidence(self) -> Float[Tensor, "B M K"]:
        """What each patch adds to each class, computed now; sums over M to `logits`."""
        return self.lazy_evidence.real_part(self.mask).whole()

    @property
    def mean_evidence(self) -> Float[Tensor, "B M"]:
        """What each patch adds to the mean of all logits, without the evidence for each."""
        return self.lazy_evidence.real_part(self.mask).mean()

    def evidence_at(
        self, image: Int[Tensor, " n"], classes: Int[Tensor, " n"]
    ) -> Float[Tensor, "n M"]:
        """Return the evidence of all patches of an image for a class, for n such pairs."""
        return self.lazy_evidence.real_part(self.mask).of(image, classes)


@dataclass
class RoutedPrediction(WeightedPrediction):
    """The prediction of capsules under dynamic routing (Sabour et al. 2017).

    It has no evidence: a class capsule is squashed, and what a patch did for its length depends on
    where all the others point, so no sum over patches gives what was decided on.

    Attributes:
        logits: `2 log |s_k|` of the input `s_k` to each class capsule, shape `(B, K)`, float32.
            Squashing makes that the log-odds of the capsule's length, so a sigmoid returns the
            length, which Sabour et al. read as the probability that the class is there; above 0
            is a length above 1/2, and the longest capsule has the highest logit. A softmax of
            them, the share of each class in the sum of `|s_k|^2`, is the probability where an
            image has one label.
        votes: what each patch's routed votes add to the input of each class capsule along its
            direction, `sum over c of c_cmk u_cmk . s_k / |s_k|`, shape `(B, M, K)`, float32; sums
            over M to `|s_k|`, as long as that direction is taken as given.
        class_weights: the last round's routing coefficients of each class, summed over the capsule
            channels of a patch and divided by their sum over patches, shape `(B, M, K)`, float32.
        patch_weights: those of the predicted class, shape `(B, M)`.
        grid: where the patches lie in the input image.
        selection: a patch is selected when its weight is greater than `selection / M`.
    """

    votes: Float[Tensor, "B M K"]
    class_weights: Float[Tensor, "B M K"]
    patch_weights: Float[Tensor, "B M"]
    grid: PatchGrid
    selection: float

    @property
    def patch_scores(self) -> Float[Tensor, "B M K"]:
        """The votes: coefficients times votes, along the direction of the class capsule.

        A patch's own class is the one whose capsule it lengthens most; a negative score shortens
        the capsule.
        """
        return self.votes

    @property
    def lengths(self) -> Float[Tensor, "B K"]:
        """The lengths of the class capsules, in [0, 1)."""
        return self.logits.sigmoid()

    def of_class(self, target: Int[Tensor, " B"]) -> RoutedPrediction:
        """Return the same prediction with the patch weights of another class for each image."""
        return replace(self, patch_weights=of_class(self.class_weights, target))


AnyPrediction = TypeVar("AnyPrediction", bound=ImagePrediction)


def on_cpu(prediction: AnyPrediction) -> AnyPrediction:
    """Return a prediction of the same kind whose tensors are on the CPU."""
    values = {field.name: getattr(prediction, field.name) for field in fields(prediction)}
    movable = (Tensor, LogitsOnDemand)
    moved: dict[str, Any] = {
        name: value.cpu() for name, value in values.items() if isinstance(value, movable)
    }
    return replace(prediction, **moved)


def of_class(values: Float[Tensor, "B M K"], target: Int[Tensor, " B"]) -> Float[Tensor, "B M"]:
    """Return the values of one class of each image."""
    index = target[:, None, None].expand(-1, values.shape[1], 1)
    return values.gather(2, index).squeeze(2)


def full_precision(values: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """Return float32 for anything less; float64 stays as it is."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def pool_patches(
    patch_logits: Float[Tensor, "B M K"],
    weights: Float[Tensor, "B M"],
    mask: Bool[Tensor, "B M"] | None = None,
) -> Float[Tensor, "B K"]:
    """Return the image logits `sum over m of alpha_m p_m` (Eqs. 5c and 5d).

    The classifier's bias is part of `p_m`; as the weights sum to 1, it comes through unchanged.

    Args:
        patch_logits: `p`, shape `(B, M, K)`.
        weights: `alpha`, shape `(B, M)`.
        mask: True where a patch is real; what a masked one holds takes no part. None: all are.

    Raises:
        ValueError: a mask of another shape or type, or a bag without a single real patch.
    """
    if mask is not None:
        check_mask(mask, weights.shape)
    weights, patch_logits = _real_weights(weights, mask), real_part(patch_logits, mask)
    return torch.einsum("bm,bmk->bk", weights, patch_logits)


def _real_weights(
    weights: Float[Tensor, "*N"], mask: Bool[Tensor, "*#N"] | None
) -> Float[Tensor, "*N"]:
    """Return weights with 0 for masked patches."""
    return weights if mask is None else weights.masked_fill(~mask, 0.0)
