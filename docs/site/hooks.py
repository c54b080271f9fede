"""What the build of the site adds to `mkdocs.yml`: pages outside `docs/`, and notebooks as pages.

Links in Markdown lead from file to file of the repository, so that they work there. On the site,
the pages of `results/` and some of the root's lie beside those of `docs/`, and notebooks are pages.
Links to them, and theirs, are turned accordingly, before MkDocs checks that each leads somewhere.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import notebooks
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
RESULTS = (
    "*.md",
    "*.png",
    "bench/*.md",
    "bench/*.png",
    "bench/*.txt",
    "ledger/*.md",
    "ledger/*/*.md",
)
"""What pages lead to; trainings, which no one commits, lie deeper."""
# Lower case: MkDocs takes README.md for the index of its folder, which docs/ has already.
AT_THE_ROOT = {
    "README.md": "readme.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "license.txt",
}
LINK = re.compile(r"(?<=\]\()(?P<path>[^)\s#:]+)(?P<anchor>#[^)\s]*)?(?=\))")


def pages_outside() -> dict[str, str]:
    """Return files outside `docs/`: their paths on the site, by those in the repository."""
    results = (path for pattern in RESULTS for path in sorted((ROOT / "results").glob(pattern)))
    names = [path.relative_to(ROOT).as_posix() for path in results]
    return dict(zip(names, names, strict=True)) | AT_THE_ROOT


def page_of(notebook: str) -> str:
    """Return the path of a notebook's page, beside it on the site."""
    return str(Path(notebook).with_suffix(".md"))


def turn_links(markdown: str, page: str) -> str:
    """Return the text of a page (its path on the site) with links that work on the site."""
    outside = pages_outside()
    here = {there: path for path, there in outside.items()}.get(page, f"docs/{page}")

    def turned(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), link["path"]))
        there = outside.get(target)
        if there is None and target.startswith("docs/"):
            there = target.removeprefix("docs/")
            there = page_of(there) if there.endswith(".ipynb") else there
        if there is None:  # left for MkDocs to complain about
            return link[0]
        return posixpath.relpath(there, posixpath.dirname(page) or ".") + (link["anchor"] or "")

    return LINK.sub(turned, markdown)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages outside `docs/`, and those of notebooks, whose files are there already."""
    for path, there in pages_outside().items():
        files.append(File.generated(config, there, abs_src_path=str(ROOT / path)))
    for notebook in notebooks.paths():
        page = notebooks.as_markdown(notebooks.read(notebook), notebook.name)
        there = page_of(notebook.relative_to(ROOT / "docs").as_posix())
        files.append(File.generated(config, there, content=page))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Turn the links of a page."""
    return turn_links(markdown, page.file.src_uri)
