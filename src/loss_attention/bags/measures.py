"""What a classifier of bags is worth, and beside it what needs no network at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Num, Shaped
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from loss_attention.bags.bag_set import BagSet, slices
from loss_attention.bags.model import AT_ONCE

Probabilities = Float[np.ndarray, "N K"]

MOST_FITTED = 2**23
"""Values of instances that a regression is fitted to, at most."""
LEAST = 1e-7
"""A probability is taken to be this at least, where its logarithm is taken."""


def bag_scores(labels: Int[np.ndarray, " N"], probabilities: Probabilities) -> dict[str, float]:
    """Return accuracy, balanced accuracy, AUC and mean negative log-likelihood of bags.

    Of more than two classes, the AUC is the mean over the classes that occur, each against all
    others. NaN where there is one class alone.
    """
    guess = probabilities.argmax(axis=1)
    present = [k for k in range(probabilities.shape[1]) if 0 < (labels == k).sum() < len(labels)]
    if probabilities.shape[1] == 2:
        present = present[-1:]
    aucs = [roc_auc_score(labels == k, probabilities[:, k]) for k in present]
    of_label = probabilities[np.arange(len(labels)), labels]
    return {
        "accuracy": float((guess == labels).mean()),
        "balanced_accuracy": float(balanced_accuracy_score(labels, guess)) if present else np.nan,
        "auc": float(np.mean(aucs)) if aucs else np.nan,
        "nll": float(-np.log(np.maximum(of_label, LEAST)).mean()),
    }


def label_scores(labels: Int[np.ndarray, "N K"], probabilities: Probabilities) -> dict[str, float]:
    """Return the scores of bags that may have several classes.

    An exact match is a bag of which every class is right. AUC and average precision are means over
    classes (macro): the AUC over those that some bags have and others do not, the average precision
    over those that occur. The negative log-likelihood is the sum over classes. NaN where there is
    no class to take a mean of.
    """
    counts = labels.sum(axis=0)
    present = np.flatnonzero((counts > 0) & (counts < len(labels)))
    aucs = [roc_auc_score(labels[:, k], probabilities[:, k]) for k in present]
    precisions = [
        average_precision_score(labels[:, k], probabilities[:, k]) for k in np.flatnonzero(counts)
    ]
    of_labels = np.where(labels > 0, probabilities, 1 - probabilities)
    return {
        "exact_match": float(((probabilities >= 0.5) == (labels > 0)).all(axis=1).mean()),
        "auc": float(np.mean(aucs)) if aucs else np.nan,
        "mean_average_precision": float(np.mean(precisions)) if precisions else np.nan,
        "nll": float(-np.log(np.maximum(of_labels, LEAST)).sum(axis=1).mean()),
    }


def scores_of(labels: Shaped[np.ndarray, "N *K"], probabilities: Probabilities) -> dict[str, float]:
    """Return the scores of bags: of one label, class indices `(N,)`; of several, 0/1 `(N, K)`."""
    return (label_scores if labels.ndim == 2 else bag_scores)(labels, probabilities)


def instance_auc(
    positive: list[Bool[np.ndarray, " M"]], values: list[Float[np.ndarray, " M"]]
) -> float:
    """Return the AUC of a value for finding the positive instances, of all bags together.

    NaN where all instances are of a kind.
    """
    truth = np.concatenate(positive)
    if truth.all() or not truth.any():
        return float("nan")
    return float(roc_auc_score(truth, np.concatenate(values)))


def precision_at(
    positive: Bool[np.ndarray, " M"], values: Float[np.ndarray, " M"], count: int
) -> float:
    """Return the part of the `count` instances with the highest values that are positive.

    Of a bag with fewer instances, all of them count.

    Example:
        >>> precision_at(np.array([True, False, True]), np.array([0.9, 0.5, 0.1]), 2)
        0.5
    """
    best = np.argsort(-values, kind="stable")[:count]
    return float(positive[best].mean())


def bag_size_alone(train: BagSet, test: BagSet) -> Probabilities:
    """Return what a logistic regression on the logarithm of the number of instances says."""
    return _regressed(np.log(train.sizes)[:, None], train, np.log(test.sizes)[:, None], test)


def mean_feature(train: BagSet, test: BagSet) -> Probabilities:
    """Return what a logistic regression on the mean of a bag's features says."""
    return _regressed(_means(train), train, _means(test), test)


def best_instance(train: BagSet, test: BagSet) -> Probabilities:
    """Return what the single best instance says, where each was given the label of its bag.

    A logistic regression is fitted to instances as if each had its bag's label, each bag counting
    alike; where there are very many, to some of each bag, evenly taken. A bag is said to have class
    k by the highest probability of k among its instances.
    """
    most = MOST_FITTED // train.width
    each = int(train.sizes.max()) if train.sizes.sum() <= most else max(1, most // len(train))
    some = [_evenly(train, bag, each) for bag in range(len(train))]
    sizes = [len(one) for one in some]
    labels = np.repeat(train.labels.numpy(), sizes, axis=0)
    weights = np.repeat([1 / size for size in sizes], sizes)
    classes = len(train.class_names)
    answer = _fitted(np.concatenate(some), labels, classes, weights)
    rows = []
    for bag in range(len(test)):
        highest = np.zeros(classes)
        for _, values in slices(test, bag, AT_ONCE):
            highest = np.maximum(highest, answer(values).max(axis=0))
        if train.multi_label:
            rows.append(highest)
        elif classes == 2:  # its second class is what a bag is searched for
            rows.append(np.array([1 - highest[1], highest[1]]))
        else:
            rows.append(highest / highest.sum())
    return np.array(rows)


BASELINES: dict[str, Callable[[BagSet, BagSet], Probabilities]] = {
    "bag size alone": bag_size_alone,
    "mean feature, logistic regression": mean_feature,
    "single best instance, logistic regression": best_instance,
}
"""What needs no network; of several labels, each class is decided by itself."""


def _means(bags: BagSet) -> Float[np.ndarray, "N D"]:
    sums: list[Any] = [
        sum(some.sum(axis=0, dtype=np.float64) for _, some in slices(bags, bag, AT_ONCE))
        for bag in range(len(bags))
    ]
    means: np.ndarray = np.stack(sums) / bags.sizes[:, None]
    return means


def _evenly(bags: BagSet, bag: int, most: int) -> Num[np.ndarray, "M D"]:
    """Return a bag's instances; of more than so many, these evenly taken."""
    size = int(bags.sizes[bag])
    wanted = np.arange(size) if size <= most else np.arange(most) * size // most
    parts = []
    for start, values in slices(bags, bag, AT_ONCE):
        here = wanted - start
        parts.append(values[here[(here >= 0) & (here < len(values))]])
    return np.concatenate(parts)


def _regression() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))


def _regressed(
    train_values: Float[np.ndarray, "N F"],
    train: BagSet,
    test_values: Float[np.ndarray, "n F"],
    test: BagSet,
) -> Probabilities:
    answer = _fitted(train_values, train.labels.numpy(), len(train.class_names))
    assert len(test_values) == len(test)
    return answer(test_values)


def _fitted(
    values: Float[np.ndarray, "N F"],
    labels: Shaped[np.ndarray, "N *K"],
    classes: int,
    weights: Float[np.ndarray, " N"] | None = None,
) -> Callable[[Num[np.ndarray, "n F"]], Probabilities]:
    """Return a regression that is fitted: of several labels, one for each class."""

    def fitted(labels: Shaped[np.ndarray, " N"]) -> Any:
        return _regression().fit(values, labels, logisticregression__sample_weight=weights)

    if labels.ndim == 1:
        one = fitted(labels)
        return lambda others: _of_all(one, one.predict_proba(others), classes)
    # One that all bags have, or none, is said of all others too.
    constant = [bool(column.all()) or not column.any() for column in labels.T]
    each = [
        None if same else fitted(column) for same, column in zip(constant, labels.T, strict=True)
    ]

    def answer(others: Num[np.ndarray, "n F"]) -> Probabilities:
        columns = [
            np.full(len(others), float(labels[0, k]))
            if one is None
            else one.predict_proba(others)[:, 1]
            for k, one in enumerate(each)
        ]
        return np.stack(columns, axis=1)

    return answer


def _of_all(fitted: Any, found: Float[np.ndarray, "N k"], classes: int) -> Probabilities:
    """Return probabilities of all classes; one that was not trained on has 0."""
    whole = np.zeros((len(found), classes))
    whole[:, fitted.classes_] = found
    return whole
