"""A model and data in, named metrics with their trivial baselines out."""

from loss_attention.evaluation.measuring import evaluate, validate
from loss_attention.evaluation.metric import Evaluation, ImageResults, Metric

__all__ = ["Evaluation", "ImageResults", "Metric", "evaluate", "validate"]
