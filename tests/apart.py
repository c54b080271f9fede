"""Processes of their own in no time: forked from one that has imported torch already.

A process that a test stops or kills need not import everything anew, which takes seconds.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PRELOADED = ("captum.attr", "datasets", "matplotlib.figure", "sklearn.datasets", "tensorboard")
"""What commands import beside what training does."""
HANG = 1200
"""Seconds after which something hangs, on the busiest machine; no test waits for them to pass."""


def apart(function: Callable[..., None], *arguments: Any) -> tuple[BaseProcess, Connection]:
    """Run a function of a helper module in a process; it is given a connection first.

    Returns:
        The process, and the other end of the connection.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training.killable", "loss_attention.paper", *PRELOADED])
    here, there = context.Pipe()
    process = context.Process(target=_begin, args=(function, there, *arguments))
    # The server looks for what it is to import where Python itself does.
    found = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *filter(None, [found])])
    try:
        process.start()
    finally:
        os.environ.pop("PYTHONPATH")
        if found is not None:
            os.environ["PYTHONPATH"] = found
    there.close()
    return process, here


def _begin(function: Callable[..., None], *arguments: Any) -> None:
    # It would start processes from a server too; they are to be started as everywhere else.
    multiprocessing.set_start_method(None, force=True)
    function(*arguments)


def command(words: list[str], folder: Path) -> tuple[int, str]:
    """Run `loss-attention` in a folder; return its exit code and what it prints, errors too."""
    return _said(main_of, words, folder)


def program(text: str, folder: Path) -> tuple[int, str]:
    """Run a program of Python in a folder; return likewise."""
    return _said(_program, text, folder)


def _said(function: Callable[..., None], what: Any, folder: Path) -> tuple[int, str]:
    output = folder / "output.txt"
    process = begun(function, what, folder, output)
    code, said = ended(process), output.read_text(encoding="utf-8")
    output.unlink()
    return code, said


def begun(function: Callable[..., None], what: Any, folder: Path, output: Path) -> BaseProcess:
    """Have a function of one argument run in a folder, with what it prints going to a file."""
    return apart(_in_folder, function, what, folder, output)[0]


def _in_folder(
    _: Connection, function: Callable[..., None], what: Any, folder: Path, output: Path
) -> None:
    os.chdir(folder)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (sys.stdout.fileno(), sys.stderr.fileno()):
        os.dup2(file, stream)
    function(what)


def main_of(words: list[str]) -> None:
    """Be `loss-attention`."""
    sys.argv = ["loss-attention", *words]
    from loss_attention.cli import main

    main()


def _program(text: str) -> None:
    sys.argv = ["-c"]
    exec(compile(text, "<string>", "exec", dont_inherit=True), {"__name__": "__main__"})


def heard(connection: Connection) -> Any:
    """Return what a process says next.

    Raises:
        EOFError: it has ended.
    """
    assert connection.poll(HANG), "nothing was heard: it hangs"
    return connection.recv()


def ended(process: BaseProcess) -> int:
    """Return how a process ended."""
    process.join(HANG)
    assert process.exitcode is not None, "it does not end"
    return process.exitcode


def until(happened: Callable[[], bool]) -> None:
    """Wait for what has no event of its own."""
    begun = time.monotonic()
    while not happened():
        assert time.monotonic() - begun < HANG, "it never happened"
        time.sleep(0.05)
