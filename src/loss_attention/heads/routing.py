"""Capsules under dynamic routing (Sabour et al. 2017), which the paper compares with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from loss_attention.backbones.layered import Layered
from loss_attention.heads.capsule import PRIMARY_DIMENSION, Capsules
from loss_attention.heads.patches import PatchLayout
from loss_attention.prediction import RoutedPrediction, full_precision, of_class

CLASS_DIMENSION = 16
ROUNDS = 3
# With 1152 capsules and 10 classes, class capsules then begin neither near 0 nor near 1.
INITIAL_DEVIATION = 0.1
# Added to squared lengths, so that the gradient at length 0 is 0.
SMALLEST = 1e-12


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
            nn.init.normal_(self.transforms, std=INITIAL_DEVIATION)
        self.layout = layout
        self.classes = num_classes

    def paths(self) -> list[Sequence[nn.Module]]:
        """Return the primary capsules."""
        return [[self.primary]]

    def forward(
        self, feature_map: Float[Tensor, "B N h w"], image_size: tuple[int, int]
    ) -> RoutedPrediction:
        """Return the prediction for feature maps of images of `(height, width)` pixels."""
        capsules: Tensor = self.primary(feature_map)
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
            # In logarithms: a class that gets next to nothing everywhere still has its shares.
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
