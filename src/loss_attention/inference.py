"""Run a model over a set of images, batch by batch, without training it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from loss_attention.backbones.layers import Conv2d, is_plain, neighbours
from loss_attention.data.sample import ImageSet, LabelledImages
from loss_attention.errors import InputError
from loss_attention.prediction import ImagePrediction

T = TypeVar("T")
Network = TypeVar("Network", bound=nn.Module)
Model = Callable[[Tensor], ImagePrediction]
Autocast = Callable[[], AbstractContextManager[Any]]


def run_batches(
    model: Model,
    data: LabelledImages,
    measure: Callable[[ImageSet, ImagePrediction], T],
    *,
    batch_size: int,
    autocast: Autocast,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[T]:
    """Run a model over a set and return what `measure` makes of each batch.

    Everything runs in inference mode and with the model in evaluation mode; it is left in the mode
    it was in. The host waits for the device only where `measure` makes it.

    Args:
        model: a module, or any function, from images to a prediction.
        data: the images, on any device, in memory or streamed.
        measure: called with each batch, on the computing device, and its prediction.
        batch_size: images at a time; the last batch may be smaller.
        autocast: makes the context that the model runs in (`fabric.autocast`, say).
        device: where to compute; None: where the model's parameters are.
        progress: called after each batch with the number of images done and of all images.

    Raises:
        InputError: no images, or a batch size below 1.
    """
    if len(data) == 0:
        raise InputError("there are no images to evaluate")
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    if device is None:
        parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
        device = data.labels.device if parameter is None else parameter.device
    results = []
    batches = torch.split(torch.arange(len(data)), batch_size)
    with torch.inference_mode(), evaluation_mode(model), data.reading():
        data.expect(batches)
        for index in batches:
            batch = data.take(index).to(device)
            with autocast():
                prediction = model(batch.images)
            results.append(measure(batch, prediction))
            if progress is not None:
                progress(int(index[-1]) + 1, len(data))
    return results


@contextmanager
def evaluation_mode(model: Model | nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode and back, module by module: frozen ones stay frozen."""
    modules = model.modules() if isinstance(model, nn.Module) else ()
    in_training = [module for module in modules if module.training]
    for module in in_training:
        module.training = False
    try:
        yield
    finally:
        for module in in_training:
            module.training = True


def for_inference(network: Network) -> Network:
    """Return a copy of a network that computes the same to rounding, in less time.

    In evaluation mode batch norm is a factor and a summand of each channel: both become part of the
    convolution before it, where it is certain that there is one (`backbones.layered.neighbours`).
    The weights lie channels last, which convolutions on a CPU and bf16 units of a GPU want.

    Args:
        network: left as it is.
    """
    copied = copy.deepcopy(network).eval()
    holders = {
        id(child): (module, name)
        for module in copied.modules()
        for name, child in module.named_children()
    }
    for first, second in list(neighbours(copied)):
        fused = _fused(first, second)
        if fused is not None:
            for old, new in ((first, fused), (second, nn.Identity().eval())):
                holder, name = holders[id(old)]
                setattr(holder, name, new)
    # torch's stubs know this overload of `to` for tensors alone.
    return copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _fused(first: nn.Module, second: nn.Module) -> nn.Conv2d | None:
    """Return one convolution for a convolution and a batch norm; None where they are not just that.

    A layer of another class, or one that something hooks into, may do more than it seems to.
    """
    if type(first) not in (nn.Conv2d, Conv2d) or type(second) is not nn.BatchNorm2d:
        return None
    if second.running_mean is None or not (is_plain(first) and is_plain(second)):
        return None
    assert isinstance(first, nn.Conv2d)
    return fuse_conv_bn_eval(first, second)
