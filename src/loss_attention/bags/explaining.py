"""Bags explained: what each instance says for or against a class, with its place.

What is shown of a class has a sign: for it or against it. It is the evidence itself where each
class is decided by itself or class vectors are centred, and otherwise the contrast: a number that
an instance adds to all classes alike is seen by no softmax, and speaks for none of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Num

from loss_attention.bags.bag_set import BagSet
from loss_attention.bags.model import BagClassifier
from loss_attention.bags.training import predicted
from loss_attention.errors import InputError, quoted
from loss_attention.explanation import SHOWN, check_map, class_index
from loss_attention.prediction import MapName, PatchPrediction, probabilities_of
from loss_attention.quantities import DIFFERENCE, WEIGHT, Quantity

BagMap = Literal["evidence", "contrast", "margin", "weights"]


@dataclass(frozen=True)
class BagQuestion:
    """What is asked of a classifier about each bag; see `bag_question`.

    Attributes:
        target: the class that is explained; None: the predicted one.
        versus: a class that the evidence is held against; None: no single one.
        map: what is shown of the class.
        weights: a picture shows the weights in its stead.
    """

    target: int | None
    versus: int | None
    map: MapName
    weights: bool = False

    @property
    def signed(self) -> Quantity:
        """What instances are said to be for or against by."""
        return DIFFERENCE if self.versus is not None else SHOWN[self.map]


def bag_question(
    model: BagClassifier,
    *,
    target: str | None = None,
    versus: str | None = None,
    map: BagMap | None = None,
) -> BagQuestion:
    """Return what is to be asked, once it is known that it can be.

    Args:
        model: a classifier of bags.
        target: name of the class to explain; None: the predicted one of each bag.
        versus: name of a class to show the evidence for the target against.
        map: what is shown; None: the evidence, or where class vectors are not centred though a
            softmax decides, the contrast.

    Raises:
        InputError: a class that there is not, a map that the model does not have, or one beside
            `versus`; `versus` the target itself.
    """
    usual: MapName = "contrast" if model.competing and not model.centre else "evidence"
    weights = map == "weights"
    named: MapName | None = None if map is None or map == "weights" else map
    if versus is not None and map is not None:
        check_map("evidence", has_evidence=True, competing=model.competing, versus=True)
    check_map(named, has_evidence=True, competing=model.competing)
    names = model.class_names
    question = BagQuestion(
        None if target is None else class_index(target, names),
        None if versus is None else class_index(versus, names),
        named or usual,
        weights,
    )
    if question.versus is not None and question.versus == question.target:
        raise InputError("`versus` must be another class than the one that is explained")
    return question


@dataclass(frozen=True)
class ExplainedBag:
    """A bag with what its instances say.

    Attributes:
        name: of the bag.
        label: what the data says that it is, for people; "": nothing.
        predicted: index of the class of the highest logit.
        target: index of the explained class.
        versus: index of the class that this is held against; None: no single one.
        logits, probabilities: of all classes, shape `(K,)`.
        evidence: of each instance for the target, shape `(M,)`; sums to its logit.
        weights: of the instances, shape `(M,)`; they sum to 1. With a pooling that has weights for
            each class, those of the predicted one.
        signed: what instances are for or against by, shape `(M,)`.
        quantity: what that is.
        coordinates: x and y of each instance; None: they lie nowhere.
        tile: side of its tiles, in the units of these; None: its file does not say.
    """

    name: str
    label: str
    predicted: int
    target: int
    versus: int | None
    logits: Float[np.ndarray, " K"]
    probabilities: Float[np.ndarray, " K"]
    evidence: Float[np.ndarray, " M"]
    weights: Float[np.ndarray, " M"]
    signed: Float[np.ndarray, " M"]
    quantity: Quantity
    coordinates: Num[np.ndarray, "M 2"] | None
    tile: float | None = None

    def shown(self, *, weights: bool) -> tuple[Float[np.ndarray, " M"], Quantity]:
        """Return what a picture shows of each instance: of what has no sign, the positive part."""
        if weights:
            return self.weights, WEIGHT
        values = self.signed if self.quantity.signed else self.signed.clip(min=0)
        return values, self.quantity

    def strongest(self, count: int, *, against: bool = False) -> list[int]:
        """Return the instances that speak most for the class, or against it, strongest first."""
        values = -self.signed if against else self.signed
        order = np.argsort(-values, kind="stable")[:count]
        return [int(index) for index in order if values[index] > 0]

    def described(self, class_names: tuple[str, ...], top: int) -> dict[str, Any]:
        """Return the bag as JSON has it.

        Args:
            class_names: of the model.
            top: how many instances for the class, and as many against it.
        """
        sums = {
            "evidence": float(self.evidence.sum(dtype=np.float64)),
            "for": float(self.signed.clip(min=0).sum(dtype=np.float64)),
            "against": float(self.signed.clip(max=0).sum(dtype=np.float64)),
            "weights": float(self.weights.sum(dtype=np.float64)),
        }
        return {
            "bag": self.name,
            "label": self.label,
            "class": class_names[self.predicted],
            "probability": float(self.probabilities[self.predicted]),
            "target": class_names[self.target],
            "versus": None if self.versus is None else class_names[self.versus],
            "classes": list(class_names),
            "logits": self.logits.tolist(),
            "probabilities": self.probabilities.tolist(),
            "instances": len(self.evidence),
            "shows": self.quantity.name,
            "sums": sums,
            "top_for": [self._instance(index) for index in self.strongest(top)],
            "top_against": [self._instance(index) for index in self.strongest(top, against=True)],
            "units": (
                "evidence, and what shows names: logit units; evidence sums over all instances to "
                "the target's logit. for and against: the sums of what shows names over instances "
                "above and below 0. index: from 0, in the order of the bag. coordinates: as the "
                "data has them."
            ),
        }

    def _instance(self, index: int) -> dict[str, Any]:
        found: dict[str, Any] = {
            "index": index,
            "evidence": float(self.evidence[index]),
            "weight": float(self.weights[index]),
        }
        if self.quantity.name != "evidence":
            found[self.quantity.name] = float(self.signed[index])
        if self.coordinates is not None:
            found["coordinates"] = self.coordinates[index].tolist()
        return found


def explained(model: BagClassifier, bags: BagSet, question: BagQuestion) -> Iterator[ExplainedBag]:
    """Yield each bag explained, one at a time.

    Raises:
        InputError: bags of another width than the model's, or logits that are not finite.
    """
    if bags.width != model.in_features:
        raise InputError(
            f"the instances have {bags.width} features and the model was trained on "
            f"{model.in_features}: these bags are of other features"
        )
    for bag, prediction in enumerate(predicted(model, bags)):
        if not bool(prediction.logits.isfinite().all()):
            raise InputError(
                f"the logits of bag {quoted(bags.names[bag])} are not finite numbers: its "
                "features or the model's weights are damaged"
            )
        yield _of_bag(model, bags, bag, prediction, question)


def _of_bag(
    model: BagClassifier,
    bags: BagSet,
    bag: int,
    prediction: PatchPrediction,
    question: BagQuestion,
) -> ExplainedBag:
    logits = prediction.logits
    predicted_class = int(logits.argmax())
    target = predicted_class if question.target is None else question.target
    if target == question.versus:
        raise InputError(
            f"bag {quoted(bags.names[bag])} is called {quoted(model.class_names[target])}, which "
            "is `versus`: say which class is explained with `target`"
        )
    classes = torch.tensor([target], device=logits.device)
    evidence = prediction.evidence_of(classes)
    if question.versus is not None:
        rival = torch.tensor([question.versus], device=logits.device)
        signed = evidence - prediction.evidence_of(rival)
    elif question.map == "margin":
        signed = prediction.margin_of(classes)
    else:
        signed = prediction.map_of(question.map, classes)
    return ExplainedBag(
        bags.names[bag],
        _label(bags, bag),
        predicted_class,
        target,
        question.versus,
        logits[0].cpu().numpy(),
        probabilities_of(logits, competing=model.competing)[0].cpu().numpy(),
        evidence[0].cpu().numpy() + 0.0,  # 0 has no sign
        prediction.real_weights[0].cpu().numpy(),
        signed[0].cpu().numpy() + 0.0,
        question.signed,
        bags.coordinates(bag),
        bags.tile(bag),
    )


def _label(bags: BagSet, bag: int) -> str:
    """Return the classes of a bag, as the data has them; "" where it has none."""
    label = bags.labels[bag]
    labels = label.nonzero().flatten() if bags.multi_label else label[None]
    return ", ".join(bags.class_names[one] for one in labels.tolist()) if bags.class_names else ""
