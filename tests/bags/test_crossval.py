"""Cross-validation of classifiers of bags: folds, scores, and going on where it was stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bags.bag_files import folder
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from typed import complaint, run

from loss_attention.bags import crossval
from loss_attention.bags.bag_set import BagSet
from loss_attention.bags.crossval import Plan, cross_validated, divided
from loss_attention.bags.division import spread_labels
from loss_attention.bags.made_up import digit_bags
from loss_attention.bags.measures import BASELINES, bag_scores, precision_at
from loss_attention.bags.reading import read_bags
from loss_attention.bags.recipe import BagRecipe
from loss_attention.errors import InputError
from loss_attention.explained.pipeline import cores

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


def several_labels(count: int, seed: int = 0) -> np.ndarray:
    """Labels of five classes from rare to common; some have none of them."""
    random = np.random.default_rng(seed)
    labels = (random.random((count, 5)) < [0.06, 0.1, 0.3, 0.5, 0.8]).astype(np.uint8)
    labels[:6, 0] = 1
    labels[6:8] = 0
    return labels


def test_several_labels_are_spread_over_the_folds() -> None:
    labels = several_labels(103)
    fold_of = spread_labels(labels, 5, 0, None)
    for column in labels.T:
        counts = np.bincount(fold_of[column > 0], minlength=5)
        assert counts.max() - counts.min() <= 2
        assert counts.min() >= 1
    sizes = np.bincount(fold_of, minlength=5)
    assert sizes.max() - sizes.min() <= 2
    # Drawn at random, they are less even.
    drawn = np.random.default_rng(0).permutation(np.arange(103) % 5)
    spread = [np.ptp(np.bincount(drawn[column > 0], minlength=5)) for column in labels.T]
    assert max(spread) > 2
    assert (spread_labels(labels, 5, 0, None) == fold_of).all()
    assert (spread_labels(labels, 5, 1, None) != fold_of).any()


def test_several_labels_are_spread_by_hand() -> None:
    # The rarest class, of two bags, goes to both folds; then what is left of the other is.
    labels = np.array([[1, 1], [1, 1], [0, 1], [0, 1], [0, 0], [0, 0]])
    for seed in range(5):
        fold_of = spread_labels(labels, 2, seed, None)
        assert [sorted(fold_of[pair : pair + 2]) for pair in (0, 2, 4)] == [[0, 1]] * 3


def test_patients_of_several_labels_stay_whole() -> None:
    labels = several_labels(120)
    groups = np.arange(120) // 3 + 7
    fold_of = spread_labels(labels, 4, 0, groups)
    for group in np.unique(groups):
        assert len(set(fold_of[groups == group])) == 1
    for column in labels.T:
        counts = np.bincount(fold_of[column > 0], minlength=4)
        assert counts.max() - counts.min() <= 4


def test_bags_of_several_labels_are_cross_validated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random, labels = np.random.default_rng(1), several_labels(40)[:, 1:4]
    labels[:3, 0] = labels[8:11, 0] = 1
    (tmp_path / "data").mkdir()
    rows = ["slide,label,patient"]
    values = []
    for bag, one in enumerate(labels):
        values.append(random.normal(size=(4 + bag % 5, 3)) + 2 * one)
        np.save(tmp_path / "data" / f"s{bag}.npy", values[-1].astype(np.float32))
        names = ";".join(name for name, has in zip("abc", one, strict=True) if has) or "[]"
        rows.append(f"s{bag},{names},p{bag // 2}")
    (tmp_path / "data" / "labels.csv").write_text("\n".join(rows) + "\n")
    out = tmp_path / "out"
    words = ["crossval", "--data", tmp_path / "data", "--out", out, "--folds", "3"]
    words += ["--repeats", "2", "--epochs", "3", "--hidden", "8", "--poolings", "mean"]
    run(*words)
    said = capsys.readouterr().out
    assert all(heading in said for heading in ("exact match", "AUC", "mAP"))
    found = json.loads((out / "crossval.json").read_text())
    assert set(found["models"]) == {"mean", *BASELINES}
    bags = read_bags(str(tmp_path / "data"))
    truth = bags.labels.numpy()
    folds = [json.loads(file.read_text()) for file in (out / "folds").iterdir()]
    assert len(folds) == 3 * 2 * 4
    for name, one in found["models"].items():
        for repeat in range(2):
            mine = [f for f in folds if (f["name"], f["repeat"]) == (name, repeat)]
            index = np.concatenate([f["test"] for f in mine])
            assert sorted(index) == list(range(40))
            said = np.concatenate([f["probabilities"] for f in mine])
            scores = {
                "auc": roc_auc_score(truth[index], said, average="macro"),
                "mean_average_precision": average_precision_score(truth[index], said),
                "exact_match": ((said >= 0.5) == truth[index]).all(axis=1).mean(),
            }
            for kind, score in scores.items():
                assert one["scores"][kind]["repeats"][repeat] == pytest.approx(score)
    # A baseline is a regression for each class.
    fold = next(f for f in folds if f["name"].startswith("mean feature"))
    test = np.array(fold["test"])
    train = np.setdiff1d(np.arange(40), test)
    means = np.stack([bags.features(bag).mean(axis=0) for bag in range(40)])
    centre, spread = means[train].mean(axis=0), means[train].std(axis=0)
    for k in range(3):
        one = LogisticRegression().fit((means[train] - centre) / spread, truth[train, k])
        wanted = one.predict_proba((means[test] - centre) / spread)[:, 1]
        got = np.array(fold["probabilities"])[:, k]
        np.testing.assert_allclose(got, wanted, atol=1e-3)
    assert "8 bags of the rarest class, 'b'" in complaint(capsys, *words, "--folds", "30")


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


@pytest.mark.skipif(cores() < 2, reason="two jobs need two cores")
def test_several_jobs_find_what_one_does(tmp_path: Path) -> None:
    where = folder(tmp_path / "data", sizes=(3, 5, 2, 4, 6, 3, 4, 5))
    bags = read_bags(str(where))
    recipe = replace(QUICK, pooling="mean", normalise=False)
    models, plan = {"mean": [recipe]}, Plan(folds=2, repeats=1)
    found, order = [], []
    for jobs in (1, 2):
        out, told = tmp_path / str(jobs), []
        scores = cross_validated(
            bags, models, plan, out, lambda task, *_, told=told: told.append(task.name), jobs=jobs
        )
        folds = [json.loads(file.read_text()) for file in sorted((out / "folds").iterdir())]
        assert len(folds) == 2 * 4
        found.append((scores["plan"], [one["probabilities"] for one in folds]))
        order.append(told)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-5)
    assert (found[0][0], order[0]) == (found[1][0], order[1])


def test_more_jobs_than_cores_are_refused(bags: BagSet, tmp_path: Path) -> None:
    for jobs in (0, 10_000):
        with pytest.raises(InputError, match=f"`jobs` must be between 1 and .*, got {jobs}"):
            cross_validated(bags, {}, Plan(), tmp_path, jobs=jobs)


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
        (["--pooling", "max"], "--pooling is for one classifier"),
        (["--learning-rates", "0.1", "0.01"], "--inner must be at least 2"),
        (["--folds", "1"], "--folds must be at least 2"),
        ([], "there is no such file"),
    ],
)
def test_what_is_asked_wrong_is_one_line(
    more: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["crossval", "--data", str(tmp_path / "no.csv"), "--out", str(tmp_path / "out"), *more]
    assert said in complaint(capsys, *words)
