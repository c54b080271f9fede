"""The command as people type it, in this process."""

from __future__ import annotations

import pytest

from loss_attention.cli import main


def run(*words: object) -> None:
    """Run the command; it has to succeed."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert not stop.value.code


def complaint(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run the command with something wrong; return the one line that it says."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("loss-attention: ")
    assert said.count("\n") == 1
    return said
