"""Annotations and tables that somebody has spoiled are read, or refused in one line."""

from __future__ import annotations

import pytest
from fuzz.conftest import Fuzz
from fuzz.kinds import ANNOTATIONS


@pytest.mark.timeout(7200)  # `--fuzz 5000` takes longer than the tests of the suite
@pytest.mark.parametrize("kind", ANNOTATIONS)
def test_annotations(kind: str, fuzz: Fuzz) -> None:
    fuzz(kind)
