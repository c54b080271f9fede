"""A bar for a job that counts things: images read, evaluated, explained."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from loss_attention.errors import printable


@contextlib.contextmanager
def counted(label: str, console: Console) -> Iterator[Callable[..., None]]:
    """Show a bar while the context lasts; call what it yields with (done, total).

    A third word, if any, says what is being done now.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(label, total=None)

        def update(done: int, total: int, now: str = "") -> None:
            text = f"{label}: {now}" if now else label
            bar.update(task, completed=done, total=total, description=printable(text))

        yield update
