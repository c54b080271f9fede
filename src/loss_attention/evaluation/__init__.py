"""A model and data in, named figures with their floors out."""

from loss_attention.evaluation.measuring import evaluate, validate
from loss_attention.evaluation.metric import Evaluation, ImageResults, Measure

__all__ = ["Evaluation", "ImageResults", "Measure", "evaluate", "validate"]
