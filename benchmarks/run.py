"""Measure the numbers that the project names, and keep them in results/.

    python benchmarks/run.py            # all of them
    python benchmarks/run.py startup    # some of them

Each subject runs the command that a user would type, in processes of its own, and nothing else
should run meanwhile. interpreting.py says where CIFAR-10, Tiny ImageNet and COCO are taken from.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from explaining import explaining
from interpreting import SUBJECTS as INTERPRETED
from interpreting import Study, interpreting
from interpreting_page import write_page
from measuring import AVX2_ALONE, Finished, command, keep, spread, startup, timed
from pages import write_summary

from loss_attention.training.recipes import demo as demo_recipe
from loss_attention.training.recipes import recipe

SEEDS = (0, 1, 2)
ROOT = Path(__file__).resolve().parent.parent


def digits() -> dict[str, Any]:
    """The digits recipe and its mean-pooling counterpart, three seeds each."""
    return {"runs": _trained("digits", "loss-attention") + _trained("digits", "mean")}


def _trained(recipe: str, head: str, *flags: str) -> list[dict[str, Any]]:
    runs = []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            words = ("train", recipe, "--head", head, "--seed", str(seed), *flags)
            done = timed(command(), *words, "--out", str(out))
            runs.append({"head": head, "seed": seed} | _numbers(out, done, words))
            print(runs[-1], flush=True)
    return runs


def _numbers(out: Path, done: Finished, words: tuple[str, ...]) -> dict[str, Any]:
    return {
        "command": " ".join(("loss-attention", *words)),
        **_run_numbers(out),
        "whole_command_seconds": done.seconds,
        "peak_memory_mib": done.peak_memory_mib,
    }


def _run_numbers(out: Path) -> dict[str, Any]:
    """Read what a finished run's folder says of it."""
    facts = json.loads((out / "run.json").read_text())
    evaluation = json.loads((out / "evaluation.json").read_text())
    return {
        "source": facts["source"],
        "parameters": facts["parameters"],
        "best_epoch": facts["best_epoch"],
        "training_seconds": facts["train_seconds"],
        "map": evaluation.get("map", "evidence"),
        "metrics": evaluation["metrics"],
    }


WARM_TURNS = 3
MOSAICS = 500
"""Images of which mosaics are made for grid pointing, of the demo's network."""


def demo_avx2() -> dict[str, Any]:
    """The demo's two trainings with AVX2 alone, in float32 as a machine without bf16 trains."""
    usual, small = asdict(recipe("digits")), asdict(demo_recipe())
    changes = {name: value for name, value in small.items() if value != usual[name]}
    del changes["name"]
    settings = [*Study("digits", (0,), changes=changes).flags(), "--precision", "32"]
    runs = []
    for head in ("loss-attention", "mean"):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            words = ("train", "digits", "--head", head, *settings)
            done = timed(command(), *words, "--out", str(out), environment=AVX2_ALONE)
            runs.append({"head": head, "seed": 0} | _numbers(out, done, words))
    limits = " ".join(f"{name}={value}" for name, value in AVX2_ALONE.items())
    return {"environment": limits, "runs": runs}


def demo() -> dict[str, Any]:
    """`make demo` in a fresh clone, installation included, and what it takes once installed."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        timed("git", "clone", "--quiet", str(ROOT), str(clone))
        done = timed("make", "demo", folder=clone)
        report = clone / "runs" / "demo" / "report.html"
        installed = str(clone / ".venv" / "bin" / "loss-attention")
        warm = [
            timed(installed, "demo", "--out", f"runs/warm-{turn}", folder=clone).seconds
            for turn in range(WARM_TURNS)
        ]
        pointing = ("--methods", "margin", "--metrics", "grid-pointing", "--images", str(MOSAICS))
        timed(installed, "compare", "runs/demo", *pointing, folder=clone)
        comparison = json.loads((report.parent / "compare" / "comparison.json").read_text())
        return {
            "command": "make demo, in a fresh clone without .venv",
            "seconds": done.seconds,
            "warm_command": "loss-attention demo, installed",
            "warm_seconds": spread(warm),
            "compare_command": " ".join(("loss-attention", "compare", "runs/demo", *pointing)),
            "grid_pointing": {
                metric["label"]: comparison["methods"]["margin"]["scores"][name]["value"]
                for name, metric in comparison["metrics"].items()
                if name.startswith("grid_pointing")
            },
            "peak_memory_mib": done.peak_memory_mib,
            "report_mib": report.stat().st_size / 2**20,
            "runs": [
                {"head": head, "seed": 0} | _run_numbers(run)
                for head, run in (
                    ("loss-attention", report.parent),
                    ("mean", report.parent / "mean-pooling"),
                )
            ],
            "output": done.output.splitlines()[-60:],
        }


SUBJECTS: dict[str, Callable[[], dict[str, Any]]] = {
    "startup": startup,
    "explaining": explaining,
    "digits": digits,
    "demo": demo,
    "demo-avx2": demo_avx2,
    **{subject: partial(interpreting, subject) for subject in INTERPRETED},
}


def main() -> None:
    """Measure the subjects named on the command line, or all of them."""
    names = sys.argv[1:] or list(SUBJECTS)
    for name in names:
        if name not in SUBJECTS:
            sys.exit(f"unknown subject {name!r}; known: {', '.join(SUBJECTS)}")
    if shutil.which("git") is None and "demo" in names:
        sys.exit("the subject demo needs git")
    for name in names:
        print(f"== {name}", flush=True)
        keep(name, SUBJECTS[name](), ROOT / "results")
        if name in INTERPRETED:
            write_page(name, ROOT / "results")
        write_summary(ROOT / "results")


if __name__ == "__main__":
    main()
