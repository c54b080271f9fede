"""One comparison, which the tests of its figures and of its pages share."""

from __future__ import annotations

import pytest
import torch
from explain.colour_scenes import colour_model, scenes

from loss_attention.explain.compare import Comparison, compare
from loss_attention.explain.compare_measures import Subject


@pytest.fixture(scope="session")
def compared() -> tuple[Comparison, Subject]:
    torch.set_num_threads(1)
    return compare(
        colour_model(), scenes(40), ["evidence"], train=scenes(20, seed=1), images=12, batch_size=5
    )
