"""What explanations of the same networks are worth: loss-attention and mean pooling, all methods.

    python benchmarks/run.py interpreting            # digits and multi-digits
    python benchmarks/run.py tiny-imagenet           # 20 classes of it
    python benchmarks/run.py coco                    # a few images of it
    python benchmarks/run.py cifar10-small
    python benchmarks/interpreting.py tiny-imagenet --part 0.01    # the same, tiny, to try it

Trains the networks of a subject's studies, and compares every method of explanation on each of
them. Runs lie in runs/SUBJECT, and what is measured there is not measured again: an interrupted
command continues, and whoever wants all of it anew deletes that folder. With --add the runs that
results/SUBJECT.json has with the same settings are taken from there, so that days of training can
be done on several machines, one seed after the other. CIFAR-10, Tiny ImageNet and COCO are taken
from what LOSS_ATTENTION_CIFAR10, LOSS_ATTENTION_TINY_IMAGENET and LOSS_ATTENTION_COCO hold, in the
form of --data. LOSS_ATTENTION_SEEDS: at most so many of each.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from measuring import COSTS, command, stand, timed

if TYPE_CHECKING:
    from loss_attention.training.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent
TRAINING_IMAGES = 8000
"""Of the studies' sets, about; a part is a part of these."""
TOOK_FILE = "took.json"
SLOW = "compare-slow"
"""The folder of a run in which the slow methods are compared."""
SEEDS = int(os.environ.get("LOSS_ATTENTION_SEEDS", "3"))
CIFAR10 = os.environ.get("LOSS_ATTENTION_CIFAR10", "cifar10")
TINY_IMAGENET = os.environ.get("LOSS_ATTENTION_TINY_IMAGENET", "tiny-imagenet")
JPEG = "The images are JPEG re-encodings of CIFAR-10's."
COCO = os.environ.get("LOSS_ATTENTION_COCO", "coco2017")


@dataclass(frozen=True)
class Study:
    """The networks of one recipe.

    Attributes:
        recipe: its name.
        seeds: one network of each head for each.
        heads: the heads.
        changes: fields of the recipe that are set otherwise, as flags.
        methods: of explanation, with commas between; None: all that a network allows.
        images: explained of each network.
        slow_methods: compared on few images of the first seed's networks, as they take some
            hundred forward passes for each.
        slow_images: so few.
        remark: what the reader of the numbers has to know.
    """

    recipe: str
    seeds: tuple[int, ...]
    heads: tuple[str, ...] = ("loss-attention", "mean")
    changes: Mapping[str, object] = field(default_factory=dict)
    methods: str | None = None
    images: int = 100
    slow_methods: str = ""
    slow_images: int = 0
    remark: str = ""

    def flags(self) -> list[str]:
        """Return the changes as words of the command line."""
        words = []
        for name, value in self.changes.items():
            parts = value if isinstance(value, tuple) else (value,)
            words += [f"--{name.replace('_', '-')}", *map(str, parts)]
        return words


SUBJECTS: dict[str, tuple[Study, ...]] = {
    "interpreting": (
        Study("digits", (0, 1, 2)),
        Study(
            "multi-digits",
            (0,),
            methods="evidence,cam,grad-cam,layer-cam",
            slow_methods="evidence,grad-cam,integrated-gradients,occlusion",
            slow_images=18,
        ),
    ),
    "tiny-imagenet": (
        Study(
            "tiny-imagenet-small",
            (0, 1, 2),
            changes={"data": TINY_IMAGENET},
            methods="evidence,contrast,margin,cam,grad-cam,grad-cam-competition,layer-cam",
            slow_methods="margin,contrast,grad-cam,integrated-gradients,occlusion",
            slow_images=18,
            remark="The seed draws the 20 classes too. The recipe was chosen by its scores on the "
            "held-out tenth of the training images of seed 0: "
            "[what was tried](tiny-imagenet-settings.md).",
        ),
    ),
    "coco": (
        Study(
            "folder",
            (0,),
            heads=("loss-attention",),
            # The recipe as it was when results/coco.md was measured.
            changes={
                "name": "coco",
                "data": COCO,
                "crop_padding": 4,
                "backbone": "resnet18",
                "strided_layers": (1, 6),
                "patch_kernel": 4,
                "patch_stride": 2,
                "epochs": 20,
                "steps": None,
                "learning_rate": 0.05,
                "optimizer": "sgd",
                "balance": "none",
            },
            methods="evidence,cam,grad-cam",
            images=10,
            remark="So few images show that multi-label training and the measures of several boxes "
            "run on real annotations, and nothing else: no claim is made.",
        ),
    ),
    "cifar10-small": (
        Study(
            "cifar10-small",
            (0, 1, 2),
            changes={"data": CIFAR10},
            methods="evidence,contrast,margin,cam,grad-cam,grad-cam-competition",
            images=200,
            remark=JPEG if CIFAR10 != "cifar10" else "",
        ),
    ),
}


@dataclass(frozen=True)
class Arguments:
    """Measure what explanations are worth on trained networks."""

    subject: Annotated[str, tyro.conf.Positional] = "interpreting"
    """One of interpreting, tiny-imagenet, coco, cifar10-small."""
    part: float = 1.0
    """Of the images, epochs, explained images and seeds; below 1 no number counts."""
    out: Path | None = None
    """Where runs and, of a part, the page go; None: runs/SUBJECT or runs/SUBJECT-PART."""
    not_alone: bool = False
    """Other work runs beside it: keep no seconds."""
    add: bool = False
    """Do not measure again what the results have."""


def interpreting(
    subject: str = "interpreting",
    part: float = 1.0,
    folder: Path | None = None,
    alone: bool = True,
    known: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Measure what has not been measured yet, and return all of it.

    Args:
        subject: a key of `SUBJECTS`.
        part: of the whole, in (0, 1].
        folder: where the runs are.
        alone: keep the seconds of what is measured now.
        known: runs of earlier results; what has the same settings there is not measured again.
    """
    folder = folder or ROOT / "runs" / subject
    studies = SUBJECTS[subject]
    runs = [
        _of_settings(known, _settings(_recipe(study, head, seed, part), study))
        or _measured(study, head, seed, part, folder, alone)
        for study in studies
        for seed in study.seeds[: SEEDS if part == 1 else 1]
        for head in study.heads
    ]
    return {
        "command": f"python benchmarks/run.py {subject}",
        "part": part,
        "remarks": {_named(study): study.remark for study in studies if study.remark},
        "runs": runs,
    }


def _named(study: Study) -> str:
    return str(study.changes.get("name", study.recipe))


def _settings(recipe: Recipe, study: Study) -> dict[str, Any]:
    """Return all that decides a run, as JSON has it."""
    slow = [study.slow_methods, study.slow_images] if _has_slow(study, recipe.seed) else ["", 0]
    compared = [study.methods, study.images, *slow]
    settings: dict[str, Any] = json.loads(json.dumps(asdict(recipe) | {"compared": compared}))
    return settings


def _has_slow(study: Study, seed: int) -> bool:
    return bool(study.slow_methods) and seed == study.seeds[0]


def _of_settings(
    known: Sequence[dict[str, Any]], settings: Mapping[str, Any]
) -> dict[str, Any] | None:
    return next((run for run in known if run.get("settings") == settings), None)


def _measured(
    study: Study, head: str, seed: int, part: float, folder: Path, alone: bool
) -> dict[str, Any]:
    """Train and compare what is missing of a run, and return its scores."""
    wanted = _recipe(study, head, seed, part)
    out = folder / f"{wanted.name}-{head}-{seed}"
    words = ["train", study.recipe, "--head", head, "--seed", str(seed), *study.flags()]
    if part < 1:
        # The last of a flag counts.
        words += ["--limit-images", str(wanted.limit_images), "--epochs", str(wanted.epochs)]
    took = _took(out)
    if not (out / "evaluation.json").exists():
        begun = (out / "run.json").exists()
        _check(out, wanted, begun)
        anew = [*words, "--out", str(out), *(["--overwrite"] if out.exists() else [])]
        done = timed(command(), *(["resume", str(out)] if begun else anew))
        # A continued run took longer than what is left of it.
        took["train_command_seconds"] = done.seconds if alone and not begun else None
        took["alone"] = alone and took.get("alone", True)
        took["peak_memory_mib"] = done.peak_memory_mib
        _keep(out, took)
        print(f"trained: {out.name}", flush=True)
    _check(out, wanted, begun=True)
    explained = _compared(out, "compare", study.methods, study.images, part, took, alone)
    import torch

    slow = None
    if _has_slow(study, seed):
        slow = _compared(out, SLOW, study.slow_methods, study.slow_images, part, took, alone)
    facts, evaluation = _read(out / "run.json"), _read(out / "evaluation.json")
    return {
        "recipe": wanted.name,
        "head": head,
        "seed": seed,
        "settings": _settings(wanted, study),
        "stand": stand() | {"vector_units": torch.backends.cpu.get_cpu_capability()},
        "commands": [
            " ".join(("loss-attention", *words, "--out", "RUN")),
            *(_shown_command(done) for done in (explained, slow) if done is not None),
        ],
        "source": facts["source"],
        "parameters": facts["parameters"],
        "training_seconds": facts["train_seconds"] if took.get("alone", True) else None,
        **{name: value for name, value in took.items() if name != "alone"},
        "test_images": evaluation["images"],
        "thresholds": evaluation.get("thresholds", {}),
        "map": evaluation.get("map", "evidence"),
        "metrics": evaluation["metrics"],
        "comparison": _comparison(out / "compare", took),
        "slow_comparison": _comparison(out / SLOW, took) if slow else None,
    }


def _comparison(folder: Path, took: Mapping[str, Any]) -> dict[str, Any]:
    """Return a comparison; without its times where other work ran beside it."""
    found = _read(folder / "comparison.json")
    if not took.get("alone", True):
        for scores in (
            found.get("metrics", {}),
            *(one["scores"] for one in found.get("methods", {}).values()),
        ):
            for name in COSTS:
                scores.pop(name, None)
    return found


def _compared(
    out: Path,
    name: str,
    methods: str | None,
    images: int,
    part: float,
    took: dict[str, Any],
    alone: bool,
) -> list[str]:
    """Compare methods on a run, into a folder of it, unless that was done; return the flags."""
    flags = ["--images", str(max(2, round(part * images)))]
    if methods is not None:
        flags += ["--methods", methods]
    if not (out / name / "comparison.json").exists():
        words = ["compare", str(out), *flags, "--out", str(out / name), "--overwrite"]
        seconds = timed(command(), *words).seconds
        took[f"{name.replace('-', '_')}_command_seconds"] = seconds if alone else None
        took["alone"] = alone and took.get("alone", True)
        _keep(out, took)
        print(f"{name}: {out.name}", flush=True)
    return flags


def _shown_command(flags: Sequence[str]) -> str:
    return " ".join(("loss-attention", "compare", "RUN", *flags))


def _recipe(study: Study, head: str, seed: int, part: float) -> Recipe:
    from loss_attention.training.recipes import recipe

    whole = replace(recipe(study.recipe), head=head, seed=seed, **study.changes)
    if part == 1:
        return whole
    limit = max(40, round(part * TRAINING_IMAGES))
    return replace(whole, limit_images=limit, epochs=max(1, round(part * whole.epochs)))


def _check(out: Path, wanted: Recipe, begun: bool) -> None:
    """Raise where a run of other settings is in the folder."""
    from loss_attention.errors import InputError
    from loss_attention.training.recipe import Recipe

    if begun and Recipe.from_yaml(out / "recipe.yaml") != wanted:
        raise InputError(f"{out} holds a run with other settings; delete it to measure anew")


def _took(out: Path) -> dict[str, Any]:
    return _read(out / TOOK_FILE) if (out / TOOK_FILE).exists() else {}


def _keep(out: Path, took: dict[str, Any]) -> None:
    (out / TOOK_FILE).write_text(json.dumps(took, indent=2) + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def main() -> None:
    """Run the command; a part of it writes its page beside its runs."""
    import sys

    from interpreting_page import write_page
    from measuring import keep, read_numbers

    from loss_attention.errors import InputError, unknown_name

    arguments = tyro.cli(Arguments)
    subject = arguments.subject
    try:
        if subject not in SUBJECTS:
            raise unknown_name("subject", subject, SUBJECTS)
        if not 0 < arguments.part <= 1:
            raise InputError(f"--part must be above 0 and at most 1, got {arguments.part:g}")
        whole = arguments.part == 1
        name = subject if whole else f"{subject}-{arguments.part:g}"
        folder = arguments.out or ROOT / "runs" / name
        results = ROOT / "results" if whole else folder
        kept = results / f"{subject}.json"
        known = read_numbers(kept)["runs"] if arguments.add and kept.exists() else ()
        numbers = interpreting(subject, arguments.part, folder, not arguments.not_alone, known)
        keep(subject, numbers, results)
        print(write_page(subject, results))
    except InputError as error:
        print(f"interpreting: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
