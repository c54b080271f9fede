"""A small run folder and weights, made by the library itself, and which of their files change."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from fuzz.documents import json_lines, json_value, yaml_value
from fuzz.hostile import Mutator, one_of, recoded
from fuzz.layouts import Seed
from fuzz.stores import checkpoint, safetensors, shard
from safetensors.torch import save
from torch import nn
from training.tiny import start_run

from loss_attention.data.sample import ImageSet, Splits
from loss_attention.model import create_model
from loss_attention.saving import WEIGHTS_FILE
from loss_attention.training.job import continue_run
from loss_attention.training.recipe import Recipe, RunOptions
from loss_attention.training.run_folder import (
    METRICS_FILE,
    SHARDS,
    STATE_FILE,
    RunFolder,
    metrics_text,
)
from loss_attention.training.sharded import (
    expect_one_process,
    outlined,
    staged,
    write_shards,
)

RECIPE = Recipe(
    name="small",
    data="small",
    image_size=12,
    in_channels=1,
    backbone="vgg11_bn",
    width=0.06,
    strided_layers=(8,),
    patch_kernel=2,
    patch_stride=1,
    epochs=1,
    batch_size=8,
    precision="32",
)
_FILES = ("recipe.yaml", "run.json", "metrics.jsonl", "evaluation.json", STATE_FILE, WEIGHTS_FILE)
_KNOWN: dict[str, Mutator] = {
    "recipe.yaml": one_of(*[yaml_value] * 8, recoded),
    "run.json": one_of(*[json_value] * 8, recoded),
    "metrics.jsonl": one_of(*[json_lines] * 8, recoded),
    "evaluation.json": json_value,
    STATE_FILE: checkpoint,
    WEIGHTS_FILE: safetensors,
}


@cache
def splits() -> Splits:
    """Return noise of two classes."""
    generator = torch.Generator().manual_seed(0)

    def some(count: int) -> ImageSet:
        pixels = torch.randint(0, 255, (count, 1, 12, 12), generator=generator, dtype=torch.uint8)
        return ImageSet(pixels, torch.arange(count) % 2, ("left", "right"))

    return Splits(some(16), some(4), "noise", validation_fraction=RECIPE.validation_fraction)


@cache
def run_files() -> dict[str, bytes]:
    """Return the files of a run that was trained to its end and evaluated, always the same."""
    from loss_attention.evaluation.measuring import evaluate
    from loss_attention.model import load

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        run = start_run(path, RECIPE, splits(), RunOptions(accelerator="cpu", stream="no"))
        continue_run(run, splits())
        figures = evaluate(load(path), splits().test, train=splits().trainval)
        run.write_json("evaluation.json", figures.to_json())
        _forget_the_clock(run)
        return {name: (path / name).read_bytes() for name in _FILES}


def _forget_the_clock(run: RunFolder) -> None:
    """Write the same seconds into every run: the same number is to give the same case."""
    history = [line | {"seconds": 1.0} for line in run.metrics()]
    run.write(METRICS_FILE, metrics_text(history))
    state = run.load_state()
    assert state is not None
    state["position"] |= {"seconds": 1.0, "history": history}
    run.save_state(state)
    facts = run.facts()
    run.write_facts(facts | {"train_seconds": 1.0, "command": "", "hardware": {}})


def run_seeds(*changed: str) -> list[Seed]:
    """Return the run folder, of which these files are changed, and one of version 0.1.

    The latter has no checksums, which anybody may leave out.
    """
    now = run_files()
    facts = json.loads(now["run.json"])
    old = {name: value for name, value in facts.items() if name not in ("digest", "files")}
    before = {**now, "run.json": json.dumps(old | {"format_version": 1}, indent=2).encode()}
    targets = {name: _KNOWN[name] for name in changed}
    return [Seed(now, targets), Seed(before, targets)]


def sharded_seeds() -> list[Seed]:
    """Return a checkpoint whose tensors lie in a shard; its run.json is another matter."""
    state = torch.load(io.BytesIO(run_files()[STATE_FILE]), weights_only=True)
    outline, tensors = outlined(state)
    with tempfile.TemporaryDirectory() as name:
        run = RunFolder(Path(name))

        def commit(shards: dict[str, Any]) -> None:
            run.save_state(outline | {SHARDS: shards})

        folder = run.path / f"state.{'0' * 16}.shards"
        expect_one_process()
        write_shards(staged(tensors, sorted(tensors)), folder, None, commit)
        (one,) = folder.iterdir()
        path = f"{folder.name}/{one.name}"
        files = {STATE_FILE: (run.path / STATE_FILE).read_bytes(), path: one.read_bytes()}
    return [Seed(files, {STATE_FILE: checkpoint}), Seed(files, {path: shard})]


def weights_seeds() -> list[Seed]:
    """Return weights of two heads in a folder."""
    seeds = []
    for head in ("loss-attention", "capsule-dynamic-routing"):
        torch.manual_seed(0)
        model = create_model(
            "vgg11_bn",
            head=head,
            num_classes=2,
            in_channels=1,
            width=0.06,
            strided_layers=(8,),
            patch_kernel=2,
            patch_stride=1,
            class_names=("left", "right"),
            image_size=(12, 12),
        )
        seeds.append(Seed({WEIGHTS_FILE: model.to_bytes()}, {WEIGHTS_FILE: safetensors}))
    return seeds


def network() -> nn.Module:
    """Return the network whose weights are read; its classifier comes last."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


def backbone_seeds() -> list[Seed]:
    """Return weights of a network as other people's trainings save them."""
    state = dict(network().state_dict())
    seeds = []
    for content in (
        state,
        {"epoch": 3, "model": {f"module.{name}": state[name] for name in state}},
    ):
        buffer = io.BytesIO()
        torch.save(content, buffer)
        seeds.append(Seed({"backbone.pth": buffer.getvalue()}, {"backbone.pth": checkpoint}))
    file = save(state)
    return [*seeds, Seed({"backbone.safetensors": file}, {"backbone.safetensors": safetensors})]


def resealed(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return files in which checksums of what was changed are those of what it is now.

    Otherwise nothing behind the checksums would be tried.
    """
    text = after["run.json"]
    for name, content in after.items():
        if content != before[name]:
            old, new = (hashlib.sha256(one).hexdigest().encode() for one in (before[name], content))
            text = text.replace(old, new)
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):  # no checksum of its own that could be right
        return {**after, "run.json": text}
    if isinstance(facts, dict) and "digest" in facts:
        from loss_attention.saving import sealed

        text = json.dumps(sealed(facts)).encode()
    return {**after, "run.json": text}
