"""`benchmarks/growth.py`: its page and plots from made-up numbers, and a real step of a point."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path

import growth
import isolated
import pytest
import torch
from growth import filled, paragraphs
from isolated import Point, take_steps
from PIL import Image
from workloads import Ours, fabric_for

from loss_attention.prediction import PatchPrediction
from loss_attention.training import devices, environment

TINY = Point(width=0.03, side=16, batch=2, evaluated=2, steps=2)
MIB = 2**20


def test_the_whole_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Point] = []

    def no_process(point: Point) -> dict[str, float]:
        asked.append(point)
        return {"seconds": 0.5 * len(asked), "peak_bytes": 3.0 * MIB * len(asked)}

    monkeypatch.setattr(isolated, "measure_point", no_process)
    written = growth.grow(growth.Arguments(quick=True, accelerator="cpu", out=tmp_path))
    found = {path.suffix: path for path in written}
    numbers = json.loads(found[".json"].read_text())
    assert list(numbers["sweeps"]) == ["image-size", "patches", "classes", "processes"]
    assert len(asked) == 2 * 4
    assert numbers["sweeps"]["patches"]["lines"]["trained"] == [
        {"size": 16, "seconds": 1.5, "peak_bytes": 9.0 * MIB},
        {"size": 64, "seconds": 2.0, "peak_bytes": 12.0 * MIB},
    ]
    page = found[".md"].read_text()
    assert "no number counts" in page
    assert "| 64 | 2,000 ms | 12 MiB |" in page
    plots = [path for path in written if path.suffix == ".png"]
    assert len(plots) == 4
    for path in plots:
        assert f"]({path.name})" in page
        with Image.open(io.BytesIO(path.read_bytes())) as picture:
            assert len(picture.convert("L").getcolors() or []) > 2


def test_one_gpu_is_no_place_for_two_processes(tmp_path: Path, monkeypatch) -> None:
    machine = {"cpu": "a CPU", "cores": 2, "device": "a GPU", "precision": "bf16"}
    for name, answer in {
        "choose_accelerator": "cuda",
        "choose_precision": "bf16",
        "hardware": machine,
        "count_devices": 1,
    }.items():
        for module in (devices, environment):
            monkeypatch.setattr(module, name, lambda *_, answer=answer: answer, raising=False)
    monkeypatch.setattr("bench_numbers.machine_slug", lambda _: "box")
    measurement = {"seconds": 0.5, "peak_bytes": 3.0 * MIB}
    monkeypatch.setattr(isolated, "measure_point", lambda _: measurement)
    written = growth.grow(growth.Arguments(quick=True, out=tmp_path))
    page = (tmp_path / "growth-box.md").read_text()
    assert "## Processes\n\nNot measured: this machine has too few GPUs." in page
    assert len([path for path in written if path.suffix == ".png"]) == 3


def test_a_paragraph_has_its_figures() -> None:
    line = [
        {"size": 10, "seconds": 0.1, "peak_bytes": 10 * MIB},
        {"size": 100, "seconds": 0.3, "peak_bytes": 60 * MIB},
        {"size": 1000, "seconds": 1.25, "peak_bytes": 75 * MIB},
    ]
    text = "{trained[from]} to {trained[to]}: {trained[times]}, {trained[time_from]} to "
    text += "{trained[time_to]}: {trained[time_times]}, {few[memory_to]}: {few[memory_times]}"
    assert filled(text, {"lines": {"trained": line, "few": line[:2]}}) == (
        "10 to 1,000: 100, 100 ms to 1,250 ms: 12, 60 MiB: 6.0"
    )


def test_every_sweep_has_a_paragraph_and_each_point_is_of_the_size_it_says() -> None:
    found = growth.sweeps(TINY)
    assert set(paragraphs()) == set(found)
    for size, point in found["image-size"].points["trained"].items():
        assert point.side == size
    for size, point in found["patches"].points["trained"].items():
        rows, columns = point.model().head.layout.shape((point.side, point.side))
        assert rows * columns == size
    at = found["classes"].points["trained"]
    assert all(point.classes == k for k, point in at.items())
    assert [point.processes for point in found["processes"].points["trained"].values()] == [1, 2]


def test_steps_of_a_point() -> None:
    point = Point(width=0.03, side=16, batch=2, evaluated=2, steps=2, classes=7, patch_stride=2)
    model = Ours(point, fabric_for(point)).trainer.model
    prediction = model(torch.zeros(2, 3, 16, 16))
    assert isinstance(prediction, PatchPrediction)
    assert prediction.logits.shape == (2, 7)
    assert prediction.grid.patches == 16
    found = fabric_for(point).launch(take_steps, asdict(point))
    assert found["seconds"] > 0
    assert set(found) == {"seconds", "peak_bytes"}
