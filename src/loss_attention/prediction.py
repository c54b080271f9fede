"""What a forward pass returns: the logits and everything that they were made of.

Predictions are dataclasses and pytrees: `torch.export` and `torch.compile` return them, and
`tree_map` reaches the tensors in them. Which kind a model returns is its head's doing, decided when
it was built. An image's prediction has a grid, a bag's has none and may have a mask.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, TypeVar, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils import _pytree as pytree

from loss_attention.attention import per_patch, real_part
from loss_attention.errors import InputError
from loss_attention.geometry import PatchGrid

Kind = TypeVar("Kind")
Reduced = TypeVar("Reduced")
AnyPrediction = TypeVar("AnyPrediction", bound="ImagePrediction")

MapName = Literal["margin", "contrast", "evidence"]
MAPS: tuple[MapName, ...] = get_args(MapName)
"""What the patches of a model with exact evidence can show of a class; see `map_at`."""

VALUES_AT_ONCE = 2**24
"""Of all patches for all classes, where each patch is looked at by itself: 64 MiB of float32."""


def as_pytree(kind: type[Kind]) -> type[Kind]:
    """Have `torch` find, move and return the fields of a dataclass."""
    pytree.register_dataclass(kind, serialized_type_name=f"{kind.__module__}.{kind.__name__}")
    return kind


# Predictions are not frozen: Fabric rebuilds a module's outputs in full precision, which needs
# settable fields.


@as_pytree
@dataclass
class ImagePrediction:
    """The prediction of a network without patches: logits and nothing to point at."""

    logits: Float[Tensor, "B K"]


class WeightedPrediction(ImagePrediction):
    """The prediction of any network that weighs patches, or the instances of a bag.

    It names what its kinds share; each is a dataclass that lists these fields in its own order.

    Attributes:
        patch_weights: `alpha_m`, shape `(B, M)`, float32; non-negative, each row sums to 1.
        grid: where the patches lie in the input image; None for a bag, which is not an image.
        selection: a patch is selected when its weight is greater than `selection / M`.
        mask: True where a patch is real, for bags of unequal size; None: all are. A masked patch
            may hold anything, NaN included: it counts for nothing here, neither in M.
    """

    patch_weights: Float[Tensor, "B M"]
    grid: PatchGrid | None
    selection: float
    mask: Bool[Tensor, "B M"] | None = None

    @property
    @abstractmethod
    def patch_scores(self) -> Float[Tensor, "B M K"]:
        """What each patch by itself says to each class: its own class is that of the highest.

        Of several labels, it says yes to those above 0.
        """

    @property
    def image_grid(self) -> PatchGrid:
        """The grid, for what lies in an image.

        Raises:
            ValueError: there is none, as for a bag.
        """
        if self.grid is None:
            raise InputError("this prediction is of a bag: its patches lie nowhere in an image")
        return self.grid

    @property
    def selected(self) -> Bool[Tensor, "B M"]:
        """True for the patches that count as chosen by the network."""
        return self.real_weights > per_patch(self.selection, self.patch_weights, self.mask)

    @property
    def real_weights(self) -> Float[Tensor, "B M"]:
        """The patch weights, with 0 for masked patches."""
        return real_part(self.patch_weights, self.mask)


@as_pytree
@dataclass
class PatchPrediction(WeightedPrediction):
    """The prediction of a network whose answer is exactly a sum over patches: their evidence.

    Attributes:
        logits: the image's class vector, shape `(B, K)`, float32.
        patch_logits: `p_m`, the class vector of each patch, shape `(B, M, K)`, float32.
        patch_weights: `alpha_m`, shape `(B, M)`, float32; non-negative, each row sums to 1.
        grid: where the patches lie in the input image, or None.
        selection: a patch is selected when its weight is greater than `selection / M`.
        mask: True where a patch is real; None: all are. See `WeightedPrediction`.
    """

    patch_logits: Float[Tensor, "B M K"]
    patch_weights: Float[Tensor, "B M"]
    grid: PatchGrid | None
    selection: float
    mask: Bool[Tensor, "B M"] | None = field(default=None, kw_only=True)

    @property
    def patch_scores(self) -> Float[Tensor, "B M K"]:
        """The patch logits, with zeros for masked patches."""
        return real_part(self.patch_logits, self.mask)

    @property
    def evidence(self) -> Float[Tensor, "B M K"]:
        """`alpha_m * p_m`, what each patch adds to each class; sums over M to `logits`."""
        return self._evidence_of_patches(slice(None))

    def _evidence_of_patches(self, some: slice) -> Float[Tensor, "B m K"]:
        """Return the evidence of some of the patches for all classes."""
        mask = None if self.mask is None else self.mask[:, some]
        scores = real_part(self.patch_logits[:, some], mask)
        return real_part(self.patch_weights[:, some], mask).unsqueeze(-1) * scores

    def evidence_at(
        self, image: Int[Tensor, " n"], classes: Int[Tensor, " n"]
    ) -> Float[Tensor, "n M"]:
        """Return the evidence of all patches of an image for a class, for n such pairs."""
        return self.real_weights[image] * self.patch_scores[image, :, classes]

    def evidence_of(self, target: Int[Tensor, " B"]) -> Float[Tensor, "B M"]:
        """Return the evidence of each patch for one class of each image."""
        return self.evidence_at(torch.arange(target.shape[0], device=target.device), target)

    @property
    def margin(self) -> Float[Tensor, "B M K"]:
        """`alpha_m * (p_mk - max over j != k of p_mj)`: evidence that no other class disputes.

        The least of a patch's evidence for k against any rival. Its sum over M is at most
        `z_k - max over j != k of z_j`, and just that where all patches have the same closest
        rival. Of capsules, their evidence takes the place of `alpha_m p_m`. Of one class alone, it
        is the evidence.
        """
        return _less_rivals(self.evidence)  # which is a new tensor

    def margin_at(
        self, image: Int[Tensor, " n"], classes: Int[Tensor, " n"]
    ) -> Float[Tensor, "n M"]:
        """Return the margin of all patches of an image for a class, for n such pairs.

        Nothing as large as all patches for all classes is made on the way.
        """
        evidence = self.evidence_at(image, classes)
        if self.logits.shape[1] == 1:
            return evidence
        first, second, leader = self._rivals()
        leads = leader[image] == classes.unsqueeze(1)
        return evidence - torch.where(leads, second[image], first[image])

    def _rivals(self) -> Rivals:
        """Return the closest rivals of each patch by its evidence."""
        first, second, leader = zip(*self._each(closest_rivals), strict=True)
        return Rivals(*(torch.cat(some, dim=1) for some in (first, second, leader)))

    def _each(self, reduce: Callable[[Float[Tensor, "B m K"]], Reduced]) -> list[Reduced]:
        """Return what is made of the evidence for all classes, some patches at a time."""
        if torch.compiler.is_compiling():  # a program for any size has no loop of so many rounds
            return [reduce(self.evidence)]
        batch, patches, width = self.patch_logits.shape
        step = max(1, VALUES_AT_ONCE // max(1, batch * width))
        return [
            reduce(self._evidence_of_patches(slice(start, start + step)))
            for start in range(0, patches, step)
        ]

    def margin_of(self, target: Int[Tensor, " B"]) -> Float[Tensor, "B M"]:
        """Return the margin of each patch for one class of each image."""
        return self.margin_at(torch.arange(target.shape[0], device=target.device), target)

    def contrast_at(
        self, image: Int[Tensor, " n"], classes: Int[Tensor, " n"]
    ) -> Float[Tensor, "n M"]:
        """Return the evidence for a class less the mean of that for all classes, for n pairs.

        It sums to the logit less the mean of all logits. Nothing as large as all patches for all
        classes is made on the way.
        """
        mean = torch.cat(self._each(lambda some: some.mean(dim=2)), dim=1)
        return self.evidence_at(image, classes) - mean[image]

    def map_at(
        self, name: MapName, image: Int[Tensor, " n"], classes: Int[Tensor, " n"]
    ) -> Float[Tensor, "n M"]:
        """Return what a map shows of all patches of an image for a class, for n such pairs.

        Of the margin, its positive part.
        """
        if name == "margin":
            return self.margin_at(image, classes).clamp(min=0)
        return (self.contrast_at if name == "contrast" else self.evidence_at)(image, classes)

    def map_of(self, name: MapName, target: Int[Tensor, " B"]) -> Float[Tensor, "B M"]:
        """Return what a map shows of each patch for one class of each image."""
        return self.map_at(name, torch.arange(target.shape[0], device=target.device), target)


EvidencePrediction = PatchPrediction
"""The name of version 0.1 for any prediction with evidence."""


@as_pytree
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

    def _evidence_of_patches(self, some: slice) -> Float[Tensor, "B m K"]:
        """Return `sum over c of alpha_cm p_cm`; sums over M to `logits` (Eqs. 6d and 6e)."""
        mask = None if self.mask is None else self.mask.unsqueeze(1)[..., some]
        weights, logits = self.capsule_weights[..., some], self.capsule_logits[:, :, some]
        return torch.einsum("bcm,bcmk->bmk", real_part(weights, mask), real_part(logits, mask))

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
        return real_part(self.capsule_weights, mask), real_part(self.capsule_logits, mask)


@as_pytree
@dataclass
class ClassWeightedPrediction(PatchPrediction):
    """The prediction of a pooling that weighs each instance once for each class.

    Attributes:
        class_weights: `alpha_mk`, shape `(B, M, K)`, float32; non-negative, for each class its sum
            over M is 1. The evidence is `alpha_mk p_mk`. `patch_weights` are those of the class
            with the highest logit.
    """

    class_weights: Float[Tensor, "B M K"]

    def _evidence_of_patches(self, some: slice) -> Float[Tensor, "B m K"]:
        """Return `alpha_mk p_mk`; sums over M to `logits`."""
        mask = None if self.mask is None else self.mask[:, some]
        scores = real_part(self.patch_logits[:, some], mask)
        return real_part(self.class_weights[:, some], mask) * scores

    def evidence_at(
        self, image: Int[Tensor, " n"], classes: Int[Tensor, " n"]
    ) -> Float[Tensor, "n M"]:
        """Return the evidence of all instances of a bag for a class, for n such pairs."""
        weights = real_part(self.class_weights, self.mask)
        return weights[image, :, classes] * self.patch_scores[image, :, classes]


@as_pytree
@dataclass
class AdditivePrediction(PatchPrediction):
    """The prediction of additive pooling, which weighs instances first and classifies them then.

    What an instance adds to each class is its class vector itself, `p_m = f(alpha_m h_m)`: the
    weight is in it already (Javed et al. 2022).
    """

    def _evidence_of_patches(self, some: slice) -> Float[Tensor, "B m K"]:
        """Return `p_m`; sums over M to `logits`."""
        mask = None if self.mask is None else self.mask[:, some]
        return real_part(self.patch_logits[:, some], mask)

    def evidence_at(
        self, image: Int[Tensor, " n"], classes: Int[Tensor, " n"]
    ) -> Float[Tensor, "n M"]:
        """Return the evidence of all instances of a bag for a class, for n such pairs."""
        return self.patch_scores[image, :, classes]


@as_pytree
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
            them, the fraction of each class in the sum of `|s_k|^2`, is the probability where an
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
    grid: PatchGrid | None
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


class Rivals(NamedTuple):
    """The two greatest of the values of K classes, and whose the first is."""

    first: Float[Tensor, "*P"]
    second: Float[Tensor, "*P"]
    leader: Int[Tensor, "*P"]


def closest_rivals(values: Float[Tensor, "*P K"]) -> Rivals:
    """Return what is enough to know the greatest value of any other class, for every class."""
    top, whose = values.topk(2, dim=-1)
    return Rivals(top[..., 0], top[..., 1], whose[..., 0])


def margins(values: Float[Tensor, "*P K"]) -> Float[Tensor, "*P K"]:
    """Return the value of each class less the greatest of any other; of one class, as it is.

    Example:
        >>> margins(torch.tensor([[5.0, 2.0, 4.0], [1.0, 1.0, 0.0]]))
        tensor([[ 1., -3., -1.],
                [ 0.,  0., -1.]])
    """
    return _less_rivals(values.clone())


def _less_rivals(values: Float[Tensor, "*P K"]) -> Float[Tensor, "*P K"]:
    """Subtract, in place: of very many classes there is no room for more than one such tensor."""
    if values.shape[-1] == 1:
        return values
    first, second, leader = (one.unsqueeze(-1) for one in closest_rivals(values))
    return values.sub_(first).scatter_(-1, leader, first - second)


def probabilities_of(logits: Float[Tensor, "*N K"], *, competing: bool) -> Float[Tensor, "*N K"]:
    """Return what logits say as probabilities.

    Args:
        logits: of images.
        competing: the classes compete under a softmax, and their probabilities sum to 1. Else each
            is decided by itself, and its probability is the sigmoid of its logit.
    """
    return logits.softmax(dim=-1) if competing else logits.sigmoid()


def on_cpu(prediction: AnyPrediction) -> AnyPrediction:
    """Return a prediction of the same kind whose tensors are on the CPU."""
    moved: AnyPrediction = pytree.tree_map_only(Tensor, Tensor.cpu, prediction)
    return moved


def of_class(values: Float[Tensor, "B M K"], target: Int[Tensor, " B"]) -> Float[Tensor, "B M"]:
    """Return the values of one class of each image."""
    index = target[:, None, None].expand(-1, values.shape[1], 1)
    return values.gather(2, index).squeeze(2)
