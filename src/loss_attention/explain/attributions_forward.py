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
from loss_attention.heads.baseline import BaselineHead
from loss_attention.models import PatchClassifier
from loss_attention.prediction import ImagePrediction, PatchPrediction

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
    prediction = model(images)
    if not isinstance(prediction, PatchPrediction):
        raise InputError(
            f"a model with the head {model.config['head']} has no exact evidence to show; "
            "--method cam or --method grad-cam may serve instead"
        )
    return paint_patches(_of_class(prediction.evidence, target), prediction.grid)


def class_activation_map(
    model: PatchClassifier, images: Float[Tensor, "B C H W"], target: Int[Tensor, " B"]
) -> Float[Tensor, "B H W"]:
    """Return what the classifier says of each place by itself.

    For a baseline that ends in average pooling and one linear layer: the class's weights applied
    to the feature map, whose mean is the logit less its bias; enlarged linearly. For a model of
    patches: the patch logits of the class, painted on the pixels; unlike the evidence they do not
    heed how much weight a patch has.

    Source: Zhou et al. 2016, "Learning Deep Features for Discriminative Localization". Unit: the
    logit's. Sign: positive for the class, negative against it.

    Raises:
        ValueError: a classifier with hidden layers (VGG's), or a head without patch logits.
    """
    prediction, features = forward_with_features(model, images)
    if isinstance(prediction, PatchPrediction):
        return paint_patches(_of_class(prediction.patch_logits, target), prediction.grid)
    head = model.head
    if not isinstance(head, BaselineHead) or len(head.classifier) != 1:
        raise InputError(
            f"there is no class activation map for {model.config['backbone']} with the head "
            f"{model.config['head']}: it takes average pooling followed by one linear layer, or "
            "patch logits; --method grad-cam works with every model"
        )
    linear = head.classifier[0]
    assert isinstance(linear, nn.Linear)
    weights = linear.weight[target]
    return enlarged(torch.einsum("bd,bdhw->bhw", weights, features), images)


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
    target: Int[Tensor, " B"],  # noqa: ARG001 (a floor knows nothing of it)
) -> Float[Tensor, "B H W"]:
    """Return random values at the places where the model's own explanation has values.

    A value in [0, 1) for each patch, painted like evidence, or for each place of the feature map
    of a model without patches: noise as fine as pixels would be another, less fair floor. The seed
    is drawn from the image, so that it has the same map in any batch and on any device.

    Source: none needed. Unit: none. Sign: positive.
    """
    prediction, features = forward_with_features(model, images)
    grid = getattr(prediction, "grid", None)
    count = grid.patches if isinstance(grid, PatchGrid) else features.shape[2] * features.shape[3]
    rows = []
    for image in images.cpu():
        # Rounded: devices may differ in how they divide by 255.
        seed = zlib.crc32((image * 255).round().to(torch.uint8).numpy().tobytes(), RANDOM_SEED)
        rows.append(torch.rand(count, generator=torch.Generator().manual_seed(seed)))
    values = torch.stack(rows).to(images.device)
    if isinstance(grid, PatchGrid):
        return paint_patches(values, grid)
    return enlarged(values.reshape(-1, *features.shape[2:]), images)


def edge_map(
    model: PatchClassifier,  # noqa: ARG001 (a floor knows nothing of it)
    images: Float[Tensor, "B C H W"],
    target: Int[Tensor, " B"],  # noqa: ARG001
) -> Float[Tensor, "B H W"]:
    """Return the magnitude of the brightness gradient by the Sobel operator.

    Brightness is the mean over the channels; at the border the outermost pixels are repeated.

    Source: an edge detector passes for an explanation to many eyes and knows nothing of the model
    (Adebayo et al. 2018, "Sanity Checks for Saliency Maps"). Unit: brightness, of a full range of
    1, a pixel. Sign: never negative.
    """
    across = images.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    grey = F.pad(images.mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    slopes = F.conv2d(grey, torch.stack([across, across.T]).unsqueeze(1))
    strength: Tensor = torch.linalg.vector_norm(slopes, dim=1)
    return strength


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


def _of_class(values: Float[Tensor, "B M K"], target: Int[Tensor, " B"]) -> Float[Tensor, "B M"]:
    """Return the values of each image's explained class."""
    return values[torch.arange(len(values), device=values.device), :, target]
