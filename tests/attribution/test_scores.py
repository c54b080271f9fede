"""Scores of methods, their intervals, and what tells two of them apart."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from reference import paired_bootstrap

from loss_attention.attribution.measures import Pooled
from loss_attention.attribution.scores import MeanScore, Tally, packed_values
from loss_attention.metrics.bootstrap import LEAST

NAN = float("nan")


def tallied(**values: torch.Tensor) -> Tally:
    """Methods of which one metric was measured; underscores stand for hyphens."""
    tally = Tally()
    for name, found in values.items():
        tally.add(name.replace("_", "-"), {"metric": found})
    return tally


def test_the_standard_error_is_that_of_the_mean() -> None:
    values = torch.tensor([0.0, NAN, 1.0, 1.0, 2.0], dtype=torch.float64)
    score = tallied(margin=values).scores["margin"]["metric"]
    assert score == MeanScore(1.0, pytest.approx(np.std([0, 1, 1, 2], ddof=1) / 2), 4)
    assert tallied(margin=torch.ones(1).double()).scores["margin"]["metric"].error is None


def test_methods_are_held_against_one_of_them_image_by_image() -> None:
    generator = np.random.default_rng(3)
    hard = generator.random(50)
    better, alike = hard + 0.02 + 0.01 * generator.random(50), hard + generator.normal(0, 0.1, 50)
    missing = np.append(hard, NAN)  # an image that has no box
    found = tallied(
        margin=torch.from_numpy(missing),
        grad_cam=torch.from_numpy(np.append(better, NAN)),
        edges=torch.from_numpy(np.append(alike - (alike - hard).mean(), NAN)),
        cam=torch.from_numpy(missing - 0.5),
    )
    scores = {name: of["metric"] for name, of in found.against("margin").items()}
    assert scores["margin"].difference is None
    assert scores["margin"].images == 50
    apart = scores["grad-cam"].difference
    assert apart.value == pytest.approx(np.mean(better - hard))
    wanted = paired_bootstrap(better, hard)
    tolerance = 0.25 * wanted.standard_error
    assert apart.interval == pytest.approx(tuple(wanted.confidence_interval), abs=tolerance)
    assert apart.told_apart
    # Their own intervals overlap by nearly all: unpaired, nothing could be told.
    assert scores["margin"].interval.high > scores["grad-cam"].interval.low + 0.05
    assert not scores["edges"].difference.told_apart
    assert scores["cam"].difference.told_apart
    assert scores["cam"].difference.interval == pytest.approx((-0.5, -0.5))


def test_mosaics_are_drawn_whole() -> None:
    """Cells of a mosaic go together: as many mosaics as cells would be too sure."""
    generator = torch.Generator().manual_seed(0)
    mosaics = torch.rand(20, 1, generator=generator).double().expand(20, 4)
    cells = tallied(margin=mosaics).scores["margin"]["metric"]
    alone = tallied(margin=mosaics[:, 0].clone()).scores["margin"]["metric"]
    assert (cells.images, alone.images) == (80, 20)
    assert cells.error == pytest.approx(alone.error)
    assert cells.interval == pytest.approx(alone.interval)
    assert cells.value == pytest.approx(float(mosaics.mean()))


def test_pooled_pixels_and_times() -> None:
    tally, counts = Tally(), torch.zeros(LEAST, 2, 1000, dtype=torch.int32)
    counts[:, 0, 0], counts[:, 1, 999] = 6, 2
    for name, worse in (("margin", 0), ("uniform", 1)):
        off = counts.clone()
        off[:, 0, 999] += 2 * worse  # half of what is found is wrong
        tally.add(name, {"pxap": Pooled(off)})
        tally.add_times(name, {"seconds": 0.5, "time_ratio": 2.0})
    scores = tally.against("margin")
    assert scores["margin"]["pxap"] == MeanScore(1.0, None, LEAST, (1.0, 1.0))
    assert scores["uniform"]["pxap"].value == pytest.approx(0.5)
    assert scores["uniform"]["pxap"].difference.value == pytest.approx(-0.5)
    assert scores["uniform"]["pxap"].difference.interval == pytest.approx((-0.5, -0.5))
    assert scores["uniform"]["pxap"].difference.told_apart
    assert scores["uniform"]["seconds"] == MeanScore(0.5, None, 1)
    assert "pxap" not in tally.values["uniform"]


def test_of_few_images_nothing_is_told() -> None:
    few = torch.arange(LEAST - 1).double()
    scores = tallied(margin=few, cam=few + 5).against("margin")["cam"]["metric"]
    assert scores.interval is None
    assert scores.difference == (5.0, None)
    assert not scores.difference.told_apart


def test_what_was_measured_of_each_image_can_be_read_without_us() -> None:
    one = torch.tensor([0.25, NAN, 1.0], dtype=torch.float64)
    tally = Tally()
    tally.add("grad-cam", {"pointing_game": one, "grid_pointing_2x2": torch.ones(2, 4).double()})
    packed = packed_values(tally.values, torch.tensor([7, 3, 5]))
    assert packed == packed_values(tally.values, torch.tensor([7, 3, 5]))  # no date in it
    with np.load(io.BytesIO(packed)) as found:
        assert set(found) == {"image", "grad-cam/pointing_game", "grad-cam/grid_pointing_2x2"}
        assert found["image"].tolist() == [7, 3, 5]
        np.testing.assert_array_equal(found["grad-cam/pointing_game"], [0.25, NAN, 1.0])
        assert found["grad-cam/grid_pointing_2x2"].shape == (2, 4)
