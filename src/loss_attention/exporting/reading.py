"""Exported files: what is in them, and running them. ONNX and OpenVINO files need no torch."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from loss_attention.data.placement import Resize
from loss_attention.errors import InputError, printable, quoted, reason
from loss_attention.saving import EXPORT_FORMATS, METADATA_KEY, ExportFormat

if TYPE_CHECKING:
    from numpy.typing import NDArray

Description = TypeVar("Description")
FORMAT_VERSION = 1
EXTRAS = dict.fromkeys(("gradio", "fastapi", "uvicorn"), "serve") | {"openvino": "openvino"}
"""Which extra of the package brings a library; the others come with `export`."""

Run = Callable[["NDArray[Any]"], "dict[str, NDArray[Any]]"]


@dataclass(frozen=True)
class Metadata:
    """What a file says of itself.

    Attributes:
        format_version: of this description.
        package_version: of the loss-attention that wrote it.
        class_names: of the K classes, in the order of the logits.
        multi_label: an image may have several classes.
        competing: probabilities are a softmax; else each is a sigmoid.
        head, backbone: of the model.
        threshold: the paper's xi, which is part of the patch weights.
        in_channels: 1 for grey images, 3 for colour.
        image_size: height and width that images are resized to.
        resize: how: squash, or pad with a border of the image's mean colour.
        fixed_size: no other size is taken.
        size_multiple, least_size: of other sizes, what sides have to be multiples of, and the
            smallest.
        input: name, type and range of the input, and its axes.
        normalisation: mean and standard deviation of each channel, in units of [0, 1]; they are
            applied inside.
        outputs: what each output is, by name, in their order.
        quantised: its convolutions are in 8 bits.
    """

    format_version: int
    package_version: str
    class_names: tuple[str, ...]
    multi_label: bool
    competing: bool
    head: str
    backbone: str
    threshold: float
    in_channels: int
    image_size: tuple[int, int]
    resize: Resize
    fixed_size: bool
    size_multiple: int
    least_size: int
    input: dict[str, str]
    normalisation: dict[str, list[float]]
    outputs: dict[str, str]
    quantised: bool = False

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Metadata:
        """Read what `to_json` wrote.

        Raises:
            ValueError: of a newer version, or damaged.
        """
        values = json.loads(text)
        if values.get("kind") == "bags":
            raise InputError(
                "it holds a classifier of bags, not of images: `predict` and ExportedBagClassifier "
                "run an .onnx file, torch the inputs that its metadata names"
            )
        values = of_this_version(values, cls)
        height, width = values["image_size"]
        names = values["class_names"]
        sound = (
            isinstance(names, list)
            and len(names) > 0
            and all(isinstance(name, str) for name in names)
            and all(type(side) is int and 0 < side <= 2**15 for side in (height, width))
            and values["in_channels"] in (1, 3)
            and values["resize"] in ("squash", "pad")
            and values["input"]["type"] in ("uint8", "float32")
            and all(isinstance(name, str) for name in values["outputs"])
        )
        if not sound:
            raise ValueError("its description is damaged")
        values |= {"class_names": tuple(names), "image_size": (height, width)}
        return cls(**values)


class ExportedModel:
    """A model that `export` wrote, run by onnxruntime, OpenVINO or torch.

    Args:
        path: the file.

    Attributes:
        metadata: what it says of itself.

    Raises:
        ValueError: not there, of another ending, damaged, not written by `export`, or by a newer
            version; what runs it is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        name = printable(str(path))
        kind = format_of(path)
        if not path.is_file():
            raise InputError(f"there is no file {name}")
        try:
            self.metadata, self._run = _OPENERS[kind](path)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        except Exception as error:  # whatever a runtime raises at a file that it cannot take
            if opset := re.search(r"Opset (\d+) is under development", str(error)):
                raise InputError(
                    f"{name} is of opset {opset[1]}, which the installed onnxruntime does not "
                    "know: upgrade it"
                ) from error
            raise InputError(f"{name} cannot be opened as {kind}: {reason(error)}") from error

    def __call__(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Run the file.

        Args:
            images: shape `(B, C, H, W)`, uint8 in 0..255 or floating point in [0, 1], whichever
                the file itself takes: they are converted.

        Returns:
            The outputs by name; `metadata.outputs` says what they are.

        Raises:
            ValueError: images of another shape or type, or of a size that it does not take.
        """
        about = self.metadata
        if images.ndim != 4 or images.shape[1] != about.in_channels:
            raise InputError(
                f"images must have shape (B, {about.in_channels}, H, W), got {images.shape}"
            )
        if images.dtype != np.uint8 and images.dtype.kind != "f":
            raise InputError(f"images must be uint8 or floating point, got {images.dtype}")
        self._check_size(*images.shape[2:])
        if about.input["type"] == "float32":
            scale = 255 if images.dtype == np.uint8 else 1
            images = (images / np.float32(scale)).astype(np.float32)
        elif images.dtype != np.uint8:
            images = (images * 255).round().clip(0, 255).astype(np.uint8)
        return self._run(np.ascontiguousarray(images))

    def _check_size(self, height: int, width: int) -> None:
        about = self.metadata
        if about.fixed_size and (height, width) != about.image_size:
            made_for = " x ".join(map(str, about.image_size))
            raise InputError(
                f"this file takes images of {made_for} pixels alone, got {height} x {width}"
            )
        if min(height, width) < about.least_size:
            raise InputError(
                f"this file takes images of {about.least_size} pixels a side and more, got "
                f"{height} x {width}"
            )
        if height % about.size_multiple or width % about.size_multiple:
            raise InputError(
                f"this file takes images whose sides are multiples of {about.size_multiple} "
                f"pixels, got {height} x {width}"
            )


def format_of(path: Path) -> ExportFormat:
    """Return the format that a file's name ends in.

    Raises:
        InputError: in none of them.
    """
    suffix = path.suffix.lower()
    if suffix not in EXPORT_FORMATS:
        known = ", ".join(f"{end} ({kind})" for end, kind in EXPORT_FORMATS.items())
        raise InputError(
            f"{printable(str(path))}: no format has the ending {quoted(suffix)}; these are known: "
            f"{known}"
        )
    return EXPORT_FORMATS[suffix]


def of_this_version(values: Mapping[str, Any], described: type) -> dict[str, Any]:
    """Return what a file says in the fields of a dataclass that describes it; others are new.

    Raises:
        InputError: it is of a newer version.
        ValueError: it is of none.
    """
    version = values["format_version"]
    if type(version) is int and version > FORMAT_VERSION:
        raise InputError(
            f"it is of format {version}, this version reads up to {FORMAT_VERSION}: upgrade "
            "loss-attention"
        )
    if version != FORMAT_VERSION:
        raise ValueError("its description is damaged")
    known = {field.name for field in fields(described)}
    return {name: value for name, value in values.items() if name in known}


def required(library: str) -> Any:
    """Import what an extra of the package brings.

    Raises:
        InputError: it is not installed, and what to install.
    """
    try:
        return importlib.import_module(library)
    except ImportError as error:
        extra = EXTRAS.get(library, "export")
        raise InputError(
            f'{library} is not installed ({reason(error)}): pip install "loss-attention[{extra}]"'
        ) from error


def described(entries: Mapping[str, str], read: Callable[[str], Description]) -> Description:
    """Return what a file says of itself.

    Args:
        entries: the file's metadata, by name.
        read: makes a description of its text.

    Raises:
        InputError: it is not there, damaged, or of what `read` does not take.
    """
    if METADATA_KEY not in entries:
        raise InputError("not written by loss-attention: its metadata lacks the model")
    try:
        return read(entries[METADATA_KEY])
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"its metadata is damaged ({reason(error)})") from error


def onnx_session(path: Path, *, optimised: bool = True) -> tuple[Any, Mapping[str, str]]:
    """Return an ONNX file, ready to run by onnxruntime on the CPU, and its metadata.

    Args:
        path: the file.
        optimised: False opens it sooner, for whoever asks for the metadata alone.

    Raises:
        InputError: onnxruntime is not installed. Of a file that it cannot take: whatever it raises.
    """
    runtime = required("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what is wrong comes as an error too
    if not optimised:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session, session.get_modelmeta().custom_metadata_map


def _open_onnx(path: Path) -> tuple[Metadata, Run]:
    session, entries = onnx_session(path)
    about = described(entries, Metadata.from_json)
    names = list(about.outputs)

    def run(images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        values = session.run(names, {about.input["name"]: images})
        return dict(zip(names, values, strict=True))

    return about, run


def _open_openvino(path: Path) -> tuple[Metadata, Run]:
    openvino = required("openvino")
    core = openvino.Core()
    model = core.read_model(path)
    entries = {}
    if model.has_rt_info([METADATA_KEY]):
        entries[METADATA_KEY] = model.get_rt_info([METADATA_KEY]).astype(str)
    about = described(entries, Metadata.from_json)
    # Else it computes in half precision where the processor can.
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = list(about.outputs)

    def run(images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        found = compiled(images)
        return {name: np.array(found[name]) for name in names}

    return about, run


def _open_torch(path: Path) -> tuple[Metadata, Run]:
    import torch

    extra = {METADATA_KEY: ""}
    program = torch.export.load(path, extra_files=extra)
    entries = {name: text for name, text in extra.items() if text}
    about = described(entries, Metadata.from_json)
    network = program.module()

    def run(images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        with torch.no_grad():
            found = network(torch.from_numpy(images))
        return {name: value.numpy() for name, value in found.items()}

    return about, run


_OPENERS: dict[ExportFormat, Callable[[Path], tuple[Metadata, Run]]] = {
    "onnx": _open_onnx,
    "torch": _open_torch,
    "openvino": _open_openvino,
}
