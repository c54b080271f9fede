"""Which layer's output goes to which other layer, as modules declare it.

The order in which a module holds its layers need not be that in which it calls them, and no look at
a module tells. So a module says it itself, or nothing is taken for granted about it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from torch import nn


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
    if isinstance(module, Layered) and _declares_its_own_call(type(module)):
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


def _declares_its_own_call(kind: type[Layered]) -> bool:
    """Whether `paths` is of the class that `forward` is of, and not of one that it was changed in.

    A subclass with another `forward` has to declare its paths anew.
    """
    order = kind.__mro__
    first = {name: next(k for k in order if name in vars(k)) for name in ("paths", "forward")}
    return order.index(first["paths"]) <= order.index(first["forward"])
