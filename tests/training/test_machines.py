"""Two "machines" on this one: the same run whoever starts its processes, and as one has it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from apart import apart, ended, heard
from training import machines
from training.machines import of_srun, of_torchrun, on_a_machine, on_one_machine

from loss_attention.errors import InputError
from loss_attention.training.processes import check_processes, cluster_of, leads
from loss_attention.training.recipe import RunOptions
from loss_attention.training.run_folder import RunFolder

Said = Callable[[int, int], dict[str, str]]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def on_two(
    folder: Path, said: Said, of_all: Mapping[str, Any] | None = None, **of_second: Any
) -> list[Any]:
    """Train on two machines, the second of which is another; what each says of its end."""
    port = free_port()
    # Not asked by the second: by then the first may have begun.
    begins = not (folder / "run.json").exists()
    begun = [
        apart(
            partial(on_a_machine, begins=begins, **(of_second if rank else {}) | (of_all or {})),
            folder,
            said(rank, port),
        )
        for rank in (0, 1)
    ]
    told = [heard(connection) for _, connection in begun]
    assert [ended(process) for process, _ in begun] == [0, 0]
    return told


def saved(folder: Path, rank: int, processes: int = 2) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder.parent / f"{folder.name}-rank{rank}of{processes}.pt")
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("machines") / "run"
    process, told = apart(on_one_machine, folder)
    assert heard(told) == (True, None)
    assert ended(process) == 0
    return folder


def assert_one_run(folder: Path, alone: Path) -> None:
    """Each image once an epoch, equal weights, and those of one process to rounding."""
    first, second = saved(folder, 0), saved(folder, 1)
    images = sorted(saved(alone, 0, 1)["seen"])
    assert len(images) == 2 * len(set(images)) == 2 * 29
    assert sorted(first["seen"] + second["seen"]) == images
    for name, tensor in first["state"].items():
        assert torch.equal(tensor, second["state"][name]), name
        other = saved(alone, 0, 1)["state"][name]
        torch.testing.assert_close(tensor, other, rtol=1e-4, atol=1e-5)
    ours, theirs = RunFolder.open(folder), RunFolder.open(alone)
    for line, other in zip(ours.metrics(), theirs.metrics(), strict=True):
        for key in ("loss", "accuracy", "validation_loss", "validation_accuracy"):
            assert line[key] == pytest.approx(other[key], abs=1e-4)
    assert ours.facts()["hardware"]["processes"] == 2


@pytest.mark.parametrize("said", [of_torchrun, of_srun])
def test_two_machines_train_one_run(said: Said, alone: Path, tmp_path: Path) -> None:
    assert on_two(tmp_path / "run", said) == [(True, None), (True, None)]
    assert_one_run(tmp_path / "run", alone)


def test_a_signal_on_the_second_machine_stops_both_and_resuming_ends_alike(
    alone: Path, tmp_path: Path
) -> None:
    number = int(signal.SIGUSR1)
    told = on_two(tmp_path / "run", of_torchrun, stop_at=5)
    assert told == [(False, number), (False, number)]  # so both say the same, and end alike
    state = RunFolder.open(tmp_path / "run").load_state()
    assert state is not None
    assert (state["position"]["epoch"], state["position"]["step"]) == (1, 2)
    before = [saved(tmp_path / "run", rank)["seen"] for rank in (0, 1)]
    assert on_two(tmp_path / "run", of_torchrun) == [(True, None), (True, None)]
    for rank in (0, 1):
        found = saved(tmp_path / "run", rank)
        found["seen"] = before[rank] + found["seen"]
        torch.save(found, tmp_path / f"run-rank{rank}of2.pt")
    assert_one_run(tmp_path / "run", alone)


@pytest.mark.parametrize("checkpoint", ["plain", "sharded"])
@pytest.mark.parametrize("first", [1, 2])
def test_a_run_goes_on_in_another_number_of_processes(
    first: int, checkpoint: str, alone: Path, tmp_path: Path
) -> None:
    """Each image once an epoch, and the weights of one process to rounding, all the same."""
    folder, second = tmp_path / "run", 3 - first

    def trained(processes: int, **changes: Any) -> list[Any]:
        if processes == 2:
            return on_two(folder, of_torchrun, of_all=changes)
        process, told = apart(partial(on_one_machine, **changes), folder)
        heard_of = heard(told)
        assert ended(process) == 0
        return [heard_of]

    stopped = trained(first, checkpoint=checkpoint, stop_at=5)
    assert [finished for finished, _ in stopped] == [False] * first
    seen = [saved(folder, rank, first)["seen"] for rank in range(first)]
    begins = {} if second == 2 else {"begins": False}
    assert trained(second, **begins) == [(True, None)] * second
    seen += [saved(folder, rank, second)["seen"] for rank in range(second)]
    assert sorted(chain(*seen)) == sorted(saved(alone, 0, 1)["seen"])
    for rank in range(second):
        for name, tensor in saved(folder, rank, second)["state"].items():
            other = saved(alone, 0, 1)["state"][name]
            torch.testing.assert_close(tensor, other, rtol=1e-4, atol=1e-5)
    change = {"processes": [first, second], "epoch": 1, "step": 2}
    assert RunFolder.open(folder).facts()["changes"] == [change]


def test_machines_with_different_data_train_nothing(tmp_path: Path) -> None:
    for said in on_two(tmp_path / "run", of_torchrun, seed=1):
        assert "different training data" in said
    assert not (tmp_path / "run" / "state.pt").exists()


@pytest.mark.slow
def test_torchrun_itself(alone: Path, tmp_path: Path) -> None:
    port, script = free_port(), Path(machines.__file__)
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
    command += ["--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", str(port)]
    begun = [
        subprocess.Popen([*command, "--node-rank", str(rank), str(script), str(tmp_path / "run")])
        for rank in (0, 1)
    ]
    assert [one.wait() for one in begun] == [0, 0]
    assert_one_run(tmp_path / "run", alone)


@pytest.mark.parametrize(
    ("said", "options", "message"),
    [
        (of_torchrun, {}, "torchrun started 2 processes, 1 on this machine"),
        (of_torchrun, {"devices": 2}, "torchrun's --nproc-per-node"),
        (of_srun, {"num_nodes": 3}, "srun started 2 processes"),
        (of_srun, {"devices": 2}, "srun's --ntasks-per-node"),
    ],
)
def test_other_processes_than_the_run_has_are_refused(
    said: Said, options: dict[str, int], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in said(1, 2).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message) as caught:
        cluster_of(RunOptions(**options))
    assert "\n" not in str(caught.value)


def test_who_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert leads(machines.TWO)
    for said in (of_torchrun, of_srun):
        for rank in (0, 1):
            with monkeypatch.context() as patch:
                for name, value in said(rank, 2).items():
                    patch.setenv(name, value)
                assert leads(machines.TWO) is (rank == 0)
    for name, value in of_srun(1, 2).items():  # several trainings side by side, of one process each
        monkeypatch.setenv(name, value)
    assert leads(RunOptions())


def test_a_process_that_does_not_write_leaves_no_trace(tmp_path: Path) -> None:
    from training.tiny import tiny_recipe

    run = RunFolder(tmp_path / "run", writes=False)
    with run.claimed(), run.locked():
        run.begin(tiny_recipe(), {"finished": False})
        run.note(finished=True)
        run.write("metrics.jsonl", "")
        run.settle()
        assert run.recipe() == tiny_recipe()
        assert run.facts() == {"finished": False}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("accelerator", "message"),
    [("cpu", "torchrun or srun has to start"), ("mps", "one process trains on mps")],
)
def test_machines_that_nobody_started(accelerator: str, message: str) -> None:
    assert "TORCHELASTIC_RUN_ID" not in os.environ
    with pytest.raises(InputError, match=message):
        check_processes(accelerator, RunOptions(num_nodes=2))
