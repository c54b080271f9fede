"""Objects of an explained image: connected groups of patches that speak for a class.

An explanation has one box an image. Where patches that speak for a class lie apart they may be of
several objects: `metrics/detection.py` defines them, and `evaluate` measures how good they are
("detection AP50"), with a threshold that it chooses on held-out images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loss_attention.errors import InputError
from loss_attention.explanation import Explanation
from loss_attention.metrics.detection import group_boxes

THRESHOLD = 0.5
"""Where no run says what was best on held-out images."""
LEAST_PROBABILITY = 0.5


@dataclass(frozen=True)
class FoundObject:
    """A connected group of patches that speak for a class.

    Attributes:
        class_index: of the class.
        score: in [0, 1]: the image's probability of the class times `share`.
        share: the group's fraction of the class's positive evidence in the image, in (0, 1].
        box: the smallest rectangle around its windows, `(x0, y0, x1, y1)` in pixels of the input.
    """

    class_index: int
    score: float
    share: float
    box: tuple[float, float, float, float]


def find_objects(
    explanation: Explanation,
    threshold: float = THRESHOLD,
    *,
    least_probability: float = LEAST_PROBABILITY,
) -> list[list[FoundObject]] | None:
    """Find the objects of each image of an explained batch.

    They are looked for of the explained class and of every likely class. (`evaluate` asks for the
    ten likeliest, as average precision ranks unlikely ones too.)

    Args:
        explanation: of the batch.
        threshold: in [0, 1): patches with more than this fraction of the class's greatest evidence
            in the image belong to an object.
        least_probability: a class that is more probable than this is likely.

    Returns:
        A list for each image, the highest score first; None where the head has no exact evidence.

    Raises:
        ValueError: a threshold that is not in [0, 1).
    """
    if not 0 <= threshold < 1:
        raise InputError(f"threshold must be at least 0 and below 1, got {threshold}")
    if explanation.evidence is None:
        return None
    images, classes, values = _questions(explanation, least_probability)
    probabilities = explanation.probabilities[images, classes].tolist()
    # Scores of 1 make fractions of them, even where a probability underflows.
    found = group_boxes(values, torch.ones(len(values)), explanation.grid, threshold)
    objects: list[list[FoundObject]] = [[] for _ in explanation.target]
    for question, (x0, y0, x1, y1), share in zip(
        found.question.tolist(), found.boxes.tolist(), found.scores.tolist(), strict=True
    ):
        score, box = probabilities[question] * share, (x0, y0, x1, y1)
        objects[int(images[question])].append(
            FoundObject(int(classes[question]), score, share, box)
        )
    return [sorted(some, key=lambda one: (-one.score, -one.share)) for some in objects]


def _questions(
    explanation: Explanation, least_probability: float
) -> tuple[Int[Tensor, " Q"], Int[Tensor, " Q"], Float[Tensor, "Q M"]]:
    """Return the images and the classes to look for there, and each patch's evidence for them."""
    target, evidence = explanation.target, explanation.evidence
    assert evidence is not None
    asked = explanation.probabilities > least_probability
    asked = asked.scatter(1, target.unsqueeze(1), value=True)
    images, classes = asked.nonzero(as_tuple=True)
    return images, classes, evidence[images, :, classes]
