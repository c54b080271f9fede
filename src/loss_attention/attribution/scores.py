"""Scores of methods, made of what was measured of each image, and what tells two methods apart."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from loss_attention.attribution.measures import COSTS, Pooled, Values
from loss_attention.metrics.bootstrap import Bootstrap, Interval, interval_of
from loss_attention.metrics.localisation import pixel_average_precision

Array = Float[np.ndarray, "..."]


class Difference(NamedTuple):
    """How much more a method scores than another on the same images; `interval` as of a score."""

    value: float
    interval: Interval | None

    @property
    def told_apart(self) -> bool:
        """Whether the images tell which of the two scores more."""
        return self.interval is not None and self.interval.excludes_zero


class MeanScore(NamedTuple):
    """The mean over images, or PxAP of all their pixels, or a time.

    Attributes:
        value: the score.
        error: its standard error over images, of mosaics over these; None for one image, PxAP, or a
            time.
        images: how many images, or cells of mosaics, it is of.
        interval: where it lies with 95 % confidence, by the bootstrap over images (over mosaics);
            None of fewer than `bootstrap.LEAST` of them, or of a time.
        difference: from the score of the method that others are held against; None for itself, and
            for a time.
    """

    value: float
    error: float | None
    images: int
    interval: Interval | None = None
    difference: Difference | None = None


class Tally:
    """The scores of methods as they are measured one after the other.

    Attributes:
        scores: by method and measure.
        values: by method and measure, of each image (NaN where it could not be measured) or of each
            cell of each mosaic; without PxAP, which no single image has.
    """

    def __init__(self) -> None:
        self.scores: dict[str, dict[str, MeanScore]] = {}
        self.values: dict[str, dict[str, Array]] = {}
        self._resampled: dict[str, dict[str, Float[np.ndarray, " R"]]] = {}
        self._bootstrap = Bootstrap()

    def add(self, method: str, measured: Values) -> None:
        """Add what was measured of a method."""
        scores = self.scores.setdefault(method, {})
        values = self.values.setdefault(method, {})
        resampled = self._resampled.setdefault(method, {})
        for name, found in measured.items():
            if isinstance(found, Pooled):
                score, means = self._pooled(found)
            else:
                score, means = self._mean(found)
                values[name] = found.numpy()
            if means is not None:
                score, resampled[name] = score._replace(interval=interval_of(means)), means
            scores[name] = score

    def add_times(self, method: str, times: Mapping[str, float]) -> None:
        """Add what a method costs."""
        for name, value in times.items():
            self.scores[method][name] = MeanScore(value, None, 1)

    def against(self, reference: str) -> dict[str, dict[str, MeanScore]]:
        """Return the scores, each with its difference from that of the reference."""
        return {
            method: {
                name: self._less(score, method, reference, name) for name, score in scores.items()
            }
            for method, scores in self.scores.items()
        }

    def _less(self, score: MeanScore, method: str, reference: str, name: str) -> MeanScore:
        other = self.scores[reference].get(name)
        if other is None or method == reference or name in COSTS:
            return score
        interval = None
        if name in self._resampled[method]:  # of the same images, so of the reference too
            interval = interval_of(self._resampled[method][name] - self._resampled[reference][name])
        return score._replace(difference=Difference(score.value - other.value, interval))

    def _mean(self, found: Tensor) -> tuple[MeanScore, Float[np.ndarray, " R"] | None]:
        of_each = found[~found.isnan()] if found.ndim == 1 else found.mean(dim=1)
        count = int((~found.isnan()).sum())
        error = float(of_each.std() / len(of_each) ** 0.5) if len(of_each) > 1 else None
        score = MeanScore(float(of_each.mean()), error, count)
        return score, self._bootstrap.means(of_each.numpy())

    def _pooled(self, found: Pooled) -> tuple[MeanScore, Float[np.ndarray, " R"] | None]:
        value = pixel_average_precision(found.counts.sum(dim=0))
        assert value is not None, "an image without an object was counted"
        resampled = self._bootstrap.pixel_average_precisions(found.counts.numpy())
        return MeanScore(value, None, len(found.counts)), resampled


def packed_values(values: Mapping[str, Mapping[str, Array]], drawn: Int[Tensor, " N"]) -> bytes:
    """Return what was measured of each image as the content of an .npz file.

    Args:
        values: by method and measure, as of `Tally`.
        drawn: which images of their set these are.

    Returns:
        `image` are the latter; `METHOD/MEASURE` are the former, in float32.
    """
    arrays: dict[str, np.ndarray] = {"image": drawn.numpy()}
    for method, of_method in values.items():
        for name, found in of_method.items():
            arrays[f"{method}/{name}"] = found.astype(np.float32)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()
