"""All figures of a machine: its networks, its matrix products, the start of the command."""

from __future__ import annotations

import json
import logging
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from arithmetic import MatrixProduct, fastest_products
from bench_network import Turns, measure_network
from spreads import Spread, spread
from startup import startup_seconds
from targets import DEMO_QUALITY, NAMES
from workloads import Setting

from loss_attention.training.environment import (
    choose_accelerator,
    choose_precision,
    hardware,
    versions,
)

RESULTS = Path(__file__).resolve().parent.parent / "results"
CPU_TURNS = Turns(
    steps=4,
    evaluations=3,
    parts=5,
    explanations=5,
    processes=2,
    startup=9,
    products=5,
    sizes=(1024, 2048, 4096),
)
FLOAT32_TURNS = replace(CPU_TURNS, steps=3, evaluations=2, parts=2, explanations=3, processes=1)
FLOAT32_BATCH = 16
"""Half of the targets' own: a CPU without units for bf16 takes several times as long for a step,
and all of it is to take no more than a quarter of an hour there, too."""
GPU_TURNS = Turns(
    steps=30,
    evaluations=10,
    parts=30,
    explanations=30,
    processes=3,
    startup=9,
    products=10,
    sizes=(4096, 8192, 16384),
    warm_up=5,
)
QUICK_TURNS = Turns(
    steps=2,
    evaluations=2,
    parts=2,
    explanations=2,
    processes=1,
    startup=1,
    products=2,
    sizes=(64, 128),
)
SAME_MACHINE = ("device", "cpu", "cores", "precision")
"""What two machines must share for their times to be compared."""
UNITS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16"}
"""Of a CPU that multiply bf16, by torch's name for them."""


def measured(
    networks: Sequence[str], wanted: str, quick: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """Measure everything.

    Args:
        networks: by the name of their head.
        wanted: the accelerator, or "auto".
        quick: tiny networks and few turns.

    Returns:
        The figures, and the profiles by the name of their file.

    Raises:
        InputError: a GPU is asked for where there is none.
    """
    for talkative in ("lightning_fabric", "lightning.fabric"):
        logging.getLogger(talkative).setLevel(logging.ERROR)
    accelerator = choose_accelerator(wanted, 1)
    setting, turns = _what(accelerator, quick)
    figures = _about(setting, turns, quick)
    with _stage("matrix products"):
        products = fastest_products(turns.sizes, turns.products, setting, turns.warm_up)
    rates: dict[str, list[float]] = {dtype: [] for dtype in products}
    figures["networks"], profiles = {}, {}
    for head in networks:
        print(f"{NAMES[head]}:", flush=True)
        found, done, profile = measure_network(replace(setting, head=head), turns, products, _stage)
        found["profile"] = f"{figures['machine']}-profile-{NAMES[head].split()[0]}.txt"
        profiles[found["profile"]] = profile
        figures["networks"][head] = found
        for dtype, one in done.items():
            rates[dtype] += one
    figures["ceiling"] = _ceiling(products, rates)
    print("the command:", flush=True)
    with _stage(f"its start, and imports, {turns.startup} turns"):
        figures["startup"] = _startup(turns, quick)
    figures["digits"] = digits_training(RESULTS / "digits.json", figures["hardware"])
    return figures, profiles


def _what(accelerator: str, quick: bool) -> tuple[Setting, Turns]:
    """Return what is trained on this kind of machine, and how often."""
    precision = choose_precision("auto", accelerator)
    setting = Setting(accelerator=accelerator, precision=precision)
    if quick:
        return replace(setting, width=0.06, side=16, batch=4, evaluated=8), QUICK_TURNS
    if accelerator == "cuda":
        return replace(setting, evaluated=1024), GPU_TURNS
    if precision == "32":
        return replace(setting, batch=FLOAT32_BATCH, evaluated=2 * FLOAT32_BATCH), FLOAT32_TURNS
    return setting, CPU_TURNS


def _about(setting: Setting, turns: Turns, quick: bool) -> dict[str, Any]:
    """Return what the figures stand on."""
    machine = hardware(setting.accelerator, 1, setting.precision)
    slug = machine_slug(machine)
    units = torch.cpu.get_capabilities() if setting.accelerator == "cpu" else {}
    return {
        "machine": slug,
        "notes_file": f"{slug}-notes.md",
        "command": "make bench" if not quick else "python benchmarks/bench.py --quick",
        "measured": datetime.now(UTC).date().isoformat(),
        "quick": quick,
        "accelerator": setting.accelerator,
        "hardware": machine,
        "bf16_units": [name for unit, name in UNITS.items() if units.get(unit)],
        "versions": versions(),
        "setting": asdict(setting),
        "turns": asdict(turns),
    }


def machine_slug(machine: dict[str, Any]) -> str:
    """Return what files of a machine are called: its GPU, or its processor and cores.

    Processors of one name need not be alike, in virtual machines above all: one that computes in
    float32, as it has no units for bf16, is called so.

    Example:
        >>> machine_slug({"device": "CPU", "cpu": "AMD EPYC", "cores": 2, "precision": "32"})
        'amd-epyc-2-cores-float32'
    """
    name = machine["device"]
    if name == "CPU":
        name = f"{machine['cpu']} {machine['cores']} cores"
        name += " float32" if machine["precision"] == "32" else ""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _ceiling(
    products: dict[str, MatrixProduct], rates: dict[str, list[float]]
) -> dict[str, dict[str, Any]]:
    return {
        dtype: {"size": product.size, "rate": spread(rates[dtype])}
        for dtype, product in products.items()
    }


def _startup(turns: Turns, quick: bool) -> dict[str, Spread]:
    seconds = startup_seconds(turns.startup, warm_up=0 if quick else turns.warm_up)
    over_torch = {
        "import_over_torch_seconds": "import_after_torch_seconds",
        "models_over_torch_seconds": "import_with_models_seconds",
    }
    for name, with_package in over_torch.items():
        pairs = zip(seconds[with_package], seconds["import_torch_seconds"], strict=True)
        seconds[name] = [more - torch_alone for more, torch_alone in pairs]
    return {name: spread(values) for name, values in seconds.items()}


def digits_training(path: Path, machine: dict[str, Any]) -> dict[str, Any] | None:
    """Return what training the digits demo took and reached; None if that was measured elsewhere.

    `python benchmarks/run.py digits` measures it, several seeds, with everything else of it.
    """
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    if any(found["hardware"][name] != machine[name] for name in SAME_MACHINE):
        return None
    runs = [run for run in found["runs"] if run["head"] == "loss-attention"]
    quality = {
        name: statistics.mean(
            measure["value"]
            for run in runs
            for measure in run["measures"]
            if measure["name"] == name
        )
        for name in DEMO_QUALITY
    }
    seconds = spread([run["training_seconds"] for run in runs])
    return {"measured": found["measured"], "training_seconds": seconds, "quality": quality}


@contextmanager
def _stage(what: str) -> Iterator[None]:
    """Say what is being measured, and then how long that took."""
    begun = time.perf_counter()
    print(f"  {what} ...", end="", flush=True)
    try:
        yield
    finally:
        print(f" {time.perf_counter() - begun:.0f} s", flush=True)
