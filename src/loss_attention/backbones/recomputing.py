"""Activation checkpointing: memory for time in training, a little of both or much on request.

Of some layers the forward pass keeps the input alone, and the backward pass computes the rest again
when it gets there. `kept_small` does so where that costs next to nothing. On request, `recomputed`
does it to the whole network, cut into segments. The last one is kept whole: its activations are the
first that the backward pass needs, so dropping them would save nothing. The head comes after it and
is kept for the same reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from loss_attention.backbones.layered import Branched

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
