"""Which pixels of the image a place of a feature map depends on, computed from the layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import nn

from loss_attention.backbones.layers import Branched


class ReceptiveField(NamedTuple):
    """The pixels that the places of a feature map see, along one axis; the other is the same.

    Place i sees the pixels from `offset + stride * i` to `offset + stride * i + size` (exclusive),
    as far as they lie in the image: what lies outside is padding. The defaults are those of the
    image itself.

    Attributes:
        size: pixels that one place sees.
        stride: pixels between what neighbouring places see.
        offset: the first pixel of place 0; not above 0.
    """

    size: int = 1
    stride: int = 1
    offset: int = 0

    def after(self, kernel: int, stride: int = 1, padding: int = 0) -> ReceptiveField:
        """Return the field of the places that a convolution or a pooling makes of these.

        Example:
            >>> ReceptiveField().after(3, padding=1).after(9, stride=4)
            ReceptiveField(size=11, stride=4, offset=-1)
        """
        return ReceptiveField(
            self.size + (kernel - 1) * self.stride,
            self.stride * stride,
            self.offset - padding * self.stride,
        )

    def pixels(self, place: int, length: int) -> range:
        """Return what a place sees of an image of `length` pixels.

        Example:
            >>> ReceptiveField(size=11, stride=4, offset=-1).pixels(0, length=32)
            range(0, 10)
        """
        start = self.offset + self.stride * place
        return range(max(0, start), min(length, start + self.size))


# What acts on each place by itself.
_PLACE_BY_PLACE = (nn.BatchNorm2d, nn.ReLU, nn.Identity)


def receptive_field(
    layers: Iterable[nn.Module], start: ReceptiveField | None = None
) -> ReceptiveField:
    """Return what a place of the result of `layers` sees of the image.

    Of a block with several paths, this is the smallest range around all that any of them sees.

    Args:
        layers: applied one after the other: convolutions, poolings, `Branched` blocks, sequences
            of these, and layers that act on each place by itself.
        start: what the places of their input see; None: the input is the image.

    Example:
        >>> stem = [nn.Conv2d(3, 8, 7, stride=2, padding=3), nn.ReLU(), nn.MaxPool2d(2)]
        >>> receptive_field(stem)
        ReceptiveField(size=9, stride=4, offset=-3)
    """
    field = start or ReceptiveField()
    for layer in layers:
        field = _after(field, layer)
    return field


def _after(field: ReceptiveField, layer: nn.Module) -> ReceptiveField:
    if isinstance(layer, nn.Sequential):
        return receptive_field(layer, field)
    if isinstance(layer, Branched):
        return _around([receptive_field(path, field) for path in layer.paths()])
    if isinstance(layer, nn.Conv2d):
        assert not isinstance(layer.padding, str)
        assert layer.dilation == (1, 1)
        return field.after(layer.kernel_size[0], layer.stride[0], layer.padding[0])
    if isinstance(layer, nn.MaxPool2d):
        kernel, stride, padding = layer.kernel_size, layer.stride, layer.padding
        assert isinstance(kernel, int)
        assert isinstance(stride, int)
        assert isinstance(padding, int)
        return field.after(kernel, stride, padding)
    assert isinstance(layer, _PLACE_BY_PLACE), f"what does {type(layer).__name__} see?"
    return field


def _around(fields: Sequence[ReceptiveField]) -> ReceptiveField:
    strides = {field.stride for field in fields}
    assert len(strides) == 1, "the paths of a block must stride alike"
    offset = min(field.offset for field in fields)
    end = max(field.offset + field.size for field in fields)
    return ReceptiveField(end - offset, strides.pop(), offset)
