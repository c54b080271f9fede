"""Receptive fields against the true ones: an impulse sent through networks of positive weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from backbones.replay import build
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import loss_attention as la
from loss_attention.backbones import BACKBONES
from loss_attention.backbones.layers import Branched
from loss_attention.backbones.receptive_field import ReceptiveField, receptive_field

WIDTH = 1 / 64
# Two layers in which each network strides, the paper's for 64 x 64 images first.
STRIDED = {
    "vgg11_bn": (4, 7),
    "vgg16_bn": (4, 9),
    "resnet18": (6, 10),
    "resnet50": (12, 24),
    "resnet50_paper": (11, 23),
    "googlenet": (7, 17),
}


def positive(network: nn.Module) -> nn.Module:
    """Weights above 0 and no shifts: what is not seen is exactly 0, what is seen is above."""
    for name, parameter in network.named_parameters():
        parameter.data.abs_()
        if name.endswith("bias"):
            parameter.data.zero_()
    return network.double().eval()


@torch.inference_mode()
def seen(network: nn.Module, length: int, kernel: int = 1, stride: int = 1) -> Tensor:
    """True at (place, pixel) where a patch of the map depends on a column of the image."""
    impulses = torch.eye(length, dtype=torch.float64).reshape(length, 1, 1, length)
    across = network(impulses.expand(-1, 3, -1, -1)).sum(dim=1, keepdim=True)
    down = network(impulses.transpose(2, 3).expand(-1, 3, -1, -1)).sum(dim=1, keepdim=True)
    # One computed field stands for both axes.
    assert torch.equal(across > 0, down.transpose(2, 3) > 0)
    patch = torch.ones(1, 1, 1, kernel, dtype=torch.float64)
    return F.conv2d(across, patch, stride=stride)[:, 0, 0].T > 0


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("strides", [0, 1, 2])
@pytest.mark.parametrize("patch", [(1, 1), (9, 4)])
def test_the_field_is_what_a_patch_depends_on(
    name: str, strides: int, patch: tuple[int, int]
) -> None:
    network = build(name, STRIDED[name][:strides], width=WIDTH)
    check(network, network.receptive_field.after(*patch), *patch)


@pytest.mark.parametrize("name", BACKBONES)
def test_the_field_of_a_baseline_counts_its_pooling(name: str) -> None:
    network = build(name, pooled=True, width=WIDTH)
    check(network, network.receptive_field)


def check(network: nn.Module, field: ReceptiveField, kernel: int = 1, stride: int = 1) -> None:
    length = field.size + field.stride  # so that one field at least lies inside
    true = seen(positive(network), length, kernel, stride)
    computed = torch.zeros_like(true)
    for place in range(len(true)):
        computed[place, list(field.pixels(place, length))] = True
    assert torch.equal(true, computed)
    assert (true.sum(dim=1) == field.size).any()


def test_the_fields_of_the_spatial_networks() -> None:
    """One pixel and two more for each 3 x 3 convolution, four for each 5 x 5, in sequence."""
    convolutions = {"vgg11_bn": 8, "vgg16_bn": 13, "resnet18": 17, "resnet50": 17}
    for name, count in convolutions.items():
        assert build(name).receptive_field == (1 + 2 * count, 1, -count)
    assert build("resnet50_paper").receptive_field == (1 + 2 * 33, 1, -33)
    assert build("googlenet").receptive_field == (1 + 2 + 9 * 4, 1, -19)


def test_a_patch_logit_depends_on_its_field_and_on_nothing_else() -> None:
    """The whole model, by gradients: VGG-11's patches of 9 pixels see 25."""
    model = la.create_model("vgg11_bn", head="mean", width=1 / 32)
    positive(model)
    images = torch.full((1, 3, 48, 64), 0.9, dtype=torch.float64, requires_grad=True)
    prediction = model(images)
    prediction.patch_logits[0, 6 * prediction.grid.columns + 8].sum().backward()
    assert images.grad is not None
    true = images.grad[0].abs().sum(dim=0) > 0
    assert model.receptive_field == (25, 4, -8)
    expected = torch.zeros(48, 64, dtype=torch.bool)
    expected[4 * 6 - 8 : 4 * 6 + 17, 4 * 8 - 8 : 4 * 8 + 17] = True
    assert torch.equal(true, expected)
    window = prediction.grid.windows()[6 * prediction.grid.columns + 8].tolist()
    assert window == [32, 24, 41, 33]


def test_the_field_of_a_model_is_that_of_its_patch_layer() -> None:
    options = {"patch_kernel": 5, "patch_stride": 2, "strided_layers": (4,), "width": 1 / 64}
    model = la.create_model("vgg11_bn", **options)
    assert model.receptive_field == (25 + 4 * 2, 4, -12)
    assert la.create_model("vgg11_bn", head="baseline", width=1 / 64).receptive_field is None


class Parallel(Branched):
    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def paths(self) -> list[list[nn.Module]]:
        return [[branch] for branch in self.branches] + [[]]

    def forward(self, x: Tensor) -> Tensor:
        return sum((branch(x) for branch in self.branches), x)


def test_a_block_sees_what_any_of_its_paths_sees() -> None:
    left = nn.Conv2d(1, 1, 3, padding=2)
    right = nn.Conv2d(1, 1, 3, padding=0)
    assert receptive_field(Parallel(left, right)) == (5, 1, -2)
    assert receptive_field(nn.Sequential(nn.Conv2d(1, 1, 1, stride=3), Parallel(left))) == (
        7,
        3,
        -6,
    )


class Residual(nn.Module):
    """A block as people write it, in no class of ours."""

    def __init__(self, kernel: int = 3, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.first = nn.Conv2d(4, 4, kernel, stride, padding, dilation, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.shortcut = nn.Conv2d(4, 4, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = F.gelu(self.norm(self.first(x)))
        out = self.second(out)
        out += self.shortcut(x)
        return out.relu_()


class Dense(nn.Module):
    """Concatenation, of branches with kernels of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(4, 2, 3, padding=1)
        self.right = nn.Sequential(nn.Conv2d(4, 2, 1), nn.Conv2d(2, 2, 5, padding=2, groups=2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.left(x), self.right(x), x], dim=1)


class HalfThrough(nn.Module):
    """Half of the channels go through a convolution, as in CSP and shuffle networks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, dim=1)
        return torch.cat((kept, self.conv(changed)), 1) * 2 + x[:, :1]


class Functional(nn.Module):
    """Everything called as a function, with a weight of its own and options by name."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4, 4, 3, 3))
        self.scale = nn.Parameter(torch.rand(4, 1, 1))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            x = x * mask
        x = F.conv2d(F.pad(x, (2, 2, 2, 2)), self.weight, stride=2, dilation=2) * self.scale
        return F.avg_pool2d(F.max_pool2d(torch.sigmoid(x), 3, 1, padding=1), kernel_size=2)


class Weighted(nn.Conv2d):
    """A subclass whose forward is its own, and can be followed."""

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input.mul(0.5), self.weight, self.bias, padding=2)


def conv(kernel: int, **options: object) -> nn.Conv2d:
    return nn.Conv2d(4, 4, kernel, **options)


# Each is computed, and compared with the gradients of a cell's value.
COMPUTED: dict[str, Callable[[], nn.Module]] = {
    "convolution": lambda: conv(3, padding=1),
    "stride": lambda: nn.Sequential(conv(3, stride=2, padding=1), conv(3, stride=3)),
    "dilation": lambda: nn.Sequential(conv(3, dilation=2, padding=2), conv(3, dilation=3)),
    "dilation after stride": lambda: nn.Sequential(conv(2, stride=2), conv(3, dilation=2)),
    "groups": lambda: nn.Sequential(conv(3, groups=4, padding=1), conv(1), conv(5, groups=2)),
    "even kernels": lambda: nn.Sequential(conv(4, padding=1), conv(2, stride=2), conv(4)),
    "padding beyond the kernel": lambda: nn.Sequential(conv(2, padding=2), conv(3, padding=4)),
    "same, even": lambda: nn.Sequential(conv(4, padding="same"), conv(3, padding="valid")),
    "same, dilated": lambda: conv(4, padding="same", dilation=3),
    "zeros before": lambda: nn.Sequential(nn.ZeroPad2d((3, 1, 3, 1)), conv(4, stride=2)),
    "poolings": lambda: nn.Sequential(
        nn.MaxPool2d(3, 2, 1), conv(1), nn.AvgPool2d(2), nn.MaxPool2d(2, 1, dilation=2)
    ),
    "rounded up": lambda: nn.Sequential(nn.MaxPool2d(3, 2, ceil_mode=True), conv(3, padding=1)),
    "norms, activations, dropout": lambda: nn.Sequential(
        *(conv(3), nn.BatchNorm2d(4), nn.SiLU(), nn.Dropout(0.5), nn.Identity(), nn.PReLU(4)),
        *(nn.InstanceNorm2d(4, track_running_stats=True), nn.LocalResponseNorm(2), nn.Softmax2d()),
        nn.AdaptiveAvgPool2d((None, None)),
    ),
    "nested": lambda: nn.Sequential(nn.Sequential(conv(3), nn.Sequential(nn.ELU())), conv(3)),
    "residual": lambda: nn.Sequential(Residual(), Residual(5), Residual(stride=2), Residual()),
    "residual, dilated": lambda: nn.Sequential(Residual(dilation=4), nn.MaxPool2d(2), Residual()),
    "concatenation": lambda: nn.Sequential(Dense(), nn.Conv2d(8, 4, 3, 2, padding=1), Dense()),
    "half of the channels": lambda: nn.Sequential(HalfThrough(), HalfThrough()),
    "declared": lambda: nn.Sequential(Parallel(conv(3, padding=1), conv(5, padding=2)), conv(2)),
    "functions": lambda: nn.Sequential(conv(2), Functional()),
    "own forward": lambda: nn.Sequential(Weighted(4, 4, 5), conv(3)),
    "weight norm": lambda: nn.Sequential(parametrizations.weight_norm(conv(3)), conv(3)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", COMPUTED)
def test_the_field_is_where_the_gradients_of_a_cell_are(name: str) -> None:
    network = COMPUTED[name]()
    field = receptive_field(network)
    assert field is not None
    length = field.size + 4 * field.stride
    # Of positive weights, so that gradients do not cancel; many images, as a pooling has one
    # largest pixel in each.
    images = 4 * torch.rand(24, 4, length, length, dtype=torch.float64) - 1
    images.requires_grad_()
    channels = torch.rand(8, 1, 1, dtype=torch.float64)
    result = positive(network)(images)
    result = (result * channels[: result.shape[1]]).sum(dim=(0, 1))
    inside = 0
    for cell in range(len(result)):
        (gradient,) = torch.autograd.grad(result[cell, cell], images, retain_graph=True)
        seen = gradient.abs().sum(dim=(0, 1)) > 0
        pixels = field.pixels(cell, length)
        for axis in (0, 1):
            touched = seen.any(dim=axis).nonzero().flatten().tolist()
            assert {*touched} <= {*pixels}
            if len(pixels) == field.size:  # at the edge the ends of a dilated kernel lie outside
                assert (touched[0], touched[-1]) == (pixels[0], pixels[-1])
        inside += len(pixels) == field.size
    assert inside >= 2


class Squeezed(nn.Module):
    """Squeeze and excitation: every cell depends on the mean over all."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = conv(3, padding=1), conv(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * torch.sigmoid(self.gate(x.mean(dim=(2, 3), keepdim=True)))


class Decides(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        cells = x.flatten(2).transpose(1, 2)
        return self.attention(cells, cells, cells)[0].transpose(1, 2).unflatten(2, x.shape[2:])


class Shifted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, 1:, 1:] + x[:, :, :-1, :-1]


class Stacked(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x], dim=3)


def hooked() -> nn.Module:
    layer = conv(3)
    layer.register_forward_hook(lambda module, inputs, output: output.mean(3, keepdim=True))
    return nn.Sequential(layer)


UNKNOWN: dict[str, Callable[[], nn.Module]] = {
    "global pooling": lambda: nn.Sequential(conv(3), nn.AdaptiveAvgPool2d(1)),
    "to a size": lambda: nn.AdaptiveMaxPool2d((7, 7)),
    "resizing": lambda: nn.Sequential(conv(3), nn.Upsample(scale_factor=2)),
    "transposed": lambda: nn.ConvTranspose2d(4, 4, 2, stride=2),
    "squeeze and excitation": Squeezed,
    "attention": Attention,
    "decided by the image": Decides,
    "shifted": Shifted,
    "another axis": Stacked,
    "rectangular kernel": lambda: nn.Conv2d(4, 4, (3, 1)),
    "rectangular stride": lambda: nn.MaxPool2d(2, (2, 1)),
    "mirrored": lambda: conv(3, padding=1, padding_mode="reflect"),
    "asymmetric by axis": lambda: nn.ZeroPad2d((1, 0, 0, 0)),
    "norm over the image": lambda: nn.Sequential(conv(3), nn.GroupNorm(2, 4)),
    "instance norm": lambda: nn.InstanceNorm2d(4),
    "layer norm": lambda: nn.LayerNorm([4, 9, 9]),
    "softmax over columns": lambda: nn.Softmax(dim=3),
    "hooked": hooked,
    "paths that stride apart": lambda: Parallel(conv(3, stride=2, padding=1)),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_cannot_be_computed_is_not_made_up(name: str) -> None:
    assert receptive_field(UNKNOWN[name]()) is None
    assert receptive_field(nn.Sequential(conv(3), UNKNOWN[name]())) is None
