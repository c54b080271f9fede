"""The command `loss-attention serve` in a process of its own, as users have it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import apart
from apart import ended, until

ADDRESS = re.compile(r"at (http://\S+) \(Ctrl-C to stop\)")


class Running(NamedTuple):
    """A service that answers.

    Attributes:
        address: where.
        pid: of its process.
        output: the file that has what it says.
    """

    address: str
    pid: int
    output: Path


@contextlib.contextmanager
def running(words: list[str], folder: Path) -> Iterator[Running]:
    """Serve in a folder, and stop it with Ctrl-C; it has to end well."""
    output = folder / "serve.txt"
    process = apart.begun(apart.main_of, ["serve", *words], folder, output)
    assert process.pid is not None

    def said() -> str:
        return output.read_text(encoding="utf-8") if output.exists() else ""

    until(lambda: bool(ADDRESS.search(said())) or not process.is_alive())
    match = ADDRESS.search(said())
    assert match, said()
    try:
        yield Running(match[1], process.pid, output)
    finally:
        os.kill(process.pid, signal.SIGINT)
        code = ended(process)
    assert code == 0, said()
    assert said().splitlines()[-1] == "stopped by SIGINT"
