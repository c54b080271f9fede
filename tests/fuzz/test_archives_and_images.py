"""Archives, parquet files and images that somebody has spoiled are read, or refused in one line."""

from __future__ import annotations

import pytest
from fuzz.conftest import Fuzz
from fuzz.kinds import ARCHIVES, IMAGES


@pytest.mark.timeout(7200)  # `--fuzz 5000` takes longer than the tests of the suite
@pytest.mark.parametrize("kind", [*ARCHIVES, *IMAGES])
def test_archives_and_images(kind: str, fuzz: Fuzz) -> None:
    fuzz(kind)
