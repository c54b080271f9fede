"""Capsules of the paper's Section IV-B: vectors at each cell, weighed by Eq. 6.

After them, capsules under dynamic routing (Sabour et al. 2017), which the paper compares with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from loss_attention.attention import capsule_weights, centred, full_precision, real_part
from loss_attention.backbones.layers import Conv2d, Layered
from loss_attention.backbones.levels import Features, joined
from loss_attention.heads.patches import PatchLayout
from loss_attention.prediction import CapsulePrediction, RoutedPrediction, of_class

PRIMARY_CHANNELS, PRIMARY_DIMENSION = 32, 16
PATCH_CHANNELS, PATCH_DIMENSION = 64, 128
CLASS_DIMENSION = 16
ROUNDS = 3
# With 1152 capsules and 10 classes, class capsules then begin neither near 0 nor near 1.
INITIAL_STD = 0.1
# Added to squared lengths, so that the gradient at length 0 is 0.
SMALLEST = 1e-12


class Capsules(Layered):
    """A layer of convolutional capsules, all of them in one convolution.

    The papers convolve once for each capsule dimension, to `channels` maps; output `c * D + d` of
    the one convolution here is output c of the convolution for dimension d, so that the vector of
    a capsule lies together. The convolution has a bias, also where batch norm follows and takes
    its effect away: the published parameter counts include it.

    Args:
        in_channels: channels of its input.
        channels: C, capsules at each cell.
        dimension: D, of each.
        kernel: side of the convolution.
        stride: of the convolution.
        normalised: batch norm and ReLU follow, over each of the `C * D` outputs by itself.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        dimension: int,
        *,
        kernel: int,
        stride: int,
        normalised: bool,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [Conv2d(in_channels, channels * dimension, kernel, stride)]
        if normalised:
            layers += [nn.BatchNorm2d(channels * dimension), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.shape = (channels, dimension)

    def paths(self) -> list[Sequence[nn.Module]]:
        """Return the convolution and what follows it."""
        return [[self.layers]]

    def forward(self, maps: Float[Tensor, "B N h w"]) -> Float[Tensor, "B C D rows columns"]:
        """Return the vector of each capsule."""
        outputs: Tensor = self.layers(maps)
        return outputs.view(outputs.shape[0], *self.shape, *outputs.shape[2:])


class CapsuleHead(Layered):
    """Two layers of capsules, one classifier for all capsules and the image, weights of Eq. 6.

    The first layer's capsules become their length less a bias b of each channel, and 0 where that
    is negative (Eq. 11, whose root is over squares). The second layer's, `h_cm`, go through the
    classifier: `p_cm = W h_cm + bias`. As the capsule weights of Eq. 6c sum to 1, the image's
    class vector of Eq. 6e is the weighted sum of the `p_cm`.

    Args:
        in_channels: channels of the feature map.
        num_classes: K.
        layout: how the patches lie on the feature map.
        threshold: the paper's xi.
        primary_channels: capsules of the first layer at each cell, of dimension 16.
        channels: C, capsules of each patch, of dimension 128.
        centre: take from each capsule's logits their mean over the classes; see
            `attention.centred`.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        layout: PatchLayout,
        threshold: float,
        primary_channels: int,
        channels: int,
        centre: bool = False,
    ) -> None:
        super().__init__()
        self.primary = Capsules(
            in_channels,
            primary_channels,
            PRIMARY_DIMENSION,
            kernel=layout.kernel,
            stride=layout.stride,
            normalised=True,
        )
        # Eq. 11's b: at 0 no cell is dropped before training says which are trivial.
        self.trivial_length = nn.Parameter(torch.zeros(primary_channels))
        self.patch_capsules = Capsules(
            primary_channels, channels, PATCH_DIMENSION, kernel=1, stride=1, normalised=True
        )
        self.classifier = nn.Linear(PATCH_DIMENSION, num_classes)
        self.layout = layout
        self.threshold = threshold
        self.centre = centre

    def paths(self) -> list[Sequence[nn.Module]]:
        """Return both layers of capsules: between them, vectors become lengths."""
        return [[self.primary], [self.patch_capsules]]

    def forward(self, features: Features, image_size: tuple[int, int]) -> CapsulePrediction:
        """Return the prediction for the features of images of `(height, width)` pixels."""
        return self.decide_map(self.patch_features(features), image_size)

    def patch_features(self, features: Features) -> Float[Tensor, "B C D rows columns"]:
        """Return the vectors of each patch's capsules, as a map."""
        feature_map = joined(features, self.layout.level)
        lengths = torch.linalg.vector_norm(self.primary(feature_map), dim=2)
        capsules: Tensor = self.patch_capsules(
            F.relu(lengths - self.trivial_length.reshape(-1, 1, 1).to(lengths.dtype))
        )
        return capsules

    def decide_map(
        self, capsules: Float[Tensor, "B C D rows columns"], image_size: tuple[int, int]
    ) -> CapsulePrediction:
        """Return the prediction for patches as `patch_features` gives them, or tiles joined."""
        rows, columns = capsules.shape[3:]
        # With channels last in memory, this order needs no copy.
        vectors = capsules.flatten(3).permute(0, 3, 1, 2)
        prediction = pooled_capsules(
            vectors, self.classifier, self.threshold, self.layout.selection, centre=self.centre
        )
        return replace(prediction, grid=self.layout.grid(rows, columns, image_size))


def pooled_capsules(
    vectors: Float[Tensor, "B M C D"],
    classifier: nn.Module,
    threshold: float,
    selection: float = 0.0,
    mask: Bool[Tensor, "B M"] | None = None,
    *,
    centre: bool = False,
) -> CapsulePrediction:
    """Classify and weigh the capsules of patches, or of the instances of bags (Eqs. 6a to 6e).

    Args:
        vectors: `h_cm`, shape `(B, M, C, D)`.
        classifier: from D features to K logits, the same for all.
        threshold: the paper's xi.
        selection: as for `pooled`.
        mask: as for `pooled`, which says what is raised as well.
        centre: take from each capsule's logits their mean over the classes, before all else.

    Returns:
        The prediction, without a grid.
    """
    # Full precision from here on: the evidence has to add up.
    with torch.autocast(vectors.device.type, enabled=False):
        vectors = real_part(vectors.to(next(classifier.parameters()).dtype), mask)
        capsule_logits = full_precision(classifier(vectors)).transpose(1, 2)
        if centre:
            capsule_logits = centred(capsule_logits)
        patch_weights, weights = capsule_weights(capsule_logits, threshold, mask)
        return CapsulePrediction(
            logits=torch.einsum("bcm,bcmk->bk", weights, capsule_logits),
            patch_logits=capsule_logits.sum(dim=1),
            patch_weights=patch_weights,
            grid=None,
            selection=selection,
            mask=mask,
            capsule_logits=capsule_logits,
            capsule_weights=weights,
        )


class RoutingHead(Layered):
    """Primary capsules vote for class capsules, and votes that agree get more say.

    The primary capsules are a convolution of the feature map (no batch norm or ReLU: Sabour et
    al.'s squashing is what is not linear here). Each has a matrix of its own for each class, so
    the number of patches is fixed when the head is made. The class capsules' lengths decide; see
    `RoutedPrediction` for how logits and probabilities are read from them.

    Args:
        in_channels: channels of the feature map.
        num_classes: K.
        layout: how the patches lie on the feature map.
        positions: M, the number of patches.
        channels: C, primary capsules of each patch, of dimension 16.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        layout: PatchLayout,
        positions: int,
        channels: int,
    ) -> None:
        super().__init__()
        self.primary = Capsules(
            in_channels,
            channels,
            PRIMARY_DIMENSION,
            kernel=layout.kernel,
            stride=layout.stride,
            normalised=False,
        )
        # Capsule c of patch m has a matrix for each class, side by side: transforms[c * M + m].
        self.transforms = nn.Parameter(
            torch.empty(channels * positions, PRIMARY_DIMENSION, num_classes * CLASS_DIMENSION)
        )
        if not self.transforms.is_meta:  # without values, and torch would import for a second
            nn.init.normal_(self.transforms, std=INITIAL_STD)
        self.layout = layout
        self.classes = num_classes

    def paths(self) -> list[Sequence[nn.Module]]:
        """Return the primary capsules."""
        return [[self.primary]]

    def forward(self, features: Features, image_size: tuple[int, int]) -> RoutedPrediction:
        """Return the prediction for the features of images of `(height, width)` pixels."""
        capsules: Tensor = self.primary(joined(features, self.layout.level))
        batch, channels, _, rows, columns = capsules.shape
        grouped = (channels, rows * columns, batch, self.classes)
        # Full precision from here on, like the other heads.
        with torch.autocast(capsules.device.type, enabled=False):
            # (I, B, D) for the I = C * M capsules: one matrix product for each.
            vectors = full_precision(capsules).permute(1, 3, 4, 0, 2).flatten(0, 2)
            votes = squash(vectors) @ full_precision(self.transforms)
            votes = votes.view(*votes.shape[:2], self.classes, CLASS_DIMENSION)
            log_coefficients, inputs = route(votes)
            squared = inputs.square().sum(dim=2)
            direction = inputs * (squared + SMALLEST).rsqrt().unsqueeze(2)
            along = log_coefficients.exp() * torch.einsum("ibkd,bkd->ibk", votes, direction)
            # In logarithms: a class that gets next to nothing everywhere still has its fractions.
            by_patch = log_coefficients.view(grouped).logsumexp(dim=0)
            class_weights = by_patch.softmax(dim=0).transpose(0, 1)
            logits = (squared + SMALLEST).log()
            return RoutedPrediction(
                logits=logits,
                votes=along.view(grouped).sum(dim=0).transpose(0, 1),
                class_weights=class_weights,
                patch_weights=of_class(class_weights, logits.argmax(dim=1)),
                grid=self.layout.grid(rows, columns, image_size),
                selection=self.layout.selection,
            )


def squash(vectors: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
    """Return `|s|^2 / (1 + |s|^2) * s / |s|` (their Eq. 1): the direction, a length below 1."""
    squared = vectors.square().sum(dim=-1, keepdim=True)
    return vectors * (squared / (1 + squared) * (squared + SMALLEST).rsqrt())


def route(
    votes: Float[Tensor, "I B K D"], rounds: int = ROUNDS
) -> tuple[Float[Tensor, "I B K"], Float[Tensor, "B K D"]]:
    """Route by agreement (their Procedure 1).

    Gradients flow through all rounds, as the procedure is printed.

    Args:
        votes: `u_ik`, what each of the I capsules of an image predicts for each class capsule.
        rounds: at least 1; 3 in both papers.

    Returns:
        The logarithm of the last round's coefficients `c_ik`, which sum to 1 over the classes for
        each capsule, and the input `s_k = sum over i of c_ik u_ik` of each class capsule, which
        squashing makes its output.
    """
    agreement = votes.new_zeros(votes.shape[:3])
    for turn in range(rounds):
        log_coefficients = agreement.log_softmax(dim=2)
        inputs = torch.einsum("ibk,ibkd->bkd", log_coefficients.exp(), votes)
        if turn < rounds - 1:
            agreement = agreement + torch.einsum("ibkd,bkd->ibk", votes, squash(inputs))
    return log_coefficients, inputs
