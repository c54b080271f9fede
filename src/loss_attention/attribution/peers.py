"""Methods that others have published, from the classifier, gradients or covered windows.

Each function takes a model in evaluation mode, images in [0, 1] and the explained classes.
captum computes what it has; it comes with the extra `compare` and is imported on first use.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from loss_attention.errors import InputError
from loss_attention.geometry import PatchGrid
from loss_attention.heads.patches import BaselineHead
from loss_attention.metrics.faithfulness import PIXELS_AT_ONCE
from loss_attention.models import PatchClassifier
from loss_attention.prediction import ImagePrediction, WeightedPrediction, of_class

INTEGRATION_STEPS = 50
"""Of Integrated Gradients, along the straight line from the mean colour to the image."""
MOST_WINDOWS = 256
"""Of occlusion, where they need not be more to leave no gaps: a large image has very many."""
BASELINE_WINDOWS = 4
"""A window of a model without patches is the image's side divided by this."""


PatchValues = tuple[Float[Tensor, "B M"], PatchGrid]
Values = Float[Tensor, "B H W"] | PatchValues
"""Heat maps, or the values of patches to paint them from, and where the patches lie."""


def class_activation(
    model: PatchClassifier, images: Float[Tensor, "B C H W"], target: Int[Tensor, " B"]
) -> Values:
    """Return what the classifier says of each place by itself.

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
            f"there is no class activation map for {model.config['backbone']} with the head "
            f"{model.config['head']}: it takes patches, or average pooling followed by one linear "
            "layer; --method grad-cam works with every model"
        )
    linear = head.classifier[0]
    assert isinstance(linear, nn.Linear)
    return enlarged(torch.einsum("bd,bdhw->bhw", linear.weight[target], features), images)


def grad_cam(
    model: PatchClassifier, images: Float[Tensor, "B C H W"], target: Int[Tensor, " B"]
) -> Float[Tensor, "B H W"]:
    """Return the features of the backbone's last map, each weighted by its mean gradient.

    Source: Selvaraju et al. 2017, "Grad-CAM", with its final ReLU; computed by captum, enlarged
    linearly. Unit: logit per place of the map. Sign: never negative.
    """
    explainer = _captum().LayerGradCam(_logits_of(model), model.backbone)
    maps: Tensor = explainer.attribute(_leaf(images), target, relu_attributions=True)
    return enlarged(maps.detach()[:, 0], images)


def layer_cam(
    model: PatchClassifier, images: Float[Tensor, "B C H W"], target: Int[Tensor, " B"]
) -> Float[Tensor, "B H W"]:
    """Return the features of the backbone's last map, weighted place by place by their gradient.

    Source: Jiang et al. 2021, "LayerCAM": negative gradients count as 0, a ReLU follows the sum
    over channels. Computed here, as captum lacks it; enlarged linearly. Unit: the logit's. Sign:
    never negative.
    """
    with torch.enable_grad():
        prediction, features = forward_with_features(model, _leaf(images))
        chosen = prediction.logits.gather(1, target.unsqueeze(1)).sum()
        (gradient,) = torch.autograd.grad(chosen, features)
    return enlarged(F.relu((F.relu(gradient) * features.detach()).sum(dim=1)), images)


def integrated_gradients(
    model: PatchClassifier, images: Float[Tensor, "B C H W"], target: Int[Tensor, " B"]
) -> Float[Tensor, "B H W"]:
    """Return the gradient of each pixel along the way from the mean colour, times its distance.

    Source: Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks"; computed by captum
    in 50 steps from an image of the training set's mean colour, summed over the channels. Unit:
    the logit's; the map sums to the image's logit less that of the mean colour, as far as the
    steps are fine enough. Sign: positive for the class, negative against it.
    """
    explainer = _captum().IntegratedGradients(_logits_of(model))
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
    step = grid.stride

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
