"""What turns a feature map into a decision: the heads by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from loss_attention.backbones import Backbone, joined_level, map_shape
from loss_attention.errors import InputError, unknown_name
from loss_attention.heads.capsules import PATCH_CHANNELS as CAPSULE_CHANNELS
from loss_attention.heads.capsules import PRIMARY_CHANNELS, CapsuleHead, RoutingHead
from loss_attention.heads.patches import (
    ATTENTION_UNITS,
    PATCH_CHANNELS,
    AttentionPooling,
    BaselineHead,
    LossAttention,
    MeanPooling,
    PatchHead,
    PatchLayout,
)
from loss_attention.losses import Objective
from loss_attention.model_spec import CUSTOM, ModelSpec


@dataclass(frozen=True)
class HeadEntry:
    """How to build a head, and what it wants of the rest.

    Attributes:
        build: from the backbone and the model's spec to the head.
        pooled_backbone: it stands on the published network, with its pooling and strides.
        regularised: its objective has the patch regulariser unless told otherwise (the paper
            gives it to loss-attention alone).
        has_evidence: it has patch logits, and its answer is exactly their weighted sum; without
            them there is nothing to regularise either.
        objective: what it is trained with.
    """

    build: Callable[[Backbone, ModelSpec], nn.Module]
    pooled_backbone: bool = False
    regularised: bool = False
    has_evidence: bool = True
    objective: Objective = "cross-entropy"


def _baseline(backbone: Backbone, spec: ModelSpec) -> nn.Module:
    hidden = getattr(backbone, "hidden", 0)
    dropout = spec.dropout if spec.is_foreign else 0.0
    return BaselineHead(backbone.channels, spec.num_classes, hidden, dropout)


def _mean(backbone: Backbone, spec: ModelSpec) -> nn.Module:
    # None weighs less than another, so that a threshold of 1 would leave none where it means all.
    return _patch_head(backbone, spec, MeanPooling(), selection=0.0)


def _attention(gated: bool, backbone: Backbone, spec: ModelSpec) -> nn.Module:
    channels = [backbone.channels, *_hidden_channels(spec)][-1]
    weighing = AttentionPooling(channels, spec.scaled(ATTENTION_UNITS), gated=gated)
    return _patch_head(backbone, spec, weighing, selection=spec.threshold)


# Eqs. 5b and 6b have already subtracted the threshold: what is left above 0 is selected.


def _loss_attention(backbone: Backbone, spec: ModelSpec) -> nn.Module:
    return _patch_head(backbone, spec, LossAttention(spec.threshold), selection=0.0)


def _capsule_loss_attention(backbone: Backbone, spec: ModelSpec) -> nn.Module:
    # `width` scales how many capsules there are; their dimensions are what the classifier and
    # Eq. 11 work in, and stay.
    return CapsuleHead(
        backbone.channels,
        spec.num_classes,
        layout=_layout(backbone, spec, selection=0.0),
        threshold=spec.threshold,
        primary_channels=spec.scaled(PRIMARY_CHANNELS),
        channels=spec.scaled(CAPSULE_CHANNELS),
        centre=centres(spec),
    )


def _dynamic_routing(backbone: Backbone, spec: ModelSpec) -> nn.Module:
    if spec.image_size is None:
        raise InputError(
            f"the head {spec.head} needs `image_size`, (height, width) in pixels: it has "
            "parameters for each position of a patch"
        )
    layout = _layout(backbone, spec, selection=spec.threshold)
    check_patch_fits(layout, *spec.image_size)
    rows, columns = layout.shape(spec.image_size)
    if spec.backbone == CUSTOM or spec.is_foreign:  # who may pad less than ours
        assert isinstance(backbone, nn.Module)
        cells = map_shape(backbone, spec.in_channels, *spec.image_size)[2:]
        rows, columns = ((count - layout.kernel) // layout.stride + 1 for count in cells)
    return RoutingHead(
        backbone.channels,
        spec.num_classes,
        layout=layout,
        positions=rows * columns,
        channels=spec.scaled(PRIMARY_CHANNELS),
    )


def _patch_head(
    backbone: Backbone, spec: ModelSpec, weighing: nn.Module, selection: float
) -> PatchHead:
    return PatchHead(
        backbone.channels,
        spec.num_classes,
        weighing=weighing,
        layout=_layout(backbone, spec, selection),
        channels=_hidden_channels(spec),
        dropout=spec.dropout,
        centre=centres(spec),
    )


def _hidden_channels(spec: ModelSpec) -> list[int]:
    channels = PATCH_CHANNELS if spec.hidden_channels is None else spec.hidden_channels
    return [spec.scaled(number) for number in channels]


def _layout(backbone: Backbone, spec: ModelSpec, selection: float) -> PatchLayout:
    level = joined_level(backbone)
    return PatchLayout(*spec.patch_size, backbone.stride, selection, level)


HEADS: dict[str, HeadEntry] = {
    "baseline": HeadEntry(_baseline, pooled_backbone=True, has_evidence=False),
    "mean": HeadEntry(_mean),
    "attention": HeadEntry(partial(_attention, False)),
    "gated-attention": HeadEntry(partial(_attention, True)),
    "loss-attention": HeadEntry(_loss_attention, regularised=True),
    "capsule-loss-attention": HeadEntry(_capsule_loss_attention, regularised=True),
    "capsule-dynamic-routing": HeadEntry(_dynamic_routing, has_evidence=False, objective="margin"),
}


def head_entry(head: str) -> HeadEntry:
    """Return the entry of a head.

    Raises:
        InputError: an unknown name, with the nearest known one.
    """
    if head not in HEADS:
        raise unknown_name("head", head[:100], HEADS)
    return HEADS[head]


def centres(spec: ModelSpec) -> bool:
    """Return whether a model's patch logits are centred; None of a spec: where they can be.

    Raises:
        InputError: they are to be and cannot be.
    """
    why_not = None
    if not spec.competing:
        kind = "one-vs-rest" if spec.one_vs_rest else "several labels an image"
        why_not = (
            f"`centre` takes away a number that a softmax does not see; with {kind} a sigmoid "
            "decides each class, and sees it"
        )
    elif spec.num_classes == 1:
        why_not = "`centre` needs at least two classes: of one, nothing would be left"
    elif not head_entry(spec.head).has_evidence:
        why_not = f"`centre`: the head {spec.head} has no patch logits; these have: {_able()}"
    if spec.centre and why_not is not None:
        raise InputError(why_not)
    return why_not is None if spec.centre is None else spec.centre


def smallest_image(layout: PatchLayout) -> int:
    """Return the smallest height and width in pixels that hold one patch."""
    # The last of the kernel's cells begins so many pixels after the first.
    return (layout.kernel - 1) * layout.feature_stride + 1


def check_patch_fits(layout: PatchLayout, height: int, width: int) -> None:
    """Raise `InputError` for images that are smaller than one patch."""
    least = smallest_image(layout)
    if min(height, width) < least:
        raise InputError(
            f"images of {height} x {width} pixels are smaller than one patch; the smallest "
            f"this model takes is {least} x {least} (a smaller `patch_kernel` or fewer "
            "`strided_layers` would lower that)"
        )


def check_regulariser(head: str) -> None:
    """Raise `InputError` for a head whose patches the regulariser cannot reach."""
    if not HEADS[head].has_evidence:
        raise InputError(
            f"`regularise`: the head {head} has no patch logits to regularise; these have: "
            f"{_able()}"
        )


def _able() -> str:
    """Return the heads that have patch logits, for people."""
    return ", ".join(name for name, entry in HEADS.items() if entry.has_evidence)
