"""Loading data in tests: what comes of it, or the one line that says why nothing does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loss_attention.data.loading import load_splits
from loss_attention.data.sample import Splits
from loss_attention.errors import InputError


def load(data: Path | str, **options: Any) -> Splits:
    """Load data in grey, by default as it is."""
    return load_splits(str(data), **{"in_channels": 1, "image_size": None, "seed": 0, **options})


def refusal(data: Path | str, **options: Any) -> str:
    """Return the error of data that cannot be loaded; it is one line."""
    with pytest.raises(InputError) as caught:
        load(data, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def short(value: object) -> str:
    """Return a name of a test's value that is not as long as some of them are."""
    return ascii(value)[:40]
