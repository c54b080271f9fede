"""How sure a mean over images is: 95 % intervals by the bootstrap, paired where images are shared.

Images are drawn anew, with replacement and as many as there are, and what is measured is computed
of each such resample; between the 2.5th and the 97.5th percentile of these values lies the interval
(Efron 1979; the percentile interval of `scipy.stats.bootstrap`). Two methods that were measured on
the same images are compared by their difference in each resample: whatever makes an image easy or
hard for both cancels, so the interval of the difference is mostly narrower than those of the two.
All methods and metrics of as many images share the resamples, so each of them is a matrix product.

It is a statement about images like these, for one trained network: how networks of other seeds
differ is not in it. Where values are means over several images, as those of a mosaic are, it is the
mosaics that are drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer

RESAMPLES = 2000
LEVEL = 0.95
LEAST = 10
"""Of fewer images there is no interval: it would be too narrow, and the fewer the more so."""
ROUNDING = 1e-6
"""Two methods that should agree differ by less, in float32."""
AT_ONCE = 250
"""Resamples whose pixel counts are added up together: 4 MB of them."""


class Interval(NamedTuple):
    """Where a value lies, as far as the images can tell."""

    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether all of it lies on one side of 0, by more than numbers are rounded by."""
        return self.low > ROUNDING or self.high < -ROUNDING


class Bootstrap:
    """Resamples of any number of images, the same for all that is measured of so many.

    Args:
        resamples: how many.
        seed: the same seed draws the same resamples.
    """

    def __init__(self, resamples: int = RESAMPLES, seed: int = 0) -> None:
        self.resamples, self.seed = resamples, seed
        self._drawn: dict[int, Float[np.ndarray, "R N"]] = {}

    def counts(self, images: int) -> Float[np.ndarray, "R {images}"]:
        """Return how often each of so many images is drawn in each resample."""
        if images not in self._drawn:
            generator = np.random.default_rng(self.seed)
            drawn = generator.multinomial(images, np.full(images, 1 / images), self.resamples)
            self._drawn[images] = drawn.astype(np.float64)
        return self._drawn[images]

    def means(self, values: Float[np.ndarray, N * K]) -> Float[np.ndarray, R * K] | None:
        """Return the mean over the images of each resample; None of fewer than `LEAST`.

        Args:
            values: of each image, one or several.
        """
        if len(values) < LEAST:
            return None
        means: Float[np.ndarray, R * K] = self.counts(len(values)) @ values / len(values)
        return means

    def pixel_average_precisions(
        self, counts: Integer[np.ndarray, "N 2 T"]
    ) -> Float[np.ndarray, " R"] | None:
        """Return PxAP of the pixels of each resample's images, pooled; None of fewer than `LEAST`.

        Args:
            counts: of each image, as of `localisation.count_pixels`; each has an object.
        """
        if len(counts) < LEAST:
            return None
        return np.concatenate(list(self._pooled(counts.astype(np.float64))))

    def _pooled(self, counts: Float[np.ndarray, "N 2 T"]) -> Iterator[Float[np.ndarray, " r"]]:
        drawn = self.counts(len(counts))
        for start in range(0, len(drawn), AT_ONCE):
            pooled = np.tensordot(drawn[start : start + AT_ONCE], counts, axes=1)
            # From the greatest values down, as thresholds fall.
            off, on = pooled[:, :, ::-1].cumsum(axis=2).swapaxes(0, 1)
            precision = on / np.maximum(on + off, 1)
            gained = np.diff(on, axis=1, prepend=0) / on[:, -1:]
            yield (precision * gained).sum(axis=1)


def interval_of(resampled: Float[np.ndarray, " R"]) -> Interval:
    """Return the interval that holds the middle 95 % of what resamples gave.

    Example:
        >>> interval_of(np.linspace(0, 1, 201)).high
        0.975
    """
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))
