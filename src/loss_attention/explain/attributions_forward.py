"""Heat maps that need no gradient: the model's evidence, class maps, and floors that know nothing.

Each function takes a model in evaluation mode, images in [0, 1] and the explained classes.
"""

from __future__ import annotations

import zlib

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from loss_attention.errors import InputError
from loss_attention.geometry import PatchGrid, paint_patches
from loss_attention.heads.patches import BaselineHead
from loss_attention.metrics.localisation import edge_strength
from loss_attention.models import PatchClassifier
from loss_attention.prediction import (
    EvidencePrediction,
    ImagePrediction,
    WeightedPrediction,
    of_class,
)

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


def class_activation_map(
    model: PatchClassifier, images: Float[Tensor, "B C H W"], target: Int[Tensor, " B"]
) -> Float[Tensor, "B H W"]:
    """Return what the classifier says of each place by itself.

    For a baseline that ends in average pooling and one linear layer: the class's weights applied
    to the feature map, whose mean is the logit less its bias; enlarged linearly. For a model of
    patches: the patches' own scores for the class (patch logits; with dynamic routing, votes),
    painted on the pixels; unlike the evidence they do not heed how much weight a patch has.

    Source: Zhou et al. 2016, "Learning Deep Features for Discriminative Localization". Unit: the
    logit's. Sign: positive for the class, negative against it.

    Raises:
        ValueError: a classifier with hidden layers, as VGG's.
    """
    own = class_patches(model, images, target)
    if own is not None:
        return paint_patches(*own)
    head = model.head
    if not isinstance(head, BaselineHead) or len(head.classifier) != 1:
        raise InputError(
            f"there is no class activation map for {model.config['backbone']} with the head "
            f"{model.config['head']}: it takes patches, or average pooling followed by one linear "
            "layer; --method grad-cam works with every model"
        )
    linear = head.classifier[0]
    assert isinstance(linear, nn.Linear)
    _, features = forward_with_features(model, images)
    return enlarged(torch.einsum("bd,bdhw->bhw", linear.weight[target], features), images)


def class_patches(
    model: PatchClassifier, images: Float[Tensor, "B C H W"], target: Int[Tensor, " B"]
) -> tuple[Float[Tensor, "B M"], PatchGrid] | None:
    """Return each patch's own score for the class; None without patches."""
    if isinstance(model.head, BaselineHead):
        return None
    prediction = model(images)
    assert isinstance(prediction, WeightedPrediction)
    return prediction.each_patch(lambda scores: of_class(scores, target)), prediction.grid


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


def forward_with_features(
    model: PatchClassifier, images: Float[Tensor, "B C H W"]
) -> tuple[ImagePrediction, Float[Tensor, "B D h w"]]:
    """Return a prediction and the backbone's last feature map, which it was made from."""
    seen: list[Tensor] = []
    hook = model.backbone.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    try:
        prediction = model(images)
    finally:
        hook.remove()
    return prediction, seen[0]


def enlarged(
    maps: Float[Tensor, "B h w"], images: Float[Tensor, "B C H W"]
) -> Float[Tensor, "B H W"]:
    """Enlarge maps to the images' size, linearly between the middles of places."""
    return F.interpolate(maps.unsqueeze(1), images.shape[2:], mode="bilinear")[:, 0]


def _noise(images: Float[Tensor, "B C H W"], count: int) -> Float[Tensor, "B count"]:
    """Return values in [0, 1) that depend on the image alone."""
    rows = []
    for image in images.cpu():
        # Rounded: devices may differ in how they divide by 255.
        seed = zlib.crc32((image * 255).round().to(torch.uint8).numpy().tobytes(), RANDOM_SEED)
        rows.append(torch.rand(count, generator=torch.Generator().manual_seed(seed)))
    return torch.stack(rows).to(images.device)
