"""A photo in tiles: each patch from one of them, all weighed together."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from heads.used import NARROW, PATCH_HEADS, used_baseline, used_model
from PIL import Image
from torch import nn

import loss_attention as la
from loss_attention.backbones.foreign import ImageSizes
from loss_attention.backbones.receptive_field import ReceptiveField
from loss_attention.errors import InputError
from loss_attention.heads.patches import PatchLayout
from loss_attention.tiling import TileGrid, Tiles, cut, tile_grid


@pytest.mark.parametrize("head", PATCH_HEADS)
def test_a_tile_that_covers_the_photo_is_the_plain_forward_pass_bit_for_bit(head: str) -> None:
    model, images = used_model(head=head), torch.rand(2, 3, 37, 41)
    plain, tiled = model.explain(images), model.explain(images, tile=44)
    assert tiled.grid == plain.grid
    for name in ("logits", "evidence", "patch_weights", "heat_maps", "selected"):
        assert getattr(tiled, name).equal(getattr(plain, name))


class Levels(nn.Module):
    """A network of two levels, whose finer one is where they are joined."""

    channels, stride = 10, 2
    level_channels, level_strides = (4, 6), (2, 8)
    receptive_field = ReceptiveField(64, 2, -31)  # at most: two cells of 8 pixels are interpolated
    normalisation = None

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.coarse = nn.Conv2d(4, 6, 5, stride=4, padding=2)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        fine = self.fine(images).relu()
        return fine, self.coarse(fine).relu()


def resnet18(**options: object) -> la.PatchClassifier:
    return used_model(backbone="resnet18", **options)


def vgg11(**options: object) -> la.PatchClassifier:
    return used_model(backbone="vgg11_bn", **options)


def levels(**options: object) -> la.PatchClassifier:
    return la.create_model(Levels(), num_classes=3, hidden_channels=(7,), **options).eval()


@pytest.mark.parametrize(
    ("make", "options", "size"),
    [
        (vgg11, {"strided_layers": (4,)}, (108, 131)),
        (vgg11, {}, (101, 40)),  # one tile across
        (vgg11, {"head": "gated-attention", "strided_layers": (1, 4)}, (222, 261)),
        (vgg11, {"head": "capsule-loss-attention"}, (75, 119)),
        (resnet18, {"patch_kernel": 1, "patch_stride": 1}, (90, 131)),
        (levels, {}, (296, 144)),
        (levels, {"head": "attention", "patch_kernel": 3}, (144, 200)),
    ],
)
def test_with_margins_beyond_the_receptive_field_tiles_are_the_whole_photo(
    make: Callable[..., la.PatchClassifier], options: dict[str, object], size: tuple[int, int]
) -> None:
    model = make(**options).double()  # so that rounding is nothing
    field, unit = model.receptive_field, tile_grid(model, Tiles(tile=960)).unit
    assert field is not None
    tile = -(-2 * field.size // unit) * unit
    images = torch.rand(1, 3, *size, dtype=torch.float64)
    done: list[tuple[int, int]] = []
    whole = model.explain(images)
    parts = model.explain(
        images,
        tile=tile,
        overlap=(field.size + unit) / tile,
        progress=lambda *numbers: done.append(numbers),
    )
    assert done[-1][0] == done[-1][1] > 2
    assert parts.grid == whole.grid
    torch.testing.assert_close(parts.logits, whole.logits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(parts.evidence, whole.evidence, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(parts.heat_maps, whole.heat_maps)
    assert parts.selected.equal(whole.selected)


def test_without_margins_they_differ_and_still_add_up() -> None:
    model, images = used_model(strided_layers=(6,)), torch.rand(1, 3, 107, 90)
    whole, parts = model.explain(images), model.explain(images, tile=48, overlap=0)
    assert not torch.allclose(parts.logits, whole.logits, rtol=1e-3)
    torch.testing.assert_close(parts.evidence.sum(dim=1), parts.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(parts.patch_weights.sum(dim=1), torch.ones(1))
    assert parts.grid == whole.grid


def test_of_pictures_and_targets_by_name() -> None:
    model = used_model(class_names=list("abcde"))
    pixels = np.random.default_rng(0).integers(0, 256, (60, 70, 3), np.uint8)
    found = model.explain(Image.fromarray(pixels), "c", tile=32)
    assert found.target.tolist() == [2]
    assert found.heat_maps.shape == (1, 60, 70)
    torch.testing.assert_close(
        found.target_evidence.sum(dim=1), found.logits[:, 2], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("batch_size", [1, 5])
def test_how_many_tiles_at_a_time_makes_no_difference(batch_size: int) -> None:
    model = used_model().double()
    images = torch.rand(2, 3, 70, 83, dtype=torch.float64)
    some = model.explain(images, tile=32, batch_size=batch_size)
    torch.testing.assert_close(some.logits, model.explain(images, tile=32).logits)


class Unpadded(nn.Module):
    """A network whose maps are smaller than their stride says, as nothing is padded."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 5, stride=2), nn.ReLU(), nn.Conv2d(6, 8, 5, stride=2), nn.ReLU()
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def test_tiles_of_a_network_that_does_not_pad_overlap_as_far_as_they_must() -> None:
    model = la.create_model(Unpadded(), num_classes=3, width=NARROW).eval().double()
    images = torch.rand(1, 3, 96, 129, dtype=torch.float64)
    whole, parts = model.explain(images), model.explain(images, tile=32, overlap=0)
    assert parts.grid == whole.grid
    torch.testing.assert_close(parts.evidence, whole.evidence)  # without padding, always


@pytest.mark.parametrize("length", [97, 128, 200, 331])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.6, 0.9])
@pytest.mark.parametrize(("kernel", "stride", "cell"), [(1, 1, 8), (9, 4, 1), (3, 2, 4)])
def test_each_patch_is_taken_from_the_tile_whose_edge_is_farthest(
    length: int, overlap: float, kernel: int, stride: int, cell: int
) -> None:
    tile, unit = 96, math.lcm(stride * cell, 16)
    layout = PatchLayout(kernel, stride, cell, 0.0)
    grid = TileGrid(tile, unit, layout, ImageSizes(), "it")
    held = layout.shape((tile, tile))[0]
    pieces = cut(length, grid, overlap, held)
    total = layout.shape((length, length))[0]
    assert [piece.start % unit for piece in pieces] == [0] * len(pieces)
    assert (pieces[0].start, pieces[-1].stop) == (0, length)
    for piece in pieces[:-1]:
        assert piece.stop - piece.start == tile
    taken = [
        index
        for index, piece in enumerate(pieces)
        for _ in range(piece.first, total if piece.last is None else piece.last)
    ]
    assert len(taken) == total  # each once
    for patch, index in enumerate(taken):
        centre = patch * stride * cell + kernel * cell / 2
        depths = []
        for piece in pieces:
            inside = patch * stride * cell - piece.start
            holds = (
                inside >= 0
                and inside // (stride * cell) < layout.shape((piece.stop - piece.start, tile))[0]
            )
            above = math.inf if piece.start == 0 else centre - piece.start
            below = math.inf if piece.stop == length else piece.stop - centre
            depths.append(min(above, below) if holds else -math.inf)
        assert depths[index] == max(depths), (patch, depths)


@pytest.mark.parametrize(
    ("tile", "overlap", "told"),
    [
        (8, 0.25, r"`tile` must be a multiple of 4 .* at least 12, got 8; the nearest is 12"),
        (30, 0.25, r"`tile` must be a multiple of 4 .*, got 30; the nearest is 3[02]|28"),
        (0, 0.25, r"`tile` must be a number of pixels, got 0"),
        (True, 0.25, r"`tile` must be a number of pixels, got True"),
        (32, 1, r"`overlap` must be in \[0, 1\), got 1"),
        (32, -0.1, r"`overlap` must be in \[0, 1\), got -0.1"),
        (32, math.nan, r"`overlap` must be in \[0, 1\), got nan"),
    ],
)
@pytest.mark.usefixtures("no_shape_checks")
def test_tiles_that_cannot_be_are_refused(tile: int, overlap: float, told: str) -> None:
    with pytest.raises(InputError, match=told):
        used_model().explain(torch.rand(1, 3, 64, 64), tile=tile, overlap=overlap)


def test_heads_whose_patches_cannot_be_joined_are_refused() -> None:
    images = torch.rand(1, 3, 64, 64)
    with pytest.raises(InputError, match=r"`tile`: .* BaselineHead, .*: mean, attention"):
        used_baseline().explain(images, tile=32)
    routed = used_model(head="capsule-dynamic-routing", image_size=(32, 32))
    with pytest.raises(InputError, match=r"`tile`: .* RoutingHead, "):
        routed.explain(images, tile=32)


def test_a_photo_smaller_than_a_patch_is_refused() -> None:
    with pytest.raises(InputError, match=r"8 x 99 pixels is smaller than one patch; .* 9 x 9"):
        used_model().explain(torch.rand(1, 3, 8, 99), tile=32)


def test_more_patches_than_memory_has_room_for_are_refused(monkeypatch) -> None:
    monkeypatch.setattr("loss_attention.tiling.free_memory", lambda: 1000)
    told = "64 x 60 pixels make 182 patches, which take .* GB, and 1e-06 GB of memory are free"
    with pytest.raises(InputError, match=told):
        used_model().explain(torch.rand(1, 3, 64, 60), tile=32)


@pytest.mark.parametrize(
    ("sizes", "given", "near"),
    [
        (ImageSizes(), (97, 33), (97, 33)),
        (ImageSizes(multiple=14), (97, 3), (98, 14)),
        (ImageSizes(multiple=14), (330, 400), (336, 406)),
        (ImageSizes(only=(112, 112)), (97, 300), (112, 304)),
    ],
)
def test_photos_for_networks_that_take_certain_sizes(sizes, given, near) -> None:
    layout = PatchLayout(1, 1, 16, 0.0)
    unit = math.lcm(16, sizes.multiple)
    grid = TileGrid(112, unit, layout, sizes, "timm/vit")
    assert grid.nearest(*given) == near
    grid.check_photo(*near)
    if given != near:
        told = f"timm/vit takes photos .* multiples of (14|16) .* {near[0]} x {near[1]}"
        with pytest.raises(InputError, match=told):
            grid.check_photo(*given)


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("test_vit", {}, (208, 336)),
        ("test_convnext", {"levels": (8, 32)}, (211, 150)),
        ("test_efficientnet", {"levels": (8, 16), "feature_stride": 16}, (163, 222)),
    ],
)
def test_networks_of_timm_in_tiles(
    name: str, options: dict[str, object], size: tuple[int, int]
) -> None:
    model = la.create_model(f"timm/{name}", num_classes=3, hidden_channels=(8,), **options).eval()
    images = torch.rand(1, 3, *size)
    parts = model.explain(images, tile=96 if name != "test_vit" else 160)
    assert parts.grid == model.explain(images).grid
    torch.testing.assert_close(parts.evidence.sum(dim=1), parts.logits, rtol=1e-5, atol=1e-5)
