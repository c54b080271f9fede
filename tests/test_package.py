"""The package as a wheel: what is in it, and that it runs where nothing else of the project is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import loss_attention

PACKAGED = ("pyproject.toml", "README.md", "LICENSE")


def run(*arguments: str | Path, folder: Path) -> str:
    """Run a program and return what it printed; the environment has no path into the checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        list(map(str, arguments)),
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{arguments} exited with {result.returncode}:\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: building in the checkout would leave its traces there."""
    source = tmp_path_factory.mktemp("source")
    for name in PACKAGED:
        shutil.copy2(repository / name, source / name)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "tests"):
        shutil.copytree(repository / name, source / name, ignore=ignored)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", ".", folder=source)
    (built,) = (source / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the wheel in it, as pip installs it.

    Its dependencies, minutes of downloads, are borrowed from the environment of the tests by a
    path file. Python does not follow path files in a folder so named, so the editable install of
    the checkout, which is one, is not seen.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, folder=folder)
    packages = run(
        python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=folder
    )
    borrowed = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    path_file = Path(packages.strip()) / "borrowed_dependencies.pth"
    path_file.write_text("\n".join(borrowed) + "\n", encoding="utf-8")
    return folder


def test_wheel_holds_the_package_and_no_more(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    source = wheel.parent.parent / "src"
    wanted = {
        path.relative_to(source).as_posix()
        for path in (source / "loss_attention").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    info = f"loss_attention-{loss_attention.__version__}.dist-info"
    assert {name for name in names if not name.startswith(info)} == wanted
    assert "loss_attention/py.typed" in names
    assert any(name.endswith(".jinja") for name in names)
    assert f"{info}/licenses/LICENSE" in names


def test_wheel_says_what_it_needs(wheel: Path) -> None:
    info = f"loss_attention-{loss_attention.__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"{info}/METADATA").decode()
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
    assert "loss-attention = loss_attention.cli:main" in entry_points
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: >=3.11" in metadata
    assert "Requires-Dist: torch>=2.11" in metadata
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: ")]
    assert not any("torchvision" in line and "extra ==" not in line for line in needed)


def test_installed_package_runs_elsewhere(environment: Path, tmp_path: Path) -> None:
    script = (
        "import loss_attention as la, torch\n"
        "print(la.__file__)\n"
        "model = la.create_model(width=0.1)\n"
        "print(tuple(model(torch.zeros(2, 3, 32, 32)).logits.shape))\n"
    )
    where, shape = run(
        environment / "bin" / "python", "-W", "error", "-c", script, folder=tmp_path
    ).splitlines()
    assert Path(where).is_relative_to(environment)
    assert shape == "(2, 10)"


def test_installed_command_trains_and_reports(environment: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("left", "right"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(10):
            picture = rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / "images" / name / f"{number}.png")
    command = [environment / "bin" / "loss-attention", "train", "folder", "--data", "images"]
    run(*command, "--epochs", "1", "--width", "0.05", "--out", "run", folder=tmp_path)
    assert "<html" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--help"], "usage: loss-attention"),
        (["--version"], loss_attention.__version__),
        (["recipes"], "cifar10-small"),
    ],
)
def test_installed_command_answers(
    words: list[str], expected: str, environment: Path, tmp_path: Path
) -> None:
    assert expected in run(environment / "bin" / "loss-attention", *words, folder=tmp_path)
