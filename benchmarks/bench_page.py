"""What `make bench` measured as a Markdown page, beside what the project set out to reach."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from measuring import Spread, shown

from loss_attention.terminal import markdown_table

NAMES = {"loss-attention": "conv ResNet18", "capsule-loss-attention": "capsule ResNet18"}
"""The measured networks by the name of their head."""

TARGET_BATCH = 32
STEP_RATIO = {
    "cpu": {"loss-attention": 4.0, "capsule-loss-attention": 5.0},
    "cuda": {"loss-attention": 5.0, "capsule-loss-attention": 8.0},
}
DATA_SHARE = {"cpu": 0.03, "cuda": 0.02}
HEAD_SHARE = 0.03
CEILING_SHARE = 0.5
MEMORY_RATIO = 0.5
CHECKPOINTED_RATIO, CHECKPOINTED_TIME = 0.25, 1.35
"""Of memory against the yardstick, of time against our step without checkpointing."""
EXPLANATION_RATIO = 1.05
HELP_SECONDS, IMPORT_SECONDS = 0.3, 0.2
DEMO_SECONDS = 45.0
DEMO_QUALITY = {"accuracy": 0.994, "patch_f1": 0.81}
"""What its recipe reached on three seeds before training was made faster (0.996 and 0.828), less
two standard deviations over them."""


@dataclass(frozen=True)
class Target:
    """One of them.

    Attributes:
        what: what is measured.
        target: what it should be.
        measurement: what it is.
        reached: whether it is; None where it was not measured.
    """

    what: str
    target: str
    measurement: str
    reached: bool | None


def targets(numbers: dict[str, Any]) -> list[Target]:
    """Return every target for the kind of machine that was measured."""
    accelerator = numbers["accelerator"]
    found: list[Target] = []
    for head, network in numbers["networks"].items():
        found += _of_network(head, network, accelerator)
    if accelerator == "cpu":
        found += [*_of_startup(numbers["startup"]), _of_demo(numbers["digits"])]
    return found


def _of_network(head: str, network: dict[str, Any], accelerator: str) -> Iterator[Target]:
    name, step, parts = NAMES[head], network["step"], network["parts"]
    ratio, wanted = step["ratio"], STEP_RATIO[accelerator][head]
    yield Target(
        f"training step, {name}: times faster than the yardstick",
        f"at least {wanted:g}",
        shown(ratio),
        ratio["median"] >= wanted,
    )
    if accelerator == "cuda" and head == "loss-attention":
        share = step["share_of_ceiling"]["bf16"]
        yield Target(
            f"training step, {name}: fraction of the bf16 matrix-product ceiling",
            f"at least {100 * CEILING_SHARE:g} %",
            shown(share, 1, 100, " %"),
            share["median"] >= CEILING_SHARE,
        )
    memory = f"peak memory of a training step, {name}"
    alone = network["isolated"]
    yield _at_most(
        f"{memory}: fraction of the yardstick's", alone["ours"]["memory_share"], MEMORY_RATIO
    )
    if accelerator == "cuda":
        yield _of_checkpointing(memory, alone["checkpointed"]["memory_share"], step)
    yield _at_most(
        f"data, {name}: fraction of a step", parts["data_share"], DATA_SHARE[accelerator]
    )
    if network["host_waits"] is not None:
        yield Target(
            f"host-device waits in a step, {name}",
            "none",
            str(network["host_waits"]),
            network["host_waits"] == 0,
        )
    share = parts["shares"]["head, forward and backward"]
    yield _at_most(f"head, {name}: fraction of a step", share, HEAD_SHARE)
    yield _of_explanation(name, network["explanation"])


def _of_checkpointing(memory: str, share: Spread, step: dict[str, Any]) -> Target:
    more = step["checkpointed_over_ours"]
    return Target(
        f"{memory}, activations checkpointed: fraction of the yardstick's, times the time",
        f"at most {100 * CHECKPOINTED_RATIO:g} %, {CHECKPOINTED_TIME:g}",
        f"{shown(share, 2, 100, ' %')}, {shown(more)}",
        share["median"] <= CHECKPOINTED_RATIO and more["median"] <= CHECKPOINTED_TIME,
    )


def _at_most(what: str, share: Spread, most: float) -> Target:
    measurement = shown(share, 2, 100, " %")
    return Target(what, f"at most {100 * most:g} %", measurement, share["median"] <= most)


def _of_explanation(name: str, explanation: dict[str, Any]) -> Target:
    ratio, beside = explanation["ratio"], explanation["grad_cam_ratio"]
    return Target(
        f"explanation of a batch, {name}: times the plain forward pass",
        f"at most {EXPLANATION_RATIO:g}",
        f"{shown(ratio, 3)}; Grad-CAM {shown(beside, 3)}",
        ratio["median"] <= EXPLANATION_RATIO,
    )


def _of_startup(startup: dict[str, Any]) -> list[Target]:
    answer, more = startup["help_seconds"], startup["import_over_torch_seconds"]
    with_models = startup["models_over_torch_seconds"]
    return [
        Target(
            "`loss-attention --help`, seconds",
            f"at most {HELP_SECONDS:g}",
            shown(answer),
            answer["median"] <= HELP_SECONDS,
        ),
        Target(
            "`import loss_attention` over `import torch`, seconds",
            f"at most {IMPORT_SECONDS:g}",
            f"{shown(more)}; with its models loaded {shown(with_models)}",
            more["median"] <= IMPORT_SECONDS,
        ),
    ]


def _of_demo(digits: dict[str, Any] | None) -> Target:
    what = "training of the digits demo, seconds"
    wanted = f"at most {DEMO_SECONDS:g}, to the same quality"
    if digits is None:
        hint = "not measured on this machine: `python benchmarks/run.py digits`"
        return Target(what, wanted, hint, None)
    quality = digits["quality"]
    measurement = (
        f"{shown(digits['training_seconds'], 0)}; accuracy {quality['accuracy']:.3f}, patch F1 "
        f"{quality['patch_f1']:.3f} (results/digits.json, {digits['measured']})"
    )
    as_good = all(quality[name] >= least for name, least in DEMO_QUALITY.items())
    fast = digits["training_seconds"]["median"] <= DEMO_SECONDS
    return Target(what, wanted, measurement, fast and as_good)


REACHED = {True: "yes", False: "**no**", None: "-"}
GIGA = 1e9
MIB = 2**20
CHECKPOINTED = "the same, activations checkpointed"
KINDS = {"ours": "ours", "checkpointed": CHECKPOINTED, "yardstick": "yardstick"}


def bench_page(numbers: dict[str, Any], reach: list[Target], notes: str | None) -> str:
    """Return the page.

    Args:
        numbers: what was measured.
        reach: the targets.
        notes: the reasons that someone wrote down for what was not reached; None: nobody has.
    """
    parts = [f"# Speed and memory: {numbers['machine']}", _stand(numbers)]
    if numbers["quick"]:
        parts.append("**A quick look with tiny networks, to try the command: no number counts.**")
    why = notes or f"Nobody has written that into `{numbers['notes_file']}` yet."
    parts += ["## Targets", _targets(reach), "## Where a target is not reached, why", why.strip()]
    for head, network in numbers["networks"].items():
        parts += [f"## {NAMES[head][0].upper()}{NAMES[head][1:]}", _network(network)]
        parts += [_parts(network["parts"]), _arithmetic(network["step"])]
        parts.append(f"Profile of our step: [{network['profile']}]({network['profile']}).")
    parts += ["## The machine's matrix products", _ceiling(numbers["ceiling"])]
    parts += ["## Start", _startup(numbers["startup"])]
    return "\n\n".join(parts) + "\n"


def _stand(numbers: dict[str, Any]) -> str:
    machine, setting, turns = (
        numbers["hardware"],
        numbers["setting"],
        numbers["turns"],
    )
    return (
        f"`{numbers['command']}`, {numbers['measured']}, {numbers['minutes']:.1f} minutes, on "
        f"{machine['cpu']}, {machine['cores']} cores, {machine.get('memory_gib', '?')} GiB, "
        f"{machine['device']}; {_units(numbers)}. Python {numbers['versions']['python']}, torch "
        f"{numbers['versions']['torch']}, threads: {machine['threads']}.\n\n"
        f"ResNet18 of width {setting['width']:g}, images of {setting['side']} x "
        f"{setting['side']}, batches of {setting['batch']}{_half(numbers)}. Ours: the "
        f"training loop's own step, {_precision(machine['precision'])}. The yardstick (`benchmarks/"
        "reference_structure.py`): the same network from the same weights, as the first "
        f"published implementation has it, in float32{_tf32(numbers)}.\n\n"
        f"Numbers are medians, in brackets the lowest and the highest turn. What is compared "
        f"takes turns in one process ({turns['steps']} of a step, {turns['parts']} of its parts, "
        f"{turns['explanations']} of an explanation), or is measured in processes of its own, one "
        f"after the other ({turns['processes']} of each); ratios are taken turn by turn. Turns to "
        f"warm up come before and do not count: {turns['warm_up']}, and none in a process of its "
        "own, which is to be cold."
    )


def _half(numbers: dict[str, Any]) -> str:
    """Say where the batch is not the one that the targets are for."""
    fewer = numbers["setting"]["batch"] < TARGET_BATCH and not numbers["quick"]
    reason = "as a step takes long without units for bf16"
    return f" (the targets are for {TARGET_BATCH}; {reason})" if fewer else ""


def _precision(precision: str) -> str:
    return "bf16 where autocast has it, float32 elsewhere" if precision == "bf16" else "float32"


def _tf32(numbers: dict[str, Any]) -> str:
    on_gpu = numbers["accelerator"] == "cuda"
    return ", convolutions in TF32 as is torch's default" if on_gpu else ""


def _units(numbers: dict[str, Any]) -> str:
    if numbers["accelerator"] == "cuda":
        return "CUDA"
    return f"bf16 by {', '.join(numbers['bf16_units'])}" if numbers["bf16_units"] else "no bf16"


def _targets(reach: list[Target]) -> str:
    rows = [(one.what, one.target, one.measurement, REACHED[one.reached]) for one in reach]
    return markdown_table(["what", "target", "measured", "reached"], rows, "llll")


def _network(network: dict[str, Any]) -> str:
    step, evaluation, explained = network["step"], network["evaluation"], network["explanation"]
    count = evaluation["images"]
    times = [
        _times("training step", step, step["images"]),
        _times(CHECKPOINTED, step, step["images"], ours="checkpointed", ratio="checkpointed_"),
        _times(f"evaluation of {count} images", evaluation, count),
    ]
    alone = [_alone(label, network["isolated"][kind]) for kind, label in KINDS.items()]
    explanations = [
        _explained(what, explained[f"{name}seconds"], step["images"], explained.get(ratio))
        for what, name, ratio in (
            ("plain forward pass", "forward_", ""),
            ("`model.explain`", "", "ratio"),
            ("Grad-CAM", "grad_cam_", "grad_cam_ratio"),
        )
    ]
    own, memory = "in a process of its own", "peak memory of a step, MiB"
    batch, forward = "explanation of a batch, float32", "times the forward pass"
    tables = (
        (["what, ms and images a second", "ours", "yardstick", "times faster"], times),
        ([own, "start to first step, s", memory, "of the yardstick's memory"], alone),
        ([batch, "ms", "images a second", forward], explanations),
    )
    return "\n\n".join(markdown_table(headings, rows) for headings, rows in tables)


def _times(
    what: str, found: dict[str, Any], images: int, ours: str = "ours", ratio: str = ""
) -> list[str]:
    cells = []
    for kind in (ours, "yardstick"):
        seconds = found[f"{kind}_seconds"]
        cells.append(f"{shown(seconds, 1, 1000)}; {_rate(seconds, images)} images/s")
    return [what, *cells, shown(found[f"{ratio}ratio"])]


def _alone(label: str, found: dict[str, Spread]) -> list[str]:
    first, peak = shown(found["first_step_seconds"]), shown(found["peak_bytes"], 0, 1 / MIB)
    return [label, first, peak, shown(found["memory_share"], 1, 100, " %")]


def _explained(what: str, seconds: Spread | None, images: int, ratio: Spread | None) -> list[str]:
    if seconds is None:
        return [what, "-", "-", "-"]
    return [what, shown(seconds, 1, 1000), _rate(seconds, images), shown(ratio, 3)]


def _rate(seconds: Spread, images: int) -> str:
    return f"{images / seconds['median']:,.1f}"


def _parts(parts: dict[str, Any]) -> str:
    rows = [
        (name, shown(parts["seconds"][name], 2, 1000), shown(share, 2, 100, " %"))
        for name, share in parts["shares"].items()
    ]
    decode = parts["decode"]
    return markdown_table(["part of our step", "ms", "share"], rows) + (
        "\n\nData: take the images, crop, flip, normalise; the step has them decoded in memory, "
        f"once for {decode['epochs']} epochs. Decoding a batch anew, as a streamed set does beside "
        f"the steps, takes {shown(decode['seconds'], 2, 1000, ' ms')}, "
        f"{shown(decode['share'], 2, 100, ' %')} of a step; the target counts one of "
        f"{decode['epochs']} parts of it."
    )


def _arithmetic(step: dict[str, Any]) -> str:
    operations = step["operations"]
    rate = operations["ours"] / step["ours_seconds"]["median"]
    shares = "; ".join(
        f"{shown(share, 1, 100, ' %')} of the {dtype} matrix-product ceiling"
        for dtype, share in step["share_of_ceiling"].items()
    )
    return (
        f"A step needs {operations['ours'] / GIGA:,.2f} giga-operations (the yardstick's "
        f"{operations['yardstick'] / GIGA:,.2f}), counted by torch's counter; ours does "
        f"{rate / GIGA:,.0f} giga-operations a second: {shares}."
    )


def _ceiling(ceiling: dict[str, Any]) -> str:
    rows = [
        (dtype, str(found["size"]), shown(found["rate"], 0, 1 / GIGA))
        for dtype, found in ceiling.items()
    ]
    table = markdown_table(["format", "size", "giga-operations a second"], rows)
    return f"{table}\n\nMeasured in turn with the training steps."


def _startup(startup: dict[str, Spread]) -> str:
    named = [
        ("loss-attention --help", "help_seconds"),
        ("import loss_attention", "import_seconds"),
        ("import loss_attention and its models", "import_with_models_seconds"),
        ("import torch", "import_torch_seconds"),
        ("import torch, then loss_attention", "import_after_torch_seconds"),
        ("Python doing nothing", "python_seconds"),
    ]
    rows = [(label, shown(startup[name])) for label, name in named]
    return markdown_table(["what", "seconds"], rows)
