"""The command as people type it, in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loss_attention.cli import main

SMALL = [
    *("--image-size", "16", "--epochs", "2", "--batch-size", "8", "--width", "0.06"),
    *("--strided-layers", "6", "--patch-kernel", "3", "--patch-stride", "1"),
    *("--accelerator", "cpu"),
]


def make_folder(path: Path, classes: tuple[str, ...] = ("dark", "light"), each: int = 10) -> Path:
    """Grey squares of unequal sizes, dark ones and light ones."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(classes):
        (path / name).mkdir(parents=True)
        for i in range(each):
            level = 60 + 120 * number + rng.integers(-30, 30, (20 + i, 24, 3))
            Image.fromarray(level.astype(np.uint8)).save(path / name / f"{i}.png")
    return path


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
