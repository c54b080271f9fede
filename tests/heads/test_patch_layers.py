"""The layers that make patches of maps: how many, of which levels, and with which defaults."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import loss_attention as la
from loss_attention.evaluation.measuring import for_inference
from loss_attention.heads.patches import MeanPooling, PatchHead, PatchLayout
from loss_attention.model_spec import ModelSpec

LEVELS = ((2, 4, 23, 17), (2, 6, 12, 9), (2, 5, 6, 5))
"""Shapes of maps of strides 8, 16 and 32, of images that are not multiples of these."""


def head_of(channels: tuple[int, ...], level: int = 1, dropout: float = 0.0) -> PatchHead:
    torch.manual_seed(1)
    layout = PatchLayout(1, 1, 16, selection=0.0, level=level)
    head = PatchHead(
        15, 3, weighing=MeanPooling(), layout=layout, channels=channels, dropout=dropout
    )
    return head.double()


def resized_by_hand(level: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Means over the cells that lie in a new one, or linear between the centres of old ones."""

    def matrix(old: int, new: int) -> np.ndarray:
        weights = np.zeros((new, old))
        for cell in range(new):
            if old > new:
                first, last = cell * old // new, -((cell + 1) * old // -new)
                weights[cell, first:last] = 1 / (last - first)
            else:
                position = min(max((cell + 0.5) * old / new - 0.5, 0), old - 1)
                below = int(position)
                weights[cell, below] += 1 - (position - below)
                weights[cell, min(below + 1, old - 1)] += position - below
        return weights

    return np.einsum(
        "rh,bchw,kw->bcrk", matrix(level.shape[2], rows), level, matrix(level.shape[3], columns)
    )


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("channels", [(7,), (7, 2), ()])
def test_levels_are_mapped_as_if_they_had_been_joined(
    channels: tuple[int, ...], level: int
) -> None:
    head = head_of(channels, level).eval()
    maps = tuple(torch.randn(shape, dtype=torch.float64) for shape in LEVELS)
    rows, columns = LEVELS[level][2:]
    cells = np.concatenate([resized_by_hand(m.numpy(), rows, columns) for m in maps], axis=1)
    for layer in head.patch_layers:
        if isinstance(layer, nn.Conv2d):
            cells = np.einsum("dc,bchw->bdhw", layer.weight.detach().numpy()[:, :, 0, 0], cells)
        elif isinstance(layer, nn.BatchNorm2d):  # as it begins: mean 0, variance 1
            cells = cells / np.sqrt(1 + layer.eps)
        else:
            cells = np.maximum(cells, 0)
    weight, bias = (p.detach().numpy() for p in head.classifier.parameters())
    wanted = np.einsum("kc,bchw->bhwk", weight, cells).reshape(2, -1, 3) + bias
    prediction = head(maps, (180, 130))
    np.testing.assert_allclose(prediction.patch_logits.detach(), wanted, atol=1e-12)
    assert (prediction.grid.rows, prediction.grid.columns) == (rows, columns)


def test_levels_are_mapped_alike_where_batch_norm_was_folded_into_the_layer() -> None:
    """As `evaluate` does: the first layer then has a bias."""
    head = head_of((7, 2))
    maps = tuple(torch.randn(shape, dtype=torch.float64) for shape in LEVELS)
    for norm in (layer for layer in head.patch_layers if isinstance(layer, nn.BatchNorm2d)):
        nn.init.uniform_(norm.bias)
        norm.running_mean = torch.rand_like(norm.running_mean)
    head.eval()
    folded = for_inference(head)
    assert folded.patch_layers[0].bias is not None
    plain, fast = head(maps, (180, 130)), folded(maps, (180, 130))
    torch.testing.assert_close(fast.patch_logits, plain.patch_logits)


def test_a_larger_kernel_sees_the_joined_map() -> None:
    layout = PatchLayout(3, 2, 16, selection=0.0, level=1)
    head = PatchHead(15, 3, weighing=MeanPooling(), layout=layout, channels=(4,)).double().eval()
    maps = tuple(torch.randn(shape, dtype=torch.float64) for shape in LEVELS)
    cells = [torch.from_numpy(resized_by_hand(m.numpy(), 12, 9)) for m in maps]
    torch.testing.assert_close(
        head(maps, (180, 130)).logits, head(torch.cat(cells, dim=1), (180, 130)).logits
    )


def test_dropout_zeroes_its_fraction_of_the_features_in_training_alone() -> None:
    head, without = head_of((), dropout=0.75), head_of(())
    nn.init.constant_(head.classifier.weight, 1.0)
    nn.init.constant_(head.classifier.bias, 0.0)
    features = torch.ones(40, 60, 15, dtype=torch.float64)
    kept = head.train().decide(features).patch_logits[..., 0] / (15 * 4)  # dropout divides by 1/4
    assert kept.detach().mean().item() == pytest.approx(0.25, abs=0.01)
    without.load_state_dict(head.state_dict())
    alike = head.eval().decide(features).patch_logits, without.decide(features).patch_logits
    assert torch.equal(*alike)


def test_patches_of_the_papers_networks_are_the_papers_and_cells_elsewhere() -> None:
    assert ModelSpec(backbone="vgg11_bn").patch_size == (9, 4)
    assert ModelSpec(backbone="vgg11_bn", patch_kernel=3).patch_size == (3, 4)
    assert ModelSpec(backbone="timm/resnet18").patch_size == (1, 1)
    assert ModelSpec(backbone="custom").patch_size == (1, 1)
    layers = la.create_model("vgg11_bn", width=1 / 64, hidden_channels=(256, 128, 64)).head
    assert [one.out_channels for one in layers.patch_layers if isinstance(one, nn.Conv2d)] == [
        4,
        2,
        1,
    ]


@pytest.mark.parametrize("head", ["mean", "attention", "gated-attention", "loss-attention"])
def test_a_model_without_hidden_layers_is_saved_and_loaded(head: str, tmp_path: object) -> None:
    options = {"head": head, "patch_kernel": 1, "patch_stride": 1, "width": 1 / 64}
    model = la.create_model("vgg11_bn", hidden_channels=(), dropout=0.5, **options).eval()
    images = torch.rand(2, 3, 8, 9)
    with torch.no_grad():
        prediction = model(images)
        parted = model.decide(model.features(images), (8, 9))
    assert prediction.patch_logits.shape == (2, 72, 10)
    assert torch.equal(prediction.logits, parted.logits)
    path = tmp_path / "model.safetensors"  # type: ignore[operator]
    path.write_bytes(model.to_bytes())
    loaded = la.load(path)
    assert (loaded.spec.hidden_channels, loaded.spec.dropout) == ((), 0.5)
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, prediction.logits)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"hidden_channels": ()}, "`patch_kernel` and `patch_stride` must be 1, got 9 and 4"),
        ({"hidden_channels": (0,)}, "`hidden_channels` must be between 1 and"),
        ({"hidden_channels": 8}, "`hidden_channels` must be numbers of features, got 8"),
        ({"hidden_channels": (1,) * 17}, "`hidden_channels` must be at most 16 layers"),
        ({"dropout": 1.0}, r"`dropout` must be in \[0, 1\), got 1.0"),
        ({"patch_kernel": 0}, "`patch_kernel` must be at least 1"),
    ],
)
def test_options_out_of_their_range_are_named(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ModelSpec(backbone="vgg11_bn", **options)
