"""Every head exports, compiles, copies and trains in parallel, its prediction whole."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import tracing
from torch.utils import _pytree as pytree
from tracing import ONE_SIZE, pictures, same, tiny

from loss_attention.heads import HEADS

# Heads that take images of any size are traced together, which takes less time.
ANY_SIZE = [name for name in HEADS if name not in ONE_SIZE]

Ask = Callable[..., None]


@pytest.mark.parametrize(
    ("heads", "strict"),
    [
        (ANY_SIZE, False),
        pytest.param(ANY_SIZE, True, marks=pytest.mark.slow),
        (ONE_SIZE, False),
        (ONE_SIZE, True),
    ],
    ids=["any size", "any size, strictly", "one size", "one size, strictly"],
)
def test_predictions_and_explanations_export_for_any_size(
    heads: list[str], strict: bool, plain: Ask
) -> None:
    plain(tracing.export_heads, heads, strict)


@pytest.mark.parametrize(
    "backbone", ["resnet18", pytest.param("googlenet", marks=pytest.mark.slow)]
)
def test_a_whole_network_exports(backbone: str, plain: Ask) -> None:
    plain(tracing.export_backbone, backbone)


def test_a_network_of_timm_exports(plain: Ask) -> None:
    plain(tracing.export_other_libraries)


def test_no_layer_of_an_exported_network_writes_over_its_input(plain: Ask) -> None:
    plain(tracing.export_without_writing_over)


@pytest.mark.parametrize("heads", [ANY_SIZE, ONE_SIZE], ids=["any size", "one size"])
def test_predictions_and_explanations_compile_to_one_graph(heads: list[str], plain: Ask) -> None:
    plain(tracing.compile_whole, heads)


def test_ddp_returns_the_prediction_whole(plain: Ask, tmp_path: Path) -> None:
    plain(tracing.train_with_ddp, list(HEADS), tmp_path / "store")


@pytest.mark.parametrize("head", HEADS)
def test_models_and_predictions_are_copied_and_pickled(head: str) -> None:
    model, (images, others) = tiny(head), pictures(head)
    prediction = model(images)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        same(again(others), model(others))
    with torch.no_grad():
        prediction = model(images)
    for other in (copy.deepcopy(prediction), pickle.loads(pickle.dumps(prediction))):
        same(other, prediction)


@pytest.mark.parametrize("head", HEADS)
def test_tree_map_reaches_every_tensor_of_a_prediction(head: str) -> None:
    prediction = tiny(head)(pictures(head)[0])
    twice = pytree.tree_map_only(torch.Tensor, lambda value: 2 * value, prediction)
    assert type(twice) is type(prediction)
    for name, value in vars(prediction).items():
        expected = 2 * value if isinstance(value, torch.Tensor) else value
        assert torch.equal(vars(twice)[name], expected) if value is not expected else True
    for name in ("grid", "selection"):
        assert getattr(twice, name, None) == getattr(prediction, name, None)


@pytest.mark.parametrize("head", HEADS)
def test_vmap_over_images_gives_each_its_prediction(head: str) -> None:
    model, images = tiny(head), pictures(head)[0]

    def tensors(image: torch.Tensor) -> list[torch.Tensor]:
        leaves = pytree.tree_leaves(model(image.unsqueeze(0)))
        return [leaf[0] for leaf in leaves if isinstance(leaf, torch.Tensor)]

    found = torch.func.vmap(tensors)(images)
    expected = [
        leaf for leaf in pytree.tree_leaves(model(images)) if isinstance(leaf, torch.Tensor)
    ]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
