"""What a run runs on: devices that this machine need not have, and what is chosen for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch.utils._python_dispatch import TorchDispatchMode
from training.tiny import tiny_recipe, tiny_splits

from loss_attention.data.sample import sent
from loss_attention.errors import InputError
from loss_attention.training import bookkeeping, environment, trainer
from loss_attention.training.devices import choose_accelerator, choose_device
from loss_attention.training.environment import choose_precision, image_memory, sum_dtype
from loss_attention.training.job import build_model, make_trainer
from loss_attention.training.processes import make_fabric
from loss_attention.training.recipe import RunOptions
from loss_attention.training.run_folder import RunFolder


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have torch find so many devices of each kind, and no others."""

    def find(cuda: int = 0, xpu: int = 0, mps: int = 0) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.xpu, "is_available", lambda: xpu > 0)
        monkeypatch.setattr(torch.xpu, "device_count", lambda: xpu)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps > 0)
        monkeypatch.setattr(environment.os, "cpu_count", lambda: 8)

    find()
    return find


def test_auto_takes_the_first_kind_that_is_there(there: Any) -> None:
    assert choose_accelerator("auto", 8) == "cpu"
    there(mps=1)
    assert choose_accelerator("auto", 1) == "mps"
    assert choose_device("auto") == torch.device("mps")
    there(xpu=2, mps=1)
    assert choose_accelerator("auto", 1) == "xpu"
    assert choose_device("auto") == torch.device("xpu")
    there(cuda=2, xpu=2, mps=1)
    assert choose_accelerator("auto", 2) == "cuda"
    assert [choose_accelerator(one, 1) for one in ("cpu", "mps", "xpu")] == ["cpu", "mps", "xpu"]


@pytest.mark.parametrize(
    ("wanted", "devices", "found", "message"),
    [
        ("cuda", 1, {"xpu": 1, "mps": 1}, "torch finds no GPU here"),
        ("xpu", 1, {"cuda": 1}, "torch finds no Intel GPU here"),
        ("mps", 1, {"cuda": 1}, "torch finds no Apple GPU here"),
        ("cuda", 3, {"cuda": 2}, "there are 2 GPUs here"),
        ("xpu", 2, {"xpu": 2}, "one process trains on xpu"),
        ("auto", 2, {"mps": 1}, "one process trains on mps"),
        ("cpu", 9, {}, "this CPU has 8 cores"),
    ],
)
def test_what_is_not_there_is_told_in_a_line(
    wanted: str, devices: int, found: dict[str, int], message: str, there: Any
) -> None:
    there(**found)
    with pytest.raises(InputError, match=message) as caught:
        choose_accelerator(wanted, devices)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("accelerator", "fast", "wanted", "chosen"),
    [
        ("mps", True, "auto", "32"),
        ("mps", True, "32", "32"),
        ("xpu", True, "auto", "bf16"),
        ("xpu", False, "auto", "32"),
        ("xpu", True, "32", "32"),
        ("cuda", True, "auto", "bf16"),
        ("cuda", False, "auto", "32"),
        ("cpu", True, "bf16", "bf16"),
    ],
)
def test_bf16_where_it_is_fast(
    accelerator: str, fast: bool, wanted: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in (torch.cuda, torch.xpu):
        monkeypatch.setattr(kind, "is_bf16_supported", lambda including_emulation: fast)
    assert choose_precision(wanted, accelerator) == chosen


@pytest.mark.parametrize("accelerator", ["mps", "xpu"])
def test_bf16_where_there_is_none_is_refused(
    accelerator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.xpu, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(InputError, match=r"bf16: not on this (Apple|Intel) GPU"):
        choose_precision("bf16", accelerator)


def test_memory_for_images_is_the_least_of_machine_and_device(
    there: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "free_memory", lambda: 100)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (40 - device, 99))
    monkeypatch.setattr(torch.xpu, "mem_get_info", lambda device: (30, 99))
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 70)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 50)
    assert image_memory(RunOptions()) == 100
    assert image_memory(RunOptions(accelerator="cuda")) == 100  # a run from another machine
    there(cuda=2)
    assert image_memory(RunOptions(devices=2)) == 39
    assert image_memory(RunOptions(accelerator="cpu")) == 100
    there(xpu=1)
    assert image_memory(RunOptions()) == 30
    there(mps=1)
    assert image_memory(RunOptions(accelerator="mps")) == 20


def test_fabric_computes_where_it_is_told(there: Any) -> None:
    there(xpu=1)
    assert make_fabric("xpu", "32", RunOptions()).device == torch.device("xpu", 0)
    mixed = make_fabric("xpu", "bf16", RunOptions())
    assert mixed.device == torch.device("xpu", 0)
    with mixed.autocast():
        assert torch.is_autocast_enabled("xpu")
        assert torch.get_autocast_dtype("xpu") == torch.bfloat16
    assert make_fabric("cpu", "32", RunOptions()).device == torch.device("cpu")
    from lightning_fabric.accelerators import MPSAccelerator

    MPSAccelerator.is_available.cache_clear()
    there(mps=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("platform.processor", lambda: "arm")
        assert make_fabric("mps", "32", RunOptions()).device == torch.device("mps", 0)
    MPSAccelerator.is_available.cache_clear()


class Wide(TorchDispatchMode):
    """Notes what makes a float64 tensor, which Apple's GPUs have none of.

    A scalar of the CPU does not count: it goes to a device as a number.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, list | tuple) else [result]:
            if isinstance(one, torch.Tensor) and one.dim() and one.dtype == torch.float64:
                self.found.add(str(func))
        return result


@pytest.mark.parametrize("recipe", [{}, {"optimizer": "muon", "average_weights": 0.9}])
def test_without_float64_no_step_needs_it(
    recipe: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps, checks and checkpoints of an epoch, on the CPU as on a device without float64."""
    assert sum_dtype(torch.device("mps")) == sum_dtype(torch.device("xpu")) == torch.float32
    assert sum_dtype(torch.device("cuda")) == torch.float64
    for module in (trainer, bookkeeping):
        monkeypatch.setattr(module, "sum_dtype", lambda device: torch.float32)
    splits, recipe_ = tiny_splits(), tiny_recipe(epochs=1, **recipe)
    nothing = splits.train.subset(torch.arange(0))
    fabric = Fabric(accelerator="cpu", devices=1)
    model = build_model(recipe_, splits)
    ours = make_trainer(fabric, recipe_, model, splits.train, nothing, RunFolder(tmp_path))
    with Wide() as wide:
        assert ours.train()
        ours.restore(ours.checkpoints.load() or {})
    assert not wide.found


def test_what_is_sent_to_a_device_without_pinned_memory_is_copied_plainly() -> None:
    tensor = torch.arange(3)
    assert sent(tensor, torch.device("cpu")) is tensor
    assert sent(tensor, torch.device("meta")).device.type == "meta"
