"""What of a model is exported: a network from images to named outputs, traced for any batch.

Networks are traced for any height and width too where their layers say what they make of these.
Those of other libraries are traced for one size unless told otherwise: whatever they compute from a
size becomes part of every later size, and tracing them takes minutes. "Same" padding, as the `tf_`
networks of timm have it, is the worst of it (a network of 16 blocks was not traced in ten minutes).
It is a constant where the stride divides the size, so such networks are traced for multiples of
their coarsest stride, with that constant.
"""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from torch.nn import functional as F

from loss_attention.backbones.foreign import ForeignBackbone
from loss_attention.errors import InputError, reason
from loss_attention.explanation import default_map
from loss_attention.geometry import enclosing_boxes, paint_patches
from loss_attention.heads.capsules import RoutingHead
from loss_attention.model import PatchClassifier
from loss_attention.prediction import (
    PatchPrediction,
    WeightedPrediction,
    margins,
    of_class,
    probabilities_of,
)

Sizes = Literal["any", "fixed"]
InputType = Literal["uint8", "float32"]
TRACED_BATCH = 3
"""Images to trace with."""
MOST_PIXELS = 2**15
"""A side is never longer; programs need a bound."""


class ExportedNetwork(nn.Module):
    """A model as it is exported: from images to a dictionary of tensors.

    Args:
        model: left as it is; a copy is exported.
        upsample: paint the map on the pixels, `(B, H, W)`, as `explain` shows it; else it has a
            value for each patch, `(B, rows, columns)`.
    """

    def __init__(self, model: PatchClassifier, *, upsample: bool = False) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).cpu().float().eval()
        self.competing, self.upsample = model.competing, upsample

    def forward(self, images: Shaped[Tensor, "B C H W"]) -> dict[str, Tensor]:
        """Return what `described` describes."""
        prediction = self.model(images)
        logits = prediction.logits
        found = {
            "logits": logits,
            "probabilities": probabilities_of(logits, competing=self.competing),
        }
        if not isinstance(prediction, WeightedPrediction):
            return found
        grid = prediction.image_grid
        windows = grid.windows(logits.device)
        found["patch_weights"] = prediction.patch_weights
        values, name = prediction.patch_weights, "weight_map"
        if isinstance(prediction, PatchPrediction):
            evidence = prediction.evidence
            found["evidence"] = evidence
            target = logits.argmax(dim=1)
            name = f"{default_map(competing=self.competing)}_map"
            shown = margins(evidence) if self.competing else evidence
            values = of_class(shown, target)
            values = values.clamp(min=0) if self.competing else values
        if self.upsample:
            found[name] = paint_patches(values, grid)
        else:
            found[name] = values.reshape(values.shape[0], grid.rows, grid.columns)
        found["selected"] = prediction.selected
        found["boxes"] = enclosing_boxes(prediction.selected, windows)
        found["windows"] = windows
        return found

    def described(self, outputs: Mapping[str, Tensor]) -> dict[str, str]:
        """Say what each output is, for people.

        Args:
            outputs: what the network returned of some images.
        """
        decided = "softmax" if self.competing else "a sigmoid of each class"
        form = "(B, H, W), painted on the pixels" if self.upsample else "(B, rows, columns)"
        of = "for the class of the highest logit"
        said = {
            "logits": "(B, K): the sum of the evidence over the patches",
            "probabilities": f"(B, K): {decided} of the logits",
            "patch_weights": "(B, M): the weight of each patch, at least 0, which sum to 1",
            "evidence": "(B, M, K): what each patch adds to the logit of each class",
            "margin_map": f"{form}: evidence that no other class disputes, {of}; 0 everywhere "
            "where no patch puts that class first",
            "evidence_map": f"{form}: evidence {of}",
            "weight_map": f"{form}: patch weights of the class of the highest logit",
            "selected": "(B, M): whether a patch counts as selected",
            "boxes": "(B, 4): x0, y0, x1, y1 of the smallest box around the windows of the "
            "selected patches, in pixels of the input; NaN where none is",
            "windows": "(M, 4): the same of the window of each patch; patches are numbered row by "
            "row",
        }
        if "evidence" not in outputs:
            said["logits"] = "(B, K): the higher, the likelier the class"
        return {name: said[name] for name in outputs}


class TakenSizes(NamedTuple):
    """The images that a file takes.

    Attributes:
        height, width: those that it was traced with, and is best used with.
        fixed: it takes no others.
        multiple: sides are multiples of so many pixels.
        least: the smallest side.
    """

    height: int
    width: int
    fixed: bool
    multiple: int = 1
    least: int = 1

    def second(self) -> tuple[int, int] | None:
        """Return another height and width to try the file with; None: there is none."""
        if self.fixed:
            return None
        # The least height, and a width that has cells and patches cut off where they may be.
        return self.least, self.width + max(2 * self.multiple, 5)

    def __str__(self) -> str:
        if self.fixed:
            return f"{self.height} x {self.width} pixels alone"
        multiples = f", sides multiples of {self.multiple}" if self.multiple > 1 else ""
        return f"any height and width from {self.least} pixels{multiples}"


def sizes_for(
    model: PatchClassifier, image_size: tuple[int, int] | None, sizes: Sizes | None
) -> TakenSizes:
    """Return which images a model's file is to take.

    Args:
        model: the model.
        image_size: height and width to trace with; None: those that it was trained at.
        sizes: any, or that one alone; None: any, but for networks of other libraries.

    Raises:
        InputError: no size is known, or the model does not take it; any size is asked for of a
            model that takes one.
    """
    size = image_size or model.image_size
    if size is None:
        raise InputError(
            "this model does not say the image size that it was trained at: give `image_size`"
        )
    height, width = size
    model.check_image_size(height, width)
    backbone = model.backbone
    only_one = None
    multiple, least = 1, model.smallest_image
    if isinstance(model.head, RoutingHead):
        only_one = f"the head {model.spec.head} has parameters for each position"
    elif isinstance(backbone, ForeignBackbone):
        taken = backbone.sizes
        if taken.only is not None:
            only_one = f"{backbone.name} is built for one size"
        multiple = max(taken.multiple, *backbone.level_strides)
        least = max(least, taken.least)
        sizes = sizes or "fixed"
    if only_one is not None and sizes == "any":
        raise InputError(f"`sizes` any: {only_one}; leave it out")
    if only_one is not None or sizes == "fixed":
        return TakenSizes(height, width, fixed=True)
    if height % multiple or width % multiple:
        raise InputError(
            f"`sizes` any needs an `image_size` whose sides are multiples of {multiple} here, "
            f"got {height} x {width}"
        )
    # Two patches along each side: a program that was traced with several may not be for one.
    layout: Any = getattr(model.head, "layout", None)
    if layout is not None:
        least += layout.stride * layout.feature_stride
    least = max(least, 2 * multiple if multiple > 1 else 2)
    least = -(-least // multiple) * multiple
    if min(height, width) < least:
        if sizes == "any":
            raise InputError(
                f"`sizes` any needs an `image_size` of two patches along each side, {least} x "
                f"{least} pixels and more, got {height} x {width}"
            )
        return TakenSizes(height, width, fixed=True)
    return TakenSizes(height, width, fixed=False, multiple=multiple, least=least)


def traced(network: ExportedNetwork, sizes: TakenSizes, kind: InputType) -> ExportedProgram:
    """Return a network as a program for any batch, and any size where `sizes` says so.

    Raises:
        InputError: torch cannot trace it so.
    """
    channels = network.model.mean.shape[0]
    shape = (TRACED_BATCH, channels, sizes.height, sizes.width)
    if kind == "uint8":
        images = torch.randint(0, 256, shape, dtype=torch.uint8)
    else:
        images = torch.rand(shape)
    axes: dict[int, Any] = {0: Dim.DYNAMIC}
    if not sizes.fixed:
        if sizes.multiple == 1:
            axes |= {2: Dim.AUTO, 3: Dim.AUTO}
        else:
            least, most = sizes.least // sizes.multiple, MOST_PIXELS // sizes.multiple
            axes |= {
                axis: sizes.multiple * Dim(name, min=least, max=most)
                for axis, name in ((2, "rows"), (3, "columns"))
            }
            with_constant_padding(network)
    with_eager_attention(network)
    with_results_of_their_own(network)
    advice = "" if sizes.fixed else "; `sizes` fixed may work"
    program = program_of(network, (images,), (axes,), advice)
    taken = next(node for node in program.graph.nodes if node.name == "images").meta["val"].shape
    free = [not isinstance(side, int) for side in taken]
    if not free[0] or (not sizes.fixed and not all(free[2:])):
        fixed = "the batch" if not free[0] else "height and width"
        raise InputError(f"this network fixes {fixed} when it is traced; `sizes` fixed may work")
    return program


def program_of(
    network: nn.Module, inputs: tuple[Tensor, ...], axes: tuple[dict[int, Any], ...], advice: str
) -> ExportedProgram:
    """Return a network as a program.

    Args:
        network: to trace.
        inputs: to trace it with.
        axes: of each input, the sizes that are free.
        advice: what an error ends with.

    Raises:
        InputError: torch cannot trace it so.
    """
    try:
        # Without it, what is traced with several images is not for one.
        config: Any = importlib.import_module("torch.fx.experimental._config")
        oblivious = config.patch(backed_size_oblivious=True)
        with torch.no_grad(), oblivious:
            program = torch.export.export(network, inputs, dynamic_shapes=axes, strict=False)
    except Exception as error:  # torch raises whatever a network leads it into
        raise InputError(f"torch cannot trace this network: {reason(error)}{advice}") from error
    # Names of files of this machine, which are nobody's business.
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, GraphModule) else ():
            node.meta.pop("stack_trace", None)
    return program


class _ConstantlyPadded(nn.Module):
    """A convolution with "same" padding, for maps whose sides its stride divides."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer
        pads: list[int] = []
        for axis in (1, 0):
            extent = (layer.kernel_size[axis] - 1) * layer.dilation[axis] + 1
            whole = max(extent - layer.stride[axis], 0)
            pads += [whole // 2, whole - whole // 2]
        self.pads = pads

    def forward(self, maps: Tensor) -> Tensor:
        layer = self.layer
        maps = F.pad(maps, self.pads)
        return F.conv2d(
            maps, layer.weight, layer.bias, layer.stride, 0, layer.dilation, layer.groups
        )


def with_eager_attention(network: nn.Module) -> None:
    """Have models of transformers compute attention in steps.

    torch's one operator for all of them leaves Swin's maps in an order that ONNX cannot view.
    """
    for module in network.modules():
        choose = getattr(module, "set_attn_implementation", None)
        if choose is not None:
            choose("eager")


def with_results_of_their_own(network: nn.Module) -> None:
    """Have no layer write over its input: torch takes up to twice as long to convert those."""
    layers: Iterable[Any] = network.modules()
    for layer in layers:
        if getattr(layer, "inplace", False):
            layer.inplace = False


def with_constant_padding(module: nn.Module) -> None:
    """Replace convolutions of timm whose "same" padding is computed from the size of each map."""
    library = sys.modules.get("timm.layers")
    if library is None:
        return
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d) and type(child) is library.Conv2dSame:
            setattr(module, name, _ConstantlyPadded(child))
        else:
            with_constant_padding(child)
