import math

import pytest

from loss_attention.training.optimisation import adam_betas, learning_rate, regulariser_weight
from loss_attention.training.recipe import Recipe


def recipe(**changes):
    return Recipe(**{"name": "x", "data": "digits", **changes})


def test_the_papers_steps_fall_at_epochs_100_and_150_of_200():
    per_epoch = 391
    rates = [learning_rate(recipe(), epoch * per_epoch, 200 * per_epoch) for epoch in range(200)]
    assert rates == pytest.approx([0.1] * 100 + [0.01] * 50 + [0.001] * 50)


def test_one_cycle_rises_in_a_line_and_falls_along_a_cosine():
    r = recipe(schedule="one-cycle", warmup=0.25, learning_rate=0.4)
    rates = [learning_rate(r, step, 40) for step in range(40)]
    expected = [0.4 * (i + 1) / 10 for i in range(10)]
    expected += [0.2 * (1 + math.cos(math.pi * (i + 1) / 30)) for i in range(30)]
    assert rates == pytest.approx(expected)
    assert max(rates) == pytest.approx(0.4)
    assert rates[-1] == pytest.approx(0.0, abs=1e-12)


def test_one_cycle_without_warmup_starts_at_the_top():
    r = recipe(schedule="one-cycle", warmup=0.0, learning_rate=0.4)
    assert learning_rate(r, 0, 100) == pytest.approx(0.4)


def test_regulariser_ramps_over_its_part_of_the_epochs():
    r = recipe(epochs=10, gamma_epochs=0.4, gamma_max=0.5)
    weights = [regulariser_weight(r, epoch, by_default=True) for epoch in range(10)]
    ramp = [0.5 * math.exp(-5 * (1 - epoch / 4) ** 2) for epoch in (1, 2, 3)]
    assert weights == pytest.approx([0.0, *ramp, *[0.5] * 6])


@pytest.mark.parametrize(
    ("regularise", "by_default", "used"),
    [(None, True, True), (None, False, False), (True, False, True), (False, True, False)],
)
def test_regulariser_belongs_to_loss_attention_unless_asked(regularise, by_default, used):
    weight = regulariser_weight(recipe(regularise=regularise), 199, by_default=by_default)
    assert weight == (0.1 if used else 0.0)


def test_the_papers_adam_rates_epoch_by_epoch():
    r = recipe(optimizer="adam", schedule="paper-adam", learning_rate=0.003)
    per_epoch = 391
    for part_of_epoch in (0, per_epoch - 1):
        rates = [
            learning_rate(r, e * per_epoch + part_of_epoch, 200 * per_epoch) for e in range(200)
        ]
        ramp = [0.003 * math.exp(-5 * ((80 - epoch) / 80) ** 2) for epoch in range(80)]
        assert rates == pytest.approx([*ramp, *[0.003] * 40, *[0.0003] * 40, *[0.00003] * 40])
    assert rates[0] > 0


@pytest.mark.parametrize(("epochs", "ramp", "first", "second"), [(30, 12, 18, 24), (5, 2, 3, 4)])
def test_other_lengths_take_the_same_fractions_of_adams_procedure(epochs, ramp, first, second):
    r = recipe(optimizer="adam", schedule="paper-adam", learning_rate=1.0, epochs=epochs)
    rates = [learning_rate(r, epoch * 7, epochs * 7) for epoch in range(epochs)]
    assert rates[ramp - 1] < 1
    assert rates[ramp:first] == [1.0] * (first - ramp)
    assert rates[first:second] == pytest.approx([0.1] * (second - first))
    assert rates[second:] == pytest.approx([0.01] * (epochs - second))


def test_beta2_changes_after_the_papers_80_epochs():
    r = recipe(optimizer="adam", schedule="paper-adam", momentum=0.9)
    betas = [adam_betas(r, step, 200 * 391) for step in (0, 80 * 391 - 1, 80 * 391, 200 * 391 - 1)]
    assert betas == [(0.9, 0.99), (0.9, 0.99), (0.9, 0.999), (0.9, 0.999)]


def test_other_schedules_have_adams_usual_betas():
    r = recipe(optimizer="adam", schedule="one-cycle", momentum=0.8)
    assert adam_betas(r, 0, 100) == (0.8, 0.999)
