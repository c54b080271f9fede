"""Heat maps of any classifier by any method: the model's own evidence, its peers, and floors.

All of them explain one class of each image and return `(B, H, W)`, so that one measure serves all.
Where a method looks inside the network, it looks at the backbone's last feature map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from loss_attention.errors import unknown_name
from loss_attention.explain.attributions_forward import (
    class_activation_map,
    edge_map,
    evidence_map,
    random_map,
    uniform_map,
)
from loss_attention.explain.attributions_peers import (
    grad_cam,
    integrated_gradients,
    layer_cam,
    occlusion,
)
from loss_attention.explanation import explained_class
from loss_attention.inference import evaluation_mode
from loss_attention.models import PatchClassifier


@dataclass(frozen=True)
class Method:
    """One way of making heat maps.

    Attributes:
        compute: from a model in evaluation mode, images with values in [0, 1] and the explained
            class of each image to heat maps. Its docstring says source, unit and sign.
        words: what it shows, for people.
        floor: it knows nothing of the model, and other methods are measured against it.
    """

    compute: Callable[
        [PatchClassifier, Float[Tensor, "B C H W"], Int[Tensor, " B"]], Float[Tensor, "B H W"]
    ]
    words: str
    floor: bool = False


METHODS: dict[str, Method] = {
    "evidence": Method(evidence_map, "the model's own evidence, exact, in units of the logit"),
    "uniform": Method(uniform_map, "the same value everywhere", floor=True),
    "random": Method(random_map, "random values", floor=True),
    "edges": Method(edge_map, "the strength of edges in the image", floor=True),
    "cam": Method(class_activation_map, "each place's own score for the class, in logit units"),
    "grad-cam": Method(grad_cam, "features weighted by their mean gradient"),
    "layer-cam": Method(layer_cam, "features weighted by their gradient place by place"),
    "integrated-gradients": Method(
        integrated_gradients, "share of each pixel in the logit's change from the mean colour"
    ),
    "occlusion": Method(occlusion, "how far the logit falls when a window is covered"),
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
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    # Whatever the caller's mode: gradients need ordinary tensors. The clone is one.
    with torch.inference_mode(False), torch.no_grad(), evaluation_mode(model):
        scaled = images.clone() if images.is_floating_point() else images / 255
        scaled = scaled.detach().to(model.mean.dtype)
        if target is None:
            target = model(scaled).logits.argmax(dim=1)
        chosen = explained_class(
            target, len(scaled), model.config["num_classes"], scaled.device
        ).clone()
        return METHODS[method].compute(model, scaled, chosen).detach()
