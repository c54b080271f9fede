"""Models whose weights say nothing any more, to see whether a map depends on them."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from loss_attention.models import PatchClassifier

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def randomised(
    model: PatchClassifier, images: Float[Tensor, "B C H W"], share: float, seed: int = 0
) -> PatchClassifier:
    """Return a copy of a model with the weights of its last layers randomised.

    The values of each weight tensor are shuffled, which keeps their scale and takes away what they
    have learned; batch norms among those layers then count their statistics anew on the images, so
    that what is left is a network with healthy activations that knows nothing. Adebayo et al. 2018,
    "Sanity Checks for Saliency Maps", whose cascade goes from the classifier towards the image too.

    Args:
        model: left as it is.
        images: in [0, 1]; at least two.
        share: the part of the layers with weights that is randomised, counted from the classifier
            towards the image; 1 for all.
        seed: the same seed shuffles the same way.

    Returns:
        The copy, in evaluation mode.
    """
    copied = copy.deepcopy(model).eval()
    layers = [module for module in copied.modules() if list(module.parameters(recurse=False))]
    last = layers[len(layers) - max(1, round(share * len(layers))) :]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in last:
            for parameter in layer.parameters(recurse=False):
                order = torch.randperm(parameter.numel(), generator=generator)
                flat = parameter.flatten()[order.to(parameter.device)]
                parameter.copy_(flat.reshape(parameter.shape))
        norms = [layer for layer in last if isinstance(layer, _NORMS)]
        _count_anew(copied, norms, images)
    return copied


def _count_anew(
    model: PatchClassifier, norms: list[nn.BatchNorm1d | nn.BatchNorm2d], images: Tensor
) -> None:
    """Set the running statistics of batch norms to those of the images."""
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches, here one
        norm.train()
    model(images)
    for norm in norms:
        norm.eval()
