"""Image classifiers whose decision is, exactly, a weighted sum of image patches.

An implementation of "Loss-Based Attention for Interpreting Image-Level Prediction of
Convolutional Neural Networks" (Shi et al., IEEE TIP 2021), and what it takes to use it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loss_attention.attention import capsule_weights, patch_weights
    from loss_attention.bags.exported import ExportedBagClassifier, PredictedBag
    from loss_attention.bags.model import BagClassifier
    from loss_attention.estimator import PatchClassifierEstimator
    from loss_attention.explained.objects import FoundObject, find_objects
    from loss_attention.explanation import Explanation
    from loss_attention.exporting.reading import ExportedModel
    from loss_attention.exporting.writing import Exported, export
    from loss_attention.fitting import TrainedRun, train
    from loss_attention.losses import (
        margin_loss,
        multi_label_loss,
        one_vs_rest_loss,
        ramp_up,
        single_label_loss,
    )
    from loss_attention.model import PatchClassifier, create_model, load
    from loss_attention.model_spec import ModelSpec
    from loss_attention.prediction import (
        CapsulePrediction,
        EvidencePrediction,
        ImagePrediction,
        PatchPrediction,
        RoutedPrediction,
    )

__version__ = "0.1.0"

# Looked up on first use (PEP 562): the command answers `--help` without importing torch.
_HOMES = {
    "BagClassifier": "bags.model",
    "CapsulePrediction": "prediction",
    "EvidencePrediction": "prediction",
    "Explanation": "explanation",
    "Exported": "exporting.writing",
    "ExportedBagClassifier": "bags.exported",
    "ExportedModel": "exporting.reading",
    "FoundObject": "explained.objects",
    "ImagePrediction": "prediction",
    "ModelSpec": "model_spec",
    "PatchClassifier": "model",
    "PatchClassifierEstimator": "estimator",
    "PatchPrediction": "prediction",
    "PredictedBag": "bags.exported",
    "RoutedPrediction": "prediction",
    "TrainedRun": "fitting",
    "capsule_weights": "attention",
    "create_model": "model",
    "export": "exporting.writing",
    "find_objects": "explained.objects",
    "load": "model",
    "margin_loss": "losses",
    "multi_label_loss": "losses",
    "one_vs_rest_loss": "losses",
    "patch_weights": "attention",
    "ramp_up": "losses",
    "single_label_loss": "losses",
    "train": "fitting",
}

__all__ = [
    "BagClassifier",
    "CapsulePrediction",
    "EvidencePrediction",
    "Explanation",
    "Exported",
    "ExportedBagClassifier",
    "ExportedModel",
    "FoundObject",
    "ImagePrediction",
    "ModelSpec",
    "PatchClassifier",
    "PatchClassifierEstimator",
    "PatchPrediction",
    "PredictedBag",
    "RoutedPrediction",
    "TrainedRun",
    "capsule_weights",
    "create_model",
    "export",
    "find_objects",
    "load",
    "margin_loss",
    "multi_label_loss",
    "one_vs_rest_loss",
    "patch_weights",
    "ramp_up",
    "single_label_loss",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'loss_attention' has no attribute {name!r}")
    return getattr(importlib.import_module(f"loss_attention.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
