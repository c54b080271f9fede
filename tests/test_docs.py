"""The documentation site: its own pages run, it builds without a warning, nothing is missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import notebooks
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from apart import until
from browsing import open_page
from markdown_pages import run_page, run_python

import loss_attention as la

PAGES = (
    "index.md",
    "commands.md",
    "exporting.md",
    "many-images.md",
    "paper.md",
    "bags-maps.md",
    "serving.md",
    "tutorials/own-folder.md",
    "tutorials/is-my-map-right.md",
    "tutorials/defects.md",
    "tutorials/multi-label.md",
)
"""Those whose blocks are for a reader to run from top to bottom."""
LOADED = re.compile(r"<(?:script|img|iframe|source)[^>]* src=\"?([^\s\">]+)|<link([^>]*)>")


@pytest.mark.parametrize("name", [*PAGES, pytest.param("cluster.md", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("own_images", "small_cifar10")
def test_pages_run_from_top_to_bottom(name: str, repository: Path, clone: Path) -> None:
    page = (repository / "docs" / name).read_text(encoding="utf-8")
    assert run_page(page, clone, name)


def test_every_tutorial_runs(repository: Path) -> None:
    pages = (repository / "docs" / "tutorials").glob("*.md")
    run = {Path(name).name for name in PAGES if name.startswith("tutorials/")}
    assert {page.name for page in pages} == run | {"bags.md"}


@pytest.mark.usefixtures("own_bags")
def test_the_pages_on_bags_run(repository: Path, clone: Path) -> None:
    docs = repository / "docs"
    page = (docs / "bags.md").read_text(encoding="utf-8")
    before, _, rest = page.partition("## From photos to bags")  # see bags/test_tiles.py
    assert len(run_page(before + rest.partition("\n## ")[2], clone, "bags.md")) == 9
    rows = ["bag,label,f0,f1"]
    rows += [f"{row // 3},{row // 3 % 2},{row % 5},{row % 7}" for row in range(60)]
    for name in ("slides", "new", "other"):
        table = pa.csv.read_csv(BytesIO("\n".join(rows).encode()))
        if name == "other":
            pa.csv.write_csv(table, clone / "other.csv")
        else:
            pq.write_table(table, clone / f"{name}.parquet")
    shutil.rmtree(clone / "runs" / "slides")
    (clone / "said.csv").unlink()
    assert len(run_page((docs / "bags-runs.md").read_text("utf-8"), clone, "bags-runs.md")) == 7


def test_the_tutorial_on_bags_runs(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (repository / "docs" / "tutorials" / "bags.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert run_python(page, "docs/tutorials/bags.md") > 3


def test_the_reference_has_every_public_name(repository: Path) -> None:
    page = (repository / "docs" / "reference.md").read_text(encoding="utf-8")
    named = re.findall(r"^::: loss_attention\.(\w+)$", page, re.MULTILINE)
    assert sorted(named) == la.__all__


@pytest.fixture(scope="module")
def site(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it."""
    if find_spec("mkdocs") is None or find_spec("mkdocstrings") is None:
        pytest.skip("mkdocs is not installed: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=repository,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert "WARNING" not in built.stdout + built.stderr
    return folder


def test_the_site_builds_without_a_warning(site: Path) -> None:
    assert "Your own folder" in (site / "index.html").read_text(encoding="utf-8")
    reference = (site / "reference.html").read_text(encoding="utf-8")
    for name in la.__all__:
        assert re.search(rf'id="loss_attention\.(\w+\.)*{name}"', reference), name


def test_pages_outside_docs_are_linked_on_the_site(site: Path, repository: Path) -> None:
    method = (site / "method.html").read_text(encoding="utf-8")
    assert 'href="results/index.html"' in method
    assert 'href="readme.html#the-paper"' in method
    results = (site / "results" / "index.html").read_text(encoding="utf-8")
    assert 'href="bench/amd-epyc-2-cores.html"' in results
    comparing = (site / "results" / "cifar10-small.html").read_text(encoding="utf-8")
    assert 'href="../comparing.html"' in comparing
    license_ = (repository / "LICENSE").read_text(encoding="utf-8")
    assert (site / "license.txt").read_text(encoding="utf-8") == license_


def test_notebooks_are_pages_and_files_of_the_site(site: Path) -> None:
    for path in notebooks.paths():
        page = (site / "notebooks" / f"{path.stem}.html").read_text(encoding="utf-8")
        assert 'src="data:image/png;base64,' in page
        assert f'href="{path.name}" download' in page
        assert (site / "notebooks" / path.name).read_bytes() == path.read_bytes()
    tutorial = (site / "tutorials" / "is-my-map-right.html").read_text(encoding="utf-8")
    # Its text links to the notebook, which is a page here, as the navigation does.
    assert tutorial.count('href="../notebooks/is-the-map-right.html"') > 1
    assert ".ipynb" not in tutorial


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        for source, link in LOADED.findall(page.read_text(encoding="utf-8")):
            if source.startswith("data:image/png;base64,"):  # in the page itself
                continue
            assert "//" not in source, f"{page.name}: {source}"
            assert "//" not in link, f"{page.name}: {link}"


def test_search_works_from_the_file_system(site: Path, browser: Any) -> None:
    open_page(browser, f"{(site / 'tutorials' / 'own-folder.html').as_uri()}?q=receptive")
    found = ".md-search-result__link"
    until(lambda: bool(browser.find_elements("css selector", found)))
    links = [one.get_attribute("href") for one in browser.find_elements("css selector", found)]
    assert any("/method.html" in link for link in links)
    assert not browser.get_log("browser")
