"""Work beside the network: in order, bounded, and ended in order; pictures by any process alike."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from explained.test_files import listing, make_model, read, save_image
from PIL import Image

from loss_attention.errors import KilledError
from loss_attention.explained.encoding import encoded
from loss_attention.explained.files import explain_files
from loss_attention.explained.pipeline import (
    WORTH_PROCESSES,
    at_once,
    in_order,
    processes,
    suitable_processes,
    threads,
)
from loss_attention.interruption import KEYBOARD


@pytest.mark.parametrize("count", [0, 1, 5])
def test_results_come_in_order_and_few_are_held(count: int) -> None:
    taken: list[int] = []

    def items():
        for number in range(20):
            taken.append(number)
            yield number

    results = in_order(at_once, lambda number: number * number, items(), most=max(1, count))
    for number, result in enumerate(results):
        assert result == number * number
        assert len(taken) <= number + max(1, count)


def test_nothing_more_is_given_out_while_the_first_is_waited_for() -> None:
    given: list[int] = []

    def submit(function, number):
        given.append(number)
        return at_once(function, number)

    results = in_order(submit, abs, range(10), most=3)
    assert next(results) == 0
    assert given == [0, 1, 2]
    assert next(results) == 1
    assert given == [0, 1, 2, 3]


def test_threads_hand_on_what_fails() -> None:
    with threads(2) as submit, pytest.raises(ZeroDivisionError):
        list(in_order(submit, lambda number: 1 // number, [1, 0, 2], most=2))


def test_a_process_that_dies_is_told_in_a_line() -> None:
    message = "a process of `workers` was ended"
    with pytest.raises(KilledError, match=message) as caught, processes(1) as submit:
        list(in_order(submit, os._exit, [3], most=1))
    assert "\n" not in str(caught.value)


def test_few_images_need_no_processes() -> None:
    assert suitable_processes(WORTH_PROCESSES - 1) == 0
    assert suitable_processes(WORTH_PROCESSES) >= 1


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (40, 71)])
def test_a_png_has_every_pixel(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    content = encoded(Image.fromarray(pixels), "png")
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == "PNG"
        picture.load()  # Pillow checks the sums
        np.testing.assert_array_equal(np.asarray(picture), pixels)


@pytest.mark.parametrize(("image_format", "suffix"), [("jpeg", ".jpg"), ("webp", ".webp")])
def test_other_forms_of_pictures_look_alike(image_format, suffix, tmp_path: Path) -> None:
    model, file = make_model(), save_image(tmp_path / "in" / "a.png")
    explain_files(model, [file], tmp_path / "png")
    explain_files(model, [file.parent], tmp_path / "out", image_format=image_format)
    names = [f"a{suffix}", "a.json", "contact-sheet.jpg", "index.html"]
    assert listing(tmp_path / "out") == sorted(names)
    assert f'"a{suffix}"' in (tmp_path / "out" / "index.html").read_text()
    with (
        Image.open(tmp_path / "png" / "a.png") as one,
        Image.open(tmp_path / "out" / f"a{suffix}") as other,
    ):
        assert other.format == image_format.upper()
        assert one.size == other.size
        assert np.abs(np.asarray(one).astype(int) - np.asarray(other)).mean() < 8


def test_processes_write_what_one_alone_does(tmp_path: Path) -> None:
    model = make_model()
    for number in range(5):
        save_image(tmp_path / "in" / f"{number}.png", seed=number)
    (tmp_path / "in" / "2.png").write_bytes(b"no image")
    found = [
        explain_files(model, [tmp_path / "in"], tmp_path / str(count), workers=count, batch_size=2)
        for count in (0, 2)
    ]
    assert listing(tmp_path / "0") == listing(tmp_path / "2")
    for name in listing(tmp_path / "0"):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name
    assert found[0].unreadable == found[1].unreadable
    assert [path.name for path in found[0].written] == [path.name for path in found[1].written]


def test_without_pictures_there_are_only_json_files(tmp_path: Path) -> None:
    save_image(tmp_path / "in" / "a.png")
    summary = explain_files(make_model(), [tmp_path / "in"], tmp_path / "out", pictures=False)
    assert listing(tmp_path / "out") == ["a.json"]
    assert summary.index is None
    assert read(tmp_path / "out" / "a.json")["file"].endswith("a.png")


def test_a_process_that_draws_needs_no_torch() -> None:
    program = "import sys, loss_attention.explained.pictures; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert "PIL.Image" in loaded
    assert not loaded & {"torch", "scipy", "sklearn", "matplotlib.figure", "pyarrow"}


def test_ctrl_c_leaves_whole_files_only(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(make_model().to_bytes())
    for number in range(600):
        save_image(tmp_path / "in" / f"{number}.png", seed=number)
    program = "import sys; from loss_attention.cli import main; main(sys.argv[1:])"
    out = tmp_path / "out"
    words = ["explain", str(tmp_path / "model.safetensors"), str(tmp_path / "in"), "--out"]
    words = [sys.executable, "-c", program, *words, str(out), "--workers", "2"]
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
        start_new_session=True,
    ) as job:
        while job.poll() is None and not (out / "5.json").exists():
            time.sleep(0.05)
        os.killpg(job.pid, signal.SIGINT)  # a terminal sends it to all processes of the group
        said = job.communicate()
    assert job.returncode == KEYBOARD, said
    assert said == ("", "loss-attention: interrupted by SIGINT\n")
    there = listing(out)
    assert 1 <= sum(name.endswith(".json") for name in there) < 600
    assert not [name for name in there if not name.endswith((".json", ".png"))]
    for name in there:
        if name.endswith(".json"):
            assert read(out / name)["file"]
        else:
            with Image.open(out / name) as picture:
                picture.load()


def hear_ctrl_c() -> None:
    """Undo what a shell does to jobs in the background: it has them ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
