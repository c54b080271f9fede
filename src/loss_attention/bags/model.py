"""A classifier of bags whose decision is, exactly, a sum over their instances.

Hidden layers and one linear classifier give each instance its class vector; a pooling of the
registry says how much each counts (`pooling.py`). Bags of a batch lie one after the other, so that
nothing is computed for padding; only the few numbers that instances are weighed by are padded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from loss_attention.attention import centred, check_mask, full_precision, pool_patches, real_part
from loss_attention.bags.dropout import Dropout
from loss_attention.bags.pooling import Pooling, pooling_named
from loss_attention.errors import InputError
from loss_attention.prediction import AdditivePrediction, ClassWeightedPrediction, PatchPrediction

HIDDEN = (256,)
THRESHOLD = 0.1
AT_ONCE = 8192
"""Instances that are looked at together where a bag is decided on in parts."""


class BagClassifier(nn.Module):
    """Hidden layers, a class vector for each instance, and a pooling that adds them up.

    Args:
        in_features: D, features of an instance.
        num_classes: K, at least 2; a bag of one label out of two is decided on by a softmax of two.
        pooling: a name of `POOLINGS`.
        hidden: features after each hidden layer of an instance; none at all: it is classified as
            it is.
        dropout: fraction of the features that training drops after each hidden layer.
        threshold: xi of the poolings that have one.
        centre: take from each instance's logits their mean over the classes; None: as the pooling
            has it, where the classes compete.
        multi_label: a bag may have several classes, each decided on by itself.
        positive: of two classes, the one that a bag is searched for: `max` and `positive-evidence`
            ask which instances speak for it. None: the second.
        class_names: of the K classes.

    Attributes:
        mean, std: of each feature, taken away and divided by first; shape `(D,)`.

    Raises:
        InputError: a pooling that there is not, fewer than two classes, sizes below 1, a dropout
            outside [0, 1), a threshold outside [0, 1], or a class that is not there.

    Example:
        >>> torch.manual_seed(0)
        <torch._C.Generator object at ...>
        >>> model = BagClassifier(4, 2, pooling="loss-attention").eval()
        >>> prediction = model(torch.randn(3, 5, 4))
        >>> prediction.logits.shape, prediction.evidence.shape
        (torch.Size([3, 2]), torch.Size([3, 5, 2]))
        >>> torch.allclose(prediction.evidence.sum(dim=1), prediction.logits, atol=1e-6)
        True
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        pooling: str = "positive-evidence",
        hidden: Sequence[int] = HIDDEN,
        dropout: float = 0.0,
        threshold: float = THRESHOLD,
        centre: bool | None = None,
        multi_label: bool = False,
        positive: int | None = None,
        class_names: Sequence[str] = (),
    ) -> None:
        super().__init__()
        entry = pooling_named(pooling)
        _check(in_features, num_classes, hidden, dropout, threshold, positive)
        if centre and multi_label:
            raise InputError("`centre` is for classes that compete, not for several labels a bag")
        two = num_classes == 2 and not multi_label
        if positive is not None and not two:
            raise InputError("`positive` is for two classes of which a bag has one")
        self.in_features, self.num_classes, self.pooling_name = in_features, num_classes, pooling
        self.settings: dict[str, Any] = {
            "in_features": in_features,
            "num_classes": num_classes,
            "pooling": pooling,
            "hidden": tuple(hidden),
            "dropout": dropout,
            "threshold": threshold,
            "centre": centre,
            "multi_label": multi_label,
            "positive": positive,
            "class_names": tuple(class_names) or tuple(map(str, range(num_classes))),
        }
        self.multi_label = multi_label
        self.class_names: tuple[str, ...] = self.settings["class_names"]
        self.centre = (entry.centred if centre is None else centre) and not multi_label
        self.additive, self.regularised = entry.additive, entry.regularised
        self.selection = 0.0 if entry.has_threshold else threshold
        layers: list[nn.Module] = []
        width = in_features
        for channels in hidden:
            layers += [nn.Linear(width, channels), nn.ReLU()]
            layers += [Dropout(dropout)] if dropout else []
            width = channels
        self.layers = nn.Sequential(*layers)
        self.pooling: Pooling = entry.build(
            width, threshold, (1 if positive is None else positive) if two else None
        )
        self.classifier: nn.Module = nn.Linear(width, num_classes)
        if self.additive:  # else it would be attention pooling
            self.classifier = nn.Sequential(nn.Linear(width, width), nn.ReLU(), self.classifier)
        self.register_buffer("mean", torch.zeros(in_features))
        self.register_buffer("std", torch.ones(in_features))

    @property
    def positive(self) -> int | None:
        """Of two classes of which a bag has one, that which it is searched for; else None."""
        if self.num_classes != 2 or self.multi_label:
            return None
        given: int | None = self.settings["positive"]
        return 1 if given is None else given

    @property
    def competing(self) -> bool:
        """Whether the classes compete under a softmax."""
        return not self.multi_label

    def set_normalisation(self, mean: Float[Tensor, " D"], std: Float[Tensor, " D"]) -> None:
        """Take this mean from each feature, and divide by this standard deviation."""
        if not self.mean.shape == mean.shape == std.shape:
            raise InputError(f"mean and std must have {self.in_features} features")
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(
        self, features: Float[Tensor, "B M D"], mask: Bool[Tensor, "B M"] | None = None
    ) -> PatchPrediction:
        """Return the prediction for bags that were padded to the same size.

        Args:
            features: of each instance.
            mask: True where an instance is real; what a masked one holds takes no part. None: all.

        Raises:
            ValueError: a mask of another shape or type, or a bag without a single real instance.
        """
        if mask is None:
            return self.dense(features)
        check_mask(mask, features.shape[:2])
        logits, scores = self.instances(features[mask])
        return self._pooled(
            lambda values: _spread(values, mask), features[mask], logits, scores, mask
        )

    def dense(
        self, features: Float[Tensor, "B M D"], mask: Bool[Tensor, "B M"] | None = None
    ) -> PatchPrediction:
        """Return what `forward` does, with masked instances computed too and then left out.

        No size depends on what the mask holds, so that it can be traced.
        """
        flat = features.flatten(0, 1)
        logits, scores = self.instances(flat)
        return self._pooled(
            lambda values: values.reshape(*features.shape[:2], *values.shape[1:]),
            flat,
            logits,
            scores,
            mask,
            dense=True,
        )

    def decide(self, features: Float[Tensor, "S D"], sizes: Int[Tensor, " B"]) -> PatchPrediction:
        """Return the prediction for bags that lie one after the other, with `sizes` instances.

        Its rows are as long as the largest bag; its mask says which instances there are.
        """
        logits, scores = self.instances(features)
        lengths = sizes.tolist()
        longest = max(lengths)
        if min(lengths) == longest:
            return self._pooled(
                lambda values: values.reshape(len(lengths), longest, *values.shape[1:]),
                features,
                logits,
                scores,
                None,
            )
        mask = torch.arange(longest) < sizes.cpu().unsqueeze(1)
        # One copy for all bags: of one for each, the gradient alone would take longer than this.
        places = mask.flatten().nonzero().squeeze(1).to(features.device)

        def padded(values: Tensor) -> Tensor:
            rows = values.new_zeros((mask.numel(), *values.shape[1:]))
            return rows.index_copy(0, places, values).view(*mask.shape, *values.shape[1:])

        return self._pooled(padded, features, logits, scores, mask.to(features.device))

    def instances(
        self, features: Float[Tensor, "S D"]
    ) -> tuple[Float[Tensor, "S K"] | None, Float[Tensor, " S"] | None]:
        """Return the class vector of each instance, and what it is weighed by beside.

        Either is None where there is none: additive pooling classifies what was weighed.
        """
        hidden = self._hidden(features)
        scores = self.pooling.scores(hidden)
        if self.additive:
            return None, scores
        return self._class_vectors(hidden), scores

    @torch.no_grad()
    def predict(
        self,
        read: Callable[[int, int], Float[Tensor, "M D"]],
        size: int,
        at_once: int = AT_ONCE,
    ) -> PatchPrediction:
        """Return the prediction for one bag of any size, a part of its instances at a time.

        It is the prediction for all of them at once, up to rounding.

        Args:
            read: returns the features of the instances from a number up to another.
            size: instances of the bag.
            at_once: instances of a part.
        """
        parts = [(at, min(at + at_once, size)) for at in range(0, size, at_once)]
        found = [self.instances(read(*part)) for part in parts]
        logits, scores = (
            None if kind[0] is None else torch.cat([one for one in kind if one is not None])
            for kind in zip(*found, strict=True)
        )
        if self.additive:
            assert scores is not None
            weights = self.pooling.weights(scores[None, :, None], scores[None], None)[0]
            logits = torch.cat(
                [
                    self._class_vectors(weights[a:b, None] * self._hidden(read(a, b)))
                    for a, b in parts
                ]
            )
            return self._added(logits[None], weights[None], None)
        assert logits is not None
        return self.weighed(logits[None], None if scores is None else scores[None], None)

    def _hidden(self, features: Float[Tensor, "S D"]) -> Float[Tensor, "S h"]:
        # Large: one copy is made of them, whether they come in 16 bits or not.
        if features.dtype == self.mean.dtype:
            values = features - self.mean
        else:
            values = features.to(self.mean.dtype).sub_(self.mean)
        hidden: Tensor = self.layers(values.div_(self.std))
        return hidden

    def _class_vectors(self, hidden: Float[Tensor, "S h"]) -> Float[Tensor, "S K"]:
        with torch.autocast(hidden.device.type, enabled=False):
            logits = full_precision(self.classifier(hidden.to(self.mean.dtype)))
        return centred(logits) if self.centre else logits

    def _pooled(
        self,
        padded: Callable[[Tensor], Tensor],
        features: Float[Tensor, "S D"],
        logits: Float[Tensor, "S K"] | None,
        scores: Float[Tensor, " S"] | None,
        mask: Bool[Tensor, "B M"] | None,
        *,
        dense: bool = False,  # masked instances have been computed too
    ) -> PatchPrediction:
        of_bags = None if scores is None else padded(scores)
        if logits is not None:
            return self.weighed(padded(logits), of_bags, mask)
        assert of_bags is not None
        weights = self.pooling.weights(of_bags.unsqueeze(2), of_bags, mask)
        flat = weights.flatten() if mask is None or dense else weights[mask]
        vectors = self._class_vectors(flat.unsqueeze(1) * self._hidden(features))
        return self._added(padded(vectors), weights, mask)

    def weighed(
        self,
        logits: Float[Tensor, "B M K"],
        scores: Float[Tensor, "B M"] | None,
        mask: Bool[Tensor, "B M"] | None,
    ) -> PatchPrediction:
        """Return the prediction from what `instances` says of each, padded; not of the additive."""
        weights = self.pooling.weights(logits, scores, mask)
        if weights.ndim == 2:
            whole = pool_patches(logits, weights, mask)
            return PatchPrediction(whole, logits, weights, None, self.selection, mask=mask)
        whole = (weights * real_part(logits, mask)).sum(dim=1)
        first = whole.argmax(dim=1)
        of_first = weights.gather(2, first[:, None, None].expand(-1, logits.shape[1], 1)).squeeze(2)
        return ClassWeightedPrediction(
            whole, logits, of_first, None, self.selection, weights, mask=mask
        )

    def _added(
        self,
        logits: Float[Tensor, "B M K"],
        weights: Float[Tensor, "B M"],
        mask: Bool[Tensor, "B M"] | None,
    ) -> PatchPrediction:
        whole = real_part(logits, mask).sum(dim=1)
        return AdditivePrediction(whole, logits, weights, None, self.selection, mask=mask)


def _spread(values: Float[Tensor, "S *K"], mask: Bool[Tensor, "B M"]) -> Float[Tensor, "B M *K"]:
    """Return values where the mask is True, in their order, and zeros elsewhere."""
    spread = values.new_zeros((*mask.shape, *values.shape[1:]))
    spread[mask] = values
    return spread


def _check(
    in_features: int,
    num_classes: int,
    hidden: Sequence[int],
    dropout: float,
    threshold: float,
    positive: int | None,
) -> None:
    """Raise `InputError` for what cannot be built."""
    if in_features < 1 or any(channels < 1 for channels in hidden):
        raise InputError("`in_features` and `hidden` must be at least 1")
    if num_classes < 2:
        raise InputError(f"`num_classes` must be at least 2, got {num_classes}")
    if not 0 <= dropout < 1:
        raise InputError(f"`dropout` must be in [0, 1), got {dropout}")
    if not 0 <= threshold <= 1:
        raise InputError(f"`threshold` must be in [0, 1], got {threshold}")
    if positive is not None and positive not in range(num_classes):
        raise InputError(f"`positive` must be in 0..{num_classes - 1}, got {positive}")
