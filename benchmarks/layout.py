"""How much code a story runs through: modules and lines in src, and those that two commands enter.

    python benchmarks/layout.py             # the table of docs/architecture.md, on digits
    python benchmarks/layout.py --list      # and which modules each command ran through

A module is run through where a function of it is called: by `train digits` from the command line to
its report, and by `explain` of one image with the network so trained, both as small as they get and
in this process. All modules are imported before, so what a module calls of itself as it is imported
does not count, and neither do the methods that `dataclass` writes.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import pkgutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
from measuring import typed
from PIL import Image

import loss_attention
from loss_attention.terminal import markdown_table

SOURCE = Path(loss_attention.__file__).parent
TINY = (
    *("--width", "0.1", "--epochs", "1", "--limit-images", "24", "--batch-size", "8"),
    *("--accelerator", "cpu", "--precision", "32"),
)


def modules(source: Path = SOURCE) -> dict[str, int]:
    """Return the lines of each module below a folder, by its path there.

    An `__init__.py` that is nothing but the docstring of its package is not a module.
    """
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(source.rglob("*.py"))}
    return {
        path.relative_to(source).as_posix(): len(text.splitlines())
        for path, text in texts.items()
        if len(ast.parse(text).body) > 1 or path.name != "__init__.py"
    }


def run_through(job: Callable[[], object], source: Path = SOURCE) -> set[str]:
    """Return the modules below a folder of which a function is called while a job runs."""
    entered: set[CodeType] = set()

    def note(frame: FrameType, event: str, _returned: Any) -> None:
        if event == "call":
            entered.add(frame.f_code)

    before = sys.getprofile()
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        job()
    finally:
        sys.setprofile(before)
        threading.setprofile(None)
    # Neither a module's own code nor a class's body is a function.
    files = {Path(code.co_filename) for code in entered if code.co_flags & inspect.CO_OPTIMIZED}
    below = {file.relative_to(source).as_posix() for file in files if file.is_relative_to(source)}
    return below & set(modules(source))  # templates of pages call functions, too


def stories(folder: Path) -> Iterator[tuple[str, set[str]]]:
    """Run each command in a folder; yield its name with the modules that it ran through."""
    for module in pkgutil.walk_packages([str(SOURCE)], "loss_attention."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    run, image = folder / "run", folder / "image.png"
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    Image.fromarray(pixels).save(image)
    for name, words in (
        ("train digits", ("train", "digits", *TINY, "--out", str(run))),
        ("explain", ("explain", str(run), str(image), "--out", str(folder / "explained"))),
    ):
        yield name, run_through(partial(_command, *words))


def _command(*words: str) -> None:
    code, said = typed(*words)
    if code:
        raise RuntimeError(f"{' '.join(words)} ended with {code}: {said}")


def page(sizes: dict[str, int], entered: dict[str, set[str]]) -> str:
    """Return the counts as a table in Markdown."""
    rows = {"modules in src": len(sizes), "lines in src": sum(sizes.values())}
    rows |= {f"modules run through by `{name}`": len(found) for name, found in entered.items()}
    counts = [(what, f"{count:,}") for what, count in rows.items()]
    return markdown_table(["what", "count"], counts)


def main() -> None:
    """Count, and print what was counted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--list", action="store_true", help="name the modules too")
    listed = parser.parse_args().list
    with tempfile.TemporaryDirectory() as folder:
        entered = dict(stories(Path(folder)))
    print(page(modules(), entered))
    if listed:
        for name, found in entered.items():
            print(f"\n{name}:", *sorted(found), sep="\n    ")


if __name__ == "__main__":
    main()
