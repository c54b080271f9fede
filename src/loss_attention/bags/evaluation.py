"""A classifier of bags measured on bags, each score beside what needs no network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Num

from loss_attention.bags.bag_set import BagSet, class_counts
from loss_attention.bags.localising import (
    FALSE_POSITIVES,
    FROC,
    TOUCHING,
    SlideHits,
    froc,
    slide_hits,
)
from loss_attention.bags.maps import tile_size
from loss_attention.bags.measures import (
    BASELINES,
    LEAST,
    instance_auc,
    precision_at,
    scores_of,
)
from loss_attention.bags.model import BagClassifier
from loss_attention.bags.recipe import BAGS
from loss_attention.bags.training import predicted
from loss_attention.evaluation.metric import Metric
from loss_attention.metrics.classification import confusion_matrix
from loss_attention.model_spec import KIND
from loss_attention.prediction import probabilities_of
from loss_attention.report.scores import UNDEFINED, metrics_table, score_text
from loss_attention.report.tables import Column, Table

FORMAT_VERSION = 1
OF_BAGS, OF_INSTANCES = "bags", "instances"
AT = (1, 5, 10)
"""Of a bag's instances, so many are looked at for the precision of the best."""
RANKED_BY = ("evidence", "weights")
LABELS = {
    "mean_average_precision": "mAP",
    "auc": "AUC",
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "exact_match": "exact match",
}
NLL = "log loss"
FROC_NOTE = (
    "FROC: the mean sensitivity at 1/4, 1/2, 1, 2, 4 and 8 false positives a bag (CAMELYON16). A "
    "lesion is a group of touching tiles of the class; a detection is a tile that no stronger one "
    "touches."
)

Answer = Callable[[BagSet, BagSet], Float[np.ndarray, "N K"]]
"""From bags to fit to and others to the probabilities of these."""


@dataclass(frozen=True)
class FoundLesions:
    """How many lesions the strongest instances find, at so many false positives a bag.

    Attributes:
        lesions: groups of instances of the class whose tiles touch, in all bags together.
        bags: how many bags have one.
        by: FROC by what instances are ranked by: evidence, weights, and the trivial baselines.
    """

    lesions: int
    bags: int
    by: Mapping[str, FROC]

    def table(self) -> Table:
        """Return the sensitivities as a table."""
        heads = [Column("fraction of lesions found by", "left", "found by")]
        heads += [Column(f"{_fraction(n)} a bag", narrow=_fraction(n)) for n in FALSE_POSITIVES]
        rows = [
            [name, *map(score_text, [*one.sensitivity, one.score])] for name, one in self.by.items()
        ]
        title = f"{self.lesions:,} lesions in {self.bags:,} bags, by false positives a bag"
        return Table([*heads, Column("mean", style="bold")], rows, title)


def _fraction(value: float) -> str:
    return f"{value:g}" if value >= 1 else f"1/{1 / value:g}"


@dataclass(frozen=True)
class BagEvaluation:
    """The metrics of one classifier on one set of bags.

    Attributes:
        split: which bags, `test` for example.
        bags: how many.
        instances: how many these have together.
        metrics: in the order in which to show them.
        found: the lesions that are found, where instances have labels and coordinates.
        confusion: of each class that occurs, how many bags are called what; of one label a bag.
        said: the probability of each class of each bag, shape `(N, K)`; in memory only.
    """

    split: str
    bags: int
    instances: int
    metrics: tuple[Metric, ...]
    found: FoundLesions | None = None
    confusion: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    said: Float[np.ndarray, "N K"] | None = field(default=None, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, the content of `evaluation.json`."""
        values = {"format_version": FORMAT_VERSION, KIND: BAGS, **asdict(replace(self, said=None))}
        del values["said"]
        values["metrics"] = [
            {**metric, "range": list(metric["range"])} for metric in values["metrics"]
        ]
        return values

    def get(self, name: str) -> Metric | None:
        """Return a metric, None where this evaluation does not have it."""
        return next((one for one in self.metrics if one.name == name), None)

    def value(self, name: str) -> float | None:
        """Return the score of a metric; None: it is undefined, or there is none of this name."""
        metric = self.get(name)
        return None if metric is None else metric.value

    def groups(self) -> list[list[Metric]]:
        """Return the bags' metrics and, where there are some, the instances'."""
        kinds = (OF_BAGS, OF_INSTANCES)
        groups = [[one for one in self.metrics if one.group == kind] for kind in kinds]
        return [some for some in groups if some]

    def tables(self) -> list[Table]:
        """Return a table for each of the `groups`, and that of the lesions if there is one."""
        found = [
            metrics_table(some[0].group, [(one, "", one) for one in some], {"": ""})
            for some in self.groups()
        ]
        found += [] if self.found is None else [self.found.table()]
        lower = any(not metric.higher_is_better for metric in self.metrics)
        notes = ["Higher is better" + (", with ↓ lower." if lower else ".")]
        notes.append("Trivial baselines: what an answer without a network scores on the same bags.")
        if self.found is not None:
            notes.append(FROC_NOTE)
        values = [v for m in self.metrics for v in (m.value, *m.baselines.values())]
        if None in values:
            notes.append(f"{UNDEFINED}: nothing to count, or nothing to fit it to.")
        return [*found[:-1], Table(found[-1].columns, found[-1].rows, found[-1].title, notes)]


@dataclass(frozen=True)
class Sought:
    """The instances of a bag that were to be found for a class, and what was said of each.

    Attributes:
        positive: which are of the class, shape `(M,)`.
        evidence: for the class.
        weights: of the bag's pooling, whatever the class.
        coordinates: x and y of each; None: they lie nowhere.
        tile: side of a tile, in the same units; None: as coordinates say.
    """

    positive: Bool[np.ndarray, " M"]
    evidence: Float[np.ndarray, " M"]
    weights: Float[np.ndarray, " M"]
    coordinates: Num[np.ndarray, "M 2"] | None = None
    tile: float | None = None


def evaluate_bags(
    model: BagClassifier,
    bags: BagSet,
    *,
    train: BagSet | None,
    split: str = "test",
    progress: Callable[[int, int], object] = lambda *_: None,
) -> BagEvaluation:
    """Measure a classifier on bags.

    Bags are looked at one after the other, and a large one a part at a time.

    Args:
        model: the classifier.
        bags: what to measure it on; its classes are those of the model.
        train: what trivial baselines are fitted to; None: those stay undefined.
        split: what to call the bags.
        progress: called with bags done and all of them.
    """
    rows, sought = [], []
    for bag, prediction in enumerate(predicted(model, bags)):
        rows.append(probabilities_of(prediction.logits, competing=model.competing)[0].cpu().numpy())
        if bags.instance_labels is not None:
            evidence = prediction.evidence[0].cpu().numpy()
            weights = prediction.patch_weights[0].cpu().numpy()
            known, where = bags.instance_labels[bag], (bags.coordinates(bag), bags.tile(bag))
            sought += [
                Sought(_of_class(known, k), evidence[:, k].astype(np.float64), weights, *where)
                for k in _classes_sought(model, bags, bag)
            ]
        progress(bag + 1, len(bags))
    said = np.stack(rows).astype(np.float64)
    turned = model.positive == 0  # baselines search for the second class
    metrics = _bag_metrics(bags, said, train, turned=turned)
    found = None if model.positive is None else _found_lesions(sought)
    metrics += _instance_metrics(sought, found)
    return BagEvaluation(
        split,
        len(bags),
        int(bags.sizes.sum()),
        tuple(metrics),
        found,
        {} if bags.multi_label else _confusion(bags, said),
        said,
    )


def _confusion(bags: BagSet, said: Float[np.ndarray, "N K"]) -> dict[str, dict[str, int]]:
    """Return how many bags of each class are called what."""
    called = torch.from_numpy(said.argmax(axis=1))
    counts: dict[str, dict[str, int]] = {}
    for label, guess, number in confusion_matrix(called, bags.labels).tolist():
        row = counts.setdefault(bags.class_names[label], {})
        row[bags.class_names[guess]] = number
    return counts


def _classes_sought(model: BagClassifier, bags: BagSet, bag: int) -> list[int]:
    """Return the classes whose instances a bag is searched for.

    Of two, the one that makes a bag positive, in every bag; of more, the bag's own that an instance
    of it has: where nothing shows a class, as that of flawless parts, there is nothing to find.
    """
    if model.positive is not None:
        return [model.positive]
    labels, known = bags.labels[bag], bags.instance_labels
    own = labels.nonzero().flatten().tolist() if bags.multi_label else [int(labels)]
    return [k for k in own if known is None or _of_class(known[bag], k).any()]


def _of_class(known: Int[np.ndarray, "M *K"], k: int) -> Bool[np.ndarray, " M"]:
    which: np.ndarray = known == k if known.ndim == 1 else known[:, k] > 0
    return which


def _bag_metrics(
    bags: BagSet, said: Float[np.ndarray, "N K"], train: BagSet | None, *, turned: bool
) -> list[Metric]:
    labels = bags.labels.numpy()

    def answered(answer: Answer, train: BagSet) -> Float[np.ndarray, "N K"]:
        if not turned:
            return answer(train, bags)
        others = (1 - train.labels, 1 - bags.labels)
        found = answer(replace(train, labels=others[0]), replace(bags, labels=others[1]))
        return found[:, ::-1]

    scores = scores_of(labels, said)
    constant = "class frequencies" if bags.multi_label else "majority class"
    beside = {
        name: None if train is None else scores_of(labels, answered(answer, train))
        for name, answer in {constant: _frequencies, **BASELINES}.items()
    }
    metric = partial(Metric, group=OF_BAGS)

    def baselines(name: str) -> dict[str, float | None]:
        return {
            one: _known(None if found is None else found[name]) for one, found in beside.items()
        }

    metrics = [
        metric(name, label, _known(scores[name]), baselines(name))
        for name, label in LABELS.items()
        if name in scores
    ]
    most = float(-np.log(LEAST)) * (labels.shape[1] if bags.multi_label else 1)
    loss = metric("nll", NLL, _known(scores["nll"]), baselines("nll"), range=(0.0, most))
    return [*metrics, Metric(**{**vars(loss), "higher_is_better": False})]


def _frequencies(train: BagSet, test: BagSet) -> Float[np.ndarray, "N K"]:
    """Return how often each class occurs in training, for every bag."""
    return np.tile(np.array(class_counts(train)) / len(train), (len(test), 1))


def _found_lesions(sought: Sequence[Sought]) -> FoundLesions | None:
    """Return the lesions of one class that are found, where instances say where they lie.

    None where they do not, or there is no lesion.
    """
    drawn = _drawn(sought)
    answers: dict[str, Sequence[Float[np.ndarray, " M"]]] = {
        "evidence": [one.evidence for one in sought],
        "weights": [one.weights for one in sought],
        "uniform": [np.ones(len(one.positive)) for one in sought],
        "random": drawn,
    }
    hits: dict[str, list[SlideHits]] = {name: [] for name in answers}
    for bag, one in enumerate(sought):
        if one.coordinates is None:
            return None
        tile = one.tile or tile_size(one.coordinates)
        for name, values in answers.items():
            found = slide_hits(one.coordinates, values[bag], one.positive, tile, TOUCHING * tile)
            hits[name].append(found)
    counts = [len(one.lesions) for one in hits["evidence"]]
    if not sum(counts):
        return None
    by = {name: froc(slides) for name, slides in hits.items()}
    return FoundLesions(sum(counts), sum(count > 0 for count in counts), by)


def _drawn(sought: Sequence[Sought]) -> list[Float[np.ndarray, " M"]]:
    """Return a random value for each instance, the same ones each time."""
    chance = np.random.default_rng(0)
    return [chance.random(len(one.positive)) for one in sought]


def _instance_metrics(sought: Sequence[Sought], found: FoundLesions | None) -> list[Metric]:
    """Return how well instances are found: over all, and among the best of bags that have some."""
    if not sought:
        return []
    metric, truth = partial(Metric, group=OF_INSTANCES), [one.positive for one in sought]
    drawn = _drawn(sought)
    even = {"uniform": 0.5, "random": _known(instance_auc(truth, drawn))}
    metrics = [
        metric(
            f"instance_auc_{name}",
            f"instance AUC of {name}",
            _known(instance_auc(truth, [getattr(one, name) for one in sought])),
            even,
        )
        for name in RANKED_BY
    ]
    having = [number for number, one in enumerate(truth) if one.any()]
    for count in AT:
        of_evidence = [precision_at(truth[i], sought[i].evidence, count) for i in having]
        of_chance = [precision_at(truth[i], drawn[i], count) for i in having]
        rate = [float(truth[i].mean()) for i in having]
        metrics.append(
            metric(
                f"precision_at_{count}",
                f"precision at {count} of evidence",
                _mean(of_evidence),
                {"uniform": _mean(rate), "random": _mean(of_chance)},
            )
        )
    if found is not None:
        without = {name: found.by[name].score for name in ("uniform", "random")}
        metrics += [
            metric(f"froc_{name}", f"FROC of {name}", found.by[name].score, without)
            for name in RANKED_BY
        ]
    return metrics


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _known(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
