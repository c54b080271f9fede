"""How often a run survives what may befall it: flipped bits, signals, kills. Prints JSON counts.

    python benchmarks/reliability.py                       all parts, full size: about an hour
    python benchmarks/reliability.py signals --scale 0.1   a tenth of one part
    python benchmarks/reliability.py --keep                into results/reliability.* as well

Hostile files are counted by `python benchmarks/fuzzing.py --keep`, to the same page.
Each part returns, for each kind of mishap, how many were tried and how many ended well.

In results/reliability.json a part is what one command tried, with the machine and the date of its
own. Its rows are what was tried, how often, and how often that was
good; `columns` are further numbers of the rows, by what to call them:

    {"title": "Signals", "about": "A run gets ...", "command": "python benchmarks/...",
     "seeds": [0], "columns": {"most_seconds": "seconds at most"},
     "rows": [{"what": "SIGTERM", "tried": 20, "good": 20, "most_seconds": 1.5}]}
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measuring import stand, typed
from PIL import Image

from loss_attention.terminal import markdown_table

ROOT = Path(__file__).resolve().parent.parent
Counts = dict[str, tuple[int, int]]
"""By kind of mishap: tried, ended well."""

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
MOMENTS = ("training", "validation", "two processes")
FLIPS, KILLS = 120, 15
LONGEST_STOP = 10.0
"""Seconds that a run whose steps take about one may take to save and end."""

TINY = [
    *("--image-size", "16", "--batch-size", "8", "--width", "0.06", "--strided-layers", "6"),
    *("--patch-kernel", "3", "--patch-stride", "1", "--precision", "32", "--accelerator", "cpu"),
]
SLOW = [
    *("--image-size", "64", "--width", "0.5", "--strided-layers", "6", "14"),
    *("--patch-kernel", "3", "--patch-stride", "1", "--precision", "32", "--accelerator", "cpu"),
    *("--epochs", "50", "--checkpoint-every-steps", "1"),
]
"""Steps of about a second on one core."""


def flipped_bits(scale: float, folder: Path) -> Counts:
    """Flip a bit of a run's file: it is told in a line, or changes nothing of what comes out."""
    images = _pictures(folder / "images", 24)
    whole, stopped = folder / "whole", folder / "stopped"
    words = ["train", "folder", "--data", str(images), *TINY, "--epochs", "3"]
    assert typed(*words, "--out", str(whole))[0] == 0
    shutil.copytree(whole, folder / "reference")
    _stopped_run(words, stopped)
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    chance = random.Random(0)
    for number in range(_some(FLIPS, scale)):
        kind = ("finished", "stopped")[number % 2]
        run = folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(whole if kind == "finished" else stopped, run)
        files = [file for file in sorted(run.rglob("*")) if file.is_file() and file.stat().st_size]
        file = files[number // 2 % len(files)]
        content = bytearray(file.read_bytes())
        bit = chance.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
        good = _told_or_harmless(kind, run, images, folder)
        counts[f"{kind}: {_name(file, run)}"][0] += 1
        counts[f"{kind}: {_name(file, run)}"][1] += good
        if not good:
            print(f"bit {bit} of {_name(file, run)}, {kind}", file=sys.stderr)
    return {kind: (tried, good) for kind, (tried, good) in counts.items()}


def _told_or_harmless(kind: str, run: Path, images: Path, folder: Path) -> bool:
    """Use a run in which something is wrong; every command ends in a line, or as without it."""
    explained = folder / "explained"
    shutil.rmtree(explained, ignore_errors=True)
    words = {
        "finished": (
            ["explain", str(run), str(images / "dark"), "--out", str(explained)],
            ["evaluate", str(run)],
            ["report", str(run)],
        ),
        "stopped": (["resume", str(run)],),
    }[kind]
    for command in words:
        code, said = typed(*command)
        if code == 2 and said.count("\n") == 1:
            return True
        if code != 0 or "Traceback" in said:
            return False
    return _outcome(run) == _outcome(folder / "reference")


def _outcome(run: Path) -> tuple[Any, ...]:
    """What came of a run, but for what the clock decides."""
    clock = {"seconds", "images_per_second"}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    numbers = [{key: line[key] for key in line if key not in clock} for line in lines]
    evaluation = json.loads((run / "evaluation.json").read_text())
    return (run / "model.safetensors").read_bytes(), numbers, evaluation


def signals(scale: float, folder: Path) -> Counts:
    """Signal a run: it saves, says how to go on, and ends within seconds with the right code."""
    images = _pictures(folder / "images", 400)
    cases = [(moment, name) for moment in MOMENTS for name in SIGNALS]
    counts: Counts = {}
    for moment, name in cases[:: max(1, round(1 / scale))]:
        run = folder / f"{moment}-{name}".replace(" ", "-")
        counts[f"{name}, {moment}"] = (1, int(_survives(name, moment, images, run)))
    return counts


def _survives(name: str, moment: str, images: Path, run: Path) -> bool:
    number = getattr(signal, name)
    # In the second case two steps an epoch, and a validation that takes far longer than those.
    more = {
        "training": ["--validation-fraction", "0.05", "--batch-size", "8"],
        "validation": ["--validation-fraction", "0.96", "--batch-size", "8"],
        "two processes": ["--validation-fraction", "0.05", "--batch-size", "8", "--devices", "2"],
    }[moment]
    process = _launched("train", "folder", "--data", str(images), *SLOW, *more, "--out", str(run))
    _wait_for(run / "state.pt", process)
    if moment == "validation":
        time.sleep(2 * _position(run)["seconds"])
    started = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=600)
    seconds = time.monotonic() - started
    code = 130 if number == signal.SIGINT else 75
    line = f"loss-attention: stopped; continue with: loss-attention resume {run}"
    told = said.strip().splitlines()[-1] == line and "Traceback" not in said
    good = process.returncode == code and told and seconds <= LONGEST_STOP
    print(f"{name}, {moment}: exit {process.returncode} in {seconds:.1f} s", file=sys.stderr)
    position = _position(run)
    in_time = moment != "validation" or (position["epoch"], position["step"]) == (0, 2)
    if not in_time:
        print(f"the signal came in epoch {position['epoch']}, no validation", file=sys.stderr)
    return good and in_time


def _position(run: Path) -> dict[str, Any]:
    """Where the last checkpoint stands."""
    from loss_attention.training.run_folder import RunFolder

    state = RunFolder(run).load_state()
    assert state is not None
    position: dict[str, Any] = state["position"]
    return position


def kills(scale: float, folder: Path) -> Counts:
    """Kill a run at some moment and resume it: it ends with the same bits."""
    images, chance = _pictures(folder / "images", 40), random.Random(0)
    words = ["train", "folder", "--data", str(images), *TINY, "--epochs", "12"]
    words += ["--checkpoint-every-steps", "2"]
    reference = folder / "reference"
    assert typed(*words, "--out", str(reference))[0] == 0
    tried = good = 0
    for number in range(_some(KILLS, scale)):
        run = folder / f"run-{number}"
        process = _launched(*words, "--out", str(run))
        _wait_for(run / "run.json", process)
        time.sleep(chance.uniform(0.05, 3.0))
        process.kill()
        process.communicate()
        tried += 1
        code, _ = typed("resume", str(run))
        good += code == 0 and _outcome(run) == _outcome(reference)
    return {"SIGKILL, resumed": (tried, good)}


PARTS: dict[str, Callable[[float, Path], Counts]] = {
    "bits": flipped_bits,
    "signals": signals,
    "kills": kills,
}


def _pictures(folder: Path, count: int) -> Path:
    """Make images of two classes, dark and light."""
    chance = np.random.default_rng(0)
    for level, name in ((60, "dark"), (180, "light")):
        (folder / name).mkdir(parents=True)
        for number in range(count // 2):
            pixels = level + chance.integers(-50, 50, (32, 32, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


def _stopped_run(words: list[str], run: Path) -> None:
    """Train to the middle of the third epoch."""
    from loss_attention.training.trainer import Trainer

    step = Trainer.train_step

    def until(self: Trainer, batch: Any, gamma: float) -> None:
        step(self, batch, gamma)
        self.stop.requested = self.position.epoch == 2

    Trainer.train_step = until  # type: ignore[method-assign]
    try:
        assert typed(*words, "--out", str(run))[0] == 130
    finally:
        Trainer.train_step = step  # type: ignore[method-assign]


def _launched(*words: str) -> subprocess.Popen[str]:
    code = f"from loss_attention.cli import main\nmain({list(words)!r})"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def _wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        if process.poll() is not None:
            raise RuntimeError(process.communicate()[1])
        time.sleep(0.02)


def _some(count: int, scale: float) -> int:
    return max(1, round(count * scale))


def _name(file: Path, run: Path) -> str:
    """The file's name; those of TensorBoard have the time in theirs."""
    parts = file.relative_to(run).parts
    return parts[0] if len(parts) == 1 else f"{parts[0]}/"


def main() -> None:
    """Run the parts that are asked for and print their counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--scale", type=float, default=1.0, help="how much of each; 1: all")
    parser.add_argument("--keep", action="store_true", help="write results/reliability.* too")
    given = parser.parse_args()
    unknown = [part for part in given.parts if part not in PARTS]
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    for name in SIGNALS:  # in the background of a shell some are ignored, and so in what it begins
        signal.signal(signal.Signals[name], signal.SIG_DFL)
    outcome: dict[str, dict[str, dict[str, int]]] = {}
    for part in given.parts or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            counts = PARTS[part](given.scale, Path(folder))
        outcome[part] = {
            kind: {"tried": tried, "good": good} for kind, (tried, good) in counts.items()
        }
        if given.keep:
            keep_part(part, _kept(part, outcome[part], given.scale), ROOT / "results")
    print(json.dumps(outcome, indent=2))


def _kept(part: str, counts: dict[str, dict[str, int]], scale: float) -> dict[str, Any]:
    """Return a part as the page of results has it."""
    size = "" if scale == 1 else f" --scale {scale:g}"
    return {
        "title": part.capitalize(),
        "about": (PARTS[part].__doc__ or "").splitlines()[0],
        "command": f"python benchmarks/reliability.py {part}{size} --keep",
        "seeds": [0],
        "rows": [{"what": kind} | found for kind, found in counts.items()],
    }


NAME = "reliability"
Part = dict[str, Any]


def keep_part(name: str, part: Part, folder: Path) -> Path:
    """Put a part that was measured now in the place of the one before, and write the page anew."""
    import torch

    path = folder / f"{NAME}.json"
    parts = json.loads(path.read_text(encoding="utf-8"))["parts"] if path.exists() else {}
    about = stand()
    about["hardware"]["vector_units"] = torch.backends.cpu.get_cpu_capability()
    parts[name] = about | part
    folder.mkdir(exist_ok=True)
    text = json.dumps(about | {"parts": parts}, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
    page = folder / f"{NAME}.md"
    page.write_text(reliability_page(parts), encoding="utf-8")
    return page


def reliability_page(parts: dict[str, Part]) -> str:
    """Return the whole page."""
    pieces = [
        "# What goes wrong on purpose",
        "Each row: what was done, how often, and how often it ended as it should. Where the two "
        "numbers differ, the command says what went wrong and how to see it again.",
        markdown_table(
            ["part", "tried", "good"],
            [[part["title"], *_counts(part["rows"])] for part in parts.values()],
        ),
    ]
    for part in parts.values():
        pieces += [f"## {part['title']}", part["about"], _stand(part), _rows(part)]
    return "\n\n".join(pieces) + "\n"


def _counts(rows: list[dict[str, Any]]) -> list[str]:
    return [f"{sum(row[name] for row in rows):,}" for name in ("tried", "good")]


def _rows(part: Part) -> str:
    columns = part.get("columns", {})
    rows = [
        [row["what"], *_counts([row]), *(_shown(row.get(name)) for name in columns)]
        for row in part["rows"]
    ]
    if len(rows) > 1:
        rows.append(["all", *_counts(part["rows"]), *("" for _ in columns)])
    return markdown_table(["what", "tried", "good", *columns.values()], rows)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str("" if value is None else value)


def _stand(part: Part) -> str:
    machine, versions = part["hardware"], part["versions"]
    seeds = ", ".join(map(str, part["seeds"]))
    return (
        f"`{part['command']}`, {'seed' if len(part['seeds']) == 1 else 'seeds'} {seeds}. Measured "
        f"{part['measured']} on {machine['cpu']}, {machine['cores']} cores, vector units "
        f"{machine['vector_units']}, {machine.get('memory_gib', '?')} GiB; {machine['system']}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + "."
    )


if __name__ == "__main__":
    main()
