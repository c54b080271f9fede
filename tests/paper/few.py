"""Few scenes of digits, in this process and in workers: making all of them takes seconds."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from loss_attention.data import loading
from loss_attention.data.digits import digits, multi_digits
from loss_attention.paper import trainings

SCENES = {"train": 40, "test": 40}
_begin = trainings._begin


def make_few(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(loading.MADE, "digits", partial(digits, **SCENES))
    patch.setitem(loading.MADE, "multi-digits", partial(multi_digits, **SCENES))


def begin_with_few(*arguments: Any) -> None:
    """What a worker does first."""
    make_few(pytest.MonkeyPatch())
    _begin(*arguments)
