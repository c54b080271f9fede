"""What all tests share: checked shapes and types, one thread, a fixed seed, no network."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before torch and the hub's client are imported, which read these once. Child processes inherit.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
# Where it is set, each of the processes that tests begin would compile the package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# What torchvision needs beside another build of torch: here, and in processes that tests start.
from beside_torch import sitecustomize as beside_torch

os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(beside_torch.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
)

import jaxtyping
import pytest
from hypothesis import settings

# Under nohup, or in the background of a shell, these are ignored, and so in what the tests begin.
for ignored, usual in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    number = getattr(signal, ignored, None)
    if number is not None and signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)

# Modules whose business is tensors: every annotation in them is checked at every call of the
# tests. Those that deal in files and terminals are left to mypy, as beartype takes some of their
# hints amiss (a BytesIO for a BinaryIO, say).
CHECKED = (
    "attention",
    "attribution",
    "backbones",
    "data.digits",
    "data.sample",
    "evaluation",
    "explanation",
    "geometry",
    "heads",
    "losses",
    "metrics",
    "model",
    "prediction",
    "training.optimisation",
    "training.augmentation",
    "training.guidance",
    "training.mixup",
    "training.sampling",
)
# An int passes for a float, as it does for mypy.
_CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
# Before the package is imported, or it would come too late.
jaxtyping.install_import_hook([f"loss_attention.{name}" for name in CHECKED], _CHECKER)

# The same examples each time: a failure here is a failure everywhere.
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.load_profile("repeatable")

FUZZED = 60
"""Changed inputs of each kind that the suite tries."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Have `--fuzz 5000` try more inputs of each kind; see `tests/fuzz/`."""
    what = f"changed inputs of each kind that tests/fuzz tries (default {FUZZED})"
    parser.addoption("--fuzz", type=int, default=FUZZED, metavar="COUNT", help=what)
    parser.addoption("--slow", action="store_true", help="run what is marked as slow too")


ROOT = Path(__file__).resolve().parent.parent
LONGEST_FIRST = (
    "tests/test_readme.py",
    "tests/test_docs.py",
    "tests/paper/test_reproduce.py",
    "tests/fuzz/test_archives_and_images.py",
    "tests/fuzz/test_annotations.py",
    "tests/fuzz/test_runs.py",
    "tests/test_saved_models.py",
    "tests/test_stopping.py",
    "tests/paper/test_figures.py",
)
"""Files that a process begins with: each is one process's, and a long one at the end would have the
others wait for it. Its `--no-loadscope-reorder` keeps this order."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest files first, and leave slow tests out unless told otherwise."""
    ranks = {ROOT / name: rank for rank, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    """One thread and a fixed seed for every test."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def no_shape_checks() -> Iterator[None]:
    """The package as its users run it, without the checks of annotations.

    A wrong shape has to meet the package's own message there, and here jaxtyping's comes first.
    """
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the repository; skips where there is none."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the real data sets in ../shared/data beside the repository")
    return folder


@pytest.fixture(scope="session")
def compared() -> Any:  # the comparison, and what it was measured on
    """One comparison, which the tests of its figures and of its tables share."""
    import torch
    from attribution.colour_scenes import colour_model, scenes

    from loss_attention.attribution.compare import compare

    torch.set_num_threads(1)
    return compare(
        colour_model(), scenes(40), ["evidence"], train=scenes(20, seed=1), images=12, batch_size=5
    )


@pytest.fixture
def clone(repository: Path, tmp_path: Path) -> Path:
    """A folder like a newcomer's: the repository and its `.venv`."""
    from markdown_pages import make_clone

    return make_clone(repository, tmp_path)


@pytest.fixture
def own_images(clone: Path) -> Path:
    """A newcomer's images in that folder: `my-images/CLASS/*.jpg`, and beside it `photo.jpg`."""
    from markdown_pages import make_own_images

    return make_own_images(clone)


@pytest.fixture
def own_bags(clone: Path) -> Path:
    """A newcomer's feature files in that folder: `features/*.h5` and a CSV of labels."""
    from bags.bag_files import folder

    pytest.importorskip("h5py")
    (clone / "features").mkdir()
    return folder(clone / "features", sizes=(3, 5, 2, 4, 6, 3, 4, 5, 3, 4, 5, 6))


@pytest.fixture
def small_cifar10(clone: Path) -> Path:
    """A folder in CIFAR-10's layout on the hub, with 60 training and 20 test images."""
    import datasets
    import numpy as np
    from PIL import Image

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


@pytest.fixture(scope="module")
def few_scenes() -> Iterator[None]:
    """Few scenes of digits where the data are made: all of them take seconds."""
    from paper.few import make_few

    with pytest.MonkeyPatch.context() as patch:
        make_few(patch)
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, driven by selenium; skips where either is missing."""
    webdriver = pytest.importorskip("selenium.webdriver")
    program = shutil.which("chromium") or shutil.which("chrome")
    if not (shutil.which("chromedriver") and program):
        pytest.skip("no Chromium with its driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    # As the administrator, which containers mostly are, Chromium has no sandbox.
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_window_size(1100, 900)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def plain() -> Iterator[Any]:
    """Have a function of a helper module run in a process that does not check annotations.

    What checks them cannot be traced.
    """
    import tracing
    from apart import apart, ended, heard

    process, connection = apart(tracing.serve)

    def ask(function: Any, *arguments: Any) -> None:
        connection.send((function, arguments))
        if wrong := heard(connection):
            pytest.fail(wrong, pytrace=False)

    yield ask
    connection.send(None)
    assert ended(process) == 0
