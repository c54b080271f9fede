"""The heads by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from loss_attention.backbones.catalog import BackboneEntry, scaled
from loss_attention.backbones.spatial import Backbone
from loss_attention.heads.baseline import BaselineHead
from loss_attention.heads.loss_attention import LossAttention
from loss_attention.heads.patches import PATCH_CHANNELS, PatchHead
from loss_attention.heads.pooling import MeanPooling


@dataclass(frozen=True)
class HeadOptions:
    """What `create_model` was asked for, as far as a head needs to know."""

    num_classes: int
    width: float
    patch_kernel: int
    patch_stride: int
    threshold: float


@dataclass(frozen=True)
class HeadEntry:
    """How to build a head, and what it wants of the rest.

    Attributes:
        build: from the backbone's catalog entry, the backbone and the options to the head.
        pooled_backbone: it stands on the published network, with its pooling and strides.
        regularised: its objective has the patch regulariser unless told otherwise (the paper
            gives it to loss-attention alone).
    """

    build: Callable[[BackboneEntry, Backbone, HeadOptions], nn.Module]
    pooled_backbone: bool = False
    regularised: bool = False


def _baseline(entry: BackboneEntry, backbone: Backbone, options: HeadOptions) -> nn.Module:
    hidden = scaled([entry.baseline_hidden], options.width)[0] if entry.baseline_hidden else 0
    return BaselineHead(backbone.channels, options.num_classes, hidden)


def _mean(_: BackboneEntry, backbone: Backbone, options: HeadOptions) -> nn.Module:
    return _patch_head(backbone, options, MeanPooling(), selection=options.threshold)


def _loss_attention(_: BackboneEntry, backbone: Backbone, options: HeadOptions) -> nn.Module:
    # Eq. 5b has already subtracted the threshold: what is left above 0 is selected.
    return _patch_head(backbone, options, LossAttention(options.threshold), selection=0.0)


def _patch_head(
    backbone: Backbone, options: HeadOptions, weighing: nn.Module, selection: float
) -> PatchHead:
    return PatchHead(
        backbone.channels,
        options.num_classes,
        weighing=weighing,
        selection=selection,
        feature_stride=backbone.stride,
        channels=scaled([PATCH_CHANNELS], options.width)[0],
        kernel=options.patch_kernel,
        stride=options.patch_stride,
    )


HEADS: dict[str, HeadEntry] = {
    "baseline": HeadEntry(_baseline, pooled_backbone=True),
    "mean": HeadEntry(_mean),
    "loss-attention": HeadEntry(_loss_attention, regularised=True),
}
