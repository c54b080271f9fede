"""Run a command as a user would, and keep what it took beside hardware and versions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loss_attention.errors import InputError


@dataclass(frozen=True)
class Finished:
    """What a command took. Peak memory is that of its largest process."""

    seconds: float
    peak_memory_mib: float
    output: str


def command() -> str:
    """Return the path of the installed `loss-attention`."""
    return str(Path(sys.executable).with_name("loss-attention"))


def timed(*words: str, folder: Path | None = None) -> Finished:
    """Run a command to its end; exit with its output when it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(
        words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if status != 0:
        sys.exit(f"{' '.join(words)} failed:\n{output}")
    return Finished(seconds, usage.ru_maxrss / 1024, output)


def write_and_list(name: str, measure: Callable[[], list[Path]]) -> None:
    """Measure and print the files that were written; what a user can mend is one line."""
    try:
        written = measure()
    except InputError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{name}: interrupted; the files of the run before are kept", file=sys.stderr)
        sys.exit(130)
    print("\n".join(str(path) for path in written))


def keep(name: str, figures: dict[str, Any], folder: Path) -> None:
    """Write the figures of a subject to results/NAME.json, with what they stand on."""
    folder.mkdir(exist_ok=True)
    text = json.dumps(stand() | figures, indent=2, ensure_ascii=False) + "\n"
    (folder / f"{name}.json").write_text(text, encoding="utf-8")


def stand() -> dict[str, Any]:
    """Return what figures measured now stand on: the date, the machine and the versions."""
    from loss_attention.training.environment import (
        choose_accelerator,
        choose_precision,
        hardware,
        versions,
    )

    accelerator = choose_accelerator("auto", 1)
    return {
        "measured": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(accelerator, 1, choose_precision("auto", accelerator)),
        "versions": versions(),
    }
