"""What explanations of the same networks are worth: loss-attention and mean pooling, all methods.

    python benchmarks/run.py interpreting            # 40 minutes on two cores, by estimate
    python benchmarks/interpreting.py --part 0.01    # the same, tiny, to try the command

Trains both heads on `digits` and `multi-digits`, and compares every method of explanation on each
network. Runs lie in runs/interpreting, and what is measured there is not measured again: an
interrupted command continues, and whoever wants all of it anew deletes that folder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measuring import command, timed

if TYPE_CHECKING:
    from loss_attention.training.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent
HEADS = ("loss-attention", "mean")
SEEDS = {"digits": (0, 1, 2), "multi-digits": (0,)}
IMAGES = 100
"""Explained of each network."""
MADE_IMAGES = 8000
TOOK_FILE = "took.json"


@dataclass(frozen=True)
class Arguments:
    """Measure explanations of loss-attention and mean pooling on scenes of digits."""

    part: float = 1.0
    """Of the images, epochs, explained images and seeds; below 1 no figure counts."""
    out: Path | None = None
    """Where runs and, of a part, the page go; None: runs/interpreting or runs/interpreting-PART."""


def interpreting(part: float = 1.0, folder: Path | None = None) -> dict[str, Any]:
    """Measure what has not been measured yet, and return all of it.

    Args:
        part: of the whole, in (0, 1].
        folder: where the runs are.
    """
    folder = folder or ROOT / "runs" / "interpreting"
    runs = [
        _measured(name, head, seed, part, folder / f"{name}-{head}-{seed}")
        for name, seeds in SEEDS.items()
        for seed in (seeds if part == 1 else seeds[:1])
        for head in HEADS
    ]
    return {
        "command": "python benchmarks/run.py interpreting",
        "part": part,
        "explained_images": _explained(part),
        "runs": runs,
    }


def _measured(name: str, head: str, seed: int, part: float, out: Path) -> dict[str, Any]:
    """Train and compare what is missing of a run, and return its figures."""
    wanted = _recipe(name, head, seed, part)
    words = ["train", name, "--head", head, "--seed", str(seed)]
    if part < 1:
        words += ["--limit-images", str(wanted.limit_images), "--epochs", str(wanted.epochs)]
    took = _took(out)
    if not (out / "evaluation.json").exists():
        begun = (out / "run.json").exists()
        _check(out, wanted, begun)
        anew = [*words, "--out", str(out), *(["--overwrite"] if out.exists() else [])]
        done = timed(command(), *(["resume", str(out)] if begun else anew))
        # A continued run took longer than what is left of it.
        took["train_command_seconds"] = None if begun else done.seconds
        _keep(out, took)
        print(f"trained: {out.name}", flush=True)
    _check(out, wanted, begun=True)
    compare = ["--images", str(_explained(part))]
    if not (out / "compare" / "comparison.json").exists():
        done = timed(command(), "compare", str(out), *compare, "--overwrite")
        took["compare_command_seconds"] = done.seconds
        _keep(out, took)
        print(f"compared: {out.name}", flush=True)
    facts, evaluation = _read(out / "run.json"), _read(out / "evaluation.json")
    return {
        "recipe": name,
        "head": head,
        "seed": seed,
        "commands": [
            " ".join(("loss-attention", *words, "--out", "RUN")),
            " ".join(("loss-attention", "compare", "RUN", *compare)),
        ],
        "source": facts["source"],
        "parameters": facts["parameters"],
        "training_seconds": facts["train_seconds"],
        **took,
        "test_images": evaluation["images"],
        "thresholds": evaluation.get("thresholds", {}),
        "measures": evaluation["measures"],
        "comparison": _read(out / "compare" / "comparison.json"),
    }


def _recipe(name: str, head: str, seed: int, part: float) -> Recipe:
    from loss_attention.recipes import recipe

    whole = replace(recipe(name), head=head, seed=seed)
    if part == 1:
        return whole
    limit = max(40, round(part * MADE_IMAGES))
    return replace(whole, limit_images=limit, epochs=max(1, round(part * whole.epochs)))


def _explained(part: float) -> int:
    return max(2, round(part * IMAGES))


def _check(out: Path, wanted: Recipe, begun: bool) -> None:
    """Raise where a run of other settings is in the folder."""
    from loss_attention.errors import InputError
    from loss_attention.training.recipe import Recipe

    if begun and Recipe.from_yaml(out / "recipe.yaml") != wanted:
        raise InputError(f"{out} holds a run with other settings; delete it to measure anew")


def _took(out: Path) -> dict[str, float | None]:
    return _read(out / TOOK_FILE) if (out / TOOK_FILE).exists() else {}


def _keep(out: Path, took: dict[str, float | None]) -> None:
    (out / TOOK_FILE).write_text(json.dumps(took, indent=2) + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def main() -> None:
    """Run the command; a part of it writes its page beside its runs."""
    import sys

    import tyro
    from interpreting_page import write_page
    from measuring import keep

    from loss_attention.errors import InputError

    arguments = tyro.cli(Arguments)
    try:
        if not 0 < arguments.part <= 1:
            raise InputError(f"--part must be above 0 and at most 1, got {arguments.part:g}")
        whole = arguments.part == 1
        name = "interpreting" if whole else f"interpreting-{arguments.part:g}"
        folder = arguments.out or ROOT / "runs" / name
        figures = interpreting(arguments.part, folder)
        results = ROOT / "results" if whole else folder
        keep("interpreting", figures, results)
        print(write_page(results))
    except InputError as error:
        print(f"interpreting: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
