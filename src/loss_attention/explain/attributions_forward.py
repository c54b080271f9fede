"""Heat maps that need no gradient: the model's evidence, and floors that know nothing.

Each function takes a model in evaluation mode, images in [0, 1] and the explained classes.
"""

from __future__ import annotations

import zlib

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loss_attention.errors import InputError
from loss_attention.explain.attributions_peers import enlarged, forward_with_features
from loss_attention.geometry import PatchGrid, paint_patches
from loss_attention.heads.patches import BaselineHead
from loss_attention.metrics.localisation import edge_strength
from loss_attention.models import PatchClassifier
from loss_attention.prediction import EvidencePrediction

RANDOM_SEED = 0


def evidence_map(
    model: PatchClassifier, images: Float[Tensor, "B C H W"], target: Int[Tensor, " B"]
) -> Float[Tensor, "B H W"]:
    """Return the model's own evidence, each pixel the mean over the windows that cover it.

    Source: the model's decision itself (Eqs. 5c and 5d); nothing is estimated. Unit: the logit's.
    Sign: positive for the class, negative against it.

    Raises:
        ValueError: a head without exact evidence.
    """
    return paint_patches(*evidence_patches(model, images, target))


def evidence_patches(
    model: PatchClassifier, images: Float[Tensor, "B C H W"], target: Int[Tensor, " B"]
) -> tuple[Float[Tensor, "B M"], PatchGrid]:
    """Return the evidence of each patch, and where the patches lie; see `evidence_map`."""
    prediction = _with_evidence(model, images)
    return prediction.evidence_of(target), prediction.grid


def contrast_map(
    model: PatchClassifier, images: Float[Tensor, "B C H W"], target: Int[Tensor, " B"]
) -> Float[Tensor, "B H W"]:
    """Return the evidence for the class less the mean evidence for all classes, painted likewise.

    A softmax decides by differences of logits, so what a patch says to all classes alike decides
    nothing; the evidence for one class has it in, and this has not. It is as exact: it sums to the
    logit less the mean of all logits, with which the probabilities are the same.

    Source: the model's decision itself. Unit: the logit's. Sign: positive for the class more than
    for others, negative for others more.

    Raises:
        ValueError: a head without exact evidence, or a model that decides each class by itself.
    """
    return paint_patches(*contrast_patches(model, images, target))


def contrast_patches(
    model: PatchClassifier, images: Float[Tensor, "B C H W"], target: Int[Tensor, " B"]
) -> tuple[Float[Tensor, "B M"], PatchGrid]:
    """Return the values of the patches of a `contrast_map`, and where the patches lie."""
    if model.multi_label:
        raise InputError(
            "contrast is for models of one label an image; this one decides each class by itself, "
            "and --method evidence says all there is to say"
        )
    prediction = _with_evidence(model, images)
    return prediction.evidence_of(target) - prediction.mean_evidence, prediction.grid


def _with_evidence(model: PatchClassifier, images: Float[Tensor, "B C H W"]) -> EvidencePrediction:
    prediction = model(images)
    if not isinstance(prediction, EvidencePrediction):
        raise InputError(
            f"a model with the head {model.config['head']} has no exact evidence to show; "
            "--method grad-cam works with every model, --method cam with many"
        )
    return prediction


def uniform_map(
    model: PatchClassifier,  # noqa: ARG001 (a floor knows nothing of it)
    images: Float[Tensor, "B C H W"],
    target: Int[Tensor, " B"],  # noqa: ARG001
) -> Float[Tensor, "B H W"]:
    """Return 1 everywhere: the floor of an explanation that does not choose.

    Source: none needed. Unit: none. Sign: positive.
    """
    return torch.ones_like(images[:, 0])


def random_map(
    model: PatchClassifier,
    images: Float[Tensor, "B C H W"],
    target: Int[Tensor, " B"],
) -> Float[Tensor, "B H W"]:
    """Return random values at the places where the model's own explanation has values.

    A value in [0, 1) for each patch, painted like evidence, or for each place of the feature map
    of a model without patches: noise as fine as pixels would be another, less fair floor. The seed
    is drawn from the image, so that it has the same map in any batch and on any device.

    Source: none needed. Unit: none. Sign: positive.
    """
    own = random_patches(model, images, target)
    if own is not None:
        return paint_patches(*own)
    _, features = forward_with_features(model, images)
    height, width = features.shape[2:]
    return enlarged(_noise(images, height * width).reshape(-1, height, width), images)


def random_patches(
    model: PatchClassifier,
    images: Float[Tensor, "B C H W"],
    target: Int[Tensor, " B"],  # noqa: ARG001 (a floor knows nothing of it)
) -> tuple[Float[Tensor, "B M"], PatchGrid] | None:
    """Return a random value for each patch; None without patches."""
    if isinstance(model.head, BaselineHead):
        return None
    grid = model(images).grid
    return _noise(images, grid.patches), grid


def edge_map(
    model: PatchClassifier,  # noqa: ARG001 (a floor knows nothing of it)
    images: Float[Tensor, "B C H W"],
    target: Int[Tensor, " B"],  # noqa: ARG001
) -> Float[Tensor, "B H W"]:
    """Return the magnitude of the brightness gradient by the Sobel operator.

    Source: an edge detector passes for an explanation to many eyes and knows nothing of the model
    (Adebayo et al. 2018, "Sanity Checks for Saliency Maps"). Unit: brightness, of a full range of
    1, a pixel. Sign: never negative.
    """
    return edge_strength(images)


def _noise(images: Float[Tensor, "B C H W"], count: int) -> Float[Tensor, "B count"]:
    """Return values in [0, 1) that depend on the image alone."""
    rows = []
    for image in images.cpu():
        # Rounded: devices may differ in how they divide by 255.
        seed = zlib.crc32((image * 255).round().to(torch.uint8).numpy().tobytes(), RANDOM_SEED)
        rows.append(torch.rand(count, generator=torch.Generator().manual_seed(seed)))
    return torch.stack(rows).to(images.device)
