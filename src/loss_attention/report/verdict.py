"""Whether a model learned anything beyond the commonest class, in words, and what to try next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import sqrt
from typing import Any, Protocol

from loss_attention.data.loading import MADE
from loss_attention.data.records import few
from loss_attention.errors import printable
from loss_attention.evaluation.metric import Evaluation, Metric
from loss_attention.training.recipe import Recipe

NEARLY_ALL = 0.98
"""A model that calls so many of the images by one name tells nothing apart."""
FEW_IMAGES = 10
"""Fewer training images a class than this are the first thing to have more of."""
FEW_OF_A_CLASS = 20
"""A class with fewer training images than this may be too rare to be learned."""
_FROZEN, _TUNED = "loss-attention train photos", "loss-attention train photos-finetune"
_Z = 1.96  # of a 95 % interval


class Measured(Protocol):
    """An evaluation, of images or of bags; see `Evaluation`."""

    @property
    def split(self) -> str:
        """Which of them."""

    @property
    def confusion(self) -> Mapping[str, Mapping[str, int]]:
        """Of each class that occurs, how many are called what; empty where they have several."""

    def get(self, name: str) -> Metric | None:
        """Return a metric, None where this evaluation does not have it."""


def nothing_learned(evaluation: Measured, what: str = "image") -> str | None:
    """Say that a model is no better than calling all images by one name; None where it is.

    It is not where nearly all images are called alike, though more classes occur; nor where neither
    its accuracy is above that of the majority class, nor its balanced accuracy above that of one
    name for all, both within their 95 % intervals. Of one label an image.

    Args:
        evaluation: of the model.
        what: it was measured on, with an s for several.
    """
    counts = evaluation.confusion
    if len(counts) < 2:  # several labels, or a single class, which tells nothing
        return None
    called: Counter[str] = Counter()
    for row in counts.values():
        called.update(row)
    total = called.total()
    (name, most), largest = called.most_common(1)[0], max(sum(r.values()) for r in counts.values())
    if most >= NEARLY_ALL * total > largest:
        number = f"all {total:,}" if most == total else f"{most:,} of {total:,}"
        own = sum(counts.get(name, {}).values())
        beyond = "the commonest class" if own == largest else "a single class"
        return (
            f"{number} {evaluation.split} {what}s are called {printable(name)}: nothing was "
            f"learned beyond {beyond}"
        )
    accuracy, majority = evaluation.get("accuracy"), None
    if accuracy is None or accuracy.value is None:
        return None
    majority = accuracy.baselines.get("majority class")
    low, high = wilson_interval(round(accuracy.value * total), total)
    if majority is None or low > majority or _balanced_low(counts) > 1 / len(counts):
        return None
    return (
        f"accuracy {accuracy.value:.3f} (95 % interval {low:.3f} to {high:.3f}) is no better than "
        f"that of the majority class, {majority:.3f}: on {total:,} {evaluation.split} {what}s "
        "there is no sign that anything was learned"
    )


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a fraction."""
    part, spread = right / total, _Z**2 / total
    middle = (part + spread / 2) / (1 + spread)
    half = _Z * sqrt(part * (1 - part) / total + spread / (4 * total)) / (1 + spread)
    return middle - half, middle + half


def _balanced_low(counts: Mapping[str, Mapping[str, int]]) -> float:
    """Return the lower end of a 95 % interval of the balanced accuracy.

    Agresti and Coull's: each class has two right and two wrong images more in the variance.
    """
    mean = variance = 0.0
    for name, row in counts.items():
        images = sum(row.values())
        part = (row.get(name, 0) + 2) / (images + 4)
        mean += row.get(name, 0) / images / len(counts)
        variance += part * (1 - part) / (images + 4) / len(counts) ** 2
    return mean - _Z * sqrt(variance)


def ending(evaluation: Evaluation, recipe: Recipe, facts: Mapping[str, Any]) -> str | None:
    """Return what to say at the end of a run that learned nothing, and what to try; else None.

    Args:
        evaluation: of the run's best weights.
        recipe: of the run.
        facts: its run.json.
    """
    verdict = nothing_learned(evaluation)
    if verdict is None:
        return None
    rare = rare_classes(facts)
    return (
        f"{verdict}; next: {_next(recipe, facts)}{f', and more images of {rare}' if rare else ''}"
    )


def rare_classes(facts: Mapping[str, Any], counted: str = "class_images") -> str:
    """Return the classes with few training images, the rarest first; runs of 0.1 do not say.

    Args:
        facts: of the run.
        counted: which of them says how many each class has.
    """
    # A class without any cannot be learned, and was let pass by the user.
    counts = sorted(zip(facts.get(counted, ()), facts.get("classes", ()), strict=False))
    return few([f"{name} ({count})" for count, name in counts if 0 < count < FEW_OF_A_CLASS])


def _next(recipe: Recipe, facts: Mapping[str, Any]) -> str:
    """Return what to try next, the most promising first."""
    images, classes = facts.get("train_images", 0), len(facts.get("classes", ()))
    if classes and images < FEW_IMAGES * classes:
        return f"more images, as {images:,} for {classes:,} classes are few"
    others = ["more `steps` or `epochs`", "another `learning_rate`"]
    others += ["`balance` weights"] if recipe.balance == "none" else []
    pretrained = recipe.pretrained or recipe.weights is not None
    if recipe.frozen and (pretrained or recipe.initial is not None):
        first = f"more `views`, a larger `image_size`, or {_TUNED} --data {recipe.data} --from RUN"
    elif pretrained or recipe.initial is not None:
        others[1] = f"`learning_rate` {recipe.learning_rate / 10:g}"
        first = f"{_FROZEN} --data {recipe.data}, whose backbone stays as it is"
    elif recipe.data in MADE:
        return ", ".join(others)
    else:
        first = f"{_FROZEN} --data {recipe.data} (a pretrained backbone)"
    return f"{first}; or {', '.join(others)}"
