"""Heat maps of any classifier by any method: the model's own evidence, its peers, and floors.

All of them explain one class of each image and return `(B, H, W)`, so that one measure serves all.
Where a method looks inside the network, it looks at the backbone's last feature map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from loss_attention.errors import unknown_name
from loss_attention.explain.attributions_forward import (
    contrast_map,
    contrast_patches,
    edge_map,
    evidence_map,
    evidence_patches,
    random_map,
    random_patches,
    uniform_map,
)
from loss_attention.explain.attributions_peers import (
    class_activation_map,
    class_patches,
    grad_cam,
    integrated_gradients,
    layer_cam,
    occlusion,
    occlusion_of_classes,
)
from loss_attention.explanation import EVIDENCE, Quantity, explained_class
from loss_attention.geometry import PatchGrid
from loss_attention.inference import evaluation_mode
from loss_attention.models import PatchClassifier

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
