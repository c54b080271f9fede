"""What it takes until the command or the package is there, each in a process of its own."""

from __future__ import annotations

import statistics
import sys
from typing import Any

from measuring import command, timed

TURNS = 9
WORDS: dict[str, tuple[str, ...]] = {
    "help_seconds": (command(), "--help"),
    "import_seconds": (sys.executable, "-c", "import loss_attention"),
    "python_seconds": (sys.executable, "-c", "pass"),
    "import_with_models_seconds": (
        sys.executable,
        "-c",
        "import loss_attention as la; la.create_model",
    ),
    "import_torch_seconds": (sys.executable, "-c", "import torch"),
    "import_after_torch_seconds": (sys.executable, "-c", "import torch, loss_attention"),
}
"""What is run, by the name of its figure."""


def startup_seconds(turns: int = TURNS, warm_up: int = 1) -> dict[str, list[float]]:
    """Return the seconds of each command, which take turns; the first reads files from disk."""
    seconds: dict[str, list[float]] = {name: [] for name in WORDS}
    for _ in range(warm_up + turns):
        for name, words in WORDS.items():
            seconds[name].append(timed(*words).seconds)
    return {name: values[warm_up:] for name, values in seconds.items()}


def startup() -> dict[str, Any]:
    """Seconds that `--help`, the import of the package and of torch take; medians of nine."""
    medians = {name: statistics.median(values) for name, values in startup_seconds().items()}
    return {"command": "loss-attention --help; python -c 'import loss_attention'", **medians}
