"""docs/method.md says nothing that is not so: its examples run, tables and claims are checked."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from markdown_pages import run_python

import loss_attention as la
from loss_attention.backbones import BACKBONES
from loss_attention.heads import HEADS
from loss_attention.model_spec import ModelSpec

WIDTH = 1 / 64
PATCH_KERNEL, PATCH_STRIDE = 9, 4


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "method.md").read_text(encoding="utf-8")


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the table whose first column has this heading."""
    lines = page[page.index(f"| {heading} |") :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_examples_run(page: str) -> None:
    assert run_python(page, "docs/method.md") == 8


def test_receptive_fields_are_those_of_the_networks(page: str) -> None:
    table = rows(page, "backbone")
    assert {row[0] for row in table} == set(BACKBONES)
    for name, strided, image, window, size, part in table:
        layers = () if strided == "none" else tuple(map(int, strided.split(", ")))
        spec = ModelSpec(backbone=name, width=WIDTH, strided_layers=layers)
        network = BACKBONES[name].build(spec)
        field = network.receptive_field.after(PATCH_KERNEL, PATCH_STRIDE)
        assert int(window) == PATCH_KERNEL * network.stride
        assert int(size) == field.size
        length = int(image)
        places = (-(-length // network.stride) - PATCH_KERNEL) // PATCH_STRIDE + 1
        seen = [len(field.pixels(place, length)) for place in range(places)]
        mean = sum(a * b for a in seen for b in seen) / (places * length) ** 2
        assert part == f"{100 * mean:.0f} %"


def test_the_table_of_heads_is_complete_and_says_which_have_evidence(page: str) -> None:
    table = {name: row for row in rows(page, "head") for name in re.findall(r"`([\w-]+)`", row[0])}
    assert set(table) == set(HEADS)
    for name, row in table.items():
        assert (row[2] != "none") == HEADS[name].has_evidence


def test_where_windows_end() -> None:
    plain = la.create_model("vgg11_bn", width=WIDTH)(torch.zeros(2, 3, 32, 32)).grid
    assert plain.patches == 36
    assert plain.windows().amax().item() == 29
    strided = la.create_model("vgg11_bn", width=WIDTH, strided_layers=(4,))
    assert strided(torch.zeros(2, 3, 64, 64)).grid.windows().amax().item() == 58


def test_covering_a_window_changes_its_neighbours_and_every_weight() -> None:
    model = la.create_model("vgg11_bn", width=WIDTH, threshold=0.0).eval()
    images = torch.rand(1, 3, 32, 32)
    before = model(images)
    images[:, :, :9, :9] = 0.5  # the window of the first patch
    after = model(images)
    changed = (before.patch_logits != after.patch_logits).any(dim=2).reshape(6, 6)
    assert changed[:3, :3].all()
    assert not changed[5].any()  # the last row sees from pixel 12 on
    assert (before.patch_weights != after.patch_weights).all()


cases = st.tuples(
    st.integers(0, 2**32),  # seed
    st.integers(1, 6),  # patches
    st.integers(2, 5),  # classes
    st.floats(-1.0, 1.5),  # power of ten: from indifferent to sure
)


def draw(case: tuple[int, int, int, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patch logits (M, K), any weights (M,) that sum to 1, and the image's logits (K,)."""
    seed, patches, classes, power = case
    generator = np.random.default_rng(seed)
    p = generator.normal(size=(patches, classes)) * 10**power
    # Some patches are of the label's class, as in an image that is named rightly.
    p[:, 0] += generator.choice([0.0, 3.0]) * 10**power
    alpha = generator.dirichlet(np.full(patches, 0.5))
    return p, alpha, alpha @ p


def regulariser(p: np.ndarray, alpha: np.ndarray) -> float:
    """R of Eq. 9 for label 0."""
    return -sum(float(a * reference.log_softmax(row)[0]) for a, row in zip(alpha, p, strict=True))


@given(cases)
def test_proposition_1_is_below_one_less_the_probability(
    case: tuple[int, int, int, float],
) -> None:
    p, alpha, z = draw(case)
    probability = math.exp(reference.log_softmax(z)[0])
    bound = reference.single_label_bound(p, alpha, 0)
    assert -math.log(max(probability, 1e-300)) >= (1 - probability) * (1 - 1e-12)
    assert 1 - probability >= bound - 1e-12
    assert bound <= 0.5 + 1e-12


@given(cases)
def test_proposition_2_is_the_sum_of_absolute_errors(case: tuple[int, int, int, float]) -> None:
    p, alpha, z = draw(case)
    y = np.arange(len(z)) % 2
    errors = sum(abs(y[k] - math.exp(reference.log_sigmoid(z[k]))) for k in range(len(z)))
    assert reference.multi_label_bound(p, alpha, y) == pytest.approx(errors, rel=1e-9, abs=1e-12)


@given(cases)
def test_a_heavy_patch_of_a_small_regulariser_is_of_the_label(
    case: tuple[int, int, int, float],
) -> None:
    p, alpha, z = draw(case)
    total = regulariser(p, alpha)
    assert -reference.log_softmax(z)[0] <= total + 1e-9
    heavy = alpha > total / math.log(2)
    assert (p[heavy].argmax(axis=1) == 0).all()


def test_heavy_patches_are_met() -> None:
    """The claim before this one is not about nothing, and its constant is not too large."""
    p = np.array([[1.0, 0.0], [2.0, 0.0]])
    alpha = np.array([0.1, 0.9])
    assert (alpha > regulariser(p, alpha) / math.log(2)).tolist() == [False, True]
    # Of even logits and one a hair against the label, the weight is just not above R / log 2.
    assert regulariser(np.array([[0.0, 1e-9]]), np.ones(1)) >= math.log(2)
