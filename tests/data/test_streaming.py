"""A streamed set against the same set in memory; its workers; what goes wrong while it streams."""

from __future__ import annotations

import gc
import io
import multiprocessing
import os
import pickle
import signal
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.making import image_folder, parquet, png, stored, text, write
from PIL import Image
from training.stored import load_stored, store_tiny

from loss_attention.data import streaming
from loss_attention.data.archives import Member
from loss_attention.data.loading import load_splits
from loss_attention.data.sample import ImageSet, LabelledImages, Storage, choose_stream
from loss_attention.data.streaming import Reader, StreamedSet
from loss_attention.data.tree import open_tree
from loss_attention.errors import InputError, KilledError
from loss_attention.memory import free_memory


def mixed(folder: Path) -> Path:
    """Pictures of many shapes, one on its side, with boxes and masks."""
    random = np.random.default_rng(0)
    rows = ["image,label,x0,y0,x1,y1,mask,split"]
    for i in range(9):
        width, height = (int(n) for n in random.integers(8, 30, 2))
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        file, exif = io.BytesIO(), Image.Exif()
        exif[274] = 6 if i == 4 else 1
        Image.fromarray(pixels).save(file, "jpeg", exif=exif)
        write(folder / f"{i}.jpg", file.getvalue())
        upright = (height, width) if i == 4 else (width, height)
        write(folder / f"masks/{i}.png", png(255, upright))
        split = "test" if i > 6 else "train"
        rows.append(f"{i}.jpg,{'cat' if i % 2 else 'dog'},1,2,6,7,masks/{i}.png,{split}")
    text(folder / "labels.csv", *rows)
    return folder


def zipped(folder: Path) -> Path:
    source = mixed(folder / "unpacked")
    with zipfile.ZipFile(folder / "all.zip", "w") as archive:
        for file in sorted(source.rglob("*.*")):
            archive.write(file, file.relative_to(source))
    return folder / "all.zip"


def tables(folder: Path) -> Path:
    for split, levels in (("train", range(10, 19)), ("test", range(30, 33))):
        columns = {"image": stored(*levels), "label": [level % 2 for level in levels]}
        parquet(folder / f"{split}.parquet", columns)
    return folder


SOURCES = {
    "squashed": (mixed, {"image_size": 12, "in_channels": 3}),
    "padded": (mixed, {"image_size": 12, "in_channels": 3, "resize": "pad"}),
    "zip with masks": (zipped, {"image_size": 12, "resize": "pad", "masks": True}),
    "parquet": (tables, {}),
    "one size": (store_tiny, {}),
}


def assert_equal(one: ImageSet, other: ImageSet) -> None:
    assert one.names == other.names
    assert one.class_names == other.class_names
    for name in ("images", "labels", "boxes", "box_labels", "masks", "placements"):
        found, expected = getattr(one, name), getattr(other, name)
        assert (found is None) == (expected is None), name
        if expected is not None:
            assert torch.equal(found.nan_to_num(), expected.nan_to_num()), name


def read_all(data: LabelledImages, meanwhile: Callable[[], None] = lambda: None) -> None:
    batches = torch.split(torch.arange(len(data)), 8)
    with data.reading():
        data.expect(batches)
        meanwhile()
        for index in batches:
            data.take(index)


@pytest.mark.parametrize("source", SOURCES)
def test_a_streamed_set_is_the_one_in_memory(tmp_path: Path, source: str) -> None:
    make, form = SOURCES[source]
    folder = make(tmp_path)
    memory, streamed = load_stored(folder, "no", **form), load_stored(folder, "yes", **form)
    assert streamed.source == memory.source
    for name in ("train", "test"):
        expected, found = getattr(memory, name), getattr(streamed, name)
        assert isinstance(expected, ImageSet)
        assert isinstance(found, StreamedSet)
        assert (len(found), found.size) == (len(expected), expected.size)
        assert_equal(found.decoded(), expected)
        index = torch.tensor([1, 0])
        assert_equal(found.subset(index).take(torch.tensor([1])), expected.take(index[1:]))
        # Sent to another process, whatever way that starts.
        assert_equal(pickle.loads(pickle.dumps(found)).take(index), expected.take(index))


@pytest.mark.parametrize("source", ["zip with masks", "parquet"])
def test_workers_decode_every_image_once_in_the_order_asked_for(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, form = SOURCES[source]
    folder = make(tmp_path)
    monkeypatch.setattr(Reader, "_read_now", None)
    expected = load_stored(folder, "no", **form).trainval.decoded()
    found = load_stored(folder, workers=2, **form).trainval
    shuffled = torch.randperm(len(found), generator=torch.Generator().manual_seed(1))
    batches = torch.split(shuffled, 2)
    seen: Counter[str] = Counter()
    with found.reading():
        for _ in range(2):  # the same workers again
            found.expect(batches)
            waiting = list(found.images.reader._expected)
            for index in batches:
                batch = found.take(index)
                assert_equal(batch, expected.take(index))
                seen.update(batch.names)
            # A tensor on its way to a worker changes its memory, while this process compares it.
            assert not any(numbers.is_shared() for numbers in waiting)
    assert seen == dict.fromkeys(expected.names, 2)


def test_each_process_opens_a_zip_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that a forked process inherits has one position for both."""
    file = open_tree(zipped(tmp_path)).content("labels.csv")
    assert isinstance(file, Member)
    archive = file.archive
    before = archive.opened()
    assert archive.opened() is before
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert archive.opened() is not before


def test_workers_are_there_while_reading_and_end_with_it(tmp_path: Path) -> None:
    splits = load_stored(store_tiny(tmp_path), workers=1)
    data, expected = splits.trainval, load_stored(tmp_path, "no").trainval.decoded()
    batches = torch.split(torch.arange(len(data)), 8)
    with data.reading():
        data.expect(batches)
        (worker,) = multiprocessing.active_children()
        with splits.test.reading():  # of the same source: no more of them
            assert multiprocessing.active_children() == [worker]
        data.take(batches[0])
        # What was not expected is decoded on the spot, and what was expected still comes.
        assert_equal(data.take(torch.tensor([45, 3])), expected.take(torch.tensor([45, 3])))
        assert_equal(data.take(batches[1]), expected.take(batches[1]))
        data.expect(batches[3:])  # begun anew before the end
        assert_equal(data.take(batches[3]), expected.take(batches[3]))
        assert multiprocessing.active_children() == [worker]
    assert multiprocessing.active_children() == []


def test_a_worker_that_is_killed_is_an_error_in_one_line(tmp_path: Path) -> None:
    data = load_stored(store_tiny(tmp_path), workers=2).trainval

    def lose_the_worker() -> None:
        worker, _ = multiprocessing.active_children()
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)

    with pytest.raises(KilledError, match="a process that decodes images was ended") as caught:
        read_all(data, lose_the_worker)
    assert "\n" not in str(caught.value)
    assert multiprocessing.active_children() == []


def image_tensors() -> list[torch.Tensor]:
    """All tensors of images that are alive."""
    tensors = (x for x in gc.get_objects() if type(x) is torch.Tensor)
    return [x for x in tensors if x.ndim == 4 and x.dtype == torch.uint8]


def test_what_is_decoded_is_not_kept(tmp_path: Path) -> None:
    data = load_stored(store_tiny(tmp_path, images=120)).trainval
    pixels = data.size[0] * data.size[1]
    earlier = {id(x): x for x in image_tensors()}  # of other tests; held, so no id comes again
    most = 0
    for index in torch.split(torch.arange(len(data)), 4):
        batch = data.take(index)
        assert len(batch) == 4
        if index[0] % 40 == 0:
            most = max(most, sum(x.nbytes for x in image_tensors() if id(x) not in earlier))
    assert 0 < most <= 2 * 4 * pixels < len(data) * pixels / 10


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_breaks_on_the_way_is_named_in_one_line(tmp_path: Path, workers: int) -> None:
    folder = store_tiny(tmp_path)
    data = load_stored(folder, workers=workers).trainval
    file = folder / "train/005.png"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"^1 image cannot be read: train/005.png \(") as caught:
        read_all(data)
    assert "\n" not in str(caught.value)
    assert multiprocessing.active_children() == []


def test_broken_images_are_left_out_before_training_where_asked_to(tmp_path: Path) -> None:
    folder = store_tiny(tmp_path)
    file = folder / "train/005.png"
    file.write_bytes(file.read_bytes()[:-30])
    memory = load_stored(folder, "no", skip_broken=True)
    streamed = load_stored(folder, skip_broken=True)
    assert (
        streamed.notes
        == memory.notes
        == ("1 image left out, as asked, for what is wrong with them",)
    )
    assert "train/005.png" not in streamed.trainval.names
    assert_equal(streamed.trainval.decoded(), memory.trainval.decoded())


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"no picture", "1 image cannot be read: train/cat/1.png (of no known image format)"),
        (b"", "1 image cannot be read: train/cat/1.png (empty)"),
        (png(1, (5, 4)), "images of unequal sizes: train/cat/0.png is 4 x 4, train/cat/1.png is"),
    ],
)
def test_what_headers_show_is_refused_at_once_as_in_memory(
    tmp_path: Path, content: bytes, line: str
) -> None:
    image_folder(tmp_path, {f"train/{name}/{i}.png": i for name in ("cat", "dog") for i in (0, 1)})
    image_folder(tmp_path, {"test/dog/0.png": 9})
    write(tmp_path / "train/cat/1.png", content)
    messages = []
    for stream in ("yes", "no"):
        with pytest.raises(InputError) as caught:
            load_stored(tmp_path, stream)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith(line)


def test_a_fingerprint_decodes_nothing_and_tells_sets_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_tiny(tmp_path)

    def fingerprint(**form: Any) -> str:
        return load_stored(tmp_path, **form).trainval.fingerprint()

    first = fingerprint()
    monkeypatch.setattr(StreamedSet, "take", None)
    monkeypatch.setattr(streaming.EncodedImages, "read", None)
    assert fingerprint() == first
    found = {first, fingerprint(image_size=9), fingerprint(in_channels=3)}
    table, picture = tmp_path / "train.csv", tmp_path / "train/000.png"
    before, pixels = table.read_text(), picture.read_bytes()
    table.write_text(before.replace("left", "x").replace("right", "left").replace("x", "right"))
    # Reading the table again gives other labels or, as classes are sorted, others' names.
    found.add(fingerprint())
    table.write_text(before)
    picture.write_bytes(pixels[:-1] + b"x")
    found.add(fingerprint())
    assert len(found) == 5
    monkeypatch.setattr(streaming, "FINGERPRINTED", 2)  # none of which is the one that grows
    before_growing = fingerprint()
    (tmp_path / "train/001.png").write_bytes(pixels + b"x")
    assert fingerprint() != before_growing


@pytest.mark.parametrize(("memory", "streamed"), [(3 * 66 * 144, False), (3 * 66 * 144 - 1, True)])
def test_the_size_decides_and_the_line_says_so(tmp_path: Path, memory: int, streamed: bool) -> None:
    """46 + 20 images of 12 x 12 may take a third of the memory."""
    storage = Storage(memory=memory)
    splits = load_splits(
        str(store_tiny(tmp_path)), in_channels=1, image_size=None, seed=0, storage=storage
    )
    assert splits.train.in_memory is not streamed
    assert splits.storage.startswith(
        "images streamed from disk: " if streamed else "images held in memory: "
    )
    asked = replace(storage, stream="no" if streamed else "yes")
    assert choose_stream(asked, 66 * 144)[0] is not streamed


def test_made_data_cannot_be_streamed() -> None:
    with pytest.raises(InputError, match="digits is generated here"):
        load_stored(Path("digits"))


MACHINE = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n"}


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 8_192_000),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/memory.max": "max\n",
                "sys/fs/cgroup/a/memory.max": "5000000\n",
                "sys/fs/cgroup/a/memory.current": "3000000\n",
                "sys/fs/cgroup/a/memory.stat": "anon 7\ninactive_file 1000000\n",
            },
            3_000_000,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu:/\n4:memory:/x\n",
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "6000000\n",
                "sys/fs/cgroup/memory/x/memory.usage_in_bytes": "2000000\n",
                "sys/fs/cgroup/memory/x/memory.stat": "total_inactive_file 500000\n",
            },
            4_500_000,
        ),
    ],
)
def test_free_memory_is_that_of_the_machine_or_of_the_container(
    tmp_path: Path, files: dict[str, str], free: int
) -> None:
    for name, content in (MACHINE | files).items():
        write(tmp_path / name, content.encode())
    assert free_memory(tmp_path) == free
