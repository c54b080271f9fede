"""Run folders, recipes and weights that somebody has spoiled are read, or refused in one line."""

from __future__ import annotations

import pytest
from fuzz.conftest import Fuzz
from fuzz.kinds import RUNS


@pytest.mark.timeout(7200)  # `--fuzz 5000` takes longer than the tests of the suite
@pytest.mark.parametrize("kind", RUNS)
def test_runs_and_weights(kind: str, fuzz: Fuzz) -> None:
    fuzz(kind)
