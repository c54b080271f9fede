"""`export`: a model to a file, which is run and compared with the model before it gets its name."""

from __future__ import annotations

import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from loss_attention import __version__
from loss_attention.backbones.foreign import hushed
from loss_attention.errors import InputError, ReportedError, printable, reason
from loss_attention.exporting.network import (
    ExportedNetwork,
    InputType,
    Sizes,
    TakenSizes,
    sizes_for,
    traced,
)
from loss_attention.exporting.quantising import quantise
from loss_attention.exporting.reading import (
    FORMAT_VERSION,
    ExportedModel,
    Metadata,
    format_of,
    required,
)
from loss_attention.model import PatchClassifier
from loss_attention.saving import EXPORT_FORMATS, METADATA_KEY, ExportFormat, SaveError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch.export import ExportedProgram

INPUT = "images"
BATCHES = (1, 4, 7)
"""How many images at a time a file is tried with."""
MOST_DIFFERENCE = 1e-4
"""Of any output from the model's own, in its own units."""
NEAR_THE_CUT = 1e-6
"""A patch whose weight is as near to where it counts as selected may be or not, by rounding."""


class ExportError(ReportedError, ValueError):
    """A file was written that does not compute what the model does; it was removed again."""


@dataclass(frozen=True)
class Exported:
    """What became of an export.

    Attributes:
        path: the file.
        metadata: what it says of itself.
        difference: the largest difference of any output from the model's, over all batches; in 8
            bits, of the logits.
        tried: the sizes of images that it was tried with, height and width.
    """

    path: Path
    metadata: Metadata
    difference: float
    tried: tuple[tuple[int, int], ...]


def export(
    model: PatchClassifier,
    path: str | Path,
    format: ExportFormat | None = None,
    *,
    upsample: bool = False,
    input_type: InputType = "uint8",
    image_size: tuple[int, int] | None = None,
    sizes: Sizes | None = None,
    calibration: NDArray[np.uint8] | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a model to a file for other programs: its decision and the evidence for it.

    The file takes any number of images. It is run on batches of 1, 4 and 7 images of two sizes
    before it gets its name, and its outputs may differ from the model's by 1e-4 at most.

    Args:
        model: left as it is.
        path: the file, ending in .onnx, .pt2 (torch) or .xml (OpenVINO, whose weights are beside
            it, ending in .bin).
        format: "onnx", "torch" or "openvino"; None: as the file's name ends.
        upsample: the map is painted on the pixels, `(B, H, W)`; else it has a value a patch,
            `(B, rows, columns)`.
        input_type: of the images that the file takes: "uint8" in 0..255, or "float32" in [0, 1].
        image_size: height and width that its images are meant to have; None: those that the model
            was trained at.
        sizes: "any" height and width, or that one "fixed". None: any where the network allows it,
            but fixed for networks of other libraries, where any can take minutes.
        calibration: images `(N, C, H, W)`, uint8, such as a hundred of those that it was trained
            on: convolutions are computed in 8 bits, with ranges taken from these. ONNX alone; how
            far the file is from the model is said then and not judged. None: in float32.
        overwrite: replace a file that is there.

    Returns:
        What was written, and how far it is from the model.

    Raises:
        ValueError: a file that is there, or whose name ends otherwise; a model or a size that
            cannot be exported; what the format needs is not installed; a file that does not
            compute what the model does, which is removed.
    """
    path = Path(path)
    kind = check_target(path, format, overwrite=overwrite)
    if calibration is not None and kind != "onnx":
        raise InputError(f"files in 8 bits are written as onnx, not as {kind}")
    network = ExportedNetwork(model, upsample=upsample)
    taken = sizes_for(model, image_size, sizes)
    about = described(network, taken, input_type)
    for library in ("onnx", "onnxscript", "onnxruntime") if kind != "torch" else ():
        required(library)
    if kind == "openvino":
        required("openvino")
    reference = ExportedNetwork(model, upsample=upsample)  # tracing may change layers of the other
    program = traced(network, taken, input_type)
    with whole_or_nothing(path) as temporary:
        if kind == "torch":
            extra = {METADATA_KEY: about.to_json()}
            torch.export.save(program, temporary, extra_files=extra)
        else:
            first = temporary.with_suffix(".onnx")
            axes = {0: "batch"} if taken.fixed else {0: "batch", 2: "height", 3: "width"}
            write_onnx(program, first, about, {INPUT: axes})
            if kind == "openvino":
                _write_openvino(first, temporary, about)
        difference, tried = _checked(temporary, reference, taken, path)
        if calibration is not None:
            first = temporary.with_name("float32.onnx")
            temporary.rename(first)
            about = quantise(first, temporary, about, calibration)
            difference, tried = _checked(temporary, reference, taken, path, most=float("inf"))
    return Exported(path, about, difference, tried)


def check_target(path: Path, format: ExportFormat | None, *, overwrite: bool) -> ExportFormat:
    """Return the format of a file that is to be written.

    Raises:
        InputError: its name does not end as the format's do; it is there already, or no folder for
            it is.
    """
    kind = format_of(path)
    if format is not None and format not in EXPORT_FORMATS.values():
        raise InputError(f"`format` must be one of {', '.join(EXPORT_FORMATS.values())}")
    if format is not None and kind != format:
        ending = next(end for end, name in EXPORT_FORMATS.items() if name == format)
        raise InputError(f"{path}: files of the format {format} end in {ending}")
    for file in _files(path):
        if file.exists() and not overwrite:
            raise InputError(f"{file} exists already; name another, or replace it with `overwrite`")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}")
    return kind


def _files(path: Path) -> list[Path]:
    """Return the files of an export: OpenVINO's are two."""
    return (
        [path, path.with_suffix(".bin")]
        if EXPORT_FORMATS[path.suffix.lower()] == "openvino"
        else [path]
    )


@contextmanager
def whole_or_nothing(path: Path) -> Iterator[Path]:
    """Yield the name of a file to write in a folder of its own; move what is there in the end.

    Raises:
        SaveError: it could not be written.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".loss-attention-", dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            yield temporary
            for written, file in zip(_files(temporary)[::-1], _files(path)[::-1], strict=True):
                shutil.move(written, file)
    except OSError as error:
        raise SaveError(f"cannot write {path}: {reason(error)}") from error


def described(network: ExportedNetwork, taken: TakenSizes, kind: InputType) -> Metadata:
    """Return what a file is to say of itself."""
    model = network.model
    spec = model.spec
    channels = model.mean.shape[0]
    with torch.no_grad():
        outputs = network(torch.zeros(1, channels, taken.height, taken.width))
    return Metadata(
        format_version=FORMAT_VERSION,
        package_version=__version__,
        class_names=tuple(model.class_names),
        multi_label=model.multi_label,
        competing=model.competing,
        head=spec.head,
        backbone=spec.backbone,
        threshold=spec.threshold,
        in_channels=channels,
        image_size=(taken.height, taken.width),
        resize=model.resize,
        fixed_size=taken.fixed,
        size_multiple=taken.multiple,
        least_size=taken.least,
        input={
            "name": INPUT,
            "type": kind,
            "range": "0..255" if kind == "uint8" else "0..1",
            "axes": "batch, channels, height, width",
            "sizes": str(taken),
        },
        normalisation={
            "mean": model.mean.flatten().tolist(),
            "std": model.std.flatten().tolist(),
        },
        outputs=network.described(outputs),
    )


class SaysOfItself(Protocol):
    """What a file says of itself: of images or of bags."""

    @property
    def outputs(self) -> dict[str, str]:
        """The outputs by name, and what they are."""

    def to_json(self) -> str:
        """Return it as JSON."""


def write_onnx(
    program: ExportedProgram, path: Path, about: SaysOfItself, axes: Mapping[str, Mapping[int, str]]
) -> None:
    """Write a program as ONNX.

    Args:
        program: as it was traced.
        path: of the file.
        about: what it says of itself.
        axes: of each input, in order, the names of its free axes.

    Raises:
        InputError: it has an operation that ONNX has not.
    """
    onnx = required("onnx")
    try:
        with warnings.catch_warnings(), hushed():
            warnings.simplefilter("ignore")  # of torch's own use of what it deprecates
            converted = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=list(axes),
                output_names=list(about.outputs),
            )
    except Exception as error:  # torch raises whatever a program leads it into
        raise InputError(f"this network has no form in ONNX: {reason(error)}") from error
    assert converted is not None
    proto = converted.model_proto
    _tidy(proto, program, axes)
    proto.metadata_props.add(key=METADATA_KEY, value=about.to_json())
    proto.producer_name, proto.producer_version = "loss-attention", __version__
    onnx.save(proto, path)


def _tidy(proto: Any, program: ExportedProgram, axes: Mapping[str, Mapping[int, str]]) -> None:
    """Name the axes, and leave out what torch notes of files of this machine."""
    known: dict[str, str] = {}
    inputs = (node for node in program.graph.nodes if node.name in axes)
    for node in inputs:
        taken = node.meta["val"].shape
        for axis, name in axes[node.name].items():
            (symbol,) = taken[axis].node.expr.free_symbols
            whole = taken[axis].node.expr == symbol
            known[str(symbol)] = name if whole else f"{name}_in_steps"
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, known)) + r")\b")
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for side in value.type.tensor_type.shape.dim:
            if side.dim_param:
                side.dim_param = pattern.sub(lambda found: known[found[1]], side.dim_param)
    for part in (proto.graph, *proto.graph.node, *proto.graph.value_info, *proto.functions):
        del part.metadata_props[:]
        part.doc_string = ""


def _write_openvino(source: Path, path: Path, about: Metadata) -> None:
    openvino = required("openvino")
    model = openvino.Core().read_model(source)
    model.set_rt_info(about.to_json(), [METADATA_KEY])
    openvino.save_model(model, path, compress_to_fp16=False)


def _checked(
    file: Path,
    network: ExportedNetwork,
    taken: TakenSizes,
    path: Path,
    most: float = MOST_DIFFERENCE,
) -> tuple[float, tuple[tuple[int, int], ...]]:
    """Run a file and return how far it is at most from the network, and the sizes tried.

    Raises:
        ExportError: too far, or it does not run.
    """
    second = taken.second()
    tried = ((taken.height, taken.width), *(() if second is None else (second,)))
    worst, where = 0.0, ""
    name = printable(str(path))
    try:
        model = ExportedModel(file)
        for height, width in tried:
            for batch in BATCHES:
                images = _examples(batch, network, height, width)
                found = model(images)
                with torch.no_grad():
                    expected = {
                        key: value.numpy()
                        for key, value in network(torch.from_numpy(images)).items()
                    }
                # In 8 bits another class may win, and with it other boxes and maps.
                compared = expected if np.isfinite(most) else {"logits": expected["logits"]}
                for key, value in compared.items():
                    far = _difference(key, found[key], value, expected, network)
                    if far > worst:
                        worst, where = far, f"{key} of {batch} images of {height} x {width}"
    except ReportedError as error:
        raise ExportError(f"{name} was not written, as the file does not run: {error}") from error
    except Exception as error:
        raise ExportError(
            f"{name} was not written, as the file does not run: {reason(error)}"
        ) from error
    if worst > most or np.isinf(worst):
        raise ExportError(
            f"{name} was not written: its output {where} differs from the model's by {worst:.2g}, "
            f"over {most:g}"
        )
    return worst, tried


def _examples(batch: int, network: ExportedNetwork, height: int, width: int) -> NDArray[Any]:
    """Return images to try a file with: noise over shades, so that patches differ."""
    rng = np.random.default_rng([batch, height, width])
    channels = network.model.mean.shape[0]
    shades = np.linspace(0, 1, width)[None, None, None] * rng.uniform(0, 1, (batch, channels, 1, 1))
    noise = rng.uniform(0, 1, (batch, channels, height, width))
    return np.asarray((shades + noise) * 127.5, np.uint8)


def _difference(
    name: str,
    found: NDArray[Any],
    expected: NDArray[Any],
    outputs: dict[str, NDArray[Any]],
    network: ExportedNetwork,
) -> float:
    """Return how far an output is from what it should be; infinite where its shape is another."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return float("inf")
    if name not in ("selected", "boxes"):
        return _largest(np.abs(found.astype(np.float64) - expected))
    # These are of all or nothing: rounding may move a patch across the cut.
    weights = outputs["patch_weights"]
    cut = _cut(network, weights.shape[1])
    close = (np.abs(weights - cut) < NEAR_THE_CUT) & (weights != 0)
    clear = ~close.any(axis=1)
    same = found[clear].astype(np.float64), expected[clear].astype(np.float64)
    different = np.abs(same[0] - same[1])
    different[np.isnan(same[0]) & np.isnan(same[1])] = 0
    return _largest(different)


def _largest(differences: NDArray[Any]) -> float:
    largest = float(differences.max(initial=0))
    return float("inf") if np.isnan(largest) else largest


def _cut(network: ExportedNetwork, patches: int) -> float:
    layout: Any = network.model.head.layout
    return float(layout.selection) / patches
