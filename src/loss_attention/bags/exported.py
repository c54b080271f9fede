"""Exported classifiers of bags, run by onnxruntime alone: bags of any size, a part at a time.

What an instance says by itself comes from the file, wherever the instance is; how much it counts
beside the others is computed here from that, in NumPy, as `pooling.py` does with torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from loss_attention.bags.recipe import BAGS
from loss_attention.errors import InputError, printable, reason
from loss_attention.exporting.reading import (
    described,
    format_of,
    of_this_version,
    onnx_session,
    required,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEATURES, MASK = "features", "mask"
INSTANCE_LOGITS, SCORES = "instance_logits", "scores"
"""Outputs that are of an instance alone; files of additive pooling have none."""
AT_ONCE = 8192
"""Instances that are looked at together."""


@dataclass(frozen=True)
class BagMetadata:
    """What a file says of itself.

    Attributes:
        kind: bags, so that it is taken for no image's.
        format_version: of this description.
        package_version: of the loss-attention that wrote it.
        class_names: of the K classes, in the order of the logits.
        multi_label: a bag may have several classes.
        competing: probabilities are a softmax; else each is a sigmoid.
        pooling: how instances are weighed.
        threshold: the paper's xi, of poolings that have one.
        positive: of two classes, the one that a bag is searched for; None: there is none.
        in_features: D, features of an instance; they are normalised within the file.
        inputs: by name, and what they are; likewise
        outputs: of the file.
    """

    kind: str
    format_version: int
    package_version: str
    class_names: tuple[str, ...]
    multi_label: bool
    competing: bool
    pooling: str
    threshold: float
    positive: int | None
    in_features: int
    inputs: dict[str, str]
    outputs: dict[str, str]

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> BagMetadata:
        """Read what `to_json` wrote.

        Raises:
            InputError: it is of images, or of a newer version.
            ValueError: it is damaged; or whatever else a malformed one leads to.
        """
        values = json.loads(text)
        if values.get("kind") != BAGS:
            raise InputError("it holds a classifier of images: ExportedModel runs it")
        values = of_this_version(values, cls)
        names, positive = values["class_names"], values["positive"]
        texts = [*names, *values["inputs"], *values["outputs"], values["pooling"]]
        sound = (
            isinstance(names, list)
            and len(names) > 1
            and all(isinstance(one, str) for one in texts)
            and type(values["in_features"]) is int
            and values["in_features"] > 0
            and (positive is None or (type(positive) is int and 0 <= positive < 2 == len(names)))
            and type(values["threshold"]) in (int, float)
            and 0 <= values["threshold"] <= 1
        )
        if not sound:
            raise ValueError("its description is damaged")
        return cls(**values | {"class_names": tuple(names)})


@dataclass(frozen=True)
class PredictedBag:
    """What a classifier says of a bag, float32.

    Attributes:
        prediction: the class of the highest logit.
        logits: of the K classes, shape `(K,)`: the sum of the evidence over the instances.
        probabilities: of each class, shape `(K,)`.
        weights: of each instance, shape `(M,)`, which sum to 1; with a weight for each class, those
            of the class of the highest logit.
        evidence: what each instance adds to the logit of each class, shape `(M, K)`.
    """

    prediction: str
    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    weights: NDArray[np.float32]
    evidence: NDArray[np.float32]


class ExportedBagClassifier:
    """A classifier of bags that `export` wrote as ONNX, run by onnxruntime without torch.

    Args:
        path: the file, ending in .onnx.

    Attributes:
        metadata: what it says of itself.

    Raises:
        ValueError: not there, of another ending, damaged, of images, not written by `export`, or by
            a newer version; onnxruntime is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        name = printable(str(path))
        if format_of(path) != "onnx":
            raise InputError(
                f"{name}: bags are read from .onnx files; torch.export.load reads .pt2"
            )
        if not path.is_file():
            raise InputError(f"there is no file {name}")
        required("onnxruntime")
        try:
            session, entries = onnx_session(path)
        except Exception as error:  # whatever it raises at a file that it cannot take
            raise InputError(f"{name} cannot be opened as onnx: {reason(error)}") from error
        try:
            self.metadata = described(entries, BagMetadata.from_json)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        self._by_parts = INSTANCE_LOGITS in self.metadata.outputs
        if self._by_parts and self.metadata.pooling not in WEIGHTS:
            raise InputError(
                f"{name}: its pooling {self.metadata.pooling} is unknown to this version"
            )
        self._session = session

    def __call__(self, features: Any, at_once: int = AT_ONCE) -> PredictedBag:
        """Classify a bag, a part of its instances at a time.

        It is what the model says of all of them at once, up to rounding. With additive pooling,
        which classifies what was weighed, all are looked at together.

        Args:
            features: of its instances, shape `(M, D)`, of any float type: an array, or what is
                sliced like one, as a dataset of an HDF5 file.
            at_once: instances of a part.

        Raises:
            ValueError: features of another shape or type, or that are not finite; logits that are
                not finite.
        """
        shape = tuple(features.shape)
        about = self.metadata
        if len(shape) != 2 or shape[1] != about.in_features or not shape[0]:
            raise InputError(f"features must have shape (M, {about.in_features}), got {shape}")
        if at_once < 1:
            raise InputError(f"`at_once` must be at least 1, got {at_once}")
        step = at_once if self._by_parts else shape[0]
        parts = [
            self._run(features, start, min(start + step, shape[0]))
            for start in range(0, shape[0], step)
        ]
        if not self._by_parts:
            (whole,) = parts
            logits, weights, evidence = (
                whole[one][0].astype(np.float64) for one in ("logits", "weights", "evidence")
            )
        else:
            vectors = np.concatenate([one[INSTANCE_LOGITS][0] for one in parts]).astype(np.float64)
            scores = None
            if SCORES in about.outputs:
                scores = np.concatenate([one[SCORES][0] for one in parts]).astype(np.float64)
            weights = WEIGHTS[about.pooling](vectors, scores, about)
            evidence = vectors * (weights[:, None] if weights.ndim == 1 else weights)
            logits = evidence.sum(axis=0)
            if weights.ndim == 2:
                weights = weights[:, logits.argmax()]
        if not np.isfinite(logits).all():
            raise InputError("the logits are not finite numbers: the file or features are damaged")
        return PredictedBag(
            about.class_names[int(logits.argmax())],
            logits.astype(np.float32),
            _probabilities(logits, competing=about.competing).astype(np.float32),
            weights.astype(np.float32),
            evidence.astype(np.float32),
        )

    def _run(self, features: Any, start: int, stop: int) -> Mapping[str, NDArray[Any]]:
        """Run the file on some instances, as a bag of their own."""
        part = np.asarray(features[start:stop])
        if part.dtype.kind != "f":
            raise InputError(f"features must be floating point, got {part.dtype}")
        part = np.ascontiguousarray(part, dtype=np.float32)
        bad = np.argwhere(~np.isfinite(part))
        if len(bad):
            row, place = bad[0]
            raise InputError(f"row {start + row + 1}, feature {place + 1} is not finite")
        inputs: dict[str, NDArray[Any]] = {FEATURES: part[None]}
        if MASK in self.metadata.inputs:
            inputs[MASK] = np.ones((1, len(part)), dtype=np.bool_)
        names = list(self.metadata.outputs)
        try:
            values = self._session.run(names, inputs)
        except Exception as error:  # whatever a file that was changed leads it into
            raise InputError(f"the file does not run: {reason(error)}") from error
        return dict(zip(names, values, strict=True))


Weigh = Callable[["NDArray[Any]", "NDArray[Any] | None", BagMetadata], "NDArray[Any]"]
"""From class vectors `(M, K)`, scores `(M,)` and the description to weights `(M,)` or `(M, K)`."""


def _even(vectors: NDArray[Any], *_: Any) -> NDArray[Any]:
    return np.full(len(vectors), 1 / len(vectors))


def _softmax(values: NDArray[Any]) -> NDArray[Any]:
    powers = np.exp(values - values.max())
    weights: NDArray[Any] = powers / powers.sum()
    return weights


def _attention(_: NDArray[Any], scores: NDArray[Any] | None, about: BagMetadata) -> NDArray[Any]:
    """The softmax of the scores (Ilse et al. 2018)."""
    if scores is None:
        raise InputError(f"the file lacks the output {SCORES} of its pooling {about.pooling}")
    return _softmax(scores)


def _by_length(vectors: NDArray[Any], _: Any, about: BagMetadata) -> NDArray[Any]:
    """Eqs. 5a and 5b; see `attention.patch_weights`."""
    scale = np.abs(vectors).max()
    lengths = np.linalg.norm(vectors / (scale if scale > 0 else 1.0), axis=1)
    total = lengths.sum()
    fractions = lengths / total if total > 0 else _even(vectors)
    kept = np.maximum(fractions - about.threshold / len(vectors), 0)
    least = 16 * float(np.finfo(np.float32).eps)
    weights: NDArray[Any] = kept / kept.sum() if kept.sum() > least else fractions
    return weights


def _by_exponentials(vectors: NDArray[Any], *_: Any) -> NDArray[Any]:
    """The sum of the exponentials of each class vector (Shi et al. 2020)."""
    most = vectors.max(axis=1)
    return _softmax(most + np.log(np.exp(vectors - most[:, None]).sum(axis=1)))


def _of_classes(of_each: Callable[[NDArray[Any]], NDArray[Any]]) -> Weigh:
    """Weights of each class by what instances say to it; of two, those of the positive one."""

    def weigh(vectors: NDArray[Any], _: Any, about: BagMetadata) -> NDArray[Any]:
        if about.positive is None:
            return of_each(vectors)
        return of_each(vectors[:, about.positive, None])[:, 0]

    return weigh


def _positive_parts(vectors: NDArray[Any]) -> NDArray[Any]:
    positive = np.maximum(vectors, 0)
    total = positive.sum(axis=0)
    return np.where(total > 0, positive / np.where(total > 0, total, 1.0), 1 / len(vectors))


def _greatest(vectors: NDArray[Any]) -> NDArray[Any]:
    weights = np.zeros_like(vectors)
    weights[vectors.argmax(axis=0), np.arange(vectors.shape[1])] = 1
    return weights


WEIGHTS: dict[str, Weigh] = {
    "mean": _even,
    "max": _of_classes(_greatest),
    "attention": _attention,
    "gated-attention": _attention,
    "loss-attention": _by_length,
    "loss-attention-uncentred": _by_length,
    "loss-attention-2020": _by_exponentials,
    "positive-evidence": _of_classes(_positive_parts),
}
"""The ways of weighing instances that were classified before, by name, as `pooling.POOLINGS`."""


def _probabilities(logits: NDArray[Any], *, competing: bool) -> NDArray[Any]:
    if competing:
        return _softmax(logits)
    sigmoids: NDArray[Any] = np.exp(-np.logaddexp(0, -logits))
    return sigmoids
