"""Which pixels of the image a cell of a feature map depends on, computed from the layers.

A layer either is known here, or it is traced: `torch.fx` calls its `forward` on a stand-in for the
image and notes what is done to it. Where that cannot be followed, or where a cell sees the whole
image, there is no answer, and none is made up.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from torch import fx, nn

from loss_attention.backbones.layers import Branched, Conv2d, declares_its_own_call, is_plain


class ReceptiveField(NamedTuple):
    """The pixels that the cells of a feature map see, along one axis; the other is the same.

    Cell i sees the pixels from `offset + stride * i` to `offset + stride * i + size` (exclusive),
    as far as they lie in the image: what lies outside is padding. The defaults are those of the
    image itself.

    Attributes:
        size: pixels from the first to the last that one cell sees.
        stride: pixels between what neighbouring cells see.
        offset: the first pixel of cell 0; below 0 where it sees padding.
    """

    size: int = 1
    stride: int = 1
    offset: int = 0

    def after(
        self, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
    ) -> ReceptiveField:
        """Return the field of the cells that a convolution or a pooling makes of these.

        Example:
            >>> ReceptiveField().after(3, padding=1).after(9, stride=4)
            ReceptiveField(size=11, stride=4, offset=-1)
        """
        return ReceptiveField(
            self.size + dilation * (kernel - 1) * self.stride,
            self.stride * stride,
            self.offset - padding * self.stride,
        )

    def pixels(self, cell: int, length: int) -> range:
        """Return what a cell sees of an image of `length` pixels.

        Example:
            >>> ReceptiveField(size=11, stride=4, offset=-1).pixels(0, length=32)
            range(0, 10)
        """
        start = self.offset + self.stride * cell
        return range(max(0, start), min(length, start + self.size))


def receptive_field(
    network: nn.Module, start: ReceptiveField | None = None
) -> ReceptiveField | None:
    """Return what a cell of a network's result sees of the image, both axes alike.

    Of several paths, this is the smallest range around all that any of them sees. Batch norm is
    taken as in evaluation, when it looks at no other cell.

    Args:
        network: of convolutions, poolings, and layers that act on each cell by itself, one after
            the other, side by side or around each other, in modules of any kind.
        start: what the cells of its input see; None: the input is the image.

    Returns:
        None where it cannot be computed: attention, norms over an image, resizing, global pooling,
        kernels that are not square, decisions that depend on what is in the image.

    Example:
        >>> stem = nn.Sequential(nn.Conv2d(3, 8, 7, 2, padding=3), nn.ReLU(), nn.MaxPool2d(2))
        >>> receptive_field(stem)
        ReceptiveField(size=9, stride=4, offset=-3)
        >>> receptive_field(nn.Sequential(stem, nn.AdaptiveAvgPool2d(1))) is None
        True
    """
    field = start or ReceptiveField()
    if not is_plain(network):
        return None
    known = _KNOWN.get(type(network).forward)
    if known is not None:
        return known(network, field)
    if isinstance(network, nn.Sequential) and type(network).forward is nn.Sequential.forward:
        return _through(list(network), field)
    if isinstance(network, Branched) and declares_its_own_call(type(network)):
        return _around([_through(path, field) for path in network.paths()])
    return _traced(network, field)


def _through(layers: Iterable[nn.Module], field: ReceptiveField | None) -> ReceptiveField | None:
    for layer in layers:
        if field is None:
            return None
        field = receptive_field(layer, field)
    return field


def _around(fields: Sequence[ReceptiveField | None]) -> ReceptiveField | None:
    known = [field for field in fields if field is not None]
    strides = {field.stride for field in known}
    if len(known) < len(fields) or len(strides) != 1:
        return None
    offset = min(field.offset for field in known)
    end = max(field.offset + field.size for field in known)
    return ReceptiveField(end - offset, strides.pop(), offset)


def _slid(field: ReceptiveField, kernel: Any, *options: Any) -> ReceptiveField | None:
    """Return the field after a window of this kernel, stride, padding and dilation."""
    sides = [_side(value) for value in (kernel, *options)]
    return None if None in sides else field.after(*sides)  # type: ignore[arg-type]


def _side(value: Any) -> int | None:
    """Return what is one number for both axes; None: it is not."""
    sides = {*value} if isinstance(value, tuple | list) else {value}
    side = sides.pop() if len(sides) == 1 else None
    return side if isinstance(side, int) else None


def _convolved(
    field: ReceptiveField, kernel: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1
) -> ReceptiveField | None:
    if padding == "valid":
        padding = 0
    elif padding == "same":  # what is odd about it comes after the image, where nothing is counted
        side, apart = _side(kernel), _side(dilation)
        padding = None if side is None or apart is None else apart * (side - 1) // 2
    return _slid(field, kernel, stride, padding, dilation)


def _padded(field: ReceptiveField, padding: Any) -> ReceptiveField | None:
    """Return the field after padding by (left, right, top, bottom)."""
    four = isinstance(padding, tuple | list) and len(padding) == 4
    before = _side(padding[::2]) if four else None
    return None if before is None else field.after(1, 1, before)


def _of_convolution(layer: Any, field: ReceptiveField) -> ReceptiveField | None:
    if layer.padding_mode != "zeros":  # what lies outside is then taken from within
        return None
    return _convolved(field, layer.kernel_size, layer.stride, layer.padding, layer.dilation)


def _of_pooling(layer: Any, field: ReceptiveField) -> ReceptiveField | None:
    dilation = getattr(layer, "dilation", 1)
    return _slid(field, layer.kernel_size, layer.stride, layer.padding, dilation)


def _of_adaptive_pooling(layer: Any, field: ReceptiveField) -> ReceptiveField | None:
    return field if layer.output_size == (None, None) else None


def _of_instance_norm(layer: Any, field: ReceptiveField) -> ReceptiveField | None:
    return field if layer.track_running_stats else None


_CELL_BY_CELL = (
    *(nn.Identity, nn.BatchNorm2d, nn.SyncBatchNorm, nn.LocalResponseNorm, nn.Softmax2d),
    *(nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.ChannelShuffle),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU),
    *(nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.LogSigmoid),
    *(nn.Tanh, nn.Tanhshrink, nn.Softplus, nn.Softsign, nn.Softshrink, nn.Hardshrink, nn.Threshold),
)
_Rule = Callable[[Any, ReceptiveField], ReceptiveField | None]
# By `forward`: a subclass that has another one may do anything.
_KNOWN: dict[Callable[..., Any], _Rule] = {
    **{kind.forward: lambda _layer, field: field for kind in _CELL_BY_CELL},
    nn.Conv2d.forward: _of_convolution,
    Conv2d.forward: _of_convolution,
    nn.MaxPool2d.forward: _of_pooling,
    nn.AvgPool2d.forward: _of_pooling,
    nn.AdaptiveAvgPool2d.forward: _of_adaptive_pooling,
    nn.AdaptiveMaxPool2d.forward: _of_adaptive_pooling,
    nn.ZeroPad2d.forward: lambda layer, field: _padded(field, layer.padding),
    nn.InstanceNorm2d.forward: _of_instance_norm,
}

# The same by name, of torch's functions, operators and tensors' methods; without the underscore of
# those that overwrite.
_ELEMENTWISE = """
    add sub mul truediv div pow neg maximum minimum iadd isub imul itruediv abs exp log sqrt rsqrt
    square clamp relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish hardswish
    hardsigmoid hardtanh sigmoid logsigmoid tanh tanhshrink softplus softsign softshrink hardshrink
    threshold dropout dropout2d alpha_dropout feature_alpha_dropout batch_norm contiguous clone
    detach float double half bfloat16 to
"""
_PARTED = ("chunk", "split", "tensor_split")
_CONVOLUTION_DEFAULTS = {"stride": 1, "padding": 0, "dilation": 1}


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        declared = type(m).forward in _KNOWN or isinstance(m, nn.Sequential | Branched)
        return declared or super().is_leaf_module(m, module_qualified_name)


class _Constant:
    """What does not depend on the image."""


def _traced(network: nn.Module, start: ReceptiveField) -> ReceptiveField | None:
    """Follow the image through what a module's `forward` does."""
    parameters = inspect.signature(network.forward).parameters.values()
    defaults = {one.name: one.default for one in parameters if one.default is not one.empty}
    try:
        nodes = list(_Tracer().trace(network, defaults).nodes)
    except Exception:  # it decides by what is in the image, or cannot be traced
        return None
    seen: dict[fx.Node, ReceptiveField | _Constant | None] = {}
    for node in nodes:
        inputs = [seen[one] for one in node.all_input_nodes]
        fields = [one for one in inputs if not isinstance(one, _Constant)]
        if node.op == "placeholder":
            seen[node] = _Constant() if seen else start
        elif node.op == "output":
            return fields[0] if len(node.all_input_nodes) == len(fields) == 1 else None
        elif not fields:
            seen[node] = _Constant()
        elif node.op == "call_module":
            layer = network.get_submodule(str(node.target))
            one = fields[0] if len(fields) == 1 else None
            seen[node] = None if one is None else receptive_field(layer, one)
        else:
            seen[node] = _called(network, node, _around(fields))
    return None


def _called(
    network: nn.Module, node: fx.Node, field: ReceptiveField | None
) -> ReceptiveField | None:
    """Return the field after a function or a method of what has this one."""
    if field is None:
        return None
    called = node.target if isinstance(node.target, str) else node.target.__name__
    called = called.rstrip("_")

    def given(*names: str) -> dict[str, Any]:
        return {**dict(zip(names, node.args, strict=False)), **node.kwargs}

    if called in _ELEMENTWISE.split():
        return field
    if called in ("cat", "concat", "concatenate"):
        return field if given("tensors", "dim").get("dim", 0) in (1, -3) else None
    if called in _PARTED:
        return field if given("input", "sizes", "dim").get("dim", 0) in (1, -3) else None
    if called == "getitem":
        source: Any = node.args[0]
        index: Any = node.args[1]
        parts = str(getattr(source.target, "__name__", source.target)) in _PARTED
        channels = isinstance(index, tuple) and len(index) == 2 and index[:1] == (slice(None),)
        return field if parts or (channels and isinstance(index[1], slice)) else None
    if called in ("max_pool2d", "avg_pool2d"):
        found = given("input", "kernel_size", "stride", "padding", "dilation")
        dilation = found.get("dilation", 1) if called == "max_pool2d" else 1
        stride = found.get("stride") or found["kernel_size"]
        return _slid(field, found["kernel_size"], stride, found.get("padding", 0), dilation)
    if called == "conv2d":
        found = given("input", "weight", "bias", "stride", "padding", "dilation")
        weight = found["weight"]
        if not isinstance(weight, fx.Node) or weight.op != "get_attr":
            return None
        owner, _, name = str(weight.target).rpartition(".")
        kernel = tuple(getattr(network.get_submodule(owner), name).shape[2:])
        windows = [found.get(name, usual) for name, usual in _CONVOLUTION_DEFAULTS.items()]
        return _convolved(field, kernel, *windows)
    if called == "pad":
        found = given("input", "pad", "mode")
        return _padded(field, found["pad"]) if found.get("mode", "constant") == "constant" else None
    return None
