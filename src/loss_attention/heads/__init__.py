"""The heads by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from loss_attention.backbones import BackboneEntry, scaled
from loss_attention.backbones.paper import Backbone
from loss_attention.errors import InputError
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


@dataclass(frozen=True)
class HeadOptions:
    """What `create_model` was asked for, as far as a head needs to know."""

    num_classes: int
    width: float
    patch_kernel: int
    patch_stride: int
    threshold: float
    image_size: tuple[int, int] | None

    def scaled(self, channels: int) -> int:
        """Return a number of channels times `width`, at least 1."""
        return scaled([channels], self.width)[0]

    def layout(self, backbone: Backbone, selection: float) -> PatchLayout:
        """Return how patches lie on the backbone's feature map."""
        return PatchLayout(self.patch_kernel, self.patch_stride, backbone.stride, selection)


@dataclass(frozen=True)
class HeadEntry:
    """How to build a head, and what it wants of the rest.

    Attributes:
        build: from the backbone's catalog entry, the backbone and the options to the head.
        pooled_backbone: it stands on the published network, with its pooling and strides.
        regularised: its objective has the patch regulariser unless told otherwise (the paper
            gives it to loss-attention alone).
        has_evidence: it has patch logits, and its answer is exactly their weighted sum; without
            them there is nothing to regularise either.
        objective: what it is trained with.
        fixed_image_size: it is made for images of one size.
    """

    build: Callable[[BackboneEntry, Backbone, HeadOptions], nn.Module]
    pooled_backbone: bool = False
    regularised: bool = False
    has_evidence: bool = True
    objective: Objective = "cross-entropy"
    fixed_image_size: bool = False


def _baseline(entry: BackboneEntry, backbone: Backbone, options: HeadOptions) -> nn.Module:
    hidden = options.scaled(entry.baseline_hidden) if entry.baseline_hidden else 0
    return BaselineHead(backbone.channels, options.num_classes, hidden)


def _mean(_: BackboneEntry, backbone: Backbone, options: HeadOptions) -> nn.Module:
    # None weighs less than another, so that a threshold of 1 would leave none where it means all.
    return _patch_head(backbone, options, MeanPooling(), selection=0.0)


def _attention(
    gated: bool, _: BackboneEntry, backbone: Backbone, options: HeadOptions
) -> nn.Module:
    weighing = AttentionPooling(
        options.scaled(PATCH_CHANNELS), options.scaled(ATTENTION_UNITS), gated=gated
    )
    return _patch_head(backbone, options, weighing, selection=options.threshold)


# Eqs. 5b and 6b have already subtracted the threshold: what is left above 0 is selected.


def _loss_attention(_: BackboneEntry, backbone: Backbone, options: HeadOptions) -> nn.Module:
    return _patch_head(backbone, options, LossAttention(options.threshold), selection=0.0)


def _capsule_loss_attention(
    _: BackboneEntry, backbone: Backbone, options: HeadOptions
) -> nn.Module:
    # `width` scales how many capsules there are; their dimensions are what the classifier and
    # Eq. 11 work in, and stay.
    return CapsuleHead(
        backbone.channels,
        options.num_classes,
        layout=options.layout(backbone, selection=0.0),
        threshold=options.threshold,
        primary_channels=options.scaled(PRIMARY_CHANNELS),
        channels=options.scaled(CAPSULE_CHANNELS),
    )


def _dynamic_routing(_: BackboneEntry, backbone: Backbone, options: HeadOptions) -> nn.Module:
    assert options.image_size is not None, "PatchClassifier checks what fixed_image_size asks for"
    layout = options.layout(backbone, selection=options.threshold)
    rows, columns = layout.shape(options.image_size)
    return RoutingHead(
        backbone.channels,
        options.num_classes,
        layout=layout,
        positions=rows * columns,
        channels=options.scaled(PRIMARY_CHANNELS),
    )


def _patch_head(
    backbone: Backbone, options: HeadOptions, weighing: nn.Module, selection: float
) -> PatchHead:
    return PatchHead(
        backbone.channels,
        options.num_classes,
        weighing=weighing,
        layout=options.layout(backbone, selection),
        channels=options.scaled(PATCH_CHANNELS),
    )


HEADS: dict[str, HeadEntry] = {
    "baseline": HeadEntry(_baseline, pooled_backbone=True, has_evidence=False),
    "mean": HeadEntry(_mean),
    "attention": HeadEntry(partial(_attention, False)),
    "gated-attention": HeadEntry(partial(_attention, True)),
    "loss-attention": HeadEntry(_loss_attention, regularised=True),
    "capsule-loss-attention": HeadEntry(_capsule_loss_attention, regularised=True),
    "capsule-dynamic-routing": HeadEntry(
        _dynamic_routing, has_evidence=False, objective="margin", fixed_image_size=True
    ),
}


def check_regulariser(head: str) -> None:
    """Raise `InputError` for a head whose patches the regulariser cannot reach."""
    if not HEADS[head].has_evidence:
        able = ", ".join(name for name, entry in HEADS.items() if entry.has_evidence)
        raise InputError(
            f"--regularise: the head {head} has no patch logits to regularise; these have: {able}"
        )
