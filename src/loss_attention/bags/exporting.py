"""A classifier of bags as a file for other programs, compared with it before it gets its name."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.export import Dim

from loss_attention import __version__
from loss_attention.attention import real_part
from loss_attention.bags.exported import FEATURES, INSTANCE_LOGITS, MASK, SCORES, BagMetadata
from loss_attention.bags.model import BagClassifier
from loss_attention.bags.pooling import Pooling
from loss_attention.bags.recipe import BAGS
from loss_attention.errors import InputError, ReportedError, printable, reason
from loss_attention.exporting.network import program_of
from loss_attention.exporting.reading import FORMAT_VERSION, required
from loss_attention.exporting.writing import (
    MOST_DIFFERENCE,
    ExportError,
    check_target,
    whole_or_nothing,
    write_onnx,
)
from loss_attention.prediction import PatchPrediction, probabilities_of
from loss_attention.saving import METADATA_KEY, ExportFormat

if TYPE_CHECKING:
    from numpy.typing import NDArray

TRACED = (2, 5)
TRIED = ((1, 1), (1, 7), (1, 300), (3, 11))
"""Bags and instances of each that a file is traced and tried with."""


class ExportedBags(nn.Module):
    """A classifier of bags as it is exported: from features to a dictionary of tensors.

    Args:
        model: left as it is; a copy is exported.
    """

    def __init__(self, model: BagClassifier) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).cpu().float().eval()
        self.competing = model.competing

    def forward(
        self, features: Float[Tensor, "B M D"], mask: Bool[Tensor, "B M"] | None = None
    ) -> dict[str, Tensor]:
        """Return what `outputs_of` describes."""
        logits, scores = self.model.instances(features.flatten(0, 1))
        if logits is None:
            return _outputs(self.model.dense(features, mask), competing=self.competing)
        logits = logits.reshape(*features.shape[:2], -1)
        scores = None if scores is None else scores.reshape(features.shape[:2])
        found = self.model.weighed(logits, scores, mask)
        alone = {INSTANCE_LOGITS: real_part(logits, mask)}
        alone |= {} if scores is None else {SCORES: real_part(scores, mask)}
        return _outputs(found, competing=self.competing) | alone


def _outputs(prediction: PatchPrediction, *, competing: bool) -> dict[str, Tensor]:
    return {
        "logits": prediction.logits,
        "probabilities": probabilities_of(prediction.logits, competing=competing),
        "weights": prediction.real_weights,
        "evidence": prediction.evidence,
    }


OUTPUTS = {
    "logits": "(B, K): the sum of the evidence over the instances",
    "probabilities": "(B, K): of each class",
    "weights": "(B, M): the weight of each instance, at least 0, which sum to 1; with a weight for "
    "each class, those of the class of the highest logit",
    "evidence": "(B, M, K): what each instance adds to the logit of each class",
}
OF_INSTANCES = {
    INSTANCE_LOGITS: "(B, M, K): the class vector of each instance, whatever else is in its bag",
    SCORES: "(B, M): what attention weighs each instance by, before the softmax over the bag",
}


def outputs_of(model: BagClassifier) -> dict[str, str]:
    """Return the outputs of a model's file, by name, and what they are."""
    if model.additive:
        return OUTPUTS
    scored = type(model.pooling).scores is not Pooling.scores
    return OUTPUTS | {name: said for name, said in OF_INSTANCES.items() if scored or name != SCORES}


@dataclass(frozen=True)
class ExportedBagModel:
    """What became of an export.

    Attributes:
        path: the file.
        metadata: what it says of itself.
        difference: the largest difference of any output from the model's, over its largest value
            where that is above 1.
        tried: numbers of bags, and of the instances of each, that it was tried with.
    """

    path: Path
    metadata: BagMetadata
    difference: float
    tried: tuple[tuple[int, int], ...]


def export_bags(
    model: BagClassifier,
    path: str | Path,
    format: ExportFormat | None = None,
    *,
    mask: bool = False,
    overwrite: bool = False,
) -> ExportedBagModel:
    """Write a classifier of bags to a file: its decision and the evidence for it.

    The file takes features `(B, M, D)`, float32, of any number of bags of any size. It is run on
    bags of 1 to 300 instances before it gets its name, and its outputs may differ from the model's
    by 1e-4 at most, of those above 1 by that fraction of the largest.

    Args:
        model: left as it is.
        path: the file, ending in .onnx or .pt2 (torch).
        format: "onnx" or "torch"; None: as the file's name ends.
        mask: the file also takes a mask `(B, M)`, True where an instance is real.
        overwrite: replace a file that is there.

    Raises:
        InputError: a file that is there, or whose name ends otherwise; what ONNX needs is not
            installed.
        ExportError: a file that does not compute what the model does, which is removed.
    """
    path = Path(path)
    kind = check_target(path, format, overwrite=overwrite)
    if kind == "openvino":
        raise InputError("classifiers of bags are written as .onnx or .pt2, not for OpenVINO")
    for library in ("onnx", "onnxscript", "onnxruntime") if kind == "onnx" else ():
        required(library)
    about = described(model, mask=mask)
    examples = (_features(*TRACED, model), _mask(*TRACED))[: 1 + mask]
    axes = tuple({0: Dim.DYNAMIC, 1: Dim.DYNAMIC} for _ in examples)
    program = program_of(ExportedBags(model), examples, axes, "")
    with whole_or_nothing(path) as temporary:
        if kind == "torch":
            extra = {METADATA_KEY: about.to_json()}
            torch.export.save(program, temporary, extra_files=extra)
        else:
            named = {0: "batch", 1: "instances"}
            write_onnx(program, temporary, about, dict.fromkeys(about.inputs, named))
        difference = _checked(temporary, path, model, about)
    return ExportedBagModel(path, about, difference, TRIED)


def described(model: BagClassifier, *, mask: bool) -> BagMetadata:
    """Return what a file is to say of itself."""
    inputs = {FEATURES: f"(B, M, {model.in_features}), float32: of each instance"}
    if mask:
        inputs[MASK] = "(B, M), bool: True where an instance is real; each bag has one at least"
    return BagMetadata(
        kind=BAGS,
        format_version=FORMAT_VERSION,
        package_version=__version__,
        class_names=model.class_names,
        multi_label=model.multi_label,
        competing=model.competing,
        pooling=model.pooling_name,
        threshold=model.settings["threshold"],
        positive=model.positive,
        in_features=model.in_features,
        inputs=inputs,
        outputs=outputs_of(model),
    )


def _features(bags: int, size: int, model: BagClassifier) -> Float[Tensor, "B M D"]:
    """Return bags as the model may have seen them."""
    drawn = torch.Generator().manual_seed(size)
    noise = torch.randn(bags, size, model.in_features, generator=drawn)
    return noise * model.std.cpu() + model.mean.cpu()


def _mask(bags: int, size: int) -> Bool[Tensor, "B M"]:
    """Return bags of different sizes: each is one instance shorter than the one before."""
    sizes = (size - torch.arange(bags)).clamp(min=1)
    return torch.arange(size) < sizes.unsqueeze(1)


def _checked(file: Path, path: Path, model: BagClassifier, about: BagMetadata) -> float:
    """Run a file and return how far it is at most from the model.

    Raises:
        ExportError: too far, or it does not run.
    """
    worst, where, name = 0.0, "", printable(str(path))
    model = copy.deepcopy(model).cpu().float().eval()
    try:
        run = opened(file, about)
        for bags, size in TRIED:
            features, mask = _features(bags, size, model), _mask(bags, size)
            mask = mask if MASK in about.inputs else torch.ones_like(mask)
            found = run({FEATURES: features.numpy(), MASK: mask.numpy()})
            # Not as it was traced: each bag is packed, and padded afterwards.
            with torch.no_grad():
                said = _outputs(model(features, mask), competing=model.competing)
                said |= _alone(model, features, mask, about)
            for key, value in said.items():
                far = np.abs(found[key].astype(np.float64) - value.numpy())
                # Additive pooling adds up logits that grow with the bag, and rounding with them.
                far /= max(1.0, float(value.abs().max()))
                largest = float(far.max()) if np.isfinite(far).all() else np.inf
                if largest > worst:
                    worst, where = largest, f"{key} of {bags} bags of {size}"
    except ReportedError as error:
        raise ExportError(f"{name} was not written, as the file does not run: {error}") from error
    except Exception as error:  # whatever a runtime raises
        raise ExportError(
            f"{name} was not written, as the file does not run: {reason(error)}"
        ) from error
    if worst > MOST_DIFFERENCE:
        raise ExportError(
            f"{name} was not written: its output {where} differs from the model's by {worst:.2g}, "
            f"over {MOST_DIFFERENCE:g}"
        )
    return worst


def _alone(
    model: BagClassifier, features: Float[Tensor, "B M D"], mask: Tensor, about: BagMetadata
) -> dict[str, Tensor]:
    """Return what the model says of each instance alone, 0 where it is masked."""
    found = zip((INSTANCE_LOGITS, SCORES), model.instances(features.flatten(0, 1)), strict=True)
    return {
        name: real_part(value.reshape(*mask.shape, *value.shape[1:]), mask)
        for name, value in found
        if value is not None and name in about.outputs
    }


def opened(file: Path, about: BagMetadata) -> Any:
    """Return a function from inputs by name to outputs by name, which runs a file."""
    if file.suffix.lower() == ".onnx":
        runtime = required("onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # what is wrong comes as an error too
        session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

        def run(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            names = list(about.outputs)
            values = session.run(names, {name: inputs[name] for name in about.inputs})
            return dict(zip(names, values, strict=True))

        return run
    network = torch.export.load(file).module()

    def run_torch(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        with torch.no_grad():
            found = network(*(torch.from_numpy(inputs[name]) for name in about.inputs))
        return {name: value.numpy() for name, value in found.items()}

    return run_torch
