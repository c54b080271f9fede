"""Which parameters learn how fast, and which decay: the groups of an optimiser.

A network that begins with trained weights is trained more gently than the head on it, and its first
blocks, whose features are the most general, more gently than its last (Howard & Ruder 2018, and as
BEiT fine-tunes transformers). The head has the schedule's rate. The backbone's last block has
`backbone_rate * layer_decay` times it, and each block before has `layer_decay` times the rate of
the one after it.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from loss_attention.backbones.layers import Branched
from loss_attention.errors import InputError
from loss_attention.model import PatchClassifier
from loss_attention.training.recipe import Recipe

RATE_FACTOR = "rate_factor"
"""The key of a group's factor of the schedule's learning rate."""

NO_MATRICES = {"bias", "pos", "position", "positional", "scale", "token", "tokens"}
"""Words in the names of parameters that, whatever their shape, are not weights of a layer: biases,
position tables, tokens, and scales of logits."""


def parameter_groups(recipe: Recipe, model: nn.Module) -> list[dict[str, Any]]:
    """Return all parameters that are trained, each in one group; the head's group is the first.

    Args:
        recipe: gives `backbone_rate`, `layer_decay` and the optimiser.
        model: the model to train; a `PatchClassifier` where its backbone has rates of its own.

    Raises:
        InputError: a `layer_decay` for a backbone that is a single block.
    """
    factors = _factors(recipe, model)
    spared = _not_decayed(model) if recipe.optimizer == "adamw" else set()
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            key = factors.get(id(parameter), 1.0), id(parameter) in spared
            beginning = {
                "params": [],
                RATE_FACTOR: key[0],
                **({"weight_decay": 0.0} if key[1] else {}),
            }
            groups.setdefault(key, beginning)["params"].append(parameter)
    return sorted(groups.values(), key=lambda group: -group[RATE_FACTOR])


def _factors(recipe: Recipe, model: nn.Module) -> dict[int, float]:
    """Return the factor of each parameter of the backbone; the others have 1."""
    if recipe.backbone_rate == recipe.layer_decay == 1:
        return {}
    assert isinstance(model, PatchClassifier), "nothing in a frozen backbone has a rate"
    # What comes after the last map that is used is not trained, and counts for nothing.
    cut = [block for block in blocks(model.backbone) if any(p.requires_grad for p in block)]
    if recipe.layer_decay < 1 and len(cut) < 2:
        raise InputError(
            f"`layer_decay` {recipe.layer_decay:g} needs a backbone of several blocks to train, "
            f"and this one has {len(cut)}; `backbone_rate` slows it as a whole"
        )
    # Of a weight that several blocks share, the first of them decides.
    return {
        id(parameter): recipe.backbone_rate * recipe.layer_decay**depth
        for depth, block in enumerate(reversed(cut), start=1)
        for parameter in block
    }


def blocks(network: nn.Module) -> list[list[nn.Parameter]]:
    """Return the parameters of a network's blocks, from the first to the last.

    A block is a member of a container that has several weights, as a residual block or a
    transformer's layer does, and holds no such members itself, as a stage does. What stands between
    is a block too: a stem, a layer between stages. In a network without any, the blocks are what it
    is made of: the layers of a chain. Norms belong to the block before them; tokens and position
    tables to the one that follows. Blocks are taken in the order in which they are held.

    Example:
        >>> layers = [nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.ReLU(), nn.Conv2d(1, 1, 1)]
        >>> [len(block) for block in blocks(nn.Sequential(*layers))]
        [4, 2]
    """
    outer = {id(m) for m in network.modules() if any(map(_holds_blocks, m.modules()))}
    cut: list[list[nn.Parameter]] = []
    waiting: list[nn.Parameter] = []

    def add(module: nn.Module, *, alone: bool) -> None:
        members = [member for member in module.children() if [*member.parameters()]]
        chained = id(module) in outer if outer else alone or isinstance(module, CONTAINERS)
        if members and chained and not isinstance(module, Branched):
            waiting.extend(module.parameters(recurse=False))
            for member in members:
                add(member, alone=alone and len(members) == 1)
        elif _weights(module):
            cut.append([*waiting, *module.parameters()])
            waiting.clear()
        else:
            (cut[-1] if cut else waiting).extend(module.parameters())

    add(network, alone=True)
    if waiting:
        cut.append(waiting)
    return cut


CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def _holds_blocks(module: nn.Module) -> bool:
    """Whether a module is a container, or as good as one, of members that have several weights."""
    members = list(module.children())
    alike = len(members) > 1 and len(set(map(type, members))) == 1
    holds = alike or isinstance(module, CONTAINERS)
    return holds and any(_weights(member) > 1 for member in members)


def _weights(module: nn.Module) -> int:
    return sum(parameter.ndim > 1 for parameter in module.parameters())


def _not_decayed(model: nn.Module) -> set[int]:
    """Return which parameters are not matrices of a layer, by `id`."""
    return {
        id(parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim < 2
        or isinstance(module, nn.Embedding)
        or NO_MATRICES & set(name.split("_"))
    }
