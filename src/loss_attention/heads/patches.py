"""The convolutional patch head of the paper's Section IV-A, for any way of weighing patches.

The ways are the paper's own, by the classifier's logits (Eq. 5), and those that it compares with.
After them, the published networks' own classifiers, which look at no patch: the paper's baselines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from loss_attention.attention import scaled_lengths, weights_of_lengths
from loss_attention.backbones.convolution import Conv2d
from loss_attention.backbones.layered import Layered
from loss_attention.geometry import PatchGrid
from loss_attention.many_classes import LogitsOnDemand, PatchLogits, too_many
from loss_attention.prediction import (
    EvidencePrediction,
    ImagePrediction,
    ManyClassPrediction,
    PatchPrediction,
    full_precision,
    pool_patches,
)

PATCH_CHANNELS = 512


@dataclass(frozen=True)
class PatchLayout:
    """How patches lie on a feature map, and which of them count as selected.

    Attributes:
        kernel: side of a patch, in places of the feature map.
        stride: step between patches, in places of the feature map.
        feature_stride: pixels of the image between neighbouring places of the feature map.
        selection: patches of weight above `selection / M` count as selected.
    """

    kernel: int
    stride: int
    feature_stride: int
    selection: float

    def shape(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Return rows and columns of patches on an image of `(height, width)` pixels."""
        height, width = (-(-pixels // self.feature_stride) for pixels in image_size)
        return (height - self.kernel) // self.stride + 1, (width - self.kernel) // self.stride + 1

    def grid(self, rows: int, columns: int, image_size: tuple[int, int]) -> PatchGrid:
        """Return where the patches lie in an image of `(height, width)` pixels."""
        window, step = self.kernel * self.feature_stride, self.stride * self.feature_stride
        return PatchGrid(rows, columns, window, step, *image_size)


class PatchHead(Layered):
    """Patch features, one linear classifier for patches and image, and weights that join them.

    A 9 x 9 convolution of stride 4 (by default) makes the patches, a 1 x 1 convolution maps their
    features, both with batch norm and ReLU. The classifier gives each patch its class vector; the
    image's is their weighted sum, so it needs no second pass. Where there are too many class
    vectors to hold (`many_classes.MOST_HELD`), they are computed a chunk at a time instead.

    Args:
        in_channels: channels of the feature map.
        num_classes: K.
        weighing: a module from patch features `(B, M, D)` and patch logits, `(B, M, K)` or on
            demand, to weights `(B, M)`.
        layout: how the patches lie on the feature map.
        channels: D, features of a patch.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        weighing: nn.Module,
        layout: PatchLayout,
        channels: int,
    ) -> None:
        super().__init__()
        # The batch norm that follows takes away any bias of these two.
        self.patch_layers = nn.Sequential(
            Conv2d(in_channels, channels, layout.kernel, layout.stride, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Linear(channels, num_classes)
        self.weighing = weighing
        self.layout = layout

    def paths(self) -> list[Sequence[nn.Module]]:
        """Return the layers that make the patches."""
        return [[self.patch_layers]]

    def forward(
        self, feature_map: Float[Tensor, "B C h w"], image_size: tuple[int, int]
    ) -> EvidencePrediction:
        """Return the prediction for feature maps of images of `(height, width)` pixels."""
        places: Tensor = self.patch_layers(feature_map)
        rows, columns = places.shape[2:]
        patches = places.flatten(2).transpose(1, 2)
        place = (self.layout.grid(rows, columns, image_size), self.layout.selection)
        # Full precision from here on: the head is cheap, and the evidence has to add up.
        with torch.autocast(patches.device.type, enabled=False):
            patches = patches.to(self.classifier.weight.dtype)
            patch_logits = classified(patches, self.classifier)
            weights: Tensor = self.weighing(patches, patch_logits)
            if isinstance(patch_logits, LogitsOnDemand):
                evidence = patch_logits.weighted(weights)
                return ManyClassPrediction(
                    evidence.total(), patch_logits, evidence, weights, *place
                )
            logits = pool_patches(patch_logits, weights)
            return PatchPrediction(logits, patch_logits, weights, *place)


def classified(features: Float[Tensor, "B M D"], classifier: nn.Linear) -> PatchLogits:
    """Return the class vector of each of a patch's features, on demand where they are too many."""
    if too_many(features.shape[:2].numel() * classifier.out_features):
        return on_demand(features, classifier)
    return full_precision(classifier(features))


def on_demand(
    features: Float[Tensor, "B N D"],
    classifier: nn.Linear,
    bias_share: Float[Tensor, "B N"] | None = None,
) -> LogitsOnDemand:
    """Return the classifier's answers to features, to be computed when they are asked for.

    Args:
        features: shape `(B, N, D)`.
        classifier: from D to K.
        bias_share: how often each answer has the classifier's bias; None: once.
    """
    features, weight, bias = map(full_precision, (features, classifier.weight, classifier.bias))
    if bias_share is None:
        bias_share = features.new_ones(features.shape[:2])
    # Views: Fabric hooks the tensors of each output, and would hook the parameters for good.
    return LogitsOnDemand(features, bias_share, weight.view_as(weight), bias.view_as(bias))


ATTENTION_UNITS = 128


class MeanPooling(nn.Module):
    """The same weight, 1/M, for every patch."""

    def forward(
        self,
        patches: Float[Tensor, "B M D"],
        patch_logits: PatchLogits,  # noqa: ARG002 (other heads weigh by logits)
    ) -> Float[Tensor, "B M"]:
        """Return uniform weights, in float32 or better."""
        batch, count, _ = patches.shape
        dtype = torch.promote_types(patches.dtype, torch.float32)
        return patches.new_full((batch, count), 1.0 / count, dtype=dtype)


class AttentionPooling(nn.Module):
    """Weights from a network of two layers on the patch features (Ilse et al. 2018, Eqs. 7 to 9).

    `a_m = softmax over m of w^T tanh(V h_m)`; gated: `w^T (tanh(V h_m) * sigmoid(U h_m))`. V, U and
    w have no bias, as printed there; w's would cancel in the softmax. The models' parameter counts
    do not tell whether the paper had them: ungated, ours are 30.79 and 32.74 million either way
    where its Table II prints 30.80 and 32.73.

    Args:
        channels: D, features of a patch.
        units: hidden units; 128 in both papers.
        gated: with the sigmoid gate U.
    """

    def __init__(self, channels: int, units: int, *, gated: bool) -> None:
        super().__init__()
        self.hidden = nn.Linear(channels, units, bias=False)
        self.gate = nn.Linear(channels, units, bias=False) if gated else None
        self.score = nn.Linear(units, 1, bias=False)

    def forward(
        self,
        patches: Float[Tensor, "B M D"],
        patch_logits: PatchLogits,  # noqa: ARG002 (other heads weigh by logits)
    ) -> Float[Tensor, "B M"]:
        """Return the weights, in float32 or better."""
        hidden = torch.tanh(self.hidden(patches))
        if self.gate is not None:
            hidden = hidden * torch.sigmoid(self.gate(patches))
        return torch.softmax(full_precision(self.score(hidden).squeeze(2)), dim=1)


class LossAttention(nn.Module):
    """Weights from the lengths of the patches' class vectors; no parameters of its own."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(
        self,
        patches: Float[Tensor, "B M D"],  # noqa: ARG002 (other heads weigh by features)
        patch_logits: PatchLogits,
    ) -> Float[Tensor, "B M"]:
        """Return Eq. 5's weights."""
        return weights_of_lengths(scaled_lengths(patch_logits), self.threshold)


class BaselineHead(nn.Module):
    """Average over all places, then a linear layer, with two hidden layers where VGG has them.

    Args:
        in_channels: channels of the feature map.
        num_classes: K.
        hidden: width of the two hidden layers (ReLU, dropout 0.5); 0 for none.
    """

    def __init__(self, in_channels: int, num_classes: int, hidden: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2 if hidden else 0):
            layers += [nn.Linear(in_channels, hidden), nn.ReLU(inplace=True), nn.Dropout(0.5)]
            in_channels = hidden
        self.classifier = nn.Sequential(*layers, nn.Linear(in_channels, num_classes))

    def forward(
        self,
        feature_map: Float[Tensor, "B C h w"],
        image_size: tuple[int, int],  # noqa: ARG002 (patch heads need it for their grid)
    ) -> ImagePrediction:
        """Return the image's logits."""
        logits: Tensor = self.classifier(feature_map.mean(dim=(2, 3)))
        return ImagePrediction(full_precision(logits))
