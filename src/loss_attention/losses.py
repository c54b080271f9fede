"""The paper's objective: Eqs. 1 to 3 with the patch regulariser of Eqs. 9 and 10, and its ramp.

Gradients flow through the patch weights in the regulariser. Beside them stand one-vs-rest, Eqs. 3
and 10 where an image has one label, and the margin loss, which dynamic routing is trained with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, TypeGuard

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from loss_attention.errors import InputError
from loss_attention.prediction import ImagePrediction, PatchPrediction, of_class

MOST_WEIGHT = 20.0
"""Weights of the positive labels of a class are at most so large, and at least one part in so many:
beyond it, a few images would decide each step that they are in."""
PRESENT_MARGIN, ABSENT_MARGIN, ABSENT_WEIGHT = 0.9, 0.1, 0.5
"""Sabour et al.'s m+, m- and lambda."""

Objective = Literal["cross-entropy", "margin", "one-vs-rest"]
Loss = Callable[[ImagePrediction, Tensor, float], Tensor]
"""From a prediction, labels and gamma to a scalar."""


def single_label_loss(
    prediction: ImagePrediction,
    labels: Int[Tensor, " B"] | Float[Tensor, "B K"],
    gamma: float = 0.0,
    label_smoothing: float = 0.0,
    class_weights: Float[Tensor, " K"] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy of the image and, weighted, of its patches (Eqs. 1, 2 and 9).

    Eq. 9 with the paper's symbols: `logits` is z, `patch_logits` p, `patch_weights` alpha.

    With class weights w, an image of label y counts `w_y` times (a mixed one: the mean of those of
    its labels), its patches with it: the mean over the batch of `w_y (cross-entropy + gamma R)`. It
    is divided by the number of images and not, as torch's own, by the sum of their weights, so that
    a step may be divided into parts.

    Args:
        prediction: what the model returned for a batch of B images and K classes.
        labels: the class index of each image, shape `(B,)`, int64, in [0, K). Or, of mixed images,
            the fraction of each class, shape `(B, K)`, floating point, with a sum of 1: each class
            counts by its fraction, for the image and for its patches.
        gamma: weight of the patch regulariser, at least 0; see `ramp_up`.
        label_smoothing: part of the target, in [0, 1), that is spread evenly over all classes
            (Szegedy et al. 2016). In the image's cross-entropy alone: a patch may be indifferent.
        class_weights: of each class, see `balanced_weights`; None: all images count alike.

    Returns:
        The loss in nats, averaged over the batch.

    Raises:
        ValueError: labels of another shape or type, or outside [0, K) or [0, 1], or fractions with
            another sum; a negative gamma; gamma above 0 for a prediction without patch logits.
            The range of labels on a GPU is left to torch's own assertion there, because reading it
            would make the host wait at each step.

    Example:
        >>> import torch
        >>> from loss_attention.prediction import ImagePrediction
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> single_label_loss(ImagePrediction(logits), torch.tensor([0]))
        tensor(0.1269)
    """
    labels, weights = _of_images(prediction, labels, class_weights)
    mixed = labels.ndim == 2
    reduction = "mean" if weights is None else "none"
    loss = F.cross_entropy(
        prediction.logits, labels, label_smoothing=label_smoothing, reduction=reduction
    )
    loss = loss if weights is None else (weights * loss).mean()
    if _has_regulariser(prediction, gamma):
        scores = F.log_softmax(prediction.patch_scores, dim=2)
        of_label = (scores * labels[:, None]).sum(dim=2) if mixed else of_class(scores, labels)
        of_images = (prediction.real_weights * of_label).sum(dim=1)
        loss = loss - gamma * (of_images if weights is None else weights * of_images).mean()
    return loss


def multi_label_loss(
    prediction: ImagePrediction,
    labels: Shaped[Tensor, "B K"],
    gamma: float = 0.0,
    positive_weights: Float[Tensor, " K"] | None = None,
) -> Float[Tensor, ""]:
    """Binary cross-entropy of the image and, weighted, of its patches (Eqs. 3 and 10).

    Summed over classes and averaged over the batch. The regulariser asks each patch for the one
    positive label that suits it best; an image without a positive label adds none. With weights, a
    positive label counts as often as its class's says, and a patch as the label that suits it best.

    Args:
        prediction: what the model returned for a batch of B images and K classes.
        labels: 1 where the image has the class, else 0, or, of mixed images, the fraction with that
            class; shape `(B, K)`, any numeric or bool type. A class with a fraction above 0 is a
            positive label of the regulariser.
        gamma: weight of the patch regulariser, at least 0; see `ramp_up`.
        positive_weights: of the positive labels of each class, see `balanced_weights`; None: 1.

    Returns:
        The loss in nats.

    Raises:
        ValueError: labels of another shape, or outside [0, 1] (checked on the CPU only, see
            `single_label_loss`); a negative gamma; gamma above 0 for a prediction without patch
            logits.
    """
    targets = _label_matrix(prediction, labels)
    loss = F.binary_cross_entropy_with_logits(
        prediction.logits, targets, reduction="none", pos_weight=positive_weights
    )
    loss = loss.sum(dim=1).mean()
    if _has_regulariser(prediction, gamma):
        positive = labels.bool().unsqueeze(1)
        # The sigmoid rises, so the best label is known before it is taken.
        scores = prediction.patch_scores.masked_fill(~positive, -torch.inf)
        best = F.logsigmoid(scores.amax(dim=2)).masked_fill(~positive.any(dim=2), 0.0)
        if positive_weights is not None:
            best = positive_weights[scores.argmax(dim=2)] * best
        loss = loss - gamma * (prediction.real_weights * best).sum(dim=1).mean()
    return loss


def one_vs_rest_loss(
    prediction: ImagePrediction,
    labels: Int[Tensor, " B"] | Float[Tensor, "B K"],
    gamma: float = 0.0,
    label_smoothing: float = 0.0,
    class_weights: Float[Tensor, " K"] | None = None,
) -> Float[Tensor, ""]:
    """Binary cross-entropy of each class against all others (Eqs. 3 and 10 for one label an image).

    Summed over classes and averaged over the batch. Under a sigmoid each, a logit of 0 is a
    probability of 1/2 whatever the other logits are, so evidence has a zero of its own. The
    regulariser asks each patch for the one label: `-gamma sum over m of alpha_m log sigmoid(p_mt)`.

    Args:
        prediction: what the model returned for a batch of B images and K classes.
        labels: as for `single_label_loss`; of mixed images each class is a target by its fraction,
            and in the regulariser counts by it.
        gamma: weight of the patch regulariser, at least 0; see `ramp_up`.
        label_smoothing: part of the target, in [0, 1), that is spread evenly over all classes; in
            the image's binary cross-entropy alone.
        class_weights: how often an image of each class counts; see `single_label_loss`.

    Returns:
        The loss in nats.

    Raises:
        ValueError: as for `single_label_loss`.

    Example:
        >>> import torch
        >>> from loss_attention.prediction import ImagePrediction
        >>> logits = torch.tensor([[2.0, 0.0]])  # log(1 + e^-2) + log 2
        >>> one_vs_rest_loss(ImagePrediction(logits), torch.tensor([0]))
        tensor(0.8201)
    """
    labels, weights = _of_images(prediction, labels, class_weights)
    logits, mixed = prediction.logits, labels.ndim == 2
    present = labels if mixed else F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    targets = present * (1 - label_smoothing) + label_smoothing / logits.shape[1]
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(dim=1)
    if _has_regulariser(prediction, gamma):
        scores = prediction.patch_scores
        if mixed:
            of_label = (F.logsigmoid(scores) * labels[:, None]).sum(dim=2)
        else:
            of_label = F.logsigmoid(of_class(scores, labels))
        loss = loss - gamma * (prediction.real_weights * of_label).sum(dim=1)
    return (loss if weights is None else weights * loss).mean()


def prior_logits(
    labels: Int[Tensor, " N"], classes: int, *, balanced: bool = False
) -> Float[Tensor, " {classes}"]:
    """Return `log(f_k / (1 - f_k))` of the fraction f_k of images of each class k.

    With these as the classifier's bias, one-vs-rest begins with what is known before any image is
    seen, and spends no steps on it (Lin et al. 2017, "Focal Loss", their initialisation). A
    fraction is taken to be of half an image at least, and of all but half of one at most.

    Args:
        labels: of the training images.
        classes: K.
        balanced: images count so that all classes that occur weigh the same.

    Example:
        >>> prior_logits(torch.tensor([0, 0, 0, 1]), classes=2)
        tensor([ 1.0986, -1.0986])
    """
    counts = torch.bincount(labels.cpu(), minlength=classes).double()
    if balanced:
        counts = (counts > 0).double()
    least = 0.5 / len(labels)
    return (counts / counts.sum()).clamp(least, 1 - least).logit().float()


def margin_loss(
    prediction: ImagePrediction, labels: Shaped[Tensor, B * K], gamma: float = 0.0
) -> Float[Tensor, ""]:
    """Sabour et al.'s margin loss on the lengths of class capsules (their Eq. 4).

    `L_k = T_k max(0, m+ - |v_k|)^2 + lambda (1 - T_k) max(0, |v_k| - m-)^2` with m+ = 0.9,
    m- = 0.1 and lambda = 0.5, summed over classes and averaged over the batch. It was made for any
    number of labels: T_k is 1 for each class that the image has.

    Args:
        prediction: what the model returned; the sigmoid of a logit is the length `|v_k|` of that
            class's capsule (see `RoutedPrediction`).
        labels: class indices `(B,)`, or 1 where the image has the class, else 0, `(B, K)`, or
            fractions of mixed images.
        gamma: 0; there are no patch logits to regularise.

    Returns:
        The loss, without a unit.

    Raises:
        ValueError: labels as in `single_label_loss` or `multi_label_loss`; a gamma other than 0.

    Example:
        >>> import torch
        >>> from loss_attention.prediction import ImagePrediction
        >>> lengths = torch.tensor([[0.7, 0.3]])
        >>> margin_loss(ImagePrediction(lengths.logit()), torch.tensor([0]))  # 0.2^2 + 0.5 x 0.2^2
        tensor(0.0600)
    """
    if gamma != 0:
        raise ValueError(f"the margin loss has no patch regulariser, so gamma is 0, got {gamma}")
    if labels.ndim == 1:
        present = F.one_hot(_class_indices(prediction, labels), prediction.logits.shape[1])
        present = present.to(prediction.logits.dtype)
    else:
        present = _label_matrix(prediction, labels)
    lengths = prediction.logits.sigmoid()
    short = F.relu(PRESENT_MARGIN - lengths).square()
    long = F.relu(lengths - ABSENT_MARGIN).square()
    return (present * short + ABSENT_WEIGHT * (1 - present) * long).sum(dim=1).mean()


def balanced_weights(labels: Shaped[Tensor, N * K], classes: int) -> Float[Tensor, " {classes}"]:
    """Return a weight for each class, larger for rarer ones, from the labels of a training set.

    One label an image: `N / (K N_k)` of the K classes that occur, N_k images having class k, so
    that all of these weigh the same together and the mean over images is 1 (scikit-learn's
    "balanced"). Any number of labels: `(N - N_k) / N_k`, so that the positive and the negative
    labels of a class weigh the same, but within `1 / MOST_WEIGHT` and `MOST_WEIGHT`. A class that
    no image has weighs 1.

    Example:
        >>> balanced_weights(torch.tensor([0, 0, 0, 1]), classes=2)
        tensor([0.6667, 2.0000])
        >>> balanced_weights(torch.tensor([[1, 0], [0, 0], [0, 0], [0, 0]]), classes=2)
        tensor([3., 1.])
    """
    labels = labels.cpu()
    if labels.ndim == 1:
        counts = torch.bincount(labels, minlength=classes).double()
        weights = len(labels) / ((counts > 0).sum() * counts)
    else:
        counts = labels.double().sum(dim=0)
        weights = ((len(labels) - counts) / counts).clamp(1 / MOST_WEIGHT, MOST_WEIGHT)
    return torch.where(counts > 0, weights, 1.0).float()


def loss_for(
    objective: Objective,
    *,
    multi_label: bool,
    label_smoothing: float = 0.0,
    weights: Float[Tensor, " K"] | None = None,
) -> Loss:
    """Return the loss of an objective, for one label an image or for any number of them.

    Args:
        objective: what is minimised.
        multi_label: whether an image may have several labels.
        label_smoothing: see `single_label_loss`.
        weights: of the classes, or of their positive labels; None: all alike.

    Raises:
        InputError: label smoothing of anything but one label an image, label smoothing or weights
            of the margin loss, or one-vs-rest where an image may have several labels.
    """
    if objective == "one-vs-rest" and multi_label:
        raise InputError(
            "`objective` one-vs-rest is for one label an image; where there may be several, each "
            "class is decided by itself already: leave it"
        )
    if objective == "margin" and weights is not None:
        raise InputError(
            "`balance` weights is for cross-entropy, not for the margin loss: take sampling or none"
        )
    if label_smoothing > 0 and (multi_label or objective == "margin"):
        what = "several labels an image" if multi_label else "the margin loss"
        raise InputError(f"`label_smoothing` is for one label and cross-entropy, not for {what}")
    if objective == "margin":
        return margin_loss
    if multi_label:
        if weights is None:
            return multi_label_loss
        return partial(multi_label_loss, positive_weights=weights)
    loss = one_vs_rest_loss if objective == "one-vs-rest" else single_label_loss
    if weights is None and label_smoothing == 0:
        return loss
    return partial(loss, label_smoothing=label_smoothing, class_weights=weights)


def _of_images(
    prediction: ImagePrediction, labels: Tensor, class_weights: Tensor | None
) -> tuple[Tensor, Float[Tensor, " B"] | None]:
    """Return labels, checked to be one an image or fractions of mixed ones, and what each counts.

    The labels are class indices `(B,)`, or fractions `(B, K)`.
    """
    mixed = labels.ndim == 2 and labels.is_floating_point()
    labels = (_fractions if mixed else _class_indices)(prediction, labels)
    if class_weights is None:
        return labels, None
    return labels, labels @ class_weights if mixed else class_weights[labels]


def _class_indices(prediction: ImagePrediction, labels: Tensor) -> Int[Tensor, " B"]:
    """Return labels as int64, checked to be a class of each image."""
    batch, classes = prediction.logits.shape
    if labels.shape != (batch,) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"labels must be {batch} class indices (int64), got shape {tuple(labels.shape)} "
            f"of {labels.dtype}"
        )
    labels = labels.long()
    if labels.device.type == "cpu" and batch and not (labels.min() >= 0 and labels.max() < classes):
        wrong = labels[(labels < 0) | (labels >= classes)][0]
        raise ValueError(f"label {int(wrong)} is outside the {classes} classes 0..{classes - 1}")
    return labels


def _fractions(prediction: ImagePrediction, labels: Tensor) -> Float[Tensor, "B K"]:
    """Return the fraction of each class of each image, checked to be fractions of one image."""
    labels = _label_matrix(prediction, labels)
    if labels.device.type == "cpu" and not ((labels.sum(dim=1) - 1).abs() < 1e-3).all():
        raise ValueError("fractions of classes must have a sum of 1 for each image")
    return labels


def _label_matrix(prediction: ImagePrediction, labels: Tensor) -> Float[Tensor, "B K"]:
    """Return labels in the logits' type, checked to be in [0, 1] for each image and class."""
    if labels.shape != prediction.logits.shape:
        raise ValueError(
            f"labels must have the shape {tuple(prediction.logits.shape)} of the logits, "
            f"got {tuple(labels.shape)}"
        )
    if labels.device.type == "cpu" and not ((labels >= 0) & (labels <= 1)).all():
        wrong = labels[~((labels >= 0) & (labels <= 1))][0]
        raise ValueError(f"labels of each class must be in [0, 1], got {wrong.item()}")
    return labels.to(prediction.logits.dtype)


def _has_regulariser(prediction: ImagePrediction, gamma: float) -> TypeGuard[PatchPrediction]:
    if not gamma >= 0:
        raise ValueError(f"gamma must be at least 0, got {gamma}")
    if gamma > 0 and not isinstance(prediction, PatchPrediction):
        raise ValueError(f"gamma = {gamma} needs patch logits, and this prediction has none")
    return gamma > 0


def ramp_up(epoch: float, length: float = 80, maximum: float = 0.1) -> float:
    """Gaussian ramp of the regulariser's weight: `maximum * exp(-5 (1 - T)^2)`.

    T rises from 0 to 1 over the first `length` epochs. The 5 is from Laine & Aila (2017), whom
    the paper follows; the paper prints the formula without it.

    Args:
        epoch: epochs since the start, at least 0.
        length: epochs until the maximum; 0 means at once.
        maximum: the paper's gamma_max, at least 0.

    Returns:
        gamma: 0 in epoch 0, `maximum` from epoch `length` on.

    Raises:
        ValueError: a negative argument.

    Example:
        >>> [round(ramp_up(epoch), 4) for epoch in (0, 1, 40, 80, 200)]
        [0.0, 0.0008, 0.0287, 0.1, 0.1]
    """
    for name, value in (("epoch", epoch), ("length", length), ("maximum", maximum)):
        if not value >= 0:
            raise ValueError(f"{name} must be at least 0, got {value}")
    if epoch == 0:
        return 0.0
    if epoch >= length:
        return float(maximum)
    return maximum * math.exp(-5.0 * (1.0 - epoch / length) ** 2)
