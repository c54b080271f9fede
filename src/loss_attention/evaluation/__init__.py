"""A model and data in, named figures with their floors out."""

from loss_attention.evaluation.figures import Evaluation, ImageResults, Measure
from loss_attention.evaluation.measuring import evaluate, validate

__all__ = ["Evaluation", "ImageResults", "Measure", "evaluate", "validate"]
