"""Heat maps of any classifier by any method: evidence, its peers, and trivial baselines.

All of them explain one class of each image and return `(B, H, W)`, so that one measure serves all.
Where a method looks inside the network, it looks at the feature map that the head receives: the
backbone's last one, or those of its levels joined.

A softmax decides between classes. Methods that explain a single logit also come "with competition":
they explain the logit less the greatest other one, which is what decides.

The functions that `METHODS` lists take a model in evaluation mode, images in [0, 1] and the
explained classes.

captum computes what it has of the methods that others have published; it comes with the extra
`compare` and is imported on first use.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from loss_attention.backbones import joined, joined_level
from loss_attention.errors import InputError, unknown_name
from loss_attention.evaluation.measuring import evaluation_mode
from loss_attention.explanation import explained_class
from loss_attention.geometry import PatchGrid, paint_patches
from loss_attention.heads.patches import BaselineHead
from loss_attention.metrics.faithfulness import PIXELS_AT_ONCE
from loss_attention.metrics.localisation import edge_strength
from loss_attention.model import PatchClassifier
from loss_attention.prediction import (
    ImagePrediction,
    PatchPrediction,
    WeightedPrediction,
    margins,
    of_class,
)
from loss_attention.quantities import CONTRAST, EVIDENCE, MARGIN, Quantity

INTEGRATION_STEPS = 50
"""Of Integrated Gradients, along the straight line from the mean colour to the image."""
MOST_WINDOWS = 256
"""Of occlusion, where they need not be more to leave no gaps: a large image has very many."""
BASELINE_WINDOWS = 4
"""A window of a model without patches is the image's side divided by this."""


PatchValues = tuple[Float[Tensor, "B M"], PatchGrid]
Values = Float[Tensor, "B H W"] | PatchValues
"""Heat maps, or the values of patches to paint them from, and where the patches lie."""


def evidence(
    model: PatchClassifier, images: Float[Tensor, "B C H W"], target: Int[Tensor, " B"]
) -> PatchValues:
    """Return the model's own evidence.

    Source: the model's decision itself (Eqs. 5c and 5d); nothing is estimated. Unit: the logit's.
    Sign: positive for the class, negative against it.

    Raises:
        ValueError: a head without exact evidence.
    """
    prediction = _with_evidence(model, images)
    return prediction.evidence_of(target), prediction.image_grid


def contrast(
    model: PatchClassifier, images: Float[Tensor, "B C H W"], target: Int[Tensor, " B"]
) -> PatchValues:
    """Return the evidence for the class less the mean evidence for all classes.

    A softmax decides by differences of logits, so what a patch says to all classes alike decides
    nothing; the evidence for one class has it in, and this has not. It is as exact: it sums to the
    logit less the mean of all logits, with which the probabilities are the same.

    Source: the model's decision itself. Unit: the logit's. Sign: positive for the class more than
    for others, negative for others more.

    Raises:
        ValueError: a head without exact evidence, or a model that decides each class by itself.
    """
    _require_competing(model, "contrast", "evidence")
    prediction = _with_evidence(model, images)
    return prediction.map_of("contrast", target), prediction.image_grid


def margin(
    model: PatchClassifier, images: Float[Tensor, "B C H W"], target: Int[Tensor, " B"]
) -> PatchValues:
    """Return the evidence for the class that no other class disputes: the margin's positive part.

    `max(alpha_m (p_mk - max over j != k of p_mj), 0)`: what a patch says for the class beyond what
    it says for the class it says most for. 0 in every patch that another class is first in, so a
    map may be empty.

    Source: the model's decision itself. Unit: the logit's. Sign: never negative.

    Raises:
        ValueError: a head without exact evidence, or a model that decides each class by itself.
    """
    _require_competing(model, "margin", "evidence")
    prediction = _with_evidence(model, images)
    return prediction.map_of("margin", target), prediction.image_grid


def _require_competing(model: PatchClassifier, method: str, instead: str) -> None:
    if not model.competing:
        raise InputError(
            f"{method} is for models of one label an image under a softmax; this one decides each "
            f"class by itself, and `method` {instead} says all there is to say"
        )


def _with_evidence(model: PatchClassifier, images: Float[Tensor, "B C H W"]) -> PatchPrediction:
    prediction = model(images)
    if not isinstance(prediction, PatchPrediction):
        raise InputError(
            f"a model with the head {model.spec.head} has no exact evidence to show; "
            "`method` grad-cam works with every model, `method` cam with many"
        )
    return prediction


def uniform(_model: PatchClassifier, images: Tensor, _target: Tensor) -> Float[Tensor, "B H W"]:
    """Return 1 everywhere: the trivial baseline of an explanation that does not choose.

    Source: none needed. Unit: none. Sign: positive.
    """
    return torch.ones_like(images[:, 0])


def random(
    model: PatchClassifier, images: Float[Tensor, "B C H W"], _target: Int[Tensor, " B"]
) -> Values:
    """Return random values where the model's own explanation has values.

    A value in [0, 1) for each patch, or for each cell of the feature map of a model without
    patches: noise as fine as pixels would be another, less fair baseline. The seed is drawn from
    the image, so that it has the same map in any batch and on any device.

    Source: none needed. Unit: none. Sign: positive.
    """
    prediction, features = forward_with_features(model, images)
    if isinstance(prediction, WeightedPrediction):
        return _noise(images, prediction.image_grid.patches), prediction.image_grid
    height, width = features.shape[2:]
    return enlarged(_noise(images, height * width).reshape(-1, height, width), images)


def edges(_model: PatchClassifier, images: Tensor, _target: Tensor) -> Float[Tensor, "B H W"]:
    """Return the magnitude of the brightness gradient by the Sobel operator.

    Source: an edge detector passes for an explanation to many eyes and ignores the model
    (Adebayo et al. 2018, "Sanity Checks for Saliency Maps"). Unit: brightness, of a full range of
    1, a pixel. Sign: never negative.
    """
    return edge_strength(images)


def _noise(images: Float[Tensor, "B C H W"], count: int) -> Float[Tensor, "B count"]:
    """Return values in [0, 1) that depend on the image alone."""
    rows = []
    for image in images.cpu():
        # Rounded: devices may differ in how they divide by 255.
        seed = zlib.crc32((image * 255).round().to(torch.uint8).numpy().tobytes())
        rows.append(torch.rand(count, generator=torch.Generator().manual_seed(seed)))
    return torch.stack(rows).to(images.device)


def class_activation(
    model: PatchClassifier, images: Float[Tensor, "B C H W"], target: Int[Tensor, " B"]
) -> Values:
    """Return what the classifier says of each location by itself.

    For a baseline that ends in average pooling and one linear layer: the class's weights applied
    to the feature map, whose mean is the logit less its bias; enlarged linearly. For a model of
    patches: the patches' own scores for the class (patch logits; with dynamic routing, votes);
    unlike the evidence they do not heed how much weight a patch has.

    Source: Zhou et al. 2016, "Learning Deep Features for Discriminative Localization". Unit: the
    logit's. Sign: positive for the class, negative against it.

    Raises:
        ValueError: a classifier with hidden layers, as VGG's.
    """
    prediction, features = forward_with_features(model, images)
    if isinstance(prediction, WeightedPrediction):
        scores = of_class(prediction.patch_scores, target)
        return scores, prediction.image_grid
    head = model.head
    if not isinstance(head, BaselineHead) or len(head.classifier) != 1:
        raise InputError(
            f"there is no class activation map for {model.spec.backbone} with the head "
            f"{model.spec.head}: it takes patches, or average pooling followed by one linear "
            "layer; `method` grad-cam works with every model"
        )
    linear = head.classifier[0]
    assert isinstance(linear, nn.Linear)
    return enlarged(torch.einsum("bd,bdhw->bhw", linear.weight[target], features), images)


def grad_cam(
    model: PatchClassifier,
    images: Float[Tensor, "B C H W"],
    target: Int[Tensor, " B"],
    *,
    competition: bool = False,
) -> Float[Tensor, "B H W"]:
    """Return the features of the head's map, each weighted by its mean gradient.

    Source: Selvaraju et al. 2017, "Grad-CAM", with its final ReLU; computed by captum, enlarged
    linearly. With `competition`, of the logit less the greatest other. Unit: logit per cell of the
    map. Sign: never negative.
    """
    scores = _competing(model, "grad-cam") if competition else _logits_of(model)
    with _map_of_the_head(model) as layer:
        explainer = _captum().LayerGradCam(scores, layer)
        maps: Tensor = explainer.attribute(_leaf(images), target, relu_attributions=True)
    return enlarged(maps.detach()[:, 0], images)


def layer_cam(
    model: PatchClassifier,
    images: Float[Tensor, "B C H W"],
    target: Int[Tensor, " B"],
    *,
    competition: bool = False,
) -> Float[Tensor, "B H W"]:
    """Return the features of the head's map, weighted cell by cell by their gradient.

    Source: Jiang et al. 2021, "LayerCAM": negative gradients count as 0, a ReLU follows the sum
    over channels. Computed here, as captum lacks it; enlarged linearly. With `competition`, of the
    logit less the greatest other. Unit: the logit's. Sign: never negative.
    """
    if competition:
        _require_competing(model, "layer-cam-competition", "layer-cam")
    with torch.enable_grad():
        prediction, features = forward_with_features(model, _leaf(images))
        scores = margins(prediction.logits) if competition else prediction.logits
        chosen = scores.gather(1, target.unsqueeze(1)).sum()
        (gradient,) = torch.autograd.grad(chosen, features)
    return enlarged(F.relu((F.relu(gradient) * features.detach()).sum(dim=1)), images)


def integrated_gradients(
    model: PatchClassifier,
    images: Float[Tensor, "B C H W"],
    target: Int[Tensor, " B"],
    *,
    competition: bool = False,
) -> Float[Tensor, "B H W"]:
    """Return the gradient of each pixel along the way from the mean colour, times its distance.

    Source: Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks"; computed by captum
    in 50 steps from an image of the training set's mean colour, summed over the channels. With
    `competition`, of the logit less the greatest other. Unit: the logit's; the map sums to the
    image's logit less that of the mean colour, as far as the steps are fine enough. Sign: positive
    for the class, negative against it.
    """
    scores = _competing(model, "integrated-gradients") if competition else _logits_of(model)
    explainer = _captum().IntegratedGradients(scores)
    maps: Tensor = explainer.attribute(
        _leaf(images),
        model.mean.expand_as(images),
        target,
        n_steps=INTEGRATION_STEPS,
        internal_batch_size=_at_once(images),
    )
    return maps.detach().to(images.dtype).sum(dim=1)


def occlusion(
    model: PatchClassifier, images: Float[Tensor, "B C H W"], target: Int[Tensor, " B"]
) -> Float[Tensor, "B H W"]:
    """Return how far the logit falls when a window is covered with the training set's mean colour.

    Each pixel has the mean over the windows that cover it. The windows are those of the patches;
    a model without patches gets windows of a quarter of the image's shorter side at every half.
    Where that would be more than 256 windows, they stand further apart, though never with gaps.

    Source: Zeiler & Fergus 2014, "Visualizing and Understanding Convolutional Networks"; computed
    by captum. Unit: the logit's. Sign: positive where covering lowers the logit.
    """
    return occlusion_of_classes(model, images, target.unsqueeze(1))[:, 0]


def occlusion_of_classes(
    model: PatchClassifier, images: Float[Tensor, "B C H W"], targets: Int[Tensor, "B T"]
) -> Float[Tensor, "B T H W"]:
    """Return the same for several classes of each image, for the price of one."""
    explainer = _captum().Occlusion(_logits_of(model, targets))
    height, width = images.shape[2:]
    grid = window_grid(model, height, width)
    step = _window_step(grid)
    maps: Tensor = explainer.attribute(
        images,
        (images.shape[1], min(grid.window, height), min(grid.window, width)),
        strides=(images.shape[1], min(step, height), min(step, width)),
        baselines=model.mean.expand_as(images),
        perturbations_per_eval=max(1, _at_once(images) // len(images)),
    )
    # An image after the other, with all its classes; the same for every channel of a pixel.
    return maps.detach()[:, 0].to(images.dtype).reshape(*targets.shape, height, width)


@dataclass(frozen=True)
class Method:
    """One way of making heat maps.

    Attributes:
        compute: from a model in evaluation mode, images with values in [0, 1] and the explained
            class of each image to heat maps; or to the values of the patches that they are painted
            from, each pixel the mean over the windows that cover it. Its docstring says source,
            unit and sign.
        shown: its name for people, its unit, and whether values below 0 speak against the class.
        baseline: a trivial baseline, which ignores the model; others are measured against it.
        of_classes: likewise the maps of several classes of each image, where that costs less than
            one after the other.
    """

    compute: Callable[[PatchClassifier, Float[Tensor, "B C H W"], Int[Tensor, " B"]], Values]
    shown: Quantity
    baseline: bool = False
    of_classes: (
        Callable[
            [PatchClassifier, Float[Tensor, "B C H W"], Int[Tensor, "B T"]],
            Float[Tensor, "B T H W"],
        ]
        | None
    ) = None


# In the order of a comparison of all: what is shown under a softmax first, and what may fairly be
# held against it, before what explains a single logit.
METHODS: dict[str, Method] = {
    "margin": Method(margin, MARGIN),
    "contrast": Method(contrast, CONTRAST),
    "evidence": Method(evidence, EVIDENCE),
    "uniform": Method(uniform, Quantity("uniform map", "no unit", signed=False), baseline=True),
    "random": Method(random, Quantity("random values", "no unit", signed=False), baseline=True),
    "edges": Method(edges, Quantity("edges", "brightness a pixel", signed=False), baseline=True),
    "grad-cam-competition": Method(
        partial(grad_cam, competition=True),
        Quantity("Grad-CAM with class competition", "logit units a cell", signed=False),
    ),
    "layer-cam-competition": Method(
        partial(layer_cam, competition=True),
        Quantity("LayerCAM with class competition", "logit units", signed=False),
    ),
    "integrated-gradients-competition": Method(
        partial(integrated_gradients, competition=True),
        Quantity("Integrated Gradients with class competition", "logit units a pixel", signed=True),
    ),
    "cam": Method(class_activation, Quantity("class map", "logit units", signed=True)),
    "grad-cam": Method(grad_cam, Quantity("Grad-CAM", "logit units a cell", signed=False)),
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
        found = chosen.compute(model, scaled, classes)
        return (paint_patches(*found) if isinstance(found, tuple) else found).detach()


def attribute_classes(
    model: PatchClassifier,
    images: Shaped[Tensor, "B C H W"],
    method: str,
    targets: Int[Tensor, "B T"],
) -> Float[Tensor, "B T H W"]:
    """Return a heat map of each image for each of several classes; otherwise as `attribute`."""
    chosen = find_method(method)
    one = targets[:, 0]
    if chosen.baseline:  # it does not heed the class
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
        found = chosen.compute(model, scaled, classes)
    return found[0].detach() if isinstance(found, tuple) else None


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
        classes = model.spec.num_classes
        yield scaled, explained_class(target, len(scaled), classes, scaled.device).clone()


def forward_with_features(
    model: PatchClassifier, images: Float[Tensor, "B C H W"]
) -> tuple[ImagePrediction, Float[Tensor, "B D h w"]]:
    """Return a prediction and the feature map that its head received, levels joined."""
    seen: list[Tensor] = []
    with _map_of_the_head(model) as layer:
        layer.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
        prediction = model(images)
    return prediction, seen[0]


@contextmanager
def _map_of_the_head(model: PatchClassifier) -> Iterator[nn.Module]:
    """Yield a layer whose output is the feature map that the head receives, levels joined."""
    layer, level = nn.Identity(), joined_level(model.backbone)

    def join(_head: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        features, *rest = inputs
        return (layer(joined(features, level)), *rest)

    hook = model.head.register_forward_pre_hook(join)
    try:
        yield layer
    finally:
        hook.remove()


def enlarged(
    maps: Float[Tensor, "B h w"], images: Float[Tensor, "B C H W"]
) -> Float[Tensor, "B H W"]:
    """Enlarge maps to the images' size, linearly between the middles of cells."""
    return F.interpolate(maps.unsqueeze(1), images.shape[2:], mode="bilinear")[:, 0]


def window_grid(model: PatchClassifier, height: int, width: int) -> PatchGrid:
    """Return the windows that a model's images are covered by, one at a time.

    They are those of its patches; of a model without patches, windows of a quarter of the image's
    shorter side at every half window.
    """
    with torch.no_grad():
        blank = model.mean.expand(1, -1, height, width)
        prediction = model(blank)
    if isinstance(prediction, WeightedPrediction):
        return prediction.image_grid
    window = max(1, min(height, width) // BASELINE_WINDOWS)
    stride = -(-window // 2)
    rows, columns = ((side - window) // stride + 1 for side in (height, width))
    return PatchGrid(rows, columns, window, stride, height, width)


def _window_step(grid: PatchGrid) -> int:
    """Return how far apart windows stand that cover an image: as in the grid, or wider."""
    step = min(grid.stride, grid.window)

    def count() -> int:
        down, across = (
            -(-max(0, side - grid.window) // step) + 1 for side in (grid.height, grid.width)
        )
        return down * across

    while count() > MOST_WINDOWS and step < grid.window:
        step = min(2 * step, grid.window)
    return step


def _leaf(images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """Return images that a graph hangs on, even where no parameter requires gradients."""
    return images.detach().clone().requires_grad_()


def _logits_of(
    model: PatchClassifier, targets: Int[Tensor, "B T"] | None = None
) -> Callable[[Tensor], Tensor]:
    """Return the function from images to logits, all of them or those of each image's classes.

    Images may be variants of a batch, each time all of it in its order.
    """

    def logits(images: Tensor) -> Tensor:
        scores: Tensor = model(images).logits
        if targets is None:
            return scores
        return scores.gather(1, targets.repeat(len(scores) // len(targets), 1))

    return logits


def _competing(model: PatchClassifier, method: str) -> Callable[[Tensor], Tensor]:
    """Return the function from images to each logit less the greatest other.

    Raises:
        ValueError: a model that decides each class by itself; `method` is what explains it.
    """
    _require_competing(model, f"{method}-competition", method)
    return lambda images: margins(model(images).logits)


def _at_once(images: Float[Tensor, "B C H W"]) -> int:
    """Return how many variants of images run through the model together, one of each at least."""
    height, width = images.shape[2:]
    return max(len(images), PIXELS_AT_ONCE // (height * width))


def _captum() -> ModuleType:
    try:
        from captum import attr
    except ImportError as error:
        raise InputError(
            "this method is computed by captum, which is not installed; "
            "install it with: pip install 'loss-attention[compare]'"
        ) from error
    module: ModuleType = attr
    return module
