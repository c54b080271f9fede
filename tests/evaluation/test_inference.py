"""A network made faster for inference: the same figures, and the network itself untouched."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from loss_attention.attribution.maps import attribute
from loss_attention.evaluation.measuring import for_inference
from loss_attention.heads import HEADS
from loss_attention.model import PatchClassifier, create_model

SIZE = 18


def network(backbone: str = "resnet18", head: str = "loss-attention") -> PatchClassifier:
    """A small network whose batch norms are far from doing nothing."""
    torch.manual_seed(0)
    model = create_model(
        backbone,
        head=head,
        num_classes=3,
        width=0.05,
        image_size=(SIZE, SIZE),
        class_names=("a", "b", "c"),
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.5)
            nn.init.uniform_(module.running_var, 0.3, 3.0)
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.normal_(module.bias, std=0.5)
    return model.eval()


NETWORKS = [
    *(("resnet18", head) for head in HEADS),
    *((backbone, "loss-attention") for backbone in ("vgg11_bn", "resnet50", "googlenet")),
    ("googlenet", "baseline"),
]


@pytest.mark.parametrize(("backbone", "head"), NETWORKS)
def test_the_copy_computes_the_same_without_batch_norm(backbone, head):
    model, images = network(backbone, head), torch.rand(4, 3, SIZE, SIZE)
    fast = for_inference(model)
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    with torch.inference_mode():
        expected, found = model(images), fast(images)
    for name in ("logits", "patch_logits", "patch_weights"):
        if hasattr(expected, name):
            value = getattr(expected, name)
            near = 1e-5 * float(value.abs().max())
            torch.testing.assert_close(getattr(found, name), value, rtol=0, atol=near)


def test_the_network_is_left_as_it_was():
    model = network()
    model.train()
    model.head.patch_layers[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    fast = for_inference(model)
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter.zero_()
    assert [module.training for module in model.modules()] == modes
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not any(module.training for module in fast.modules())


@pytest.mark.parametrize("method", ["layer-cam", "cam"])
def test_methods_that_hook_into_the_network_work_on_the_copy(method):
    images = torch.rand(2, 3, SIZE, SIZE)
    model = network(head="baseline")
    expected = attribute(model, images, method)
    found = attribute(for_inference(model), images, method)
    near = 1e-4 * float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=near)
    assert near > 0
