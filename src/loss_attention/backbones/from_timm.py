"""Networks of the library timm, by their names there: `timm/NAME` or `timm/NAME.WEIGHTS`."""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from loss_attention.backbones.foreign import (
    ForeignBackbone,
    ImageSizes,
    Level,
    chosen_levels,
    from_the_hub,
    sizes_taken,
)
from loss_attention.backbones.levels import Normalisation
from loss_attention.backbones.receptive_field import receptive_field
from loss_attention.backbones.weights import Loaded, read_weights_file
from loss_attention.errors import InputError, quoted, reason
from loss_attention.model_spec import TIMM, ModelSpec


class TimmBackbone(ForeignBackbone):
    """A network of timm whose maps are `(B, D, h, w)`, prefix tokens dropped."""

    def __init__(
        self, network: nn.Module, levels: Sequence[Level], plan: Plan, spec: ModelSpec
    ) -> None:
        super().__init__(network, levels, spec, plan.normalisation, plan.sizes)
        self.indices = [level.position for level in levels]
        self.norm, self.options = plan.norm, plan.options
        self.whole = self.indices == [WHOLE]
        if len(levels) == 1:
            self.receptive_field = receptive_field(_OneMap(self))

    def from_file(self, path: Path) -> Loaded:
        """Return its weights from a file."""
        name = self.name.removeprefix(TIMM)
        with torch.device("meta"):
            whole = _build(name, self.options, classifier=True)
        rename: Any = getattr(
            sys.modules[type(self.network).__module__], "checkpoint_filter_fn", None
        )
        return read_weights_file(
            path,
            self.network.state_dict(),
            whole.state_dict(),
            of=self.name,
            convert=None if rename is None else lambda tensors: rename(tensors, self.network),
        )

    def from_hub(self, revision: str | None) -> Loaded:
        """Return its weights from the Hugging Face hub."""
        cfg: Any = self.network.pretrained_cfg
        repository = cfg.get("hf_hub_id")
        if not repository:
            raise InputError(f"`pretrained`: timm has no weights of {self.name} on the hub")
        file = cfg.get("hf_hub_filename") or "model.safetensors"
        path, commit = from_the_hub(repository, file, revision)
        loaded = self.from_file(path)
        facts = {"repository": repository, "revision": commit, "file": file}
        return loaded._replace(facts=loaded.facts | facts)

    def maps(self, images: Any) -> Any:
        """Return the maps of the levels; tracing gives it a stand-in for images."""
        network: Any = self.network
        if self.whole:
            return [network.forward_features(images)]
        return network.forward_intermediates(
            images,
            indices=self.indices,
            norm=self.norm,
            stop_early=True,
            output_fmt="NCHW",
            intermediates_only=True,
        )


class _OneMap(nn.Module):
    """A backbone of one level, to be traced."""

    def __init__(self, backbone: TimmBackbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Any) -> Any:
        return self.backbone.maps(images)[0]


WHOLE = -1
"""Index of the map that a whole CNN ends with, layers after its last level included."""


class Plan(NamedTuple):
    """How timm builds a network, and what is known of it before.

    Attributes:
        options: what timm is given beside the name.
        levels: the maps that it has, in its order.
        whole: the map that its own classifier sees, where it is none of these.
        norm: its last norm can be applied to them.
        sizes: the image sizes that it takes.
        normalisation: what its weights were trained with.
    """

    options: dict[str, Any]
    levels: tuple[Level, ...]
    whole: Level | None
    norm: bool
    sizes: ImageSizes
    normalisation: Normalisation


def timm_backbone(spec: ModelSpec) -> TimmBackbone:
    """Build the network of timm that a spec names, without weights.

    Raises:
        InputError: timm is not installed; an unknown name, with the nearest known one; a network
            without a feature map or without one of the levels.
    """
    name = spec.backbone.removeprefix(TIMM)
    plan = plan_for(name, spec.image_size)
    levels = (plan.whole,) if plan.whole and not spec.levels else chosen_levels(spec, plan.levels)
    network = _build(name, plan.options)
    return TimmBackbone(_pruned(network, levels), levels, plan, spec)


def timm_library() -> Any:
    """Return timm.

    Raises:
        InputError: it, or torchvision, which it needs, is not installed or does not import.
    """
    try:
        import timm
    except Exception as error:  # torchvision of another torch raises RuntimeError
        raise InputError(
            f"a backbone {TIMM}NAME needs timm and torchvision ({reason(error)}): "
            'pip install "loss-attention[timm]"; the paper\'s networks, such as resnet18, need '
            "neither"
        ) from error
    return timm


def known_name(name: str) -> str:
    """Return a name that is in timm's registry, with the weights' name if it has one.

    Nothing else reaches timm, which also takes places on hubs and disks for names.

    Raises:
        InputError: it is in no registry.
    """
    timm = timm_library()
    network, _, weights = name.partition(".")
    known = timm.list_models()
    if network not in known:
        near = difflib.get_close_matches(network[:100], known, n=1, cutoff=0.5)
        hint = f"did you mean {TIMM + near[0]!r}? " if near else ""
        raise InputError(
            f"unknown backbone {quoted(TIMM + name)}; {hint}timm.list_models() names those of timm"
        )
    pretrained = [full.partition(".")[2] for full in timm.list_pretrained(f"{network}.*")]
    if weights and weights not in pretrained:
        listed = ", ".join(pretrained) or "none"
        raise InputError(
            f"timm knows no weights {quoted(weights)} of {network}; it knows: {listed}"
        )
    return name


def native_size(backbone: str) -> tuple[int, int]:
    """Return height and width of the images that a network's weights were trained with.

    Raises:
        InputError: an unknown name, with the nearest known one.
    """
    name = known_name(backbone.removeprefix(TIMM))
    height, width = timm_library().get_pretrained_cfg(name).input_size[1:]
    return height, width


@lru_cache(maxsize=64)
@torch.random.fork_rng(devices=[])
def plan_for(name: str, image_size: tuple[int, int] | None) -> Plan:
    """Find out how a network of timm is built for images of a size, without memory for weights.

    A position table that can be interpolated is; windows are padded where they can be; else the
    network is built for that size.

    Raises:
        InputError: an unknown name, with the nearest known one, or a network without feature maps.
    """
    if timm_library().get_pretrained_cfg(known_name(name)).fixed_input_size:
        flexible: tuple[dict[str, Any], ...] = (
            {"dynamic_img_size": True},
            {"strict_img_size": False},
        )
        for options in flexible:
            plan = _plan_with(name, options)
            if plan is not None and plan.sizes.only is None:
                return plan
    plan = _plan_with(name, {})
    if image_size is not None and (plan is None or not _takes(plan.sizes, image_size)):
        sized = _plan_with(name, {"img_size": image_size})
        if sized is not None and _takes(sized.sizes, image_size):
            return sized
    if plan is None:
        raise InputError(
            f"{TIMM}{name} has no feature map: timm gives none of its maps as rows and columns"
        )
    return plan


def _takes(sizes: ImageSizes, image_size: tuple[int, int]) -> bool:
    try:
        sizes.check("", *image_size)
    except InputError:
        return False
    return True


def _plan_with(name: str, options: dict[str, Any]) -> Plan | None:
    """Return what a network is with some options; None: it has no such options, or no maps."""
    try:
        with torch.device("meta"):
            network: Any = _build(name, options).eval()
    except Exception:  # an option that it does not know, or a value that it does not take
        return None
    cfg = network.pretrained_cfg
    info = getattr(network, "feature_info", None)
    if not info or not hasattr(network, "forward_intermediates"):
        return None
    native: tuple[int, int] = tuple(options.get("img_size", cfg["input_size"][1:]))

    def maps(height: int, width: int, norm: bool) -> tuple[Tensor, list[Tensor]]:
        images = torch.zeros(1, cfg["input_size"][0], height, width, device="meta")
        with torch.no_grad():
            final, levels = network.forward_intermediates(images, norm=norm, output_fmt="NCHW")
        if not isinstance(final, Tensor) or any(level.ndim != 4 for level in levels):
            raise ValueError("these are not maps")
        return final, levels

    made, norm = None, True
    for norm in (True, False):
        try:
            made = maps(*native, norm)
            break
        except Exception:  # whatever a network raises that has no such maps
            continue
    if made is None:
        return None

    def takes(height: int, width: int) -> bool:
        try:
            maps(height, width, norm)
        except Exception:
            return False
        return True

    reductions = [int(one["reduction"]) for one in info]
    coarsest = max(reductions)
    multiples = [*reductions, *(coarsest * 2**n for n in range(1, 4)), *native]
    sizes = sizes_taken(takes, native, multiples)
    if sizes is None:
        return None
    final, level_maps = made
    levels = [
        Level(position, level.shape[1], stride)
        for position, (level, stride) in enumerate(zip(level_maps, reductions, strict=True))
    ]
    last, whole = level_maps[-1], None
    if final.ndim == 4 and final.shape[2:] == last.shape[2:] and final.shape[1] != last.shape[1]:
        whole = Level(WHOLE, final.shape[1], reductions[-1])
    mean, std = (tuple(map(float, cfg[key])) for key in ("mean", "std"))
    normalisation = Normalisation(mean, std)
    return Plan(options, tuple(levels), whole, norm, sizes, normalisation)


def _build(name: str, options: dict[str, Any], *, classifier: bool = False) -> nn.Module:
    classes = {} if classifier else {"num_classes": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network: nn.Module = timm_library().create_model(name, **classes, **options)
    return network


def _pruned(network: nn.Module, levels: Sequence[Level]) -> nn.Module:
    """Return a network without the layers that none of the levels needs."""
    indices = [level.position for level in levels]
    if indices != [WHOLE]:
        prune: Any = getattr(network, "prune_intermediate_layers", None)
        if prune is not None:
            prune(indices, prune_norm=False, prune_head=True)
    return network
