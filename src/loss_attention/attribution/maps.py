"""Heat maps of any classifier by any method: the model's own evidence, its peers, and floors.

All of them explain one class of each image and return `(B, H, W)`, so that one measure serves all.
Where a method looks inside the network, it looks at the backbone's last feature map.

The functions that `METHODS` lists take a model in evaluation mode, images in [0, 1] and the
explained classes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from loss_attention.attribution.peers import (
    class_activation_map,
    class_patches,
    enlarged,
    forward_with_features,
    grad_cam,
    integrated_gradients,
    layer_cam,
    occlusion,
    occlusion_of_classes,
)
from loss_attention.errors import InputError, unknown_name
from loss_attention.explanation import EVIDENCE, Quantity, explained_class
from loss_attention.geometry import PatchGrid, paint_patches
from loss_attention.heads.patches import BaselineHead
from loss_attention.inference import evaluation_mode
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


PatchValues = tuple[Float[Tensor, "B M"], PatchGrid]
OfClasses = Callable[
    [PatchClassifier, Float[Tensor, "B C H W"], Int[Tensor, "B T"]], Float[Tensor, "B T H W"]
]


def _no_patches(_model: PatchClassifier, _images: Tensor, _target: Tensor) -> None:
    return None


@dataclass(frozen=True)
class Method:
    """One way of making heat maps.

    Attributes:
        compute: from a model in evaluation mode, images with values in [0, 1] and the explained
            class of each image to heat maps. Its docstring says source, unit and sign.
        shown: its name for people, its unit, and whether values below 0 speak against the class.
        floor: it knows nothing of the model, and other methods are measured against it.
        patches: likewise the values of the patches that the map is painted from, and where they
            lie; None where it is not painted from patches.
        of_classes: likewise the maps of several classes of each image, where that costs less than
            one after the other.
    """

    compute: Callable[
        [PatchClassifier, Float[Tensor, "B C H W"], Int[Tensor, " B"]], Float[Tensor, "B H W"]
    ]
    shown: Quantity
    floor: bool = False
    patches: Callable[[PatchClassifier, Tensor, Tensor], PatchValues | None] = _no_patches
    of_classes: OfClasses | None = None


METHODS: dict[str, Method] = {
    "evidence": Method(evidence_map, EVIDENCE, patches=evidence_patches),
    "contrast": Method(
        contrast_map,
        Quantity("evidence over the mean of all classes", "logit units", signed=True),
        patches=contrast_patches,
    ),
    "uniform": Method(uniform_map, Quantity("uniform map", "no unit", signed=False), floor=True),
    "random": Method(
        random_map,
        Quantity("random values", "no unit", signed=False),
        floor=True,
        patches=random_patches,
    ),
    "edges": Method(edge_map, Quantity("edges", "brightness a pixel", signed=False), floor=True),
    "cam": Method(
        class_activation_map,
        Quantity("class map", "logit units", signed=True),
        patches=class_patches,
    ),
    "grad-cam": Method(grad_cam, Quantity("Grad-CAM", "logit units a place", signed=False)),
    "layer-cam": Method(layer_cam, Quantity("LayerCAM", "logit units", signed=False)),
    "integrated-gradients": Method(
        integrated_gradients, Quantity("Integrated Gradients", "logit units a pixel", signed=True)
    ),
    "occlusion": Method(
        occlusion,
        Quantity("occlusion", "logit units", signed=True),
        of_classes=occlusion_of_classes,
    ),
}


def attribute(
    model: PatchClassifier,
    images: Shaped[Tensor, "B C H W"],
    method: str,
    target: int | Int[Tensor, " B"] | None = None,
) -> Float[Tensor, "B H W"]:
    """Return a heat map of each image, in pixels of the images.

    The model is in evaluation mode meanwhile; modes, `requires_grad` and gradients are left as
    they were. The same image has the same map in any batch.

    Args:
        model: any model of `create_model`, on any device.
        images: on the model's device, as for the model.
        method: one of `METHODS`.
        target: the class to explain, one for all or one an image; None: the predicted class.

    Raises:
        ValueError: an unknown method (with the nearest known one), a method that this model does
            not allow, a library that is not installed, or a target outside the classes.

    Example:
        >>> import loss_attention as la
        >>> model = la.create_model("vgg11_bn", width=0.05, head="mean")
        >>> attribute(model, torch.zeros(2, 3, 32, 32), "uniform").unique()
        tensor([1.])
    """
    chosen = find_method(method)
    with _prepared(model, images, target) as (scaled, classes):
        return chosen.compute(model, scaled, classes).detach()


def attribute_classes(
    model: PatchClassifier,
    images: Shaped[Tensor, "B C H W"],
    method: str,
    targets: Int[Tensor, "B T"],
) -> Float[Tensor, "B T H W"]:
    """Return a heat map of each image for each of several classes; otherwise as `attribute`."""
    chosen = find_method(method)
    one = targets[:, 0]
    if chosen.floor:  # it does not heed the class
        maps = attribute(model, images, method, one)
        return maps.unsqueeze(1).expand(-1, targets.shape[1], -1, -1)
    if chosen.of_classes is None:
        each = [attribute(model, images, method, column) for column in targets.unbind(1)]
        return torch.stack(each, dim=1)
    with _prepared(model, images, one) as (scaled, _):
        return chosen.of_classes(model, scaled, targets).detach()


def attribute_patches(
    model: PatchClassifier,
    images: Shaped[Tensor, "B C H W"],
    method: str,
    target: int | Int[Tensor, " B"] | None = None,
) -> Float[Tensor, "B M"] | None:
    """Return the values of the patches that a method's heat map is painted from.

    None where the map is not painted from patches. Otherwise as `attribute`.
    """
    chosen = find_method(method)
    with _prepared(model, images, target) as (scaled, classes):
        own = chosen.patches(model, scaled, classes)
    return None if own is None else own[0].detach()


def find_method(name: str) -> Method:
    """Return a method by its name.

    Raises:
        ValueError: there is none of that name; the nearest is named.
    """
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]


@contextmanager
def _prepared(
    model: PatchClassifier,
    images: Shaped[Tensor, "B C H W"],
    target: int | Int[Tensor, " B"] | None,
) -> Iterator[tuple[Float[Tensor, "B C H W"], Int[Tensor, " B"]]]:
    """Yield images in [0, 1] and the explained classes, with the model in evaluation mode."""
    # Whatever the caller's mode: gradients need ordinary tensors, and a clone is one.
    with torch.inference_mode(False), torch.no_grad(), evaluation_mode(model):
        scaled = images.clone() if images.is_floating_point() else images / 255
        scaled = scaled.detach().to(model.mean.dtype)
        if target is None:
            yield scaled, model(scaled).logits.argmax(dim=1)
            return
        classes = model.config["num_classes"]
        yield scaled, explained_class(target, len(scaled), classes, scaled.device).clone()
