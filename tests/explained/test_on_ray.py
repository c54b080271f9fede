"""A table by actors of Ray: the local engine's files, whatever happens to actors or the command."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pytest
from explained.test_files import listing, make_model, save_image
from explained.test_pipeline import hear_ctrl_c
from pyarrow import parquet

from loss_attention.cli import main
from loss_attention.errors import InputError, KilledError
from loss_attention.explained import on_ray
from loss_attention.explained.actors import TRIES, TRIES_FILE, VERSIONS, Order, ShardWriter
from loss_attention.explained.questions import own_question
from loss_attention.explained.shards import Shard, TableSummary, digest_of, explain_table
from loss_attention.interruption import KEYBOARD

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
IMAGES, SHARDS = 150, 2
"""More than a batch a shard, so that it matters which images are computed together."""
PROGRAM = "import sys; from loss_attention.cli import main; main(sys.argv[1:])"
# In the program's own module, so that the actors are sent it as it is.
DYING = """
import os, sys, time
from pathlib import Path
from loss_attention.cli import main
from loss_attention.explained import actors, answers, on_ray

class Dying(actors.ShardWriter):
    "Dies once, of all actors, with its second batch: half of a file is written then."
    def __call__(self, rows):
        calls, columns_of = [], answers.columns_of
        def dying(*values):
            calls.append(values)
            if len(calls) == 2 and not (HOME / "died").exists():
                (HOME / "died").touch()
                os._exit(1)
            return columns_of(*values)
        answers.columns_of = dying
        try:
            return super().__call__(rows)
        finally:
            answers.columns_of = columns_of

class Slow(actors.ShardWriter):
    "Takes its time with all but the first shard, until it is told to go on."
    def __call__(self, rows):
        while rows["number"].to_pylist() != [1] and not (HOME / "go").exists():
            (HOME / "waits").touch()
            time.sleep(0.05)
        return super().__call__(rows)

HOME = Path.cwd()
on_ray.ShardWriter = {"dying": Dying, "slow": Slow}[sys.argv.pop(1)]
main(sys.argv[1:])
"""


def make_folder(path: Path, images: int, broken: int) -> Path:
    """Make a model and a folder of images, one of which is none."""
    (path / "model.safetensors").write_bytes(make_model().to_bytes())
    for number in range(images):
        save_image(path / "in" / f"{number:03}.png", (20 + number % 7, 30), number)
    (path / "in" / f"{broken:03}.png").write_bytes(b"no image")
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the paths of many images begin."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return make_folder(tmp_path, IMAGES, 100)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images, and the first of two shards of them."""
    path = make_folder(tmp_path_factory.mktemp("small"), 6, 5)
    with contextlib.chdir(path):
        local("there", 1)
    return path


@pytest.fixture
def small(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the paths of these images begin."""
    monkeypatch.chdir(made)
    return made


def local(out: str, number: int, of: int = SHARDS) -> TableSummary:
    """Write a shard by the local engine."""
    model = make_model()
    return explain_table(
        model, own_question(model), [Path("in")], Path(out), shard=Shard(number, of)
    )


def words(out: str, *more: str, program: str = PROGRAM, kind: str | None = None) -> list[str]:
    """The command, with two actors."""
    began = [sys.executable, "-c", program, *filter(None, [kind])]
    asked = ["explain", "model.safetensors", "in", "--out", out, "--format", "parquet"]
    return [*began, *asked, "--engine", "ray", "--workers", "2", *more]


def require_same(ours: Path, theirs: Path) -> None:
    """Compare by Arrow, row by row as sorted by path, and the files byte by byte."""
    tables = [parquet.read_table(out).sort_by("path") for out in (ours, theirs)]
    assert tables[0].num_rows == IMAGES == len(set(tables[0]["path"].to_pylist()))
    assert tables[0].schema.equals(tables[1].schema, check_metadata=True)
    assert tables[0].equals(tables[1])
    names = [name for name in listing(theirs) if name.endswith(".parquet")]
    assert listing(ours) == listing(theirs)  # nothing of actors that died
    for name in names:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()


def order(out: Path) -> Order:
    """What an actor would be sent."""
    model = make_model()
    return Order(
        model=model,
        question=own_question(model),
        out=out,
        of=SHARDS,
        batch_size=64,
        overwrite=False,
        device="cpu",
        threads=1,
        folder=Path.cwd(),
        versions=VERSIONS,
    )


def rows(out: Path, told: Order) -> list[pa.Table]:
    """What is handed out."""
    images = sorted(Path("in").iterdir())
    digest = digest_of(told.model, told.question)
    found = on_ray._missing(images, out, SHARDS, digest, overwrite=False)
    return [pa.Table.from_pylist([row]) for row in found]


def test_an_actor_writes_what_the_local_engine_does(folder: Path) -> None:
    summaries = [local("local", number) for number in (1, 2)]
    out = folder / "table"
    out.mkdir()
    # As it comes out of a pickle, in which it travels.
    actor = ShardWriter(pickle.loads(pickle.dumps(order(Path("table")))))
    first, second = rows(out, order(out))
    [said] = actor(first).to_pylist()
    assert said == {"number": 1, "unreadable": [], "error": None}
    [left] = rows(out, order(out))
    assert left == second
    [said] = actor(second).to_pylist()
    assert said["unreadable"] == summaries[1].unreadable
    for file in out.glob("*.tries"):  # the command's to remove
        file.unlink()
    require_same(out, folder / "local")


def test_what_an_actor_cannot_do_it_says(small: Path, tmp_path: Path) -> None:
    def said(told: Order) -> Exception:
        [row] = ShardWriter(told)(rows(tmp_path, told)[0]).to_pylist()
        return pickle.loads(row["error"])

    versions = {**VERSIONS, "torch": "1.0"}
    for changes, message in (
        ({"versions": versions}, "and torch 1.0: install the same on all"),
        ({"folder": Path("/nowhere")}, "cannot enter /nowhere"),
        ({"out": tmp_path / "none"}, f"has no folder {tmp_path / 'none'}"),
        ({"device": "cuda"}, "`accelerator` cuda: torch finds no GPU here"),
    ):
        error = said(order(tmp_path)._replace(**changes))
        assert isinstance(error, InputError)
        assert message in str(error)
    (tmp_path / TRIES_FILE.format(1)).write_bytes(b"." * TRIES)
    error = said(order(tmp_path))
    assert isinstance(error, KilledError)
    assert "actors died with shard 1/2" in str(error)
    assert not list(tmp_path.glob("*.parquet"))


@pytest.mark.slow
def test_the_files_are_those_of_the_local_engine(folder: Path) -> None:
    summaries = [local("local", number) for number in (1, 2)]
    done = subprocess.run(
        words("table", "--shards", "2"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr  # as one is not an image
    [line] = summaries[1].unreadable
    assert done.stderr == f"loss-attention: {line}\n"
    assert done.stdout == f"{IMAGES} images explained in table\n"
    require_same(folder / "table", folder / "local")


@pytest.mark.slow
def test_an_actor_that_dies_loses_nothing_and_leaves_nothing_twice(folder: Path) -> None:
    for number in (1, 2):
        local("local", number)
    done = subprocess.run(
        words("table", "--shards", "2", program=DYING, kind="dying"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (folder / "died").exists()
    assert done.returncode == 2, done.stderr
    # Ray says before it that an actor died.
    assert done.stdout.endswith(f"{IMAGES} images explained in table\n")
    assert done.stderr.count("\n") == 1
    require_same(folder / "table", folder / "local")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_stopped_goes_on_with_what_is_missing(folder: Path, number: signal.Signals) -> None:
    for shard in (1, 2, 3):
        local("local", shard, of=3)
    mark = f"mark-of-{folder.name}"
    with subprocess.Popen(
        words("table", "--shards", "3", program=DYING, kind="slow"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"LOSS_ATTENTION_MARK": mark},
        preexec_fn=hear_ctrl_c,
        start_new_session=True,
    ) as job:
        first = folder / "table" / "part-00001-of-00003.parquet"
        while job.poll() is None and not (first.exists() and (folder / "waits").exists()):
            time.sleep(0.05)
        os.killpg(job.pid, number)
        said = job.communicate()
    assert job.returncode == (KEYBOARD if number == signal.SIGINT else 128 + number), said
    assert said == ("", f"loss-attention: interrupted by {number.name}\n")
    until_none_has(mark)
    before = first.stat().st_mtime_ns
    assert [name for name in listing(folder / "table") if name.endswith(".parquet")] == [first.name]
    done = subprocess.run(words("table", "--shards", "3"), capture_output=True, text=True)
    explained = IMAGES - IMAGES // 3
    said_again = f"{explained} images explained in table; 1 of 3 shards existed already\n"
    assert done.stdout == said_again, done.stderr
    assert first.stat().st_mtime_ns == before
    require_same(folder / "table", folder / "local")


def until_none_has(mark: str) -> None:
    """Wait until no process is left that inherited a variable with this value."""
    while True:
        left = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if mark.encode() in (process / "environ").read_bytes():
                    left.append((process / "cmdline").read_bytes())
            except OSError:  # it has ended, or is another user's
                continue
        if not left:
            return
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--engine ray writes a table: it needs --format parquet"),
        (["--format", "coco"], "--engine ray writes a table: it needs --format parquet"),
        (["--format", "parquet", "--pictures"], "--engine ray draws no --pictures"),
        (["--format", "parquet", "--shard", "1/2"], "--shard is for --engine local"),
        (["--format", "parquet", "--workers", "0"], "--workers must be at least 1, got 0"),
        (["--format", "parquet", "--shards", "0"], "--shards must be at least 1, got 0"),
        (["--format", "parquet", "--shards", "7"], "there are 6 images, so at most 6 shards"),
        (["--format", "parquet", "--shards", "3"], "is one of 2 shards, and --shards is 3"),
        (["--format", "parquet", "--shards", "2", "--target", "dog"], "is a shard of other images"),
        (["--format", "parquet", "--engine", "local", "--shards", "2"], "--shards is for --engine"),
    ],
)
def test_what_actors_do_not_do_is_one_line(
    options: list[str], message: str, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["explain", "model.safetensors", "in", "--out", "there", "--engine", "ray", *options])
    said = capsys.readouterr().err
    assert (caught.value.code, said.count("\n")) == (2, 1), said
    assert message in said
    assert len(listing(small / "there")) == 2


def test_without_ray_the_line_says_how_to_install_it(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit) as caught:
        main(words("out")[3:])
    said = capsys.readouterr().err
    assert (caught.value.code, said.count("\n")) == (2, 1)
    assert 'pip install "loss-attention[scale]"' in said
    assert not (small / "out").exists()


def test_all_that_is_there_needs_no_cluster(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):
        local("all", number)
    monkeypatch.setenv("RAY_ADDRESS", "nobody:1")
    with pytest.raises(SystemExit) as caught:
        main(words("all", "--shards", "2")[3:])
    assert caught.value.code == 0
    assert capsys.readouterr().out.endswith("2 of 2 shards existed already\n")
