"""Signals, wherever they come: everything is saved, and line and exit code say to resume.

In this process, which signals itself at a known moment; so no test waits or guesses.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typed import SMALL, make_folder, run

from loss_attention import interruption, runs
from loss_attention.cli import main
from loss_attention.interruption import SIGNALS, StopRequest, ending_on_signals
from loss_attention.model import load
from loss_attention.training import bookkeeping
from loss_attention.training.run_folder import RunFolder
from loss_attention.training.trainer import Trainer

GUARD = 300
"""Seconds; against hanging alone."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("images") / "images")


def words(images: Path, out: Path, *more: str) -> list[str]:
    options = [*SMALL, "--precision", "32", "--validation-fraction", "0.3", *more]
    return ["train", "folder", "--data", str(images), *options, "--out", str(out)]


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    run(*words(images, out))
    return out


def ended(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run the command to its end; return the exit code and the line that it ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return int(stop.value.code or 0), said


def signalling(function: Callable[..., Any], number: int, call: int = 1) -> Callable[..., Any]:
    """Return the function as it is, but a signal comes within its nth call."""
    calls = iter(range(1, 1000))

    def signalled(*given: Any, **options: Any) -> Any:
        if next(calls) == call:
            os.kill(os.getpid(), number)
        return function(*given, **options)

    return signalled


def assert_same_run(path: Path, other: Path) -> None:
    ours, expected = load(path).state_dict(), load(other).state_dict()
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    clock = {"seconds", "images_per_second"}
    lines = [
        [
            {key: value for key, value in json.loads(line).items() if key not in clock}
            for line in (folder / "metrics.jsonl").read_text().splitlines()
        ]
        for folder in (path, other)
    ]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("moment", ["training", "validation"])
def test_a_signal_saves_and_resuming_ends_alike(
    moment: str,
    number: signal.Signals,
    images: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    if moment == "training":
        monkeypatch.setattr(Trainer, "train_step", signalling(Trainer.train_step, number, 2))
    else:
        monkeypatch.setattr(bookkeeping, "validate", signalling(bookkeeping.validate, number))
    code, said = ended(capsys, *words(images, out))
    assert code == (130 if number == signal.SIGINT else 75)
    assert said == f"loss-attention: stopped; continue with: loss-attention resume {out}\n"
    state = RunFolder(out).load_state()
    assert state is not None
    assert (state["position"]["epoch"], state["position"]["step"]) == (0, 2)
    assert not (out / "model.safetensors").exists()  # the epoch is not validated
    run("resume", str(out))
    assert_same_run(out, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_a_signal_in_the_evaluation_is_no_loss(
    number: signal.Signals,
    images: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    monkeypatch.setattr(runs, "evaluate", signalling(runs.evaluate, number))
    code, said = ended(capsys, *words(images, out))
    assert code == (130 if number == signal.SIGINT else 75)
    assert f"loss-attention resume {out}" in said
    assert not (out / "evaluation.json").exists()
    run("resume", str(out))
    assert_same_run(out, whole)
    scores = [json.loads((one / "evaluation.json").read_text()) for one in (out, whole)]
    assert scores[0] == scores[1]


def test_a_signal_while_data_are_read_leaves_nothing(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    loads = runs.load_splits
    monkeypatch.setattr(runs, "load_splits", signalling(loads, signal.SIGTERM))
    code, said = ended(capsys, *words(images, out))
    assert (code, said) == (128 + signal.SIGTERM, "loss-attention: interrupted by SIGTERM\n")
    assert not out.exists()


def test_a_signal_while_a_resumed_run_reads_its_data_says_to_resume(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    monkeypatch.setattr(Trainer, "train_step", signalling(Trainer.train_step, signal.SIGHUP))
    assert ended(capsys, *words(images, out))[0] == 75
    monkeypatch.setattr(runs, "load_splits", signalling(runs.load_splits, signal.SIGHUP))
    code, said = ended(capsys, "resume", str(out))
    assert code == 75
    assert f"loss-attention resume {out}" in said


def test_the_second_signal_ends_at_once_but_not_an_echo_of_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, over = 100.0, []
    monkeypatch.setattr(interruption.time, "monotonic", lambda: now)
    monkeypatch.setattr(interruption, "end_at_once", over.append)
    stop = StopRequest()
    with stop.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        now += 0.2  # `timeout` sends it to the process and to its group
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        assert not over
        now += 1.0
        os.kill(os.getpid(), signal.SIGINT)
        assert over == [signal.SIGINT]
    assert stop.number == signal.SIGTERM


def test_a_second_signal_gives_the_code_of_a_shell(tmp_path: Path) -> None:
    code = (
        "import os, time\nfrom loss_attention.interruption import StopRequest\n"
        "with StopRequest().listening():\n"
        "    for _ in range(2):\n"
        "        os.kill(os.getpid(), 15)\n"
        "        time.sleep(0.6)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=GUARD)
    assert done.returncode == 128 + 15
    assert done.stderr.decode().strip() == "loss-attention: ended at once by SIGTERM"


@pytest.fixture
def ignored() -> Iterator[signal.Signals]:
    """SIGHUP ignored, as nohup begins a process."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield signal.SIGHUP
    signal.signal(signal.SIGHUP, before)


def test_what_nohup_ignores_stays_ignored(ignored: signal.Signals) -> None:
    stop = StopRequest()
    with ending_on_signals(), stop.listening():
        os.kill(os.getpid(), ignored)
    assert not stop.requested


def test_handlers_are_as_before() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with ending_on_signals(), StopRequest().listening():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


Launch = Callable[[list[str]], subprocess.Popen[str]]


@pytest.fixture
def launched() -> Iterator[Launch]:
    """Runs the command in a process and a group of its own, which a test that fails ends too."""
    begun: list[subprocess.Popen[str]] = []

    def launch(arguments: list[str]) -> subprocess.Popen[str]:
        code = f"from loss_attention.cli import main\nmain({arguments!r})"
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        begun.append(process)
        return process

    yield launch
    for process in begun:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + GUARD
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def children_of(parent: int) -> list[int]:
    """The processes that one has begun, as Linux lists them."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(folder.name))
    return found


def command_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.parametrize("group", [pytest.param(False, marks=pytest.mark.slow), True])
def test_two_processes_stop_together_and_resume_to_the_same(
    group: bool, images: Path, tmp_path: Path, launched: Launch
) -> None:
    """A signal to the one that waits, as from `kill`, or to all, as from a scheduler.

    The first is tested with forked processes, which takes less time, in training/test_resume.py.
    """
    out = tmp_path / "run"
    process = launched(words(images, out, "--epochs", "500", "--devices", "2"))
    wait_for(out / "state.pt", process)
    (os.killpg if group else os.kill)(process.pid, signal.SIGUSR1)
    _, err = process.communicate(timeout=GUARD)
    assert process.returncode == 75, err
    line = f"loss-attention: stopped; continue with: loss-attention resume {out}"
    assert last_line(err) == line
    assert "Traceback" not in err


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_a_process_that_is_killed_is_one_line(
    images: Path, tmp_path: Path, launched: Launch
) -> None:
    out = tmp_path / "run"
    process = launched(words(images, out, "--epochs", "500", "--devices", "2"))
    wait_for(out / "state.pt", process)
    workers = [pid for pid in children_of(process.pid) if b"spawn_main" in command_of(pid)]
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    _, err = process.communicate(timeout=GUARD)
    assert process.returncode == 71, err
    assert "Traceback" not in err
    assert "most likely because memory ran out" in last_line(err)
    assert last_line(err).endswith(f"loss-attention resume {out}")
