"""Models as training leaves them, but narrow and made in no time."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import loss_attention as la
from loss_attention.heads import HEADS
from loss_attention.heads.capsules import RoutingHead
from loss_attention.model import PatchClassifier
from loss_attention.prediction import PatchPrediction, WeightedPrediction

WEIGHTED_HEADS = [name for name, entry in HEADS.items() if not entry.pooled_backbone]
PATCH_HEADS = [name for name, entry in HEADS.items() if entry.has_evidence]
NARROW = 1 / 32

Prediction = TypeVar("Prediction", bound=WeightedPrediction)


def used_model(**options: object) -> PatchClassifier:
    """A narrow model with the batch norm statistics and sharp logits of a trained one."""
    model = la.create_model(**{"width": NARROW, "num_classes": 5, **options})
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.3, 1.5)
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias, std=0.3)
    if isinstance(model.head, RoutingHead):
        nn.init.normal_(model.head.transforms, std=0.5)
    else:
        for parameter in model.head.classifier.parameters():
            nn.init.normal_(parameter, std=2.0)
    return model.eval()


def used_baseline(backbone: str = "resnet18") -> PatchClassifier:
    return la.create_model(backbone, head="baseline", num_classes=5, width=NARROW).eval()


def patches_of(
    model: PatchClassifier, images: torch.Tensor, kind: type[Prediction] = PatchPrediction
) -> Prediction:
    """The prediction, which has to be of a kind."""
    prediction = model(images)
    assert isinstance(prediction, kind)
    return prediction


def feature_maps(model: PatchClassifier, images: torch.Tensor) -> NDArray[np.float64]:
    """What the head of a model in double precision gets."""
    with torch.no_grad():
        return model.backbone((images - 0.5) / 0.25).numpy()


def arrays(module: nn.Module) -> dict[str, NDArray[np.float64]]:
    """The parameters and statistics of a module by name."""
    return {name: value.numpy() for name, value in module.state_dict().items()}
