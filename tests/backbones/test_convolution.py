"""Convolutions compared with sums written out in NumPy, also where oneDNN is wrong on some CPUs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from loss_attention.backbones.layers import Conv2d


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [1, 3, 4, 7, 8, 15, 16, 17])
def test_a_strided_pointwise_convolution_and_its_gradients(channels, memory_format):
    """Narrow ones, channels last, are what oneDNN writes past its memory for."""
    rng = np.random.default_rng(channels)
    maps = rng.standard_normal((32, channels, 32, 32))
    weight = rng.standard_normal((8, channels))
    upstream = rng.standard_normal((32, 8, 16, 16))
    convolution = Conv2d(channels, 8, 1, 2, bias=False).to(memory_format=memory_format)
    with torch.no_grad():
        convolution.weight.copy_(torch.from_numpy(weight[:, :, None, None]))
    x = torch.from_numpy(maps).float().contiguous(memory_format=memory_format).requires_grad_()
    result = convolution(x)
    result.backward(torch.from_numpy(upstream).float().contiguous(memory_format=memory_format))

    seen = maps[:, :, ::2, ::2]
    expected_x = np.zeros_like(maps)
    expected_x[:, :, ::2, ::2] = np.einsum("bohw,oc->bchw", upstream, weight)
    assert x.grad is not None
    assert convolution.weight.grad is not None
    for found, expected in (
        (result.detach(), np.einsum("oc,bchw->bohw", weight, seen)),
        (x.grad, expected_x),
        (convolution.weight.grad[:, :, 0, 0], np.einsum("bohw,bchw->oc", upstream, seen)),
    ):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 0), (1, 2, 1), (3, 2, 1)])
def test_other_convolutions_are_those_of_torch(kernel, stride, padding):
    torch.manual_seed(0)
    ours = Conv2d(2, 5, kernel, stride, padding)
    theirs = torch.nn.Conv2d(2, 5, kernel, stride, padding)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 2, 9, 8)
    assert torch.equal(ours(x), theirs(x))
