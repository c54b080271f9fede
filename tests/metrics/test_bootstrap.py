"""Bootstrap intervals against SciPy's, scikit-learn's average precision and resampling in loops."""

from __future__ import annotations

import numpy as np
import pytest
from reference import paired_bootstrap
from scipy import stats
from sklearn.metrics import average_precision_score

from loss_attention.metrics.bootstrap import LEAST, Bootstrap, Interval, interval_of

GENERATOR = np.random.default_rng(7)


def test_means_are_those_of_the_images_that_were_drawn() -> None:
    bootstrap, values = Bootstrap(resamples=20), GENERATOR.normal(size=(15, 3))
    counts = bootstrap.counts(15)
    assert counts.sum(axis=1).tolist() == [15.0] * 20
    by_hand = [np.repeat(values, row.astype(int), axis=0).mean(axis=0) for row in counts]
    np.testing.assert_allclose(bootstrap.means(values), by_hand, atol=1e-14)
    np.testing.assert_allclose(bootstrap.means(values[:, 1]), np.array(by_hand)[:, 1], atol=1e-14)


def test_resamples_are_repeated_and_depend_on_the_seed() -> None:
    assert np.array_equal(Bootstrap(5).counts(30), Bootstrap(5).counts(30))
    assert not np.array_equal(Bootstrap(5).counts(30), Bootstrap(5, seed=1).counts(30))


def test_intervals_are_those_of_scipy() -> None:
    """Of means, and of the difference of two methods on the same images."""
    hard = GENERATOR.normal(size=80)
    one, other = (hard + GENERATOR.normal(0.1 * k, 0.2, size=80) for k in (1, 0))
    bootstrap = Bootstrap()
    found = [bootstrap.means(values) for values in (one, other)]
    apart = interval_of(found[0] - found[1])
    wanted = paired_bootstrap(one, other)
    # Percentiles of some thousand resamples are off by some hundredths of the standard error.
    tolerance = 0.25 * wanted.standard_error
    assert apart == pytest.approx(tuple(wanted.confidence_interval), abs=tolerance)
    alone = stats.bootstrap(
        (one,), np.mean, method="percentile", n_resamples=20000, rng=np.random.default_rng(0)
    )
    own = interval_of(found[0])
    tolerance = 0.25 * alone.standard_error
    assert own == pytest.approx(tuple(alone.confidence_interval), abs=tolerance)
    # The images that are hard for both are not in the difference.
    assert apart.high - apart.low < (own.high - own.low) / 3
    assert apart.excludes_zero


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    means = Bootstrap(resamples=1000).means(GENERATOR.exponential(size=(60, 500)))
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    assert 0.89 < np.mean((low < 1) & (high > 1)) < 0.97


def test_pixels_are_pooled_anew_in_each_resample() -> None:
    """Against scikit-learn, from the pixels themselves."""
    steps = GENERATOR.integers(0, 1000, size=(12, 30))
    steps[0] = 3  # an image of one value
    masks = GENERATOR.random((12, 30)) < 0.3
    masks[:, 0] = True
    counts = np.zeros((12, 2, 1000), np.int32)
    for image in range(12):
        for step, on in zip(steps[image], masks[image], strict=True):
            counts[image, int(on), step] += 1
    bootstrap = Bootstrap(resamples=6)
    found = bootstrap.pixel_average_precisions(counts)
    for drawn, value in zip(bootstrap.counts(12).astype(int), found, strict=True):
        truth, score = (np.repeat(each, drawn, axis=0).ravel() for each in (masks, steps))
        assert value == pytest.approx(average_precision_score(truth, score))


def test_of_few_images_there_is_no_interval() -> None:
    bootstrap = Bootstrap(resamples=3)
    few, enough = np.ones(LEAST - 1), np.ones(LEAST)
    assert bootstrap.means(few) is None
    assert bootstrap.means(enough).tolist() == [1.0] * 3
    assert bootstrap.pixel_average_precisions(np.ones((LEAST - 1, 2, 4), np.int32)) is None


def test_what_is_rounded_is_not_told_apart() -> None:
    assert Interval(0.01, 0.02).excludes_zero
    assert Interval(-0.02, -0.01).excludes_zero
    for low, high in ((-0.1, 0.2), (0.0, 0.0), (0.0, 0.1), (1e-8, 1e-7), (-1e-7, -1e-8)):
        assert not Interval(low, high).excludes_zero
