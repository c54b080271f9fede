"""Thousands of changed inputs of a kind, run in a process that may die, and what became of them."""

from __future__ import annotations

import json
import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzz.judging import Outcome
from fuzz.kinds import KINDS

_WORKER = Path(__file__).with_name("worker.py")
_SILENT_FOR = 300.0
"""Seconds without a word after which a process is given up."""


@dataclass(frozen=True)
class Tried:
    """A case that was tried."""

    kind: str
    seed: int
    number: int
    outcome: Outcome
    changes: tuple[str, ...] = ()

    @property
    def cause(self) -> tuple[str, ...]:
        """What cases of the same fault share: how they ended, and where."""
        name, text = self.outcome.name, self.outcome.text
        return name, re.split(r"[\d:]", text)[0], *self.outcome.frames[-1:]

    def __str__(self) -> str:
        where = " < ".join(reversed(self.outcome.frames))
        return (
            f"{self.kind} {self.number} (seed {self.seed}): {self.outcome.name}: "
            f"{self.outcome.text}\n    {'; '.join(self.changes)}\n    {where}\n    replay: "
            f"python benchmarks/fuzzing.py {self.kind} {self.number} --seed {self.seed}"
        )


def report(bad: Sequence[Tried]) -> str:
    """Return what went wrong, a case for each cause: the one with the fewest changes."""
    causes: dict[tuple[str, ...], list[Tried]] = {}
    for one in bad:
        causes.setdefault(one.cause, []).append(one)
    parts = [f"{len(bad)} cases went wrong, of {len(causes)} causes"]
    for found in sorted(causes.values(), key=len, reverse=True):
        least = min(found, key=lambda one: (len(one.changes), len("".join(one.changes))))
        parts.append(f"{len(found)} like {least}")
    return "\n".join(parts)


class Harness:
    """Runs cases in a process of its own, which it starts anew when that dies."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def __enter__(self) -> Harness:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def valid(self, kind: str) -> list[Tried]:
        """Try the valid inputs of a kind, all of whose cases are changes of them."""
        return list(self._run(kind, 0, -len(KINDS[kind].made()), 0))

    def run(self, kind: str, count: int, *, seed: int = 0, first: int = 0) -> list[Tried]:
        """Try so many cases of a kind."""
        return list(self._run(kind, seed, first, first + count))

    def _run(self, kind: str, seed: int, first: int, last: int) -> Iterator[Tried]:
        number = first
        while number < last:
            self._ask(kind, seed, number, last)
            while number < last:
                found = self._answer()
                if isinstance(found, str):
                    yield Tried(kind, seed, number, Outcome("died", found))
                    number += 1
                    break
                if "fault" in found:
                    raise RuntimeError(f"{kind} {number} (seed {seed}): {found['fault']}")
                if "begun" not in found:
                    changes, frames = tuple(found.pop("changes")), tuple(found.pop("frames"))
                    yield Tried(kind, seed, number, Outcome(**found, frames=frames), changes)
                    number += 1

    def _ask(self, *words: Any) -> None:
        if self._process is None or self._process.poll() is not None:
            self._lines = queue.SimpleQueue()
            self._process = subprocess.Popen(
                (sys.executable, str(_WORKER)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
            )
            threading.Thread(target=_pump, args=(self._process, self._lines), daemon=True).start()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()

    def _answer(self) -> dict[str, Any] | str:
        """Return what the process says next, or how it ended."""
        try:
            line = self._lines.get(timeout=_SILENT_FOR)
        except queue.Empty:
            line = ""
        if line:
            found: dict[str, Any] = json.loads(line)
            return found
        assert self._process is not None
        return f"the process ended with {self._end()}"

    def _end(self) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        assert process.stdin is not None
        process.stdin.close()
        try:
            return process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def _pump(process: subprocess.Popen[str], lines: queue.SimpleQueue[str]) -> None:
    """Hand on what a process says; at last an empty line."""
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            lines.put(line)
    lines.put("")
