from __future__ import annotations

from pathlib import Path

import layout
import pytest


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three modules of which one calls another."""
    folder = tmp_path / "of_three_modules"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "caller.py").write_text(
        "from of_three_modules.called import answer\n\n\ndef ask():\n    return answer()\n"
    )
    (folder / "called.py").write_text(
        "class Known:\n    value = 1\n\n\ndef answer():\n    return Known.value\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_modules_and_their_lines(package: Path) -> None:
    assert layout.modules(package) == {"called.py": 6, "caller.py": 5}


def test_run_through_is_where_a_function_is_called(package: Path) -> None:
    def only_imports() -> None:
        import of_three_modules.caller  # noqa: F401

    def asks() -> None:
        from of_three_modules import caller

        caller.ask()

    assert layout.run_through(only_imports, package) == set()
    assert layout.run_through(asks, package) == {"caller.py", "called.py"}


def test_page() -> None:
    entered = {"train digits": {"a.py"}, "explain": {"a.py", "b.py"}}
    lines = layout.page({"a.py": 1200, "b.py": 34}, entered).splitlines()
    assert lines[2:] == [
        "| modules in src | 2 |",
        "| lines in src | 1,234 |",
        "| modules run through by `train digits` | 1 |",
        "| modules run through by `explain` | 2 |",
    ]
