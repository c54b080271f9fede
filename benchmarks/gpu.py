"""Whether the library works on this machine's GPU, and how fast it is there: nine minutes at most.

    python benchmarks/gpu.py                   # every head, some tests, images a second
    python benchmarks/gpu.py --data DATA       # and cifar10-fast on DATA, as of train --data
    python benchmarks/gpu.py --photos DATA --weights FILE    # and photos, frozen and fine-tuned
    python benchmarks/gpu.py --minutes 5       # begin nothing after so many
    python benchmarks/gpu.py --runs FOLDER     # keep what passed there, and do not do it again

Every head is trained for some steps on images that are made up, evaluated and explained by the
commands a user would type, and its outputs and gradients are held against the CPU's. Prints a line
for each check, at last the images a second as Markdown. Exit code 0: all is well; 1: something is
not; 2: there is no CUDA device. `make bench` measures the step in full. A command that is stopped
continues with the check after the last that passed, if --runs is given.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from measuring import typed

from loss_attention.terminal import markdown_table

if TYPE_CHECKING:
    from torch import Tensor

    from loss_attention.model import PatchClassifier

ROOT = Path(__file__).resolve().parent.parent
TESTS = ("tests/training/test_augmentation.py", "tests/training/test_trainer.py", "tests/heads")
"""Those that move images to a GPU, or take one where there is one."""
LONGEST_TESTS = 240
SMALL = (
    *("--image-size", "32", "--width", "0.1", "--strided-layers", "1", "6", "--patch-kernel", "3"),
    *("--patch-stride", "1", "--epochs", "2", "--batch-size", "8"),
)
TOLERANCE = 1e-3
"""Of what the GPU and the CPU compute in float32, over the largest of the CPU's."""


def main() -> None:
    """Do every check that there is time for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", help="train cifar10-fast on it, too")
    parser.add_argument("--photos", help="train photos and photos-finetune on it, too")
    parser.add_argument("--weights", help="of tf_efficientnet_lite0, for --photos; none: the hub's")
    parser.add_argument("--minutes", type=float, default=9, help="begin no check after so many")
    parser.add_argument("--runs", type=Path, help="keep what passed here; none: in no folder")
    given = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print("no CUDA device", file=sys.stderr)
        sys.exit(2)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    with tempfile.TemporaryDirectory() as folder:
        runs = given.runs or Path(folder)
        found = checks(runs, given.data)
        if given.photos is not None:
            found |= photo_checks(runs, given.photos, given.weights)
        sys.exit(not passed(found, 60 * given.minutes, runs))


def checks(folder: Path, data: str | None) -> dict[str, Callable[[], str]]:
    """Return every check by its name; it returns what is to be said, and raises what is wrong."""
    from loss_attention.heads import HEADS

    images = made_up(folder / "images")
    found: dict[str, Callable[[], str]] = {}
    for head in HEADS:
        found[f"{head}: as on the CPU"] = partial(agreement, head, "cuda")
        found[f"{head}: train, evaluate, explain"] = partial(
            commands, head, images, folder / head, "cuda"
        )
    found["images a second, training"] = speed
    found["tests"] = tests
    if data is not None:
        found["cifar10-fast"] = partial(training, "cifar10-fast", data, folder / "cifar10-fast")
    return found


def photo_checks(folder: Path, data: str, weights: str | None) -> dict[str, Callable[[], str]]:
    """Return the trainings of photos by their names: frozen, and fine-tuned from that."""
    begin = ("--weights", weights) if weights else ("--pretrained",)
    frozen = folder / "photos"
    return {
        "photos, frozen": partial(training, "photos", data, frozen, begin),
        "photos, fine-tuned": partial(
            training, "photos-finetune", data, folder / "photos-finetune", ("--from", str(frozen))
        ),
    }


def passed(
    all_checks: dict[str, Callable[[], str]], seconds: float, runs: Path | None = None
) -> bool:
    """Do checks until so many seconds are over; print what came of each, and whether all passed.

    Args:
        all_checks: by name.
        seconds: after which none begins.
        runs: where it is kept what passed, which is not done again; None: nowhere.
    """
    begun, well = time.monotonic(), True
    kept = None if runs is None else runs / "passed.json"
    before = json.loads(kept.read_text(encoding="utf-8")) if kept and kept.exists() else {}
    for name, check in all_checks.items():
        started = time.monotonic()
        if name in before:
            print(f"{name}: {before[name]} [before]", flush=True)
            continue
        if started - begun > seconds:
            print(f"{name}: left out, no time", flush=True)
            continue
        try:
            said = check()
        except Exception as error:  # whatever it is, the others are of interest
            well, said = False, f"FAILED: {type(error).__name__}: {error}"
        else:
            if kept is not None:
                before[name] = said
                kept.write_text(json.dumps(before, indent=2) + "\n", encoding="utf-8")
        print(f"{name}: {said} [{time.monotonic() - started:.1f} s]", flush=True)
    print("all is well" if well else "something is not well")
    return well


def made_up(folder: Path) -> Path:
    """Make 48 images of two classes, dark and light."""
    import numpy as np
    from PIL import Image

    chance = np.random.default_rng(0)
    for name, level in (("dark", 60), ("light", 180)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(24):
            pixels = level + chance.integers(-50, 50, (32, 32, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


def commands(head: str, images: Path, run: Path, accelerator: str) -> str:
    """Train a head on images, evaluate it once more and explain one of them."""
    from loss_attention.heads import HEADS

    device = ("--accelerator", accelerator)
    image, explained = images / "dark" / "0.png", run.with_name(f"{run.name}-explained")
    train = ("train", "folder", "--data", str(images), "--head", head, *SMALL, "--out", str(run))
    train += ("--overwrite",)
    if HEADS[head].objective == "margin":  # which has no weights of classes
        train += ("--balance", "none")
    lines = [train, ("evaluate", str(run))]
    if head != "baseline":  # it has no patches that a heat map could be of
        lines.append(("explain", str(run), str(image), "--out", str(explained), "--overwrite"))
    for words in lines:
        code, said = typed(*words, *device)
        if code:
            raise RuntimeError(f"{words[0]} ended with {code}: {said}")
    return "done"


def agreement(head: str, device: str) -> str:
    """Hold logits, heat maps and gradients of a head on a device against those on the CPU."""
    import torch

    import loss_attention as la

    torch.manual_seed(0)
    here = la.create_model(
        "resnet18", head=head, num_classes=5, width=0.1, image_size=(32, 32)
    ).eval()
    there = copy.deepcopy(here).to(device)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    tf32, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    try:
        pairs = list(zip(outcomes(here, images), outcomes(there, images.to(device)), strict=True))
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
    worst = max(
        float((theirs.cpu() - mine).abs().max() / mine.abs().max()) for mine, theirs in pairs
    )
    if not worst <= TOLERANCE:  # NaN is not an agreement
        raise RuntimeError(f"differs by {worst:.1e} of the largest value")
    return f"differs by {worst:.1e} of the largest value"


def outcomes(model: PatchClassifier, images: Tensor) -> list[Tensor]:
    """Return a model's logits, the gradients of its parameters and, if it has them, heat maps."""
    import torch

    found = model(images)
    loss = torch.nn.functional.cross_entropy(found.logits, torch.arange(4, device=images.device))
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    together = torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])
    kinds = [found.logits.detach(), together]
    return kinds if not hasattr(found, "grid") else [*kinds, model.explain(images).heat_maps]


def speed() -> str:
    """Return images a second of training the paper's networks, on the GPU and on the CPU."""
    import torch
    from workloads import Ours, Setting

    from loss_attention.attribution.measures import take_turns

    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    on_gpu = Setting(accelerator="cuda", precision="bf16", batch=128)
    rows = []
    for head in ("loss-attention", "capsule-loss-attention"):
        fast = median(take_turns([Ours(replace(on_gpu, head=head)).step], 20, gpu, warm_up=5)[0])
        small = Setting(head=head, batch=16)
        slow = median(take_turns([Ours(small).step], 1, cpu, warm_up=1)[0])
        rates = on_gpu.batch / fast, small.batch / slow
        ratio = rates[0] / rates[1]
        rows.append((head, f"{rates[0]:,.0f}", f"{rates[1]:,.1f}", f"{ratio:,.0f}"))
    table = markdown_table(["training", "GPU, images/s", "CPU, images/s", "times"], rows)
    return f"\n{table}\n"


def tests() -> str:
    """Run the tests that make sense with a GPU."""
    words = [sys.executable, "-m", "pytest", "-q", "--tb=line", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, timeout=LONGEST_TESTS, check=False
    )
    if done.returncode:
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout[-3000:]}")
    return done.stdout.strip().splitlines()[-1]


def training(
    recipe: str, data: str, run: Path, options: Sequence[str] = (), accelerator: str = "cuda"
) -> str:
    """Train a recipe on data, or continue that; return what it reached."""
    if (run / "recipe.yaml").exists():
        words = ["resume", str(run)]
    else:
        words = ["train", recipe, "--data", data, *options, "--accelerator", accelerator]
        words += ["--out", str(run), "--overwrite"]
    code, said = typed(*words)
    if code:
        raise RuntimeError(f"{words[0]} ended with {code}: {said}")
    metrics = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["metrics"]
    seconds = json.loads((run / "run.json").read_text(encoding="utf-8"))["train_seconds"]
    wanted = ("accuracy", "balanced_accuracy", "pxap")
    reached = [f"{one['name']} {one['value']:.4f}" for one in metrics if one["name"] in wanted]
    return f"{', '.join(reached)} after {seconds:.0f} s of training"


if __name__ == "__main__":
    main()
