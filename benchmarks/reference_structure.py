"""The yardstick: the networks and the training step as the first published implementation has them.

Written from a description of that structure, for nothing but to be timed beside ours: float32 in
contiguous NCHW, a separate convolution for each dimension of a capsule with the outputs stacked on
a last axis, weights expanded to the size of what they weigh, a second pass through the classifier
for the image, augmentation image by image through PIL, batch by batch to the device, and the loss
read back at each step. `copied` gives it our weights; it then gives our outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional as F

from loss_attention.backbones.paper import RESNET_WIDTHS
from loss_attention.heads import capsules, patches
from loss_attention.model import PatchClassifier
from loss_attention.model_spec import ModelSpec
from loss_attention.training.augmentation import Shifts

BLOCKS = (2, 2, 2, 2)
KERNEL, STRIDE = 9, 4


class Outputs(NamedTuple):
    """What the yardstick's networks return."""

    logits: Float[Tensor, "B K"]
    patch_logits: Float[Tensor, "B M K"]
    patch_weights: Float[Tensor, "B M"]


class Block(nn.Module):
    """Two 3 x 3 convolutions with batch norm, and a shortcut around them."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Return `relu(F(x) + shortcut(x))`."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


def resnet18(width: float) -> nn.Sequential:
    """Return ResNet18 without strides, pooling and classifier."""
    widths = list(map(ModelSpec(width=width).scaled, RESNET_WIDTHS))
    layers: list[nn.Module] = [*normalised(nn.Conv2d(3, widths[0], 3, padding=1, bias=False))]
    channels = widths[0]
    for stage, count in zip(widths, BLOCKS, strict=True):
        for _ in range(count):
            layers.append(Block(channels, stage))
            channels = stage
    return nn.Sequential(*layers)


def normalised(convolution: nn.Conv2d) -> list[nn.Module]:
    """Return a convolution with batch norm and ReLU after it."""
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()]


class ConvolutionalReference(nn.Module):
    """ResNet18 with patches of two convolutions, weighed by Eq. 5."""

    def __init__(self, num_classes: int, width: float, threshold: float) -> None:
        super().__init__()
        self.backbone = resnet18(width)
        scaled = ModelSpec(width=width).scaled
        inside, channels = scaled(RESNET_WIDTHS[-1]), scaled(patches.PATCH_CHANNELS[-1])
        self.patch_layers = nn.Sequential(
            *normalised(nn.Conv2d(inside, channels, KERNEL, STRIDE, bias=False)),
            *normalised(nn.Conv2d(channels, channels, 1, bias=False)),
        )
        self.classifier = nn.Linear(channels, num_classes)
        self.threshold = threshold

    def forward(self, images: Float[Tensor, "B C H W"]) -> Outputs:
        """Classify normalised images."""
        places = self.patch_layers(self.backbone(images))
        features = places.flatten(2).transpose(1, 2).contiguous()  # (B, M, D)
        patch_logits = self.classifier(features)
        norms = torch.norm(patch_logits, dim=2)
        weights = above_threshold(norms / norms.sum(dim=1, keepdim=True), self.threshold)
        expanded = weights.unsqueeze(2).repeat(1, 1, features.shape[2])
        logits = self.classifier((expanded * features).sum(dim=1))
        return Outputs(logits, patch_logits, weights)


class SeparateConvolutions(nn.Module):
    """A layer of capsules: a convolution for each dimension, stacked on a last axis."""

    def __init__(
        self, in_channels: int, channels: int, dimension: int, kernel: int, stride: int
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(*normalised(nn.Conv2d(in_channels, channels, kernel, stride)))
            for _ in range(dimension)
        )

    def forward(self, maps: Float[Tensor, "B N h w"]) -> Float[Tensor, "B C rows columns D"]:
        """Return the vector of each capsule, on the last axis."""
        return torch.stack([layer(maps) for layer in self.layers], dim=-1)


class CapsuleReference(nn.Module):
    """ResNet18 with two layers of capsules, weighed by Eq. 6."""

    def __init__(self, num_classes: int, width: float, threshold: float) -> None:
        super().__init__()
        self.backbone = resnet18(width)
        scaled = ModelSpec(width=width).scaled
        inside = scaled(RESNET_WIDTHS[-1])
        primary, channels = scaled(capsules.PRIMARY_CHANNELS), scaled(capsules.PATCH_CHANNELS)
        self.primary = SeparateConvolutions(
            inside, primary, capsules.PRIMARY_DIMENSION, KERNEL, STRIDE
        )
        self.trivial_length = nn.Parameter(torch.zeros(primary))
        self.patch_capsules = SeparateConvolutions(
            primary, channels, capsules.PATCH_DIMENSION, 1, 1
        )
        self.classifier = nn.Linear(capsules.PATCH_DIMENSION, num_classes)
        self.threshold = threshold

    def forward(self, images: Float[Tensor, "B C H W"]) -> Outputs:
        """Classify normalised images."""
        lengths = torch.norm(self.primary(self.backbone(images)), dim=-1)
        trivial = self.trivial_length.view(1, -1, 1, 1).expand_as(lengths)
        stacked = self.patch_capsules(F.relu(lengths - trivial))
        features = stacked.flatten(2, 3)  # (B, C, M, D)
        capsule_logits = self.classifier(features)
        norms = torch.norm(capsule_logits, dim=3)
        shares = norms / norms.sum(dim=(1, 2), keepdim=True)
        patch_weights = above_threshold(shares.sum(dim=1), self.threshold)
        kept = shares * (patch_weights > 0).unsqueeze(1).expand_as(shares)
        weights = kept / kept.sum(dim=(1, 2), keepdim=True)
        expanded = weights.unsqueeze(3).repeat(1, 1, 1, features.shape[3])
        logits = self.classifier((expanded * features).sum(dim=(1, 2)))
        return Outputs(logits, capsule_logits.sum(dim=1), patch_weights)


def above_threshold(shares: Float[Tensor, "B M"], threshold: float) -> Float[Tensor, "B M"]:
    """Subtract `threshold / M`, drop what falls below zero, normalise again (Eqs. 5b and 6b)."""
    kept = F.relu(shares - threshold / shares.shape[1])
    return kept / kept.sum(dim=1, keepdim=True)


def reference_loss(outputs: Outputs, labels: Int[Tensor, " B"], gamma: float) -> Float[Tensor, ""]:
    """Return Eq. 9, with one-hot labels and weights expanded to the patches and classes."""
    classes = outputs.logits.shape[1]
    one_hot = F.one_hot(labels, classes).to(outputs.logits.dtype)
    expanded = one_hot.unsqueeze(1).repeat(1, outputs.patch_logits.shape[1], 1)
    weights = outputs.patch_weights.unsqueeze(2).repeat(1, 1, classes)
    of_patches = (weights * expanded * F.log_softmax(outputs.patch_logits, dim=2)).sum(dim=(1, 2))
    return F.cross_entropy(outputs.logits, labels) - gamma * of_patches.mean()


REFERENCES: dict[str, type[ConvolutionalReference | CapsuleReference]] = {
    "loss-attention": ConvolutionalReference,
    "capsule-loss-attention": CapsuleReference,
}
"""The yardstick of each head that has one."""


def copied(model: PatchClassifier) -> nn.Module:
    """Return the yardstick of a model, with the model's weights and statistics."""
    config = model.config
    make = REFERENCES[config["head"]]
    reference = make(config["num_classes"], config["width"], config["threshold"])
    reference.to(model.mean.dtype)
    _copy_in_order(model.backbone, reference.backbone)
    if isinstance(reference, CapsuleReference):
        head = model.head
        for ours, theirs in (
            (head.primary, reference.primary),
            (head.patch_capsules, reference.patch_capsules),
        ):
            _copy_capsules(ours, theirs)
        with torch.no_grad():
            reference.trivial_length.copy_(head.trivial_length)
        _copy_in_order(head.classifier, reference.classifier)
    else:
        _copy_in_order(model.head, nn.ModuleList([reference.patch_layers, reference.classifier]))
    return reference


def _layers(module: nn.Module) -> list[nn.Module]:
    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)
    return [layer for layer in module.modules() if isinstance(layer, kinds)]


def _copy_in_order(ours: nn.Module, theirs: nn.Module) -> None:
    for source, target in zip(_layers(ours), _layers(theirs), strict=True):
        target.load_state_dict(source.state_dict())


def _copy_capsules(ours: nn.Module, theirs: SeparateConvolutions) -> None:
    """Take one convolution apart: output `c * D + d` of ours is output c of convolution d."""
    for position, source in enumerate(_layers(ours)):
        for dimension, layer in enumerate(theirs.layers):
            target = _layers(layer)[position]
            target.load_state_dict(
                {
                    name: value[dimension :: len(theirs.layers)] if value.ndim else value
                    for name, value in source.state_dict().items()
                }
            )


def augmented(
    images: Sequence[UInt8[np.ndarray, "H W C"]],
    shifts: Shifts,
    padding: int,
    mean: Float[Tensor, "C 1 1"],
    std: Float[Tensor, "C 1 1"],
) -> Float[Tensor, "B C H W"]:
    """Crop, flip and normalise image by image, each through PIL."""
    done = []
    for pixels, (row, column), flip in zip(
        images, shifts.offset.tolist(), shifts.flip.tolist(), strict=True
    ):
        image = Image.fromarray(pixels)
        width, height = image.size
        image = ImageOps.expand(image, padding)
        image = image.crop((column, row, column + width, row + height))
        if flip:
            image = ImageOps.mirror(image)
        done.append(_normalised_pixels(np.array(image), mean, std))
    return torch.stack(done)


def unaugmented(
    images: Sequence[UInt8[np.ndarray, "H W C"]], mean: Tensor, std: Tensor
) -> Float[Tensor, "B C H W"]:
    """Normalise image by image, as in evaluation."""
    return torch.stack(
        [_normalised_pixels(np.array(Image.fromarray(pixels)), mean, std) for pixels in images]
    )


def _normalised_pixels(pixels: np.ndarray, mean: Tensor, std: Tensor) -> Tensor:
    return (torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float() / 255 - mean) / std
