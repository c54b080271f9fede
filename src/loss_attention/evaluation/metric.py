"""Named figures about a model, what a constant answer scores beside them, and their JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from loss_attention.errors import InputError

FORMAT_VERSION = 3
CLASSES = "classes"
PLACES = "where: patches and pixels"
BOXES = "where: boxes"
ORACLE = "oracle: threshold chosen on these images"
# Version 1 had no groups.
_GROUPS_OF_VERSION_1 = {
    "accuracy": CLASSES,
    "mean_average_precision": CLASSES,
    "exact_match": CLASSES,
    "patch_precision": PLACES,
    "patch_recall": PLACES,
    "patch_f": PLACES,
    "weight_inside": PLACES,
    "box_ap": BOXES,
}


@dataclass(frozen=True)
class Measure:
    """One figure about a model; docs/measures.md says what each means.

    Attributes:
        name: for programs, `patch_f` for example.
        label: for people.
        value: None where it is undefined (nothing to divide by), or needs a threshold and there
            were no held-out images to choose it on.
        floors: what constant answers score, by name; None likewise, or where they had to be
            fitted to training data that were not there.
        unit: empty for a plain fraction.
        higher_is_better: the direction.
        range: the least and the greatest possible value.
        group: the heading to show it under.
    """

    name: str
    label: str
    value: float | None
    floors: Mapping[str, float | None]
    unit: str = ""
    higher_is_better: bool = True
    range: tuple[float, float] = (0.0, 1.0)
    group: str = ""


@dataclass(frozen=True)
class ImageResults:
    """What a model made of each of N images; on the CPU.

    Attributes:
        predictions: the predicted class (multi-label: the most confident), shape `(N,)`.
        probabilities: its probability, shape `(N,)`.
        correct: whether the image counts as right (multi-label: every class is), shape `(N,)`.
    """

    predictions: Int[Tensor, " N"]
    probabilities: Float[Tensor, " N"]
    correct: Bool[Tensor, " N"]


@dataclass(frozen=True)
class Evaluation:
    """The figures of one model on one set of images.

    Attributes:
        split: which images, `test` for example.
        images: how many.
        boxed_images: how many of them have a box of one of their labels.
        measures: the figures, in the order in which to show them.
        per_class: figures of each class, by the name of the figure and that of the class.
        thresholds: what was chosen on held-out images, by what it is for.
        held_out: the model's figures of place on the images that thresholds were chosen on, by
            name: what settings may be chosen by, as the reported images must not be looked at.
        per_image: kept in memory only; None when read from a file.
    """

    split: str
    images: int
    boxed_images: int
    measures: tuple[Measure, ...]
    per_class: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    held_out: Mapping[str, float | None] = field(default_factory=dict)
    per_image: ImageResults | None = field(default=None, compare=False, repr=False)

    def get(self, name: str) -> Measure | None:
        """Return a measure, None where this evaluation does not have it."""
        return next((measure for measure in self.measures if measure.name == name), None)

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def __getitem__(self, name: str) -> Measure:
        measure = self.get(name)
        if measure is None:
            raise KeyError(f"{name!r} is not among {', '.join(m.name for m in self.measures)}")
        return measure

    def value(self, name: str) -> float | None:
        """Return the value of a measure, None where it is undefined.

        Raises:
            KeyError: a measure that this evaluation does not have.
        """
        return self[name].value

    def to_json(self) -> dict[str, Any]:
        """Return all but `per_image` as plain values, the content of `evaluation.json`."""
        values = {"format_version": FORMAT_VERSION, **asdict(replace(self, per_image=None))}
        del values["per_image"]
        values["measures"] = [
            {**measure, "range": list(measure["range"])} for measure in values["measures"]
        ]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Evaluation:
        """Return the evaluation that `to_json` made these values of, in this version or before.

        Raises:
            InputError: values that are from a newer version, or are not an evaluation.
        """
        rest = dict(values)
        version = rest.pop("format_version", None)
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise InputError(
                f"the evaluation is of format {version}, this version reads up to "
                f"{FORMAT_VERSION}: upgrade loss-attention"
            )
        try:
            measures = tuple(_read_measure(measure) for measure in rest.pop("measures"))
            return cls(**rest, measures=measures)
        except (TypeError, KeyError) as error:
            raise InputError("this is not an evaluation that loss-attention wrote") from error


def _read_measure(values: Mapping[str, Any]) -> Measure:
    group = values.get("group", _GROUPS_OF_VERSION_1.get(values["name"], ""))
    return Measure(**{**values, "range": tuple(values["range"]), "group": group})
