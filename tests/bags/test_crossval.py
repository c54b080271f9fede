"""Cross-validation of classifiers of bags: folds, scores, and going on where it was stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from typed import complaint, run

from loss_attention.bags import crossval
from loss_attention.bags.bag_set import BagSet
from loss_attention.bags.crossval import Plan, cross_validated, divided
from loss_attention.bags.made_up import digit_bags
from loss_attention.bags.measures import BASELINES, bag_scores, precision_at
from loss_attention.bags.recipe import BagRecipe
from loss_attention.errors import InputError

QUICK = BagRecipe(hidden=(16,), epochs=15, learning_rate=3e-3, dropout=0.0)


@pytest.fixture(scope="module")
def bags() -> BagSet:
    return digit_bags(60, seed=1)


def test_folds_are_stratified_and_keep_groups_whole(bags: BagSet) -> None:
    seen = []
    for train, test in divided(bags, 5, seed=0):
        assert not set(train) & set(test)
        assert bags.labels[torch.from_numpy(test)].sum() == 6
        seen += test.tolist()
    assert sorted(seen) == list(range(60))
    grouped = replace(bags, groups=torch.arange(60) // 3)
    for train, test in divided(grouped, 5, seed=0):
        assert not set((train // 3).tolist()) & set((test // 3).tolist())
    with pytest.raises(InputError, match="`folds` 31: there are 30 bags of the rarest class"):
        list(divided(bags, 31, seed=0))


def test_scores_are_those_of_the_definition() -> None:
    labels = np.array([0, 0, 1, 1, 1])
    positive = np.array([0.1, 0.6, 0.4, 0.8, 0.9])
    found = bag_scores(labels, np.stack([1 - positive, positive], axis=1))
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["balanced_accuracy"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found["auc"] == roc_auc_score(labels, positive) == pytest.approx(5 / 6)
    assert found["nll"] == pytest.approx(-np.log([0.9, 0.4, 0.4, 0.8, 0.9]).mean())
    assert precision_at(np.array([True, False, True]), np.array([0.9, 0.5, 0.6]), 2) == 1.0


def test_it_goes_on_where_it_was_stopped(
    bags: BagSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, plan = {"mean": [replace(QUICK, pooling="mean")]}, Plan(folds=3, repeats=1)
    whole = cross_validated(bags, models, plan, tmp_path / "whole")
    fitted, seen = crossval.fit_bags, []

    def stopped(*given: object) -> object:
        seen.append(given)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return fitted(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(crossval, "fit_bags", stopped)
    with pytest.raises(KeyboardInterrupt):
        cross_validated(bags, models, plan, tmp_path / "broken")
    again = cross_validated(bags, models, plan, tmp_path / "broken")
    assert len(seen) == 4
    for found in (whole, again):
        for one in found["models"].values():
            del one["seconds"]
    assert again == whole
    assert set(whole["models"]) == {"mean", *BASELINES}


def test_settings_are_chosen_on_inner_folds_alone(
    bags: BagSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[int, float]] = []
    fitted = crossval.fit_bags

    def noted(some: BagSet, recipe: BagRecipe) -> object:
        trained.append((len(some), recipe.learning_rate))
        return fitted(some, recipe)

    monkeypatch.setattr(crossval, "fit_bags", noted)
    settings = [replace(QUICK, pooling="mean", learning_rate=rate) for rate in (1e-9, 3e-3)]
    plan = Plan(folds=3, repeats=1, inner=2)
    found = cross_validated(bags, {"mean": settings}, plan, tmp_path, baselines=False)
    assert found["models"]["mean"]["chosen"] == [1, 1, 1]  # the other does not learn
    assert trained[:5] == [(20, 1e-9), (20, 3e-3), (20, 1e-9), (20, 3e-3), (40, 3e-3)]


def test_the_command_compares_classifiers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bags: BagSet
) -> None:
    table, out = tmp_path / "digits.csv", tmp_path / "out"
    lines = ["bag,label," + ",".join(f"f{i}" for i in range(64))]
    for bag in range(30):
        lines += [
            f"{bag},{int(bags.labels[bag])}," + ",".join(f"{value:g}" for value in row)
            for row in bags.features(bag)
        ]
    table.write_text("\n".join(lines))
    words = ["crossval", "--data", str(table), "--out", str(out), "--folds", "2", "--repeats", "2"]
    words += ["--epochs", "3", "--hidden", "8", "--poolings", "max", "loss-attention"]
    run(*words)
    said = capsys.readouterr().out
    assert "30 bags (15 of 0, 15 of 1)" in said
    found = json.loads((out / "crossval.json").read_text())
    assert set(found["models"]) == {"max", "loss-attention", *BASELINES}
    score = found["models"]["max"]["scores"]["accuracy"]
    assert score["mean"] == np.mean(score["repeats"])
    assert f"{score['mean']:.3f} ± {score['sd']:.3f}" in said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--poolings", "maxx"], "unknown pooling 'maxx'; did you mean 'max'?"),
        (["--poolings", "max", "max"], "--poolings must be names, each once"),
        (["--pooling", "max"], "--pooling is of one classifier"),
        (["--learning-rates", "0.1", "0.01"], "--inner must be at least 2"),
        (["--folds", "1"], "--folds must be at least 2"),
        ([], "it is not there"),
    ],
)
def test_what_is_asked_wrong_is_one_line(
    more: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["crossval", "--data", str(tmp_path / "no.csv"), "--out", str(tmp_path / "out"), *more]
    assert said in complaint(capsys, *words)
