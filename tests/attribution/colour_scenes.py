"""Scenes of coloured squares, and a model that is right about them by construction."""

from __future__ import annotations

import torch
from torch import nn

import loss_attention as la
from loss_attention.data.sample import ImageSet

CLASSES = tuple("abcdefghi")
SIZE = 12


def make_model(head: str = "mean", **options) -> la.PatchClassifier:
    torch.manual_seed(0)
    model = la.create_model(
        "vgg11_bn",
        head=head,
        num_classes=9,
        width=0.03,
        **({"patch_kernel": 3, "patch_stride": 3, "class_names": CLASSES} | options),
    )
    return model.eval()


class Colours(nn.Module):
    """A backbone that hands on the colours: the distance of each pixel from each class's colour."""

    channels, stride, receptive_field, normalisation = 9, 1, None, None

    def __init__(self, colours: torch.Tensor) -> None:
        super().__init__()
        self.colours = nn.Parameter(colours)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        apart = (images.unsqueeze(1) - self.colours[:, :, None, None]).square().sum(dim=2)
        return torch.relu(1 - 8 * apart)


class Places(nn.Module):
    """The mean of each 3 x 3 places, times 20, as the features of a patch."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return 20 * nn.functional.avg_pool2d(features, 3, self.stride)


def colour_model(stride: int = 3) -> la.PatchClassifier:
    """A model that is right by construction: patches of a class's colour speak for that class."""
    model = make_model(patch_stride=stride)
    model.set_normalisation(torch.zeros(3), torch.ones(3))
    model.backbone = Colours(COLOURS)
    model.head.patch_layers = nn.Sequential(Places(stride))
    model.head.classifier = nn.Linear(9, 9)
    with torch.no_grad():
        model.head.classifier.weight.copy_(torch.eye(9))
        model.head.classifier.bias.zero_()
    return model


COLOURS = torch.tensor([[r, g, b] for r in (0.0, 1.0) for g in (0.0, 1.0) for b in (0.0, 1.0)])
COLOURS = torch.cat([COLOURS[1:], torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.5, 0.5]])])


def scenes(count: int, seed: int = 0) -> ImageSet:
    """A square of the class's colour, 6 x 6 in a corner of four, on black."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(count, 3, SIZE, SIZE, dtype=torch.uint8)
    labels = torch.arange(count) % 9
    boxes = torch.zeros(count, 1, 4)
    for i, label in enumerate(labels.tolist()):
        x, y = (6 * int(torch.randint(0, 2, (), generator=generator)) for _ in range(2))
        images[i, :, y : y + 6, x : x + 6] = (255 * COLOURS[label]).round()[:, None, None]
        boxes[i, 0] = torch.tensor([x, y, x + 6, y + 6])
    return ImageSet(images, labels, CLASSES, boxes, labels.unsqueeze(1))
