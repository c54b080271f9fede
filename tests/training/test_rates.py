"""Groups of an optimiser: each parameter once, at the rate and decay that its block has by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from training.tiny import tiny_recipe

import loss_attention as la
from loss_attention.errors import InputError
from loss_attention.training.optimisation import make_optimizer
from loss_attention.training.rates import RATE_FACTOR, blocks, parameter_groups

FINE = {"optimizer": "adamw", "backbone_rate": 0.5, "layer_decay": 0.5, "weight_decay": 0.1}


def toy() -> nn.Sequential:
    """Three blocks: a convolution each, the first two with batch norm."""
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.Conv2d(2, 2, 3, padding=1),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.Conv2d(2, 4, 3, padding=1, bias=False),
    )


def model_on(network: nn.Module) -> la.PatchClassifier:
    return la.create_model(network, in_channels=1, num_classes=2, patch_kernel=2, patch_stride=1)


def test_three_blocks_by_hand() -> None:
    model = model_on(toy())
    optimizer = make_optimizer(tiny_recipe(**FINE), model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(parameter)]: (group[RATE_FACTOR], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    first, second, third, whole = 0.0625, 0.125, 0.25, 1.0
    of_backbone = {
        "0.weight": (first, 0.1),
        "0.bias": (first, 0.0),
        "1.weight": (first, 0.0),
        "1.bias": (first, 0.0),
        "3.weight": (second, 0.1),
        "3.bias": (second, 0.0),
        "4.weight": (second, 0.0),
        "4.bias": (second, 0.0),
        "6.weight": (third, 0.1),
    }
    of_head = {
        "patch_layers.0.weight": (whole, 0.1),
        "patch_layers.1.weight": (whole, 0.0),
        "patch_layers.1.bias": (whole, 0.0),
        "patch_layers.3.weight": (whole, 0.1),
        "patch_layers.4.weight": (whole, 0.0),
        "patch_layers.4.bias": (whole, 0.0),
        "classifier.weight": (whole, 0.1),
        "classifier.bias": (whole, 0.0),
    }
    assert found == {f"backbone.network.{name}": rates for name, rates in of_backbone.items()} | {
        f"head.{name}": rates for name, rates in of_head.items()
    }
    grouped = sum(len(group["params"]) for group in optimizer.param_groups)
    assert grouped == len(names)  # none twice
    assert optimizer.param_groups[0][RATE_FACTOR] == 1  # the rate that metrics.jsonl has


def test_without_fine_tuning_there_is_one_group_in_the_models_order() -> None:
    model = model_on(toy())
    for optimizer in ("sgd", "adam"):
        (group,) = parameter_groups(tiny_recipe(optimizer=optimizer), model)
        assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters()]
        assert set(group) == {"params", RATE_FACTOR}


def test_sgd_decays_all_in_its_groups_alike() -> None:
    groups = parameter_groups(tiny_recipe(backbone_rate=0.1), model_on(toy()))
    assert [(group[RATE_FACTOR], len(group["params"])) for group in groups] == [(1, 8), (0.1, 9)]
    assert not any("weight_decay" in group for group in groups)


def test_what_is_not_trained_is_in_no_group() -> None:
    model = model_on(toy())
    model.backbone.requires_grad_(requires_grad=False)
    groups = parameter_groups(tiny_recipe(**FINE | {"layer_decay": 1.0}), model)
    assert [group[RATE_FACTOR] for group in groups] == [1, 1]
    assert sum(len(group["params"]) for group in groups) == 8


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("vgg11_bn", 8),  # its convolutions
        ("resnet18", 1 + 8),  # the stem and its residual blocks
        ("resnet50", 1 + 16 + 1),  # and the reduction to 512 channels
        ("googlenet", 1 + 9 + 1),
    ],
)
def test_blocks_of_the_papers_networks(name: str, count: int) -> None:
    backbone = la.create_model(name, width=0.03).backbone
    cut = blocks(backbone)
    assert len(cut) == count
    assert [id(p) for block in cut for p in block] == [id(p) for p in backbone.parameters()]


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("resnet", 1 + 2),
        ("swin", 1 + 2 + 1 + 2),  # a layer between its two stages
        ("dinov2", 1 + 2),
    ],
)
def test_blocks_of_models_of_transformers(kind: str, count: int) -> None:
    pytest.importorskip("transformers")
    from backbones.test_hugging_face import model_on as model_on_transformers

    assert len(blocks(model_on_transformers(kind).backbone)) == count


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "regnetx_002"])
def test_rates_are_those_of_timm(name: str) -> None:
    """By its own table of each network's layers."""
    timm = pytest.importorskip("timm")
    optim = pytest.importorskip("timm.optim")
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=0)
    groups = optim.param_groups_layer_decay(network, layer_decay=0.5)
    expected = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    cut = blocks(network)
    # The last of timm's layers is the classifier, where there is one.
    last = expected[id(cut[-1][-1])]
    found = {id(p): last * 0.5**depth for depth, block in enumerate(reversed(cut)) for p in block}
    assert found == expected


class Transformer(nn.Module):
    """Named and nested as such networks are: tokens, tables, stages of blocks, a last norm."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.pos_embed = nn.Parameter(torch.zeros(1, 9, 4))
        self.patch_embed = nn.Sequential(nn.Conv2d(1, 4, 2, 2), nn.GroupNorm(1, 4))
        self.stages = nn.ModuleList([self.stage(1), self.stage(2)])
        self.places = nn.Embedding(9, 4)
        self.norm = nn.LayerNorm(4)

    def stage(self, depth: int) -> nn.Module:
        stage = nn.Module()
        stage.blocks = nn.Sequential(*[self.block() for _ in range(depth)])
        return stage

    def block(self) -> nn.Module:
        block = nn.Module()
        block.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
        block.attention = nn.Linear(4, 12)
        block.mlp = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))
        return block

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.patch_embed(images)


def test_blocks_of_stages_with_tokens_before_and_a_norm_after() -> None:
    network = Transformer()
    cut = blocks(network)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    beginnings = [{names[id(p)].rsplit(".", 1)[0] for p in block} for block in cut]
    assert len(cut) == 5
    assert beginnings[0] == {"cls_token", "pos_embed", "patch_embed.0", "patch_embed.1"}
    assert "stages.0.blocks.0.attention" in beginnings[1]
    assert "stages.1.blocks.0.attention" in beginnings[2]
    assert "stages.1.blocks.1.attention" in beginnings[3]
    assert beginnings[4] == {"places", "norm"}


def test_tokens_and_position_tables_do_not_decay() -> None:
    model = model_on(Transformer())
    groups = parameter_groups(tiny_recipe(optimizer="adamw", weight_decay=0.1), model)
    names = {id(parameter): name for name, parameter in model.backbone.network.named_parameters()}
    decayed = {
        names[id(p)]
        for g in groups
        if "weight_decay" not in g
        for p in g["params"]
        if id(p) in names
    }
    assert decayed == {
        "patch_embed.0.weight",
        *(
            f"stages.{block}.{layer}.weight"
            for block in ("0.blocks.0", "1.blocks.0", "1.blocks.1")
            for layer in ("attention", "mlp.0", "mlp.2")
        ),
    }


def test_blocks_that_are_not_trained_count_for_nothing() -> None:
    network = toy()
    network[6].requires_grad_(requires_grad=False)
    groups = parameter_groups(tiny_recipe(**FINE), model_on(network))
    assert {group[RATE_FACTOR] for group in groups} == {1, 0.25, 0.125}


def test_a_weight_of_two_layers_is_in_one_group() -> None:
    network = toy()
    network[6] = nn.Conv2d(2, 2, 3, padding=1)
    network[6].weight = network[3].weight
    model = model_on(network)
    groups = parameter_groups(tiny_recipe(**FINE), model)
    placed = [id(p) for group in groups for p in group["params"]]
    assert sorted(placed) == sorted(id(p) for p in model.parameters())
    (shared,) = (g for g in groups if any(p is network[3].weight for p in g["params"]))
    assert shared[RATE_FACTOR] == 0.125  # the second block's


def test_a_single_block_has_no_layers_to_tell_apart() -> None:
    model = model_on(nn.Conv2d(1, 4, 3, padding=1))
    with pytest.raises(InputError, match=r"^`layer_decay` 0\.5 needs a backbone of several blocks"):
        parameter_groups(tiny_recipe(**FINE), model)
    assert len(parameter_groups(tiny_recipe(backbone_rate=0.5), model)) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone_rate": 0.0}, r"`backbone_rate` must be in \(0, 1\] \(`frozen` .*\), got 0"),
        ({"backbone_rate": 1.5}, r"`backbone_rate` must be in \(0, 1\] .*, got 1\.5"),
        ({"layer_decay": 0.0}, r"`layer_decay` must be in \(0, 1\] .*, got 0"),
        ({"layer_decay": float("nan")}, r"`layer_decay` must be in \(0, 1\] .*, got nan"),
        ({"frozen": True, "layer_decay": 0.5}, "`layer_decay` is for a backbone that is trained"),
        ({"frozen": True, "frozen_statistics": True}, "`frozen_statistics` is for a backbone that"),
        ({"clip_gradients": -1.0}, "`clip_gradients` must be at least 0, got -1"),
        ({"clip_gradients": float("inf")}, "`clip_gradients` must be finite, got inf"),
        ({"optimizer": "adamw", "nesterov": True}, "`nesterov` does not belong to adamw"),
        ({"optimizer": "adamw", "schedule": "paper-adam"}, "`schedule` needs `optimizer` adam"),
        ({"optimizer": "muon", "layer_decay": 0.5}, "`layer_decay` does not belong to muon"),
        ({"optimizer": "muon", "backbone_rate": 0.5}, "`backbone_rate` does not belong to muon"),
        ({"optimizer": "muon", "frozen_statistics": True}, "`frozen_statistics` does not belong"),
        ({"initial": ""}, "`initial` must name the folder of a run"),
        ({"initial": "x", "weights": "y"}, "`weights` does not belong to `initial`"),
        ({"initial": "x", "pretrained": True, "revision": "y"}, "`revision` does not belong to `i"),
    ],
)
def test_what_cannot_be_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match="^" + message):
        tiny_recipe(**changes)
