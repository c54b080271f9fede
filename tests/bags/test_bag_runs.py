"""Runs on bags from the command line: trained, stopped, gone on with, measured, predicted."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score
from typed import complaint, exit_code, run

from loss_attention.bags import crossval, job, measures
from loss_attention.bags.bag_set import BagSet, PackedInstances
from loss_attention.bags.division import of_classes, parts_of
from loss_attention.bags.evaluation import evaluate_bags
from loss_attention.bags.made_up import digit_bags
from loss_attention.bags.measures import BASELINES, label_scores
from loss_attention.bags.model import BagClassifier
from loss_attention.bags.reading import read_bags
from loss_attention.bags.recipe import BagRecipe, BagRunRecipe, is_bag_run
from loss_attention.bags.saved import load_bag_model
from loss_attention.bags.training import BagTrainer, Epoch, fit_bags
from loss_attention.errors import InputError
from loss_attention.training.run_folder import RunFolder

EPOCHS, STEPS = 4, 5
QUICK = [
    *("--epochs", str(EPOCHS), "--hidden", "8", "--batch-bags", "6", "--learning-rate", "0.01"),
    *("--most-instances", "7", "--dropout", "0.3", "--accelerator", "cpu"),
]
"""Of 40 bags 28 are trained on, in 5 steps an epoch."""


def write_table(path: Path, bags: BagSet, **more: list[Any]) -> Path:
    """Write bags as a table, with instance labels; `more` are columns of bags."""
    columns: dict[str, Any] = {"bag": np.repeat(bags.names, bags.sizes)}
    names = np.array(bags.class_names)
    if bags.class_names:
        assert bags.instance_labels is not None
        columns["label"] = np.repeat(names[bags.labels.numpy()], bags.sizes)
        columns["instance_label"] = names[np.concatenate(bags.instance_labels)]
    columns |= {name: np.repeat(values, bags.sizes) for name, values in more.items()}
    features = np.concatenate([bags.features(bag) for bag in range(len(bags))])
    columns |= {f"f{place}": features[:, place] for place in range(bags.width)}
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture(scope="module")
def bags() -> BagSet:
    return digit_bags(40, seed=1)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, bags: BagSet) -> Path:
    return write_table(tmp_path_factory.mktemp("bags") / "digits.parquet", bags)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, table: Path) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    run("train", "bags", "--data", table, "--out", out, *QUICK)
    return out


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl but for what the clock decides."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    clock = {"seconds", "bags_per_second"}
    return [{key: value for key, value in line.items() if key not in clock} for line in lines]


def state_of(path: Path) -> dict[str, Any]:
    state = RunFolder(path).load_state()
    assert state is not None
    return state


def assert_same_run(path: Path, other: Path) -> None:
    assert lines_of(path) == lines_of(other)
    assert (path / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    ours, theirs = state_of(path), state_of(other)
    assert all(torch.equal(ours["model"][name], theirs["model"][name]) for name in theirs["model"])
    for number, moments in theirs["optimizer"]["state"].items():
        for name, value in moments.items():
            assert torch.equal(ours["optimizer"]["state"][number][name], value)
    scores = [json.loads((one / "evaluation.json").read_text()) for one in (path, other)]
    assert scores[0] == scores[1]


def signalling(function: Callable[..., Any], number: int, calls: set[int]) -> Callable[..., Any]:
    """Return the function as it is, but a signal comes within some of its calls."""
    made = iter(range(1, 10_000))

    def signalled(*given: Any, **options: Any) -> Any:
        if next(made) in calls:
            os.kill(os.getpid(), number)
        return function(*given, **options)

    return signalled


def test_a_run_has_the_files_of_any_run(whole: Path, table: Path, bags: BagSet) -> None:
    names = {"recipe.yaml", "run.json", "model.safetensors", "state.pt", "metrics.jsonl"}
    assert {path.name for path in whole.iterdir()} == names | {
        *("evaluation.json", "report.html", ".lock")
    }
    assert (whole / "recipe.yaml").read_text().startswith("kind: bags\n")
    assert is_bag_run(whole)
    facts = RunFolder.open(whole).facts()
    assert facts["finished"]
    assert [facts[f"{part}_bags"] for part in ("train", "validation", "test")] == [28, 4, 8]
    assert facts["data_fingerprint"] == read_bags(str(table)).fingerprint()
    assert facts["instances"] == bags.sizes.sum()
    with pytest.raises(InputError, match=r"recipe\.yaml is of a run on bags, not on images"):
        RunFolder.open(whole).recipe()


def test_the_weights_are_those_of_the_least_validation_loss(whole: Path, table: Path) -> None:
    losses = [line["validation_loss"] for line in lines_of(whole)]
    best = int(np.argmin(losses))
    assert [line["best"] for line in lines_of(whole)].count(True) >= 1
    assert RunFolder.open(whole).facts()["best_epoch"] == best + 1
    recipe = BagRunRecipe.from_yaml(whole / "recipe.yaml")
    validation = parts_of(read_bags(str(table)), recipe).validation
    model = load_bag_model(whole)
    each = [
        torch.nn.functional.cross_entropy(
            model(torch.from_numpy(validation.features(bag))[None]).logits,
            validation.labels[bag : bag + 1],
        ).item()
        for bag in range(len(validation))
    ]
    assert sum(each) / len(each) == pytest.approx(losses[best], abs=1e-6)


def test_loss_and_accuracy_are_of_one_epoch(bags: BagSet) -> None:
    told: list[Epoch] = []
    still = BagRecipe(hidden=(4,), epochs=3, learning_rate=0.0, dropout=0.0, pooling="mean")
    model = fit_bags(bags, still, told.append)
    parts = [torch.from_numpy(bags.features(bag))[None] for bag in range(len(bags))]
    with torch.no_grad():
        logits = torch.cat([model(part).logits for part in parts])
    loss = float(torch.nn.functional.cross_entropy(logits, bags.labels))
    right = float((logits.argmax(dim=1) == bags.labels).float().mean())
    for number, epoch in enumerate(told, start=1):
        assert (epoch.number, epoch.accuracy) == (number, pytest.approx(right))
        assert epoch.loss == pytest.approx(loss, abs=1e-6)


def test_without_validation_the_last_epoch_is_kept(table: Path, tmp_path: Path) -> None:
    words = ["train", "bags", "--data", table, "--out", tmp_path / "run", *QUICK]
    run(*words, "--validation-fraction", "0", "--epochs", "2")
    assert RunFolder.open(tmp_path / "run").facts()["best_epoch"] == 2
    kept = load_bag_model(tmp_path / "run").state_dict()
    last = state_of(tmp_path / "run")["model"]
    assert all(torch.equal(kept[name], last[name]) for name in last)


@pytest.mark.parametrize(
    ("where", "calls", "position"),
    [
        # Within an epoch, at its last step, and once more where it was gone on with.
        ((BagTrainer, "train_step"), {3, STEPS * 2, STEPS * 2 + 3}, (0, 3)),
        ((job, "correct_images"), {3}, (0, STEPS)),  # in the validation of the first epoch
        ((job.BagRun, "save"), {2}, (2, 0)),
    ],
)
def test_stopped_anywhere_and_resumed_it_ends_bit_identical(
    where: tuple[Any, str],
    calls: set[int],
    position: tuple[int, int],
    whole: Path,
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    monkeypatch.setattr(*where, signalling(getattr(*where), signal.SIGINT, calls))
    words: list[object] = ["train", "bags", "--data", table, "--out", out, *QUICK]
    for _ in calls:
        capsys.readouterr()
        assert exit_code(*words) == 130
        said = capsys.readouterr().err
        assert said == (f"loss-attention: stopped; continue with: loss-attention resume {out}\n")
        assert not RunFolder.open(out).facts()["finished"]
        if words[0] == "train":
            assert tuple(state_of(out)["position"].values()) == position
        words = ["resume", out]
    run(*words)
    assert_same_run(out, whole)


def test_sigterm_ends_with_the_code_that_says_resume(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signalled = signalling(BagTrainer.train_step, signal.SIGTERM, {2})
    monkeypatch.setattr(BagTrainer, "train_step", signalled)
    assert exit_code("train", "bags", "--data", table, "--out", tmp_path / "run", *QUICK) == 75
    assert state_of(tmp_path / "run")["position"] == {"epoch": 0, "step": 2}


def test_a_run_in_training_is_left_alone(
    whole: Path, capsys: pytest.CaptureFixture[str], table: Path
) -> None:
    again = ["train", "bags", "--data", table, "--out", whole, "--overwrite", *QUICK]
    with RunFolder(whole).locked():
        for words in (["resume", whole], ["evaluate", whole], again):
            assert "another process is training" in complaint(capsys, *words)


def test_resuming_with_other_bags_or_splits_is_refused(
    bags: BagSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table, out = write_table(tmp_path / "digits.parquet", bags), tmp_path / "run"
    stopping = signalling(BagTrainer.train_step, signal.SIGINT, {2})
    monkeypatch.setattr(BagTrainer, "train_step", stopping)
    assert exit_code("train", "bags", "--data", table, "--out", out, *QUICK) == 130
    write_table(table, bags, split=["train"] * 30 + ["test"] * 10)
    assert "the splits or groups of" in complaint(capsys, "resume", out)
    write_table(table, digit_bags(40, seed=2))
    assert "have changed since it began" in complaint(capsys, "resume", out)
    moved = write_table(tmp_path / "moved.parquet", bags)
    run("resume", out, "--data", moved)
    run("evaluate", out)  # finds them where they are now


def test_the_scores_are_those_of_the_definition(
    whole: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bags = read_bags(str(table))
    parts = parts_of(bags, BagRunRecipe.from_yaml(whole / "recipe.yaml"))
    run("predict", whole, table, "--out", tmp_path / "said.csv")
    with (tmp_path / "said.csv").open() as file:
        said = {row["bag"]: float(row["positive"]) for row in csv.DictReader(file)}
    truth = parts.test.labels.numpy()
    positive = np.array([said[name] for name in parts.test.names])
    stored = json.loads((whole / "evaluation.json").read_text())
    assert (stored["kind"], stored["bags"], stored["split"]) == ("bags", 8, "test")
    found = {metric["name"]: metric for metric in stored["metrics"]}
    assert found["auc"]["value"] == pytest.approx(roc_auc_score(truth, positive))
    assert found["accuracy"]["value"] == ((positive > 0.5) == truth).mean()
    balanced = balanced_accuracy_score(truth, positive > 0.5)
    assert found["balanced_accuracy"]["value"] == pytest.approx(balanced)
    assert found["nll"]["value"] == pytest.approx(log_loss(truth, positive), abs=1e-4)
    for name, answer in BASELINES.items():
        score = roc_auc_score(truth, answer(parts.train, parts.test)[:, 1])
        assert found["auc"]["baselines"][name] == pytest.approx(score)
    assert found["auc"]["baselines"]["majority class"] == 0.5

    model, evidence, weights, known = load_bag_model(whole), [], [], []
    best = []
    for bag in range(8):
        with torch.no_grad():
            one = model(torch.from_numpy(parts.test.features(bag))[None])
        assert parts.test.instance_labels is not None
        known.append(parts.test.instance_labels[bag])
        evidence.append((one.patch_weights[0] * one.patch_logits[0, :, 1]).numpy())
        weights.append(one.patch_weights[0].numpy())
        if truth[bag]:
            best.append(known[-1][evidence[-1].argmax()])
    every = np.concatenate(known)
    for name, values in (("evidence", evidence), ("weights", weights)):
        score = roc_auc_score(every, np.concatenate(values))
        assert found[f"instance_auc_{name}"]["value"] == pytest.approx(score)
    assert found["precision_at_1"]["value"] == np.mean(best)
    share = np.mean([one.mean() for one in known if one.any()])
    assert found["precision_at_5"]["baselines"]["uniform"] == pytest.approx(share)
    capsys.readouterr()
    run("evaluate", whole)
    assert f"{found['auc']['value']:.3f}" in capsys.readouterr().out
    assert json.loads((whole / "evaluation.json").read_text()) == stored


def test_other_bags_are_measured_by_the_names_of_classes(
    whole: Path, tmp_path: Path, bags: BagSet, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (whole / "evaluation.json").read_text()
    other = write_table(tmp_path / "other.parquet", digit_bags(10, seed=3))
    run("evaluate", whole, "--data", other)
    assert "10 given bags" in capsys.readouterr().out
    assert (whole / "evaluation.json").read_text() == before
    copy = write_table(tmp_path / "copy.parquet", bags)
    run("evaluate", whole, "--data", copy)
    assert "is the run's own data" in capsys.readouterr().out
    named = replace(digit_bags(10, seed=3), class_names=("negative", "sick"))
    odd = write_table(tmp_path / "odd.parquet", named)
    assert "have the class 'sick', and the model knows" in complaint(
        capsys, "evaluate", whole, "--data", odd
    )


def test_labels_follow_the_names_of_classes(bags: BagSet) -> None:
    found = of_classes(bags, ("other", "positive", "negative"))
    assert found.labels.tolist() == [2 - label for label in bags.labels.tolist()]
    assert found.instance_labels is not None
    assert bags.instance_labels is not None
    assert (found.instance_labels[1] == 2 - bags.instance_labels[1]).all()
    both = replace(
        bags,
        labels=torch.nn.functional.one_hot(bags.labels, 2).to(torch.uint8),
        instance_labels=tuple(np.eye(2, dtype=np.int64)[one] for one in bags.instance_labels),
    )
    found = of_classes(both, ("other", "positive", "negative"))
    assert found.labels[:2].tolist() == [[0, 0, 1], [0, 1, 0]]
    assert found.instance_labels is not None
    assert (found.instance_labels[1][:, 1] == bags.instance_labels[1]).all()


def test_bags_without_labels_are_predicted(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bags = digit_bags(4, seed=4)
    bare = write_table(tmp_path / "new.parquet", replace(bags, class_names=()))
    capsys.readouterr()
    run("predict", whole, bare, "--format", "jsonl")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["bag"] for line in lines] == list(bags.names)
    model = load_bag_model(whole)
    for bag, line in enumerate(lines):
        logits = model(torch.from_numpy(bags.features(bag))[None]).logits[0]
        wanted = logits.softmax(dim=0).tolist()
        assert list(line["probabilities"].values()) == pytest.approx(wanted, abs=1e-6)
        assert line["prediction"] == model.class_names[int(logits.argmax())]
    run("predict", whole / "model.safetensors", bare)
    assert "bag 3" in capsys.readouterr().out
    assert "no column for the label" in complaint(capsys, "evaluate", whole, "--data", bare)


def recipe(**changes: Any) -> BagRunRecipe:
    return BagRunRecipe(data="made", **changes)


def test_parts_are_drawn_of_each_class_alike_and_keep_groups_whole(bags: BagSet) -> None:
    parts = parts_of(bags, recipe())
    assert [int(part.labels.sum()) for part in (parts.test, parts.validation)] == [4, 2]
    members = [set(part.rows) for part in (parts.train, parts.validation, parts.test)]
    assert sorted(set.union(*members)) == list(range(40))
    assert sum(map(len, members)) == 40
    assert set(parts_of(bags, recipe(seed=1)).test.rows) != members[2]
    grouped = replace(bags, groups=torch.arange(40) // 4)
    parts = parts_of(grouped, recipe())
    patients = [set(part.rows // 4) for part in (parts.train, parts.validation, parts.test)]
    assert sum(map(len, patients)) == 10


def test_parts_that_the_data_names_are_used(bags: BagSet) -> None:
    names = ["train"] * 20 + ["test"] * 10 + ["extra"] * 10
    named = replace(bags, splits=tuple(names))
    parts = parts_of(named, recipe())
    assert list(parts.test.rows) == list(range(20, 30))
    assert len(parts.train) + len(parts.validation) == 20
    assert len(parts.validation) == 4  # round(0.15 * 10) of each class
    assert parts.left_out == 10
    named = replace(bags, splits=("train", "validation") * 20)
    with pytest.raises(InputError, match="all training bags are of one class"):
        parts_of(named, recipe())
    grouped = replace(bags, splits=tuple(names), groups=torch.arange(40) // 3)
    with pytest.raises(InputError, match="'bag 18' and 'bag 20' are of one patient"):
        parts_of(grouped, recipe(validation_fraction=0.0))


def test_what_is_measured_in_parts_is_the_same(
    bags: BagSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = digit_bags(20, seed=5), bags.subset(range(10))
    before = {name: answer(train, test) for name, answer in BASELINES.items()}
    monkeypatch.setattr(measures, "AT_ONCE", 3)
    for name, answer in BASELINES.items():
        np.testing.assert_allclose(answer(train, test), before[name], atol=1e-6)
    monkeypatch.setattr(measures, "MOST_FITTED", 64 * 20 * 4)  # four instances of each bag
    fitted: list[int] = []
    make = measures._regression

    def noting() -> Any:
        one = make()
        fit = one.fit
        one.fit = lambda values, *rest, **more: (
            fitted.append(len(values)) or fit(values, *rest, **more)
        )
        return one

    monkeypatch.setattr(measures, "_regression", noting)
    BASELINES["single best instance, logistic regression"](train, test)
    assert fitted == [80]


def test_bags_without_an_instance_of_their_class_are_not_searched() -> None:
    """Of more than two classes: the instances of flawless parts show no class at all."""
    values = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
    bags = BagSet(
        PackedInstances(values, np.array([4, 4, 4])),
        rows=np.arange(3),
        labels=torch.tensor([0, 1, 2]),
        class_names=("free", "crack", "hole"),
        names=("a", "b", "c"),
        instance_labels=tuple(np.array(one) for one in ([-1] * 4, [1, -1, -1, 1], [-1, 2, -1, -1])),
    )
    torch.manual_seed(0)
    model = BagClassifier(4, 3, pooling="mean", hidden=(5,)).eval()
    found = {one.name: one.value for one in evaluate_bags(model, bags, train=None).metrics}
    evidence = [model(torch.from_numpy(values[4 * k : 4 * k + 4])[None]).evidence for k in (1, 2)]
    ranked = torch.cat([one[0, :, k] for k, one in zip((1, 2), evidence, strict=True)])
    truth = [1, 0, 0, 1, 0, 1, 0, 0]
    expected = roc_auc_score(truth, ranked.detach().numpy())
    assert found["instance_auc_evidence"] == pytest.approx(expected)


def test_the_class_that_is_searched_for_has_a_name(
    bags: BagSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # "yes" comes after "all clear", and "a find" before it.
    table = write_table(tmp_path / "a.parquet", replace(bags, class_names=("all clear", "yes")))
    other = write_table(tmp_path / "b.parquet", replace(bags, class_names=("all clear", "a find")))
    words = [*QUICK, "--epochs", "1", "--validation-fraction", "0"]
    run("train", "bags", "--data", table, "--out", tmp_path / "a", *words)
    assert "are searched for the class yes (the other: --positive)" in capsys.readouterr().out
    words += ["--positive", "a find"]
    run("train", "bags", "--data", other, "--out", tmp_path / "b", *words)
    scores = []
    for name, positive in (("a", 1), ("b", 0)):
        assert load_bag_model(tmp_path / name).positive == positive
        stored = json.loads((tmp_path / name / "evaluation.json").read_text())["metrics"]
        found = {metric["name"]: metric for metric in stored}
        names = ("auc", "nll", "precision_at_1")
        scores.append([found[one]["baselines"] for one in names])
    assert [list(one.values()) for one in scores[0]] == [
        pytest.approx(list(one.values()), abs=1e-6) for one in scores[1]
    ]
    words[-1] = "b find"
    said = complaint(capsys, "train", "bags", "--data", other, "--out", tmp_path / "c", *words)
    assert "unknown class for --positive: 'b find'; did you mean 'a find'?" in said
    assert not (tmp_path / "c").exists()


def test_several_labels_a_bag() -> None:
    labels = np.array([[1, 0], [1, 1], [0, 0]])
    said = np.array([[0.9, 0.2], [0.4, 0.7], [0.1, 0.3]])
    found = label_scores(labels, said)
    assert found["exact_match"] == pytest.approx(2 / 3)
    assert found["auc"] == 1.0
    assert found["mean_average_precision"] == 1.0
    each = [0.9 * 0.8, 0.4 * 0.7, 0.9 * 0.7]
    assert found["nll"] == pytest.approx(-np.log(each).mean())
    bags = digit_bags(6, seed=0)
    assert bags.instance_labels is not None
    both = replace(
        bags,
        labels=torch.nn.functional.one_hot(bags.labels, 2).to(torch.uint8),
        instance_labels=tuple(np.eye(2, dtype=np.int64)[one] for one in bags.instance_labels),
    )
    model = BagClassifier(64, 2, hidden=(4,), multi_label=True)
    evaluation = evaluate_bags(model, both, train=both)
    assert evaluation.value("instance_auc_evidence") is not None
    assert evaluation.value("balanced_accuracy") is None
    share = evaluation.get("mean_average_precision")
    assert share is not None
    assert share.baselines["class frequencies"] == 0.5  # of two classes, three bags each
    assert set(share.baselines) == {"class frequencies", *BASELINES}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "bags"], "the recipe bags needs --data"),
        (["train", "bag"], "did you mean 'bags'?"),
        (["train", "bags", "--data", "no.csv"], "there is no such file"),
        (["train", "bags", "--test-fraction", "1"], "--test-fraction must be in (0, 1), got 1"),
        (["train", "bags", "--validation-fraction", "1"], "--validation-fraction must be in [0, 1"),
        (["train", "bags", "--poolin", "max"], "did you mean --pooling?"),
        (["resume", "RUN", "--devices", "2"], "--devices is for images, and"),
        (["evaluate", "RUN", "--map", "margin", "--masks"], "--map is for images, and"),
        (["predict", "RUN", "a.csv", "b.csv"], "one table or folder: 2 were given"),
        (["report", "RUN", "--within", "3"], "--within is for images, and"),
        (["train", "bags", "--data", "TABLE", "--out", "RUN"], "exists already: continue it with"),
    ],
)
def test_what_is_asked_wrong_is_one_line(
    words: list[str],
    said: str,
    whole: Path,
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"RUN": whole, "TABLE": table}
    assert said in complaint(capsys, *(places.get(word, word) for word in words))


def test_bags_of_another_width_are_refused(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "narrow.csv").write_text("bag,label,a,b\n1,x,0,1\n2,y,1,0\n")
    said = complaint(capsys, "predict", whole, tmp_path / "narrow.csv")
    assert "the instances have 2 features, and the model takes 64" in said


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "bags", "--data", table, "--out", tmp_path / "run", *QUICK]
    assert exit_code(*words, "--learning-rate", "1e30") == 3
    said = capsys.readouterr().err
    assert said.startswith("loss-attention: the loss became NaN or infinite in epoch 1; a lower")
    assert said.count("\n") == 1


def test_crossval_says_how_to_go_on(
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["crossval", "--data", table, "--out", tmp_path / "out", "--folds", "2"]
    words += ["--repeats", "1", "--epochs", "1", "--hidden", "8", "--poolings", "max"]
    monkeypatch.setattr(crossval, "fit_bags", signalling(crossval.fit_bags, signal.SIGINT, {2}))
    assert exit_code(*words) == 130
    said = capsys.readouterr().err
    assert said.endswith("are kept in " + str(tmp_path / "out") + ": the same command goes on\n")
    assert said.count("\n") == 1
    run(*words)
    assert (tmp_path / "out" / "crossval.json").exists()
