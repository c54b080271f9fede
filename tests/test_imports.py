"""What importing costs, and the layers: a module imports from its package and from below it."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from training.tiny import new_run

import loss_attention
from loss_attention.training.recipe import Recipe

PACKAGE = "loss_attention"
SOURCE = Path(loss_attention.__file__).parent

LINE = re.compile(r"(?P<indent> *)(?P<name>[\w.]+/?)  +\S.*")
"""A package or module of the drawing in docs/architecture.md, and what it is."""


def drawn(page: str) -> tuple[list[str], set[str]]:
    """The packages and modules at the top of the drawing, in its order, and all modules in it."""
    _, drawing = page.split("<!-- layers -->")
    top: list[str] = []
    found: set[str] = set()
    folders: list[str] = []
    for line in drawing.split("```")[1].splitlines()[1:]:
        match = LINE.fullmatch(line)
        assert match, f"docs/architecture.md: no line of the drawing: {line!r}"
        depth, name = len(match["indent"]) // 4, match["name"]
        if depth == 0:
            top.append(name.removesuffix("/").removesuffix(".py"))
        folders = folders[:depth]
        if name.endswith("/"):
            folders.append(name)
            continue
        path = "".join(folders) + name
        assert path not in found, f"drawn twice: {path}"
        found.add(path)
    return top, found


@pytest.fixture(scope="module")
def layers(repository: Path) -> tuple[list[str], set[str]]:
    return drawn((repository / "docs" / "architecture.md").read_text(encoding="utf-8"))


def modules() -> dict[str, Path]:
    """Every module of the package but its front door, by dotted name within the package."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = path
    return found


def imports_of(source: str, known: set[str]) -> set[str]:
    """The package's own modules that a module imports anywhere, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports in this package are absolute"
            # `from package.part import module` and `from package.module import name` alike
            targets = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            if target.split(".")[0] == PACKAGE:
                found.add(_module(target.split(".")[1:], known))
    return found - {""}


def _module(parts: list[str], known: set[str]) -> str:
    """The longest known module that a dotted name starts with; a public name's home."""
    if parts and parts[0] in loss_attention.__all__:
        return loss_attention._HOMES[parts[0]]
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in known:
            return ".".join(parts[:end])
    return ""


def import_graph() -> dict[str, set[str]]:
    found = modules()
    known = set(found)
    return {name: imports_of(path.read_text("utf-8"), known) for name, path in found.items()}


def test_the_reader_of_imports_finds_them_all() -> None:
    source = (
        "import os\nimport loss_attention.model\nfrom loss_attention import geometry, load\n"
        "from loss_attention.heads import patches\n"
        "def late():\n    from loss_attention.cli import main\n"
        "from loss_attention import __version__\n"
    )
    known = {"model", "geometry", "heads", "heads.patches", "cli"}
    assert imports_of(source, known) == {"model", "geometry", "heads.patches", "cli"}


def test_the_drawing_shows_every_module(layers: tuple[list[str], set[str]]) -> None:
    there = {path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py")}
    there -= {"__init__.py", *(path for path in there if is_docstring(SOURCE / path))}
    assert not there - layers[1], "give these their line in docs/architecture.md"
    assert not layers[1] - there, "docs/architecture.md draws what is not there"


def is_docstring(path: Path) -> bool:
    """Whether a module is nothing but its docstring."""
    return len(ast.parse(path.read_text(encoding="utf-8")).body) == 1


def test_what_imports_upward_is_found() -> None:
    graph = {"data.tree": {"errors"}, "metrics": {"training.job", "geometry"}}
    order = ["training", "metrics", "geometry", "data", "errors"]
    assert upward(graph, order) == ["metrics imports training.job"]


def test_nothing_imports_upward(layers: tuple[list[str], set[str]]) -> None:
    assert not upward(import_graph(), layers[0])


def upward(graph: dict[str, set[str]], order: list[str]) -> list[str]:
    """What each module imports that does not stand below its own package in the order."""
    level = {name: number for number, name in enumerate(order)}
    return [
        f"{name} imports {target}"
        for name, targets in graph.items()
        for target in sorted(targets)
        if level[name.split(".")[0]] > level[target.split(".")[0]]
    ]


def test_there_are_no_circles() -> None:
    graph = import_graph()
    assert len(graph) > 20
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def loaded_after(statement: str) -> set[str]:
    """The packages and modules that a fresh interpreter has loaded after a statement."""
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


def test_importing_the_package_is_light() -> None:
    loaded = loaded_after("import loss_attention")
    assert "loss_attention" in loaded
    heavy = {"torch", "numpy", "torchvision", "timm", "datasets", "sklearn", "matplotlib"}
    assert not loaded & (heavy | SERVING)


def test_the_command_loads_what_serves_only_to_serve() -> None:
    loaded = loaded_after("import loss_attention.cli")
    assert "loss_attention" in loaded
    assert not loaded & ({"torch", "numpy"} | SERVING)


def test_creating_a_model_needs_neither_torchvision_nor_timm() -> None:
    loaded = loaded_after("import loss_attention as la; la.create_model(width=0.01)")
    assert "torch" in loaded
    unneeded = {"torchvision", "timm", "datasets", "sklearn", "matplotlib", "torchmetrics"}
    assert not loaded & unneeded


SERVING = {"gradio", "fastapi", "uvicorn", "starlette", "httpx"}
"""What the extra `serve` brings, which takes seconds to import."""
EXPLAINING_DOES_WITHOUT = (
    *SERVING,
    *("lightning_fabric", "torchmetrics", "sklearn", "datasets", "pandas", "tensorboard", "sympy"),
    *("torch._dynamo", "torch._inductor", "matplotlib.pyplot", "matplotlib.figure", "pyarrow"),
    *("torchvision", "timm", "transformers", "jinja2"),
    *("loss_attention.training.trainer", "loss_attention.training.environment"),
    *("loss_attention.evaluation.measuring", "loss_attention.attribution.maps"),
    "loss_attention.runs",
)
"""What takes a second or several to import, and what would import it."""


def test_explaining_a_photo_loads_no_more_than_it_needs(tmp_path: Path) -> None:
    model = loss_attention.create_model(width=0.01, image_size=(32, 32))
    run = new_run(tmp_path / "run", Recipe("trial", "somewhere", width=0.01))
    run.write_facts({"format_version": 1, "finished": True})
    run.write("model.safetensors", model.to_bytes())
    Image.new("RGB", (32, 32)).save(tmp_path / "photo.png")
    program = (
        "import sys; from loss_attention.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print(*sys.modules)"
    )
    words = [str(tmp_path / "run"), str(tmp_path / "photo.png"), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", program, "explain", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "photo.png").exists()
    loaded = set(done.stdout.split())
    assert {"torch", "loss_attention.explained.files"} <= loaded
    assert not loaded & set(EXPLAINING_DOES_WITHOUT)


@pytest.mark.parametrize("name", ["runs", "attribution.compare", "bags.run", "bags.crossval"])
def test_what_trains_no_network_of_a_run_imports_no_fabric(name: str) -> None:
    """Nor torch's compiler, which comes with it: half of the time until a command begins."""
    loaded = loaded_after(f"import loss_attention.{name}")
    assert "torch" in loaded
    assert not loaded & {"lightning_fabric", "torchmetrics", "torch._dynamo"}


@pytest.mark.parametrize("name", loss_attention.__all__)
def test_public_names_resolve(name: str) -> None:
    assert callable(getattr(loss_attention, name))
    assert name in dir(loss_attention)


def test_public_names_are_those_of_the_design() -> None:
    assert {
        "patch_weights",
        "capsule_weights",
        "single_label_loss",
        "multi_label_loss",
        "ramp_up",
        "create_model",
        "load",
    } <= set(loss_attention.__all__)
    assert sorted(loss_attention._HOMES) == sorted(loss_attention.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'create_modell'"):
        _ = loss_attention.create_modell
