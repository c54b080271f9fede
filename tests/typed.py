"""The command as people type it, in this process."""

from __future__ import annotations

import pytest

from loss_attention.cli import main


def exit_code(*words: object) -> int:
    """Run the command; return what it exits with."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


def run(*words: object) -> None:
    """Run the command; it has to succeed."""
    assert exit_code(*words) == 0


def complaint(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run the command with something wrong; return the one line that it says."""
    capsys.readouterr()
    assert exit_code(*words) == 2
    said = capsys.readouterr().err
    assert said.startswith("loss-attention: ")
    assert said.count("\n") == 1
    return said
