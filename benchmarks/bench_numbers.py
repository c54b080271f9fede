"""All numbers of a machine: each network beside the yardstick, matrix products, the command."""

from __future__ import annotations

import io
import logging
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from bench_page import DEMO_QUALITY, NAMES
from explaining import EXPLAIN, beside_forward
from isolated import isolated
from measuring import Spread, ratio, read_numbers, spread, startup_seconds
from PIL import Image
from workloads import (
    WORKLOADS,
    MatrixProduct,
    Ours,
    Setting,
    Yardstick,
    checkpointed,
    fastest_products,
    host_waits,
    operations_of_step,
    parts_of_step,
    profile_of_step,
)

from loss_attention.attribution.measures import take_turns
from loss_attention.data.decoding import read_image, to_tensor
from loss_attention.training.devices import choose_accelerator
from loss_attention.training.environment import choose_precision, hardware, versions


@dataclass(frozen=True)
class Turns:
    """How often each thing is measured, and how large the matrix products are.

    Attributes:
        steps: a training step, ours and the yardstick's.
        evaluations: a pass over the evaluated images, likewise.
        parts: the parts of our step.
        explanations: an explanation, and the forward pass beside it.
        processes: pairs of processes.
        startup: processes that start and end.
        products: matrix products, before the fastest size of each format is chosen.
        sizes: of the matrices.
        warm_up: turns before each of these that do not count, but for processes.
    """

    steps: int
    evaluations: int
    parts: int
    explanations: int
    processes: int
    startup: int
    products: int
    sizes: tuple[int, ...]
    warm_up: int = 1


KINDS = tuple(WORKLOADS)
COMPARED = ("ours", "yardstick")
JPEG_QUALITY = 75
Stage = Callable[[str], AbstractContextManager[None]]
"""Says what is being measured, as long as the context lasts."""
RESULTS = Path(__file__).resolve().parent.parent / "results"
CPU_TURNS = Turns(4, 3, 5, 5, processes=2, startup=9, products=5, sizes=(1024, 2048, 4096))
FLOAT32_TURNS = replace(CPU_TURNS, steps=3, evaluations=2, parts=2, explanations=3, processes=1)
FLOAT32_BATCH = 16
"""Half of the targets' own: a CPU without units for bf16 takes several times as long for a step,
and all of it is to take no more than a quarter of an hour there, too."""
GPU_TURNS = Turns(
    30, 10, 30, 30, processes=1, startup=3, products=10, sizes=(4096, 8192, 16384), warm_up=5
)
"""Few processes, as each takes many seconds to start and a GPU is often rented by the minute."""
QUICK_TURNS = Turns(2, 2, 2, 2, processes=1, startup=1, products=2, sizes=(64, 128))
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
        The numbers, and the profiles by the name of their file.

    Raises:
        InputError: a GPU is asked for where there is none.
    """
    for talkative in ("lightning_fabric", "lightning.fabric"):
        logging.getLogger(talkative).setLevel(logging.ERROR)
    accelerator = choose_accelerator(wanted, 1)
    setting, turns = _what(accelerator, quick)
    numbers = _about(setting, turns, networks, quick)
    with _stage("matrix products"):
        products = fastest_products(turns.sizes, turns.products, setting, turns.warm_up)
    rates: dict[str, list[float]] = {dtype: [] for dtype in products}
    numbers["networks"], profiles = {}, {}
    for head in networks:
        print(f"{NAMES[head]}:", flush=True)
        found, done, profile = measure_network(replace(setting, head=head), turns, products, _stage)
        found["profile"] = f"{numbers['machine']}-profile-{NAMES[head].split()[0]}.txt"
        profiles[found["profile"]] = profile
        numbers["networks"][head] = found
        for dtype, one in done.items():
            rates[dtype] += one
    numbers["ceiling"] = _ceiling(products, rates)
    print("the command:", flush=True)
    with _stage(f"its start, and imports, {turns.startup} turns"):
        numbers["startup"] = _startup(turns, quick)
    numbers["digits"] = digits_training(RESULTS / "digits.json", numbers["hardware"])
    return numbers, profiles


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


def _about(setting: Setting, turns: Turns, networks: Sequence[str], quick: bool) -> dict[str, Any]:
    """Return what the numbers stand on."""
    machine = hardware(setting.accelerator, 1, setting.precision)
    slug = machine_slug(machine)
    units = torch.cpu.get_capabilities() if setting.accelerator == "cpu" else {}
    fewer = "" if set(networks) == set(NAMES) else f" --networks {' '.join(networks)}"
    return {
        "machine": slug,
        "notes_file": f"{slug}-notes.md",
        "command": f"python benchmarks/bench.py{' --quick' if quick else ''}{fewer}"
        if quick or fewer
        else "make bench",
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
    found = read_numbers(path)
    if any(found["hardware"][name] != machine[name] for name in SAME_MACHINE):
        return None
    runs = [run for run in found["runs"] if run["head"] == "loss-attention"]
    quality = {
        name: statistics.mean(
            metric["value"] for run in runs for metric in run["metrics"] if metric["name"] == name
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


def measure_alone(setting: Setting, turns: Turns) -> dict[str, Any]:
    """Return time to the first step and peak memory, in pairs of processes."""
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for _ in range(turns.processes):
        for kind in KINDS:
            found[kind].append(isolated(kind, setting))
    names = ("first_step_seconds", "peak_bytes")
    values = {kind: {name: [one[name] for one in found[kind]] for name in names} for kind in KINDS}
    theirs = values["yardstick"]
    return {
        kind: {name: spread(values[kind][name]) for name in names}
        | {
            "first_step_share": ratio(
                values[kind]["first_step_seconds"], theirs["first_step_seconds"]
            ),
            "memory_share": ratio(values[kind]["peak_bytes"], theirs["peak_bytes"]),
        }
        for kind in KINDS
    }


def measure_network(
    setting: Setting, turns: Turns, products: dict[str, MatrixProduct], stage: Stage
) -> tuple[dict[str, Any], dict[str, list[float]], str]:
    """Return the numbers of a network, the rates of the matrix products, and a step's profile."""
    found: dict[str, Any] = {}
    with stage("operations of a step, counted"):
        operations = {kind: operations_of_step(setting, kind) for kind in COMPARED}
    with stage("a process for each: time to the first step, peak memory"):
        found["isolated"] = measure_alone(setting, turns)
    ours, yardstick = Ours(setting), Yardstick(setting)
    with stage(f"training steps, {turns.steps} turns"):
        found["step"], rates = _steps(ours, yardstick, turns, products, operations)
    with stage(f"evaluation, {turns.evaluations} turns"):
        found["evaluation"] = _evaluation(ours, yardstick, turns)
    del yardstick
    with stage(f"parts of our step, {turns.parts} turns"):
        found["parts"] = _parts(ours, turns)
        found["host_waits"] = host_waits(ours)
    with stage("profile of our step"):
        profile = profile_of_step(ours)
    del ours
    with stage(f"explanations, {turns.explanations} turns"):
        found["explanation"] = _explanation(setting, turns)
    return found, rates, profile


def _steps(
    ours: Ours,
    yardstick: Yardstick,
    turns: Turns,
    products: dict[str, MatrixProduct],
    operations: dict[str, float],
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Time training steps in turn with each other and with the matrix products."""
    lean = checkpointed(ours.setting)
    steps = [ours.step, lean.step, yardstick.step]
    jobs = [*steps, *(product.job for product in products.values())]
    device = ours.setting.device
    mine, leaner, theirs, *taken = take_turns(jobs, turns.steps, device, turns.warm_up)
    rates = {
        name: [product.operations / seconds for seconds in one]
        for (name, product), one in zip(products.items(), taken, strict=True)
    }
    done = [operations["ours"] / seconds for seconds in mine]
    numbers = _beside(mine, theirs) | {
        "images": ours.setting.batch,
        "checkpointed_seconds": spread(leaner),
        "checkpointed_over_ours": ratio(leaner, mine),
        "checkpointed_ratio": ratio(theirs, leaner),
        "operations": operations,
        "share_of_ceiling": {dtype: ratio(done, ceiling) for dtype, ceiling in rates.items()},
    }
    return numbers, rates


def _evaluation(ours: Ours, yardstick: Yardstick, turns: Turns) -> dict[str, Any]:
    device = ours.setting.device
    jobs = [ours.evaluate, yardstick.evaluate]
    mine, theirs = take_turns(jobs, turns.evaluations, device, turns.warm_up)
    return _beside(mine, theirs) | {"images": ours.setting.evaluated}


def _beside(mine: list[float], theirs: list[float]) -> dict[str, Any]:
    return {
        "ours_seconds": spread(mine),
        "yardstick_seconds": spread(theirs),
        "ratio": ratio(theirs, mine),
    }


def _parts(ours: Ours, turns: Turns) -> dict[str, Any]:
    """Return the parts of a step, and what decoding its images would add to it."""
    decode = _decode_job(ours.setting)
    taken, decoding = [], []
    for _ in range(turns.warm_up + turns.parts):
        taken.append(parts_of_step(ours))
        decoding += take_turns([decode], 1, ours.setting.device, warm_up=0)[0]
    seconds = {name: [one[name] for one in taken[turns.warm_up :]] for name in taken[0]}
    decoding, step = decoding[turns.warm_up :], seconds.pop("step")
    epochs = ours.setting.recipe().epochs
    data = [a + b / epochs for a, b in zip(seconds["data"], decoding, strict=True)]
    return {
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "shares": {name: ratio(values, step) for name, values in seconds.items()},
        "data_share": ratio(data, step),
        "decode": {
            "epochs": epochs,
            "seconds": spread(decoding),
            "share": ratio(decoding, step),
        },
    }


def _decode_job(setting: Setting) -> Callable[[], object]:
    """Return what decodes a batch of JPEG files, one after the other in one thread."""
    # Smooth, as photographs are: noise would take longer.
    small = torch.rand(setting.batch, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(small, size=setting.side, mode="bilinear")
    files = []
    for pixels in (255 * smooth).byte().permute(0, 2, 3, 1).contiguous().numpy():
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "jpeg", quality=JPEG_QUALITY)
        files.append(file.getvalue())
    return lambda: torch.stack([to_tensor(read_image(file, in_channels=3)) for file in files])


def _explanation(setting: Setting, turns: Turns) -> dict[str, Any]:
    """Time `model.explain` and Grad-CAM of a batch, in turn with a plain forward pass."""
    model = setting.model().to(setting.device).eval()
    images = setting.splits().train.decoded().images[: setting.batch].to(setting.device)
    names = (EXPLAIN, "grad-cam")
    measured = beside_forward(model, images, names, turns.explanations, turns.warm_up)
    own, peer = measured[EXPLAIN], measured["grad-cam"]
    assert own is not None
    return {
        "forward_seconds": spread(own[0]),
        "seconds": spread(own[1]),
        "ratio": ratio(own[1], own[0]),
        "grad_cam_seconds": None if peer is None else spread(peer[1]),
        "grad_cam_ratio": None if peer is None else ratio(peer[1], peer[0]),
    }
