"""What is typed wrong becomes one line, whatever the terminal draws boxes with."""

from __future__ import annotations

import io
import sys

import pytest

from loss_attention.cli import parse
from loss_attention.cli.subcommands import demo
from loss_attention.errors import InputError


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--epochs", "x"],
            "Error parsing --epochs: no type matching {None}|INT could be instantiated from ['x']",
        ),
        (["--epochz", "3"], "Unrecognized options: --epochz, 3 did you mean --epochs?"),
        (
            ["--accelerator", "abacus"],
            "invalid choice 'abacus' for argument '--accelerator'. Expected one of "
            "('auto', 'cpu', 'cuda', 'mps', 'xpu')",
        ),
    ],
)
def test_a_complaint_in_one_line(
    words: list[str], said: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    with pytest.raises(InputError) as caught:
        parse(demo, words, "demo")
    assert str(caught.value) == f"{said}; see loss-attention demo --help"
