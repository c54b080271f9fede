"""What users do with each kind of input, through the ways in that they have."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from fuzz.runs import network, splits

from loss_attention import cli
from loss_attention.backbones.weights import read_weights_file
from loss_attention.bags.bag_set import feature_statistics
from loss_attention.bags.reading import read_bags
from loss_attention.cli.explaining import explain
from loss_attention.data.decoding import read_image, read_numbers, read_size
from loss_attention.data.loading import load_splits
from loss_attention.data.sample import Splits, Storage
from loss_attention.errors import InputError, guarded
from loss_attention.model import load
from loss_attention.training import sharded
from loss_attention.training.job import continue_run
from loss_attention.training.run_folder import RunFolder
from loss_attention.training.trainer import Trainer

Entry = Callable[[Path], None]
"""Takes where the input lies; what it raises is judged."""


class MisprintError(AssertionError):
    """The command printed what it should not, or ended as it should not."""


def loaded(path: Path) -> None:
    """Load data into memory, with masks if it has any, and take all images."""
    try:
        found = _in_memory(path, masks=True)
    except InputError as error:
        if "has no masks" not in str(error):
            raise
        found = _in_memory(path, masks=False)
    for part in (found.train, found.test):
        part.take(torch.arange(len(part)))


def _in_memory(path: Path, *, masks: bool) -> Splits:
    return load_splits(
        str(path), in_channels=3, image_size=8, seed=0, masks=masks, storage=Storage(stream="no")
    )


def streamed(path: Path) -> None:
    """Load what is sound of data, decoded on demand, and take all images."""
    found = load_splits(
        str(path),
        in_channels=1,
        image_size=8,
        seed=0,
        resize="pad",
        skip_broken=True,
        storage=Storage(stream="yes", workers=0),
    )
    for part in (found.train, found.test):
        part.take(torch.arange(len(part)))


def bagged(path: Path) -> None:
    """Read bags, and all that is in their files."""
    bags = read_bags(str(path))
    feature_statistics(bags)
    for bag in range(len(bags)):
        bags.coordinates(bag)
        if bags.instance_labels is not None:
            bags.instance_labels[bag]
    bags.fingerprint()


def checked(path: Path) -> None:
    """Say `loss-attention data check`, and look at what it prints."""
    code, out, err = said("data", "check", str(path))
    if code not in (0, 2):
        raise MisprintError(f"data check ends with {code}: {err[-300:]!r}")
    if (code == 2) != bool(err):
        raise MisprintError(f"data check ends with {code} and says {err[-300:]!r}")
    lines = out.splitlines(keepends=False) + [err.removesuffix("\n")] * bool(err)
    for line in lines:
        require_printable(line)


def said(*words: str) -> tuple[int, str, str]:
    """Run the command here and return its exit code, and what it prints and complains of."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main(list(words))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    return code, out.getvalue(), err.getvalue()


def require_printable(line: str) -> None:
    """Raise for a line that a terminal would obey, or that nobody could read."""
    from loss_attention.errors import printable

    if printable(line) != line:
        raise MisprintError(f"a printed line holds control characters: {line[:300]!r}")


def pictured(path: Path) -> None:
    """Read an image in colour; the size in its header is that of its pixels."""
    (file,) = path.iterdir()
    size = read_image(file, 3).size
    header = read_size(file, "the image")
    assert header == size, f"the header says {header}, the pixels are {size}"


def greyed(path: Path) -> None:
    """Read an image in grey, from its bytes."""
    (file,) = path.iterdir()
    read_image(file.read_bytes(), 1)


def numbered(path: Path) -> None:
    """Read an image as a mask, which not every image that can be read can be."""
    (file,) = path.iterdir()
    try:
        read_numbers(file, "the mask")
    except InputError as error:
        require_printable(str(error))
        read_image(file, 1)


def opened(path: Path) -> None:
    """Read everything of a run folder."""
    run = RunFolder.open(path)
    run.recipe()
    run.options()
    run.metrics()
    run.load_state()
    run.read_json("evaluation.json")


def restored(path: Path) -> None:
    """Read a checkpoint and its shards."""
    RunFolder(path).load_state()


def filled(path: Path) -> None:
    """Read shards whose digests are not looked at, as they may be of changed ones too."""
    with guarded("state.pt"):
        state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    (folder,) = path.glob("*.shards")
    sharded.filled(state, folder)


def resumed(path: Path) -> None:
    """Resume a run up to where training would go on."""
    run = RunFolder.open(path)
    train, Trainer.train = Trainer.train, _no_training  # type: ignore[method-assign]
    try:
        continue_run(run, splits())
    finally:
        Trainer.train = train  # type: ignore[method-assign]


def _no_training(self: Trainer) -> bool:
    return True


def explained(path: Path) -> None:
    """Explain an image with a run whose evaluation says from where on groups are objects."""
    from fuzz.pictures import picture
    from rich.console import Console

    image = path.parent / "image.png"
    image.write_bytes(picture("png", "L"))
    out = path.parent / "explained"
    shutil.rmtree(out, ignore_errors=True)
    explain(Console(file=io.StringIO()), path, (image,), out, accelerator="cpu")


def weighed(path: Path) -> None:
    """Load weights, as a folder and as a file, and look at an image with them."""
    model = load(path)
    load(path / "model.safetensors")
    height, width = model.image_size or (12, 12)
    if height * width <= 10_000:
        model.explain(torch.zeros(1, model.config["in_channels"], height, width))


def begun(path: Path) -> None:
    """Read weights that a backbone is to begin with."""
    whole = network().state_dict()
    wanted = {name: value for name, value in whole.items() if not name.startswith("2.")}
    (file,) = path.glob("backbone.*")
    loaded = read_weights_file(file, wanted, whole, of="the network")
    assert {name for name in loaded.state if "tracked" not in name} == {
        name for name in wanted if "tracked" not in name
    }
