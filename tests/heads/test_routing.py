"""Dynamic routing by hand, and the head against the procedure in loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
import torch
from heads.used import arrays, feature_maps, patches_of, used_model

from loss_attention.heads.capsules import route, squash
from loss_attention.prediction import RoutedPrediction


def test_two_rounds_worked_out_by_hand() -> None:
    """Two capsules vote along one axis for two classes: 2 and 0, and 2 and 2."""
    votes = torch.tensor([[[2.0], [0.0]], [[2.0], [2.0]]]).unsqueeze(1)
    log_coefficients, inputs = route(votes, rounds=1)
    assert log_coefficients.exp().flatten().tolist() == [0.5] * 4
    assert inputs.flatten().tolist() == [2.0, 1.0]  # squashed to 4/5 and 1/2
    # So the first capsule agrees by 2 x 4/5 and 0, the second by 8/5 and 2 x 1/2.
    log_coefficients, inputs = route(votes, rounds=2)
    first, second = 1 / (1 + math.exp(-1.6)), 1 / (1 + math.exp(-0.6))
    expected = [first, 1 - first, second, 1 - second]
    assert log_coefficients.exp().flatten().tolist() == pytest.approx(expected)
    assert inputs.flatten().tolist() == pytest.approx([2 * (first + second), 2 * (1 - second)])


def test_squashing_keeps_the_direction_and_bounds_the_length() -> None:
    found = squash(torch.tensor([[3.0, -4.0], [0.0, 0.5], [0.0, 0.0]]))
    expected = [[0.6 * 25 / 26, -0.8 * 25 / 26], [0.0, 0.2], [0.0, 0.0]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_a_vector_without_length_has_a_gradient() -> None:
    vectors = torch.zeros(2, 3, requires_grad=True)
    squash(vectors).sum().backward()
    assert vectors.grad is not None
    assert vectors.grad.abs().max() < 1e-5


@pytest.mark.parametrize("rounds", [1, 3, 4])
def test_routing_is_the_procedure_in_loops(rounds: int) -> None:
    votes = 2 * torch.randn(7, 2, 4, 3, dtype=torch.float64)
    log_coefficients, inputs = route(votes, rounds)
    for i in range(2):
        c, s = reference.dynamic_routing(votes[:, i].numpy(), rounds)
        np.testing.assert_allclose(log_coefficients[:, i].exp().numpy(), c, rtol=0, atol=1e-10)
        np.testing.assert_allclose(inputs[i].numpy(), s, rtol=0, atol=1e-10)


def test_gradients_flow_through_all_rounds() -> None:
    votes = torch.randn(4, 1, 3, 2, dtype=torch.float64, requires_grad=True)
    importance = torch.randn(3, 2, dtype=torch.float64)
    (route(votes)[1][0] * importance).sum().backward()
    table = votes.detach().numpy()[:, 0]
    for place in np.ndindex(table.shape):
        value, step = table[place], 1e-5
        sums = []
        for moved in (value + step, value - step):
            table[place] = moved
            sums.append(float((reference.dynamic_routing(table, 3)[1] * importance.numpy()).sum()))
        table[place] = value
        slope = (sums[0] - sums[1]) / (2 * step)
        assert votes.grad[place[0], 0, place[1], place[2]].item() == pytest.approx(slope, abs=1e-7)


def test_the_head_is_the_procedure_on_its_primary_capsules() -> None:
    model = used_model(
        head="capsule-dynamic-routing",
        image_size=(6, 7),
        patch_kernel=3,
        patch_stride=2,
        threshold=0.9,
        width=1 / 16,
    ).double()
    images = torch.rand(2, 3, 6, 7, dtype=torch.float64)
    with torch.no_grad():
        prediction = patches_of(model, images, RoutedPrediction)
    state = arrays(model.head)
    bias = state["primary.layers.0.bias"][:, None, None]
    channels, patches, classes = 2, 6, 5
    for i, maps in enumerate(feature_maps(model, images)):
        x = reference.convolution(maps, state["primary.layers.0.weight"], stride=2) + bias
        u = np.empty((channels, patches, classes, 16))
        for c in range(channels):
            for m in range(patches):
                # Output c * 16 + d is dimension d of capsule c; patch m is in row m // 3.
                capsule = reference.squash(x[16 * c : 16 * c + 16, m // 3, m % 3])
                matrix = state["transforms"][c * patches + m].reshape(16, classes, 16)
                u[c, m] = np.einsum("d,dke->ke", capsule, matrix)
        coefficients, s = reference.dynamic_routing(u.reshape(-1, classes, 16), 3)
        coefficients = coefficients.reshape(channels, patches, classes)
        norms = np.array([reference.length(row) for row in s])
        lengths = np.array([reference.length(reference.squash(row)) for row in s])
        shares = coefficients.sum(axis=0) / coefficients.sum(axis=(0, 1))
        votes = (coefficients[..., None] * u * (s / norms[:, None])).sum(axis=(0, 3))
        best = int(lengths.argmax())
        for found, expected in (
            (prediction.lengths, lengths),
            (prediction.logits, np.log(lengths / (1 - lengths))),
            (prediction.class_weights, shares),
            (prediction.patch_weights, shares[:, best]),
            (prediction.votes, votes),
        ):
            np.testing.assert_allclose(found[i].numpy(), expected, rtol=0, atol=1e-8)
        np.testing.assert_allclose(votes.sum(axis=0), norms, rtol=0, atol=1e-10)
        assert prediction.selected[i].tolist() == (shares[:, best] > 0.9 / 6).tolist()


def test_the_weights_of_any_class_can_be_asked_for() -> None:
    model = used_model(head="capsule-dynamic-routing", image_size=(17, 17))
    with torch.no_grad():
        prediction = patches_of(model, torch.rand(3, 3, 17, 17), RoutedPrediction)
    other = prediction.of_class(torch.tensor([4, 0, 2]))
    for i, k in enumerate((4, 0, 2)):
        assert other.patch_weights[i].tolist() == prediction.class_weights[i, :, k].tolist()
    assert other.logits is prediction.logits
    best = prediction.logits.argmax(dim=1)
    assert torch.equal(prediction.of_class(best).patch_weights, prediction.patch_weights)
