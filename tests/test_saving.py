"""Files whole or not at all, with the permissions that people chose, and no litter."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loss_attention.errors import InputError, ReportedError
from loss_attention.saving import SaveError, make_folder, write_whole


@pytest.fixture(params=[0o022, 0o077, 0o002], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_files_follow_the_umask(umask: int, tmp_path: Path) -> None:
    write_whole(tmp_path / "file", b"content")
    (tmp_path / "plain").write_bytes(b"")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "plain")}
    assert modes == {0o666 & ~umask}


def test_file_and_folder_are_brought_to_the_disk_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        done.append("folder" if folder else "file")
        fsync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        done.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    write_whole(tmp_path / "file", b"content")
    assert done == ["file", "rename", "folder"]


def test_leftovers_go_and_what_is_being_written_stays(tmp_path: Path) -> None:
    """A real process that was killed while it wrote, and one that still writes."""
    code = (
        "import os, sys, time\nfrom pathlib import Path\n"
        "from loss_attention import saving\n"
        "with saving._temporary_file(Path(sys.argv[1])) as file:\n"
        "    print(file.name, flush=True)\n    time.sleep(600)"
    )
    writing = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    names = [Path(one.stdout.readline().strip()) for one in writing if one.stdout is not None]
    writing[0].kill()
    writing[0].communicate()
    (tmp_path / ".notes.tmp").write_text("mine")
    make_folder(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {names[1].name, ".notes.tmp"}
    writing[1].kill()
    writing[1].communicate()
    make_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".notes.tmp"]


def test_the_one_before_is_kept_where_asked_to(tmp_path: Path) -> None:
    for content in (b"1", b"2", b"3"):
        write_whole(tmp_path / "state", content, previous=tmp_path / "before")
    assert (tmp_path / "state").read_bytes() == b"3"
    assert (tmp_path / "before").read_bytes() == b"2"


def test_a_file_that_cannot_be_written_is_not_bad_input(tmp_path: Path) -> None:
    with pytest.raises(SaveError) as caught:
        write_whole(tmp_path / "none" / "file", b"")
    assert not isinstance(caught.value, InputError)
    assert isinstance(caught.value, ReportedError)
    assert caught.value.exit_code == 74
    assert "\n" not in str(caught.value)
