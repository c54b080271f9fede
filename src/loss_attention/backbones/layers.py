"""What networks are made of: a convolution, declared paths, and activations computed twice.

The order in which a module holds its layers need not be that in which it calls them, and no look at
a module tells. So a module says which layer's output goes to which other (`Layered`), or nothing is
taken for granted about it.

Activation checkpointing gives memory for time in training, a little of both or much on request. Of
some layers the forward pass keeps the input alone, and the backward pass computes the rest again
when it gets there. `kept_small` does so where that costs next to nothing. On request, `recomputed`
does it to the whole network, cut into segments. The last one is kept whole: its activations are the
first that the backward pass needs, so dropping them would save nothing. The head comes after it and
is kept for the same reason.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Conv2d(nn.Conv2d):
    """A convolution whose 1 x 1 kernel, where it strides, first picks the cells that it will see.

    The result is the same. For the weights' gradient of a strided 1 x 1 convolution, channels last,
    of fewer input channels than a vector register holds, oneDNN writes past its memory on CPUs with
    AVX2 alone, and training narrow ResNets crashed (oneDNN's issue 6035; in torch 2.13). Without a
    stride the same convolution is right.
    """

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Return the convolved maps."""
        if self.kernel_size != (1, 1) or self.stride == (1, 1) or self.padding != (0, 0):
            return super().forward(input)
        down, right = self.stride
        return F.conv2d(input[..., ::down, ::right], self.weight, self.bias)


class Layered(nn.Module):
    """A module that says in which order it calls the layers that it holds."""

    @abstractmethod
    def paths(self) -> list[Sequence[nn.Module]]:
        """Return sequences of layers, each of which gets what the one before it returns.

        That goes to this layer and nowhere else. A sequence without layers hands on its input.
        """


class Branched(Layered):
    """A block that joins what its paths make of the same input."""


def neighbours(network: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Return each layer with the one that gets its output, where that is certain.

    It is in an `nn.Sequential` and in a `Layered` module, as far as the network is made of these
    from the outermost one on: what another module does with its layers cannot be told. Layers that
    occur twice are left out.

    Example:
        >>> first, second = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)
        >>> list(neighbours(nn.Sequential(first, second))) == [(first, second)]
        True
        >>> list(neighbours(nn.ModuleList([first, second])))
        []
    """
    sequences = list(_sequences(network))
    called = Counter(id(layer) for sequence in sequences for layer in sequence)
    held = Counter(id(module) for _, module in network.named_modules(remove_duplicate=False))
    for sequence in sequences:
        for pair in pairwise(sequence):
            if all(called[id(layer)] == held[id(layer)] == 1 for layer in pair):
                yield pair


def is_plain(module: nn.Module) -> bool:
    """Whether a call of a module is its class's `forward` and nothing else: it has no hooks."""
    own = vars(module)
    return "forward" not in own and not (own["_forward_hooks"] or own["_forward_pre_hooks"])


def _sequences(module: nn.Module) -> Iterator[list[nn.Module]]:
    """Return all sequences of layers in a module, those inside of layers too."""
    for path in _paths(module):
        sequence = list(_flat(path))
        yield sequence
        for layer in sequence:
            yield from _sequences(layer)


def _paths(module: nn.Module) -> list[Sequence[nn.Module]]:
    if "forward" in vars(module):
        return []
    if _is_sequential(module):
        return [list(module.children())]
    if isinstance(module, Layered) and declares_its_own_call(type(module)):
        return module.paths()
    return []


def _flat(layers: Iterable[nn.Module]) -> Iterator[nn.Module]:
    for layer in layers:
        if _is_sequential(layer) and is_plain(layer):
            yield from _flat(layer.children())
        elif type(layer) is not nn.Identity:
            yield layer


def _is_sequential(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def declares_its_own_call(kind: type[Layered]) -> bool:
    """Whether `paths` is of the class that `forward` is of, and not of one that it was changed in.

    A subclass with another `forward` has to declare its paths anew.
    """
    order = kind.__mro__
    first = {name: next(k for k in order if name in vars(k)) for name in ("paths", "forward")}
    return order.index(first["paths"]) <= order.index(first["forward"])


SEGMENT_DEPTH = 2
"""Convolutions in a chain that make a segment: as deep as a residual block or inception module.

With fewer, the inputs that are kept outweigh what a segment holds while it is computed again; with
more, it is the other way round.
"""


def segments(layers: Iterable[nn.Module]) -> list[list[nn.Module]]:
    """Cut layers into segments, each of which begins with a convolution or a block.

    So no segment begins with a layer that overwrites its input, which is what is kept.

    Example:
        >>> chain = [nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Conv2d(1, 1, 1), nn.ReLU()]
        >>> [len(segment) for segment in segments(chain * 2)]
        [4, 4]
    """
    cut: list[list[nn.Module]] = [[]]
    depth = 0
    for layer in layers:
        begins = isinstance(layer, nn.Conv2d | Branched)
        if begins and depth >= SEGMENT_DEPTH:
            cut.append([])
            depth = 0
        if begins:
            depth += SEGMENT_DEPTH if isinstance(layer, Branched) else 1
        cut[-1].append(layer)
    return cut


def recomputed(
    layers: Iterable[nn.Module], x: Float[Tensor, "B C H W"]
) -> Float[Tensor, "B D h w"]:
    """Return what the layers make of `x`; their gradients are the same, of less memory."""
    *first, last = segments(layers)
    for segment in first:
        x = kept_small(segment, x)
    return applied(last, x)


def kept_small(segment: Sequence[nn.Module], x: Tensor) -> Tensor:
    """Return what the layers make of `x`, which is all that is kept for their gradients.

    The second pass ends as soon as it has what the gradients need, so that a layer at the end whose
    gradient needs its input alone, as a convolution's does, is not computed twice.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_noted(segment)

    # No layer of a backbone draws at random, so the generators' states need not be kept.
    result: Tensor = checkpoint(
        applied, segment, x, use_reentrant=False, context_fn=contexts, preserve_rng_state=False
    )
    return result


def applied(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Return what the layers make of `x`, one after the other."""
    for layer in layers:
        x = layer(x)
    return x


@contextmanager
def _statistics_noted(segment: Iterable[nn.Module]) -> Iterator[None]:
    """Keep batch norm from noting the batch's statistics, as the forward pass has done so."""
    norms = [
        (module, module.momentum, module.num_batches_tracked)
        for layer in segment
        for module in layer.modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    # Not `track_running_stats`: the second pass has to save for the gradient what the first did.
    for norm, _, _ in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, count in norms:
            norm.momentum, norm.num_batches_tracked = momentum, count
