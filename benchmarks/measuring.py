"""Run a command as a user would, and keep what it took beside hardware and versions.

What takes turns is shown as medians with their spread.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loss_attention.errors import InputError

COSTS = ("seconds", "time_ratio")
"""The metrics of a comparison that are times."""
AVX2_ALONE = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
"""What limits torch and oneDNN to AVX2, on a machine that has more."""


@dataclass(frozen=True)
class Finished:
    """What a command took. Peak memory is that of its largest process."""

    seconds: float
    peak_memory_mib: float
    output: str


def command() -> str:
    """Return the path of the installed `loss-attention`."""
    return str(Path(sys.executable).with_name("loss-attention"))


def timed(
    *words: str, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> Finished:
    """Run a command to its end, with more variables; exit with its output when it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(
        words,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
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


def typed(*words: str) -> tuple[int, str]:
    """Run the command in this process; return its exit code and what it says of errors."""
    from loss_attention.cli import main

    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            main(words)
        except SystemExit as stop:
            return int(stop.code or 0), said.getvalue()
        except Exception as error:
            return 1, f"Traceback: {error!r}"
    return 0, said.getvalue()


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


def read_numbers(path: Path) -> dict[str, Any]:
    """Return what `keep` wrote; metrics have the names of today, whenever that was."""
    from loss_attention.evaluation.metric import current_run

    numbers: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "runs" in numbers:
        numbers["runs"] = [current_run(run) for run in numbers["runs"]]
    return numbers


def keep(name: str, numbers: dict[str, Any], folder: Path) -> None:
    """Write the numbers of a subject to results/NAME.json, with what they stand on."""
    folder.mkdir(exist_ok=True)
    text = json.dumps(stand() | numbers, indent=2, ensure_ascii=False) + "\n"
    (folder / f"{name}.json").write_text(text, encoding="utf-8")


def keep_with_page(
    name: str, numbers: dict[str, Any], page: Callable[[dict[str, Any]], str], folder: Path
) -> list[Path]:
    """Write results/NAME.json and, of what is in it, the page NAME.md; return both paths."""
    keep(name, numbers, folder)
    kept, written = (folder / f"{name}.{ending}" for ending in ("json", "md"))
    written.write_text(page(json.loads(kept.read_text(encoding="utf-8"))), encoding="utf-8")
    return [kept, written]


def told(script: str, given: Any, defaults: Mapping[str, Any]) -> str:
    """Return the command of a benchmark with the options that are not as by default."""
    flags = []
    for name, default in defaults.items():
        value = getattr(given, name)
        if value != default:
            words = value if isinstance(value, list) else [value]
            said = (f"{word:g}" if isinstance(word, float) else str(word) for word in words)
            flags.append(f" --{name.replace('_', '-')} {shlex.join(said)}")
    return f"python benchmarks/{script}" + "".join(flags)


def refuse_below(script: str, options: Mapping[str, tuple[int, int]]) -> None:
    """Exit with 2 where an option is below its least value; `options` has both by its name."""
    for name, (value, least) in options.items():
        if value < least:
            print(f"{script}: --{name} must be at least {least}, got {value}", file=sys.stderr)
            sys.exit(2)


def train_once(out: Path, words: Sequence[str]) -> None:
    """Train a run by the words of its command unless that was done, or continue it."""
    if not (out / "evaluation.json").exists():
        begun = ["resume", str(out)] if (out / "recipe.yaml").exists() else None
        timed(command(), *(begun or [*words, "--out", str(out)]))
        print(f"trained: {out.name}", flush=True)


def same_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Note in a folder what is measured there, so that nothing else is continued in it.

    Raises:
        InputError: it holds what was measured with other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "settings.json"
    if file.exists() and json.loads(file.read_text(encoding="utf-8")) != settings:
        raise InputError(f"{folder} holds runs of other settings; delete it to measure anew")
    file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def stand() -> dict[str, Any]:
    """Return what numbers measured now stand on: the date, the machine and the versions."""
    from loss_attention.training.devices import choose_accelerator
    from loss_attention.training.environment import choose_precision, hardware, versions

    accelerator = choose_accelerator("auto", 1)
    return {
        "measured": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(accelerator, 1, choose_precision("auto", accelerator)),
        "versions": versions(),
    }


Spread = dict[str, float]
"""`median`, `lowest` and `highest` of so many `turns`."""


def spread(values: Sequence[float]) -> Spread:
    return {
        "median": statistics.median(values),
        "lowest": min(values),
        "highest": max(values),
        "turns": len(values),
    }


def ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Return the ratio of two things turn by turn, so that what slows a turn down meets both."""
    return spread([a / b for a, b in zip(over, under, strict=True)])


def shown(value: Spread | None, digits: int = 2, factor: float = 1.0, unit: str = "") -> str:
    """Return a spread as people read it: the median, and in brackets from where to where."""
    if value is None:
        return "-"
    median, low, high = (
        f"{factor * value[name]:,.{digits}f}" for name in ("median", "lowest", "highest")
    )
    return f"{median}{unit} ({low} to {high})" if value["turns"] > 1 else f"{median}{unit}"


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
"""What is run, by the name of its measurement."""


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
