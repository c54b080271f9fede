"""Notebooks that are stored with what they show: run, and turned into pages of the site.

`make notebooks` runs this file. Jupyter is not needed, here or for the check: a notebook is JSON, a
cell is Python, and what its last line gives is shown by the methods that Jupyter asks too
(`_repr_html_`, `_repr_png_`). What only Jupyter knows (`%magic`, `!command`) is therefore refused.

A cell with the tag `parameters` sets how long the notebook takes; who runs it may change that after
this cell, as papermill does. A notebook keeps the digest of the sources that its outputs are of.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import hashlib
import io
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
KEPT = "sources_sha256"
"""Where a notebook's metadata have the digest."""
COLOURS = 256
"""Of a stored picture."""
EMBEDDED = re.compile(r"(?<=data:image/png;base64,)[A-Za-z0-9+/=]+")
Notebook = dict[str, Any]


def paths() -> list[Path]:
    """Return the notebooks of the documentation."""
    return sorted(FOLDER.glob("*.ipynb"))


def read(path: Path) -> Notebook:
    """Return the content of a notebook's file."""
    notebook: Notebook = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def as_text(notebook: Notebook) -> str:
    """Return the content of a notebook's file as Jupyter writes it."""
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def digest(notebook: Notebook) -> str:
    """Return the SHA-256 of what is run: the code of all cells, in order."""
    sources = json.dumps([source_of(cell) for cell in _code(notebook)])
    return hashlib.sha256(sources.encode()).hexdigest()


def is_current(notebook: Notebook) -> bool:
    """Return whether the stored outputs are of the code that the notebook has."""
    return bool(notebook["metadata"].get(KEPT) == digest(notebook))


def source_of(cell: dict[str, Any]) -> str:
    """Return the text of a cell, which files hold line by line."""
    return "".join(cell["source"])


def run(notebook: Notebook, name: str, parameters: str = "") -> None:
    """Run all cells of a notebook in the current folder, and store what they show in it.

    Args:
        notebook: it is changed.
        name: what to call it where a cell fails.
        parameters: Python that is run after the cell tagged `parameters`.

    Raises:
        ValueError: parameters are given, and no cell is tagged for them.
    """
    cells = _code(notebook)
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", ())]
    if parameters and len(tagged) != 1:
        raise ValueError(f"{name}: {len(tagged)} cells have the tag parameters, not one")
    variables: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(cells, start=1):
        cell["execution_count"] = number
        cell["outputs"] = _outputs(
            source_of(cell), f"{name}, code cell {number}", variables, number
        )
        if cell in tagged:
            exec(_compiled(parameters, f"{name}, parameters"), variables)
    notebook["metadata"][KEPT] = digest(notebook)


def _code(notebook: Notebook) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def _outputs(
    source: str, where: str, variables: dict[str, Any], number: int
) -> list[dict[str, Any]]:
    """Run a cell, and return what it prints and what its last line gives."""
    tree = ast.parse(source, where)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    value = None
    with contextlib.redirect_stdout(printed):
        exec(_compiled(tree, where), variables)
        if isinstance(last, ast.Expr):
            value = eval(_compiled(ast.Expression(last.value), where, "eval"), variables)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        text = printed.getvalue().splitlines(keepends=True)
        outputs.append({"name": "stdout", "output_type": "stream", "text": text})
    if value is not None and not source.rstrip().endswith(";"):
        result = {"data": shown(value), "execution_count": number, "metadata": {}}
        outputs.append({**result, "output_type": "execute_result"})
    return outputs


def _compiled(source: Any, where: str, kind: str = "exec") -> Any:
    # Without this file's own imports from __future__, which a notebook would inherit.
    return compile(source, where, kind, dont_inherit=True)


def shown(value: object) -> dict[str, Any]:
    """Return a value by MIME types, the plain text last; short where there is better than text."""
    found: dict[str, Any] = {}
    if html := getattr(value, "_repr_html_", lambda: None)():
        html = EMBEDDED.sub(lambda png: _with_few_colours(png[0]), html)
        found["text/html"] = html.splitlines(keepends=True)
    if png := getattr(value, "_repr_png_", lambda: None)():
        found["image/png"] = _with_few_colours(base64.b64encode(png).decode())
    text = f"<{type(value).__name__}>" if found else repr(value)
    return {**found, "text/plain": text.splitlines(keepends=True)}


def _with_few_colours(png: str) -> str:
    """Return a PNG, as base64 has it, in half the bytes or less."""
    picture = Image.open(io.BytesIO(base64.b64decode(png)))
    file = io.BytesIO()
    few = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def as_markdown(notebook: Notebook, file: str) -> str:
    """Return the page of a notebook: text, code and what is stored of its outputs.

    Args:
        notebook: with outputs.
        file: the name of its file, which the page links to.
    """
    parts: list[str] = []
    for cell in notebook["cells"]:
        source = source_of(cell)
        if cell["cell_type"] == "markdown":
            parts.append(source)
        else:
            parts.append(f"```python\n{source}\n```")
            parts += [_as_markdown(output) for output in cell["outputs"]]
    # As HTML, since a link of Markdown to a notebook leads to its page.
    link = f'<a href="{file}" download>{file}</a>'
    title, *rest = parts
    heading, _, text = title.partition("\n")
    note = f"*This page is a notebook, with what it showed when it was last run: {link}*"
    return "\n\n".join([heading, note, text.strip(), *rest]) + "\n"


def _as_markdown(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        return _as_block("".join(output["text"]))
    data = output["data"]
    if "text/html" in data:
        # A blank line would end the HTML.
        lines = "".join(data["text/html"]).splitlines()
        return "<div>" + "\n".join(line for line in lines if line.strip()) + "</div>"
    if "image/png" in data:
        said = f"output of code cell {output['execution_count']}"
        return f'<img alt="{said}" src="data:image/png;base64,{data["image/png"]}">'
    return _as_block("".join(data["text/plain"]))


def _as_block(text: str) -> str:
    assert "```" not in text, "an output that would end its own block"
    return f"```text\n{text.rstrip()}\n```"


@contextlib.contextmanager
def _in_a_new_folder() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        yield


def main() -> None:
    """Run all notebooks as they are, and store them."""
    for path in paths():
        notebook = read(path)
        with _in_a_new_folder():
            run(notebook, path.name)
        text = as_text(notebook)
        path.write_text(text, encoding="utf-8")
        print(f"{path.name}: run and stored, {len(text) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
