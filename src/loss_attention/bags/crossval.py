"""Repeated stratified cross-validation of several classifiers of bags, side by side.

Every classifier is trained on the same folds. Where there are several settings to choose from, they
are chosen on inner folds of the training bags alone. What came of each fold is kept, so that a
cross-validation that was stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from loss_attention import __version__
from loss_attention.bags.bag_set import BagSet, class_counts
from loss_attention.bags.division import spread_labels
from loss_attention.bags.measures import BASELINES, scores_of
from loss_attention.bags.recipe import BagRecipe
from loss_attention.bags.training import fit_bags, predicted
from loss_attention.errors import InputError, quoted
from loss_attention.explained.pipeline import cores, in_order, processes
from loss_attention.prediction import probabilities_of
from loss_attention.saving import make_folder, read_object, write_whole

FOLDS_FOLDER = "folds"
SCORES = ("accuracy", "balanced_accuracy", "auc")
SEVERAL_SCORES = ("exact_match", "auc", "mean_average_precision")
"""Of bags of one label, and of several."""


@dataclass(frozen=True)
class Plan:
    """How bags are divided, again and again.

    Attributes:
        folds: parts of a division, each tested on once.
        repeats: divisions.
        seed: of the divisions; the repeat is added.
        inner: parts of the training bags that settings are chosen on; 0: the first setting is
            taken.
    """

    folds: int = 10
    repeats: int = 5
    seed: int = 0
    inner: int = 0

    def __post_init__(self) -> None:
        """Refuse what divides nothing."""
        if self.folds < 2 or self.repeats < 1 or self.inner == 1 or self.inner < 0:
            raise InputError(
                "`folds` must be at least 2, `repeats` at least 1, and `inner` 0 or at least 2, "
                f"got {self.folds}, {self.repeats} and {self.inner}"
            )


def divided(
    bags: BagSet, folds: int, seed: int
) -> Iterator[tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]]:
    """Yield the training and the test bags of each fold: classes alike, groups whole.

    Bags of several labels are spread by `spread_labels`.

    Raises:
        InputError: fewer bags of a class, or fewer groups, than folds.
    """
    labels = bags.labels.numpy()
    counts = class_counts(bags)
    least = min(counts)
    if least < folds:
        rarest = quoted(bags.class_names[counts.index(least)])
        most = f"take at most {least}" if least > 1 else "leave this class out"
        raise InputError(
            f"`folds` {folds}: there are {least} bags of the rarest class, {rarest}, and each fold "
            f"is to have one; {most}"
        )
    groups = None if bags.groups is None else bags.groups.numpy()
    if groups is not None and len(np.unique(groups)) < folds:
        raise InputError(
            f"`folds` {folds}: there are only {len(np.unique(groups))} patients or groups"
        )
    if bags.multi_label:
        fold_of = spread_labels(labels, folds, seed, groups)
        for fold in range(folds):
            if not (fold_of == fold).any():
                raise InputError(f"`folds` {folds}: too few bags or patients to fill each of them")
            yield np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        return
    if groups is None:
        kinds = StratifiedKFold(folds, shuffle=True, random_state=seed)
        yield from kinds.split(labels, labels)
        return
    grouped = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    yield from grouped.split(labels, labels, groups)


@dataclass(frozen=True)
class Task:
    """One classifier on one fold."""

    name: str
    repeat: int
    fold: int
    train: Int[np.ndarray, " n"]
    test: Int[np.ndarray, " m"]


def cross_validated(
    bags: BagSet,
    models: Mapping[str, Sequence[BagRecipe]],
    plan: Plan,
    folder: Path,
    told: Callable[[Task, int, int], object] = lambda *_: None,
    *,
    baselines: bool = True,
    jobs: int = 1,
) -> dict[str, Any]:
    """Cross-validate, and return the scores of each classifier.

    Args:
        bags: all of them.
        models: settings to choose from by the classifier's name; the first is taken where none is
            chosen.
        plan: how bags are divided.
        folder: where what came of each fold is kept; what is there already is not done again.
        told: called after each fold with the task, how many are done and how many there are.
        baselines: also measure what needs no network.
        jobs: folds that are worked on at the same time, each by a process of its own. A script
            that asks for more than one has `if __name__ == "__main__":` (see `multiprocessing`).

    Returns:
        The plan, and for each classifier its scores: of each repeat, their mean, their standard
        deviation over repeats, and the standard error over all folds of the accuracy (of several
        labels, of exact matches).

    Raises:
        InputError: too many folds or jobs, or kept folds that are of other data or settings.
        BagDivergedError: a training diverged.
        KilledError: a process died.
    """
    if not 1 <= jobs <= cores():
        raise InputError(f"`jobs` must be between 1 and {cores()}, the number of cores, got {jobs}")
    make_folder(folder / FOLDS_FOLDER)
    names = [*models, *(BASELINES if baselines else ())]
    tasks = [
        Task(name, repeat, fold, train, test)
        for repeat in range(plan.repeats)
        for fold, (train, test) in enumerate(divided(bags, plan.folds, plan.seed + repeat))
        for name in names
    ]
    fingerprint = bags.fingerprint()
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    fold = _Fold(bags, models, plan, folder, fingerprint)
    with processes(0 if jobs == 1 else jobs, "jobs", partial(_begin, fold, jobs)) as submit:
        work = partial(_result, fold) if jobs == 1 else _worked
        results = in_order(submit, work, tasks, most=2 * jobs)
        for done, (task, result) in enumerate(zip(tasks, results, strict=True), start=1):
            found[task.name].append(result)
            told(task, done, len(tasks))
    return {
        "plan": asdict(plan),
        "bags": len(bags),
        "instances": int(bags.sizes.sum()),
        "class_names": list(bags.class_names),
        "data_fingerprint": fingerprint,
        "models": {name: summary(bags, one, plan) for name, one in found.items()},
    }


def summary(bags: BagSet, folds: Sequence[dict[str, Any]], plan: Plan) -> dict[str, Any]:
    """Return the scores of a classifier from its folds."""
    labels = bags.labels.numpy()
    repeats = []
    for repeat in range(plan.repeats):
        mine = [one for one in folds if one["repeat"] == repeat]
        index = np.concatenate([one["test"] for one in mine]).astype(int)
        said = np.concatenate([one["probabilities"] for one in mine])
        repeats.append(scores_of(labels[index], said))
    right = "exact_match" if bags.multi_label else "accuracy"
    each = [
        scores_of(labels[np.array(one["test"], dtype=int)], np.array(one["probabilities"]))[right]
        for one in folds
    ]
    kinds = SEVERAL_SCORES if bags.multi_label else SCORES
    scores = {
        name: {
            "mean": mean(values),
            "sd": stdev(values) if len(values) > 1 else None,
            "repeats": values,
        }
        for name in kinds
        if (values := [one[name] for one in repeats])
    }
    return {
        "scores": scores,
        f"{right}_standard_error": stdev(each) / len(each) ** 0.5,
        "seconds": sum(one["seconds"] for one in folds),
        "chosen": [one["chosen"] for one in folds],
    }


@dataclass(frozen=True)
class _Fold:
    """What all folds are worked on with; see `cross_validated`."""

    bags: BagSet
    models: Mapping[str, Sequence[BagRecipe]]
    plan: Plan
    folder: Path
    fingerprint: str


# What a process of its own works on folds with.
_given: dict[str, _Fold] = {}


def _begin(fold: _Fold, jobs: int) -> None:
    _given["fold"] = fold
    torch.set_num_threads(max(1, cores() // jobs))


def _worked(task: Task) -> dict[str, Any]:
    return _result(_given["fold"], task)


def _result(fold: _Fold, task: Task) -> dict[str, Any]:
    """Return what came of a fold, from its file if it has one."""
    bags, plan, settings = fold.bags, fold.plan, fold.models.get(task.name, ())
    asked = {
        "name": task.name,
        "repeat": task.repeat,
        "fold": task.fold,
        "test": task.test.tolist(),
        "settings": [asdict(one) for one in settings],
        "inner": plan.inner,
        "data_fingerprint": fold.fingerprint,
        "package_version": __version__,
    }
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
    file = fold.folder / FOLDS_FOLDER / f"{digest}.json"
    if file.exists():
        return read_object(file)
    import time

    begun = time.perf_counter()
    train, test = bags.subset(task.train), bags.subset(task.test)
    if settings:
        chosen = _chosen(train, settings, plan, task.repeat)
        recipe = replace(settings[chosen], seed=settings[chosen].seed + task.repeat)
        said = _probabilities(train, test, recipe)
    else:
        chosen, said = None, BASELINES[task.name](train, test)
    result = asked | {
        "chosen": chosen,
        "probabilities": said.tolist(),
        "seconds": time.perf_counter() - begun,
    }
    write_whole(file, json.dumps(result) + "\n")
    return result


def _chosen(train: BagSet, settings: Sequence[BagRecipe], plan: Plan, repeat: int) -> int:
    """Return the number of the setting with the least loss on inner folds."""
    if len(settings) == 1 or not plan.inner:
        return 0
    losses = np.zeros(len(settings))
    for inner, held in divided(train, plan.inner, plan.seed + repeat):
        seen, unseen = train.subset(inner), train.subset(held)
        labels = unseen.labels.numpy()
        for number, recipe in enumerate(settings):
            losses[number] += scores_of(labels, _probabilities(seen, unseen, recipe))["nll"]
    return int(losses.argmin())


def _probabilities(train: BagSet, test: BagSet, recipe: BagRecipe) -> Float[np.ndarray, "N K"]:
    """Return what a classifier that is trained on some bags says of others."""
    model = fit_bags(train, recipe)
    said = [
        probabilities_of(one.logits, competing=model.competing) for one in predicted(model, test)
    ]
    return np.concatenate([one.cpu().numpy() for one in said]).astype(np.float64)
