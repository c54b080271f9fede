"""One process at a time writes a run; who only reads it needs nothing of it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typed import SMALL, complaint, make_folder, run

from loss_attention.errors import InputError
from loss_attention.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images and a finished run on it."""
    path = tmp_path_factory.mktemp("locking")
    images = make_folder(path / "images", each=6)
    words = [*SMALL, "--epochs", "1", "--out", path / "run"]
    run("train", "folder", "--data", images, *words)
    return path


@pytest.fixture
def elsewhere(place: Path) -> Iterator[None]:
    """Another process that has the run."""
    code = (
        "import sys, time; from pathlib import Path\n"
        "from loss_attention.training.run_folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).locked(): print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(place / "run")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield
    process.kill()
    process.communicate()


def contents(path: Path) -> dict[str, str]:
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and file.name != ".lock"]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.usefixtures("elsewhere")
def test_every_word_that_writes_leaves_another_ones_run_alone(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, images = place / "run", place / "images"
    temporary = folder / ".loss-attention-0123456789abcdef.tmp"  # of the one that trains
    temporary.write_text("half")
    before = contents(folder)
    for words in (
        ["resume", folder],
        ["resume", folder, "--learning-rate", "0.01"],
        ["train", "folder", "--data", images, *SMALL, "--out", folder, "--overwrite"],
        ["evaluate", folder],
        ["report", folder],
        ["compare", folder, "--images", "1", "--methods", "evidence"],
        ["explain", folder, images, "--out", folder / "explained"],
        ["demo", "--out", folder],
    ):
        said = complaint(capsys, *words)
        assert f"another process is training or evaluating the run {folder}" in said
        assert contents(folder) == before
    run("explain", folder, images, "--out", tmp_path / "explained")
    run("evaluate", folder, "--data", make_folder(tmp_path / "others", each=3))
    assert contents(folder) == before
    temporary.unlink()


def test_explaining_needs_no_lock(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a folder that can only be read: nothing is made there, the lock least of all."""
    folder = place / "run"
    (folder / ".lock").unlink()
    run("explain", folder, place / "images", "--out", tmp_path / "explained")
    run("compare", folder, "--images", 2, "--methods", "evidence", "--out", tmp_path / "compared")
    assert not (folder / ".lock").exists()


def test_the_lock_is_ones_own_within_ones_context(tmp_path: Path) -> None:
    one = RunFolder(tmp_path)
    with one.locked():
        with one.locked():
            pass
        with pytest.raises(InputError, match="another process"), RunFolder(tmp_path).locked():
            pass
    with RunFolder(tmp_path).locked():
        pass


@pytest.mark.parametrize("there", [True, False])
def test_a_run_that_does_not_begin_leaves_no_folder(there: bool, tmp_path: Path) -> None:
    path = tmp_path / "run"
    if there:
        path.mkdir()
        (path / ".lock").touch()  # of a run that a kill ended before it began
    with RunFolder(path).claimed():
        assert path.is_dir()
    assert not path.exists()


def test_a_folder_that_is_no_run_gets_no_lock(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError), RunFolder(tmp_path).claimed(overwrite=True):
        pass
    with pytest.raises(InputError), RunFolder.opened_to_write(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
