"""`make bench`: the whole of it with tiny networks, and what its scores mean."""

from __future__ import annotations

import json
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench
import bench_numbers
import isolated
import measuring
import pytest
import torch
import workloads
from bench_page import NAMES, targets
from explaining import beside_forward
from measuring import Finished, ratio, shown, spread
from reference_structure import ConvolutionalReference
from torch import Tensor, nn
from workloads import Ours, Setting, Yardstick, checkpointed, operations_of_step

import loss_attention as la
from loss_attention.training.environment import choose_precision, hardware

TINY = Setting(width=0.06, side=16, batch=4, evaluated=8)
MIB = 2**20


def processes_that_take_no_time(*words: str) -> Finished:
    """In place of processes of their own, each of which would import torch."""
    if "isolated.py" in "".join(words):
        peak = {"ours": 30, "checkpointed": 15, "yardstick": 60}[words[3]]
        return Finished(0.0, 0.0, json.dumps({"first_step_seconds": 2.0, "peak_bytes": peak * MIB}))
    seconds = {"--help": 0.1, "import torch": 1.5, "import torch, loss_attention": 1.6}
    return Finished(seconds.get(words[-1], 1.0), 0.0, "")


@pytest.fixture
def _no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (isolated, measuring):
        monkeypatch.setattr(module, "timed", processes_that_take_no_time)


@pytest.mark.usefixtures("_no_processes")
def test_the_whole_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = bench_numbers.machine_slug(hardware("cpu", 1, choose_precision("auto", "cpu")))
    (tmp_path / f"{machine}-notes.md").write_text("The machine has no matrix units.\n")
    written = bench.bench(bench.Arguments(quick=True, accelerator="cpu", out=tmp_path))
    assert {path.name for path in written} == {
        f"{machine}{end}" for end in (".json", ".md", "-profile-conv.txt", "-profile-capsule.txt")
    }
    numbers = json.loads((tmp_path / f"{machine}.json").read_text())
    page = (tmp_path / f"{machine}.md").read_text()
    assert "no number counts" in page
    assert "The machine has no matrix units." in page
    assert len(numbers["targets"]) == 2 * 5 + 3
    for target in numbers["targets"]:
        assert f"| {target['what']} | {target['target']} | {target['measurement']} |" in page
    for head in NAMES:
        network = numbers["networks"][head]
        assert network["step"]["ratio"]["turns"] == 2
        alone = network["isolated"]
        assert alone["checkpointed"]["memory_share"]["median"] == 0.25
        shares = [share["median"] for share in network["parts"]["shares"].values()]
        assert sum(shares) == pytest.approx(1, abs=0.2)
        assert "convolution" in (tmp_path / network["profile"]).read_text()
    assert numbers["startup"]["import_over_torch_seconds"]["median"] == pytest.approx(0.1)
    assert "conv ResNet18" in capsys.readouterr().out


def test_who_interrupts_it_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "machine.json"
    old.write_text("old")

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_numbers, "measured", interrupted)
    monkeypatch.setattr("sys.argv", ["bench.py", "--quick", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        bench.main()
    assert stopped.value.code == 130
    assert [path.name for path in tmp_path.iterdir()] == ["machine.json"]
    assert old.read_text() == "old"
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--networks", "loss-atention"], "did you mean 'loss-attention'?"),
        (["--accelerator", "cuda"], "torch finds no GPU here"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(
    flags: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["bench.py", *flags, "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        bench.main()
    assert stopped.value.code == 2
    complaint = capsys.readouterr().err
    assert message in complaint
    assert complaint.count("\n") == 1


def test_turns_belong_together() -> None:
    # The second turn met something that made both twice as slow.
    assert ratio([4.0, 8.0, 6.0], [1.0, 2.0, 1.0]) == {
        "median": 4.0,
        "lowest": 4.0,
        "highest": 6.0,
        "turns": 3,
    }
    assert shown(spread([0.5, 0.25, 0.125]), 1, 100, " %") == "25.0 % (12.5 to 50.0)"
    assert shown(spread([1234.4]), 0) == "1,234"


@pytest.mark.parametrize("head", sorted(workloads.LAST_PATCH_LAYER))
def test_parts_make_up_the_step(head: str) -> None:
    ours = Ours(replace(TINY, head=head))
    model = ours.trainer.model
    seconds = workloads.parts_of_step(ours)
    assert sum(seconds[name] for name in workloads.PARTS) == pytest.approx(
        seconds["step"], rel=1e-6
    )
    assert all(seconds[name] > 0 for name in workloads.PARTS)
    assert not any(module._forward_hooks for module in model.head.modules())


def test_parts_find_what_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Ours(TINY)
    loss = ours.trainer.loss

    def slow(*arguments: Any) -> Tensor:
        time.sleep(0.5)
        return loss(*arguments)

    monkeypatch.setattr(ours.trainer, "loss", slow)
    assert workloads.parts_of_step(ours)["head, forward and backward"] > 0.5


def test_operations_are_those_of_the_layers() -> None:
    """Of a convolution's or a linear layer's forward pass, and twice as many backward."""
    reference = ConvolutionalReference(10, TINY.width, 0.1)
    counted: list[int] = []

    def count(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        weight = layer.weight
        outputs = output.numel() // weight.shape[0]
        counted.append(2 * weight.numel() * outputs)

    for layer in reference.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(count)
    reference(torch.zeros(TINY.batch, 3, TINY.side, TINY.side))
    # Images need no gradient.
    assert operations_of_step(TINY, "yardstick") == 3 * sum(counted) - counted[0]


def test_both_train_on_the_same() -> None:
    ours, theirs = Ours(TINY), Yardstick(TINY)
    model = ours.trainer.model
    assert model.backbone.checkpoint_activations is False
    assert checkpointed(TINY).trainer.model.backbone.checkpoint_activations is True
    weights = [p for p in theirs.network.parameters() if p.ndim == 4]
    for mine, yardstick in zip(
        (p for p in model.parameters() if p.ndim == 4), weights, strict=True
    ):
        assert torch.equal(mine, yardstick)
    before = weights[0].clone()
    for workload in (ours, theirs):
        workload.step()
        workload.evaluate()
    assert not torch.equal(before, weights[0])
    assert not torch.equal(before, next(p for p in model.parameters() if p.ndim == 4))


def test_a_process_of_its_own_tells_its_memory() -> None:
    setting = Setting(width=0.4, side=16, batch=2, evaluated=2)
    parameters = sum(p.numel() for p in setting.model().parameters())
    found = isolated.isolated("yardstick", setting)
    # Weights, gradients and momentum in float32 at the least.
    assert found["peak_bytes"] > 3 * 4 * parameters
    assert found["first_step_seconds"] > 0


def test_a_method_that_a_model_does_not_allow() -> None:
    model = la.create_model("resnet18", head="baseline", width=0.06).eval()
    images = torch.zeros(2, 3, 16, 16)
    found = beside_forward(model, images, ("explain", "uniform"), repeats=2)
    assert found["explain"] is None
    assert found["uniform"] is not None
    assert [len(taken) for taken in found["uniform"]] == [2, 2]


def a_network(**changes: Any) -> dict[str, Any]:
    """Numbers of a network that reaches every target but for what is changed."""
    share = spread([0.01])
    network: dict[str, Any] = {
        "step": {
            "ratio": spread([9.0]),
            "share_of_ceiling": {"bf16": spread([0.6])},
            "checkpointed_over_ours": spread([1.3]),
        },
        "isolated": {
            "ours": {"memory_share": spread([0.4])},
            "checkpointed": {"memory_share": spread([0.2])},
        },
        "parts": {"shares": {"head, forward and backward": share}, "data_share": share},
        "host_waits": 0,
        "explanation": {"ratio": spread([1.01]), "grad_cam_ratio": spread([1.4])},
    }
    return network | changes


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, []),
        ({"host_waits": 1}, ["host-device waits in a step"]),
        (
            {"explanation": {"ratio": spread([1.06]), "grad_cam_ratio": None}},
            ["explanation of a batch"],
        ),
        (
            {
                "isolated": {
                    "ours": {"memory_share": spread([0.51])},
                    "checkpointed": {"memory_share": spread([0.26])},
                }
            },
            ["peak memory of a training step", "peak memory of a training step"],
        ),
        (
            {
                "step": {
                    "ratio": spread([4.9]),
                    "share_of_ceiling": {"bf16": spread([0.49])},
                    "checkpointed_over_ours": spread([1.36]),
                }
            },
            ["training step", "training step", "peak memory of a training step"],
        ),
        (
            {
                "parts": {
                    "shares": {"head, forward and backward": spread([0.031])},
                    "data_share": spread([0.021]),
                }
            },
            ["data", "head"],
        ),
    ],
)
def test_targets_of_a_gpu(changes: dict[str, Any], missed: list[str]) -> None:
    numbers = {"accelerator": "cuda", "networks": {"loss-attention": a_network(**changes)}}
    found = targets(numbers)
    assert len(found) == 8
    assert [target.what.split(",")[0] for target in found if not target.reached] == missed


def test_targets_of_a_cpu() -> None:
    network = a_network(host_waits=None)
    startup_numbers = {
        "help_seconds": spread([0.31]),
        "import_over_torch_seconds": spread([0.19]),
        "models_over_torch_seconds": spread([0.25]),
    }
    numbers = {
        "accelerator": "cpu",
        "networks": dict.fromkeys(NAMES, network),
        "startup": startup_numbers,
        "digits": None,
    }
    reached = [target.reached for target in targets(numbers)]
    assert reached == [True] * 10 + [False, True, None]


def test_the_demo_is_read_where_it_was_measured(tmp_path: Path, repository: Path) -> None:
    path = repository / "results" / "digits.json"
    machine = json.loads(path.read_text())["hardware"]
    found = bench_numbers.digits_training(path, machine)
    assert found is not None
    assert found["training_seconds"]["turns"] == 3
    assert 0.9 < found["quality"]["accuracy"] < 1
    assert bench_numbers.digits_training(path, machine | {"cores": 96}) is None
    assert bench_numbers.digits_training(path, machine | {"precision": "32"}) is None
    assert bench_numbers.digits_training(tmp_path / "digits.json", machine) is None


def test_files_are_called_after_the_machine() -> None:
    gpu = {"device": "NVIDIA H100 80GB HBM3", "cpu": "AMD EPYC", "cores": 16}
    assert bench_numbers.machine_slug(gpu) == "nvidia-h100-80gb-hbm3"
    cpu = {"device": "CPU", "cpu": "Intel(R) Xeon(R) @ 2.00GHz", "cores": 2, "precision": "bf16"}
    assert bench_numbers.machine_slug(cpu) == "intel-r-xeon-r-2-00ghz-2-cores"
    plain = bench_numbers.machine_slug(cpu | {"precision": "32"})
    assert plain == "intel-r-xeon-r-2-00ghz-2-cores-float32"


def test_a_cpu_without_bf16_measures_half_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = {}
    for precision in ("32", "bf16"):
        monkeypatch.setattr(bench_numbers, "choose_precision", lambda *_, it=precision: it)
        setting, turns = bench_numbers._what("cpu", quick=False)
        assert setting.precision == precision
        batches[precision] = setting.batch, setting.evaluated, turns.steps
    assert batches == {"32": (16, 32, 3), "bf16": (32, 64, 4)}


def test_waits_for_a_gpu_are_counted_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"warn": "Synchronization debug mode does not yet detect all synchronizing operations"}

    class Waiting:
        setting = replace(TINY, accelerator="cuda")

        def step(self) -> None:
            for _ in range(2):
                warnings.warn(
                    "called a synchronizing CUDA operation (Triggered internally)", stacklevel=2
                )

    modes: list[str] = []

    def switch(mode: str) -> None:
        modes.append(mode)
        if mode in said:
            warnings.warn(said[mode], stacklevel=2)

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", switch)
    assert workloads.host_waits(Waiting()) == 2  # type: ignore[arg-type]
    assert modes == ["warn", "default"]
    assert workloads.host_waits(Ours(TINY)) is None
