"""The subcommand `data check`: what is in a data set, and what is wrong with it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from loss_attention.cli.subcommands import fail
from loss_attention.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from loss_attention.data.check import Checked

MOST_LINES = 50
"""How many errors, and how many warnings, of a data set are printed."""


def check_data(
    console: Console,
    data: Annotated[
        tyro.conf.Positional[str],
        tyro.conf.arg(
            help="A folder, an archive, a table of images, a known name, NAME:PATH, or a Hugging "
            "Face dataset id; or bags: a table of instances, or a folder of feature files."
        ),
    ],
    out: Path | None = None,
    group: str | None = None,
    labels: Path | None = None,
    columns: tuple[str, ...] = (),
) -> int:
    """Show what a data set contains, and its warnings and errors.

    Args:
        group: Show groups of images that belong together: a column of the table that lists them, or
            a pattern with one group that is found in their paths, as num_([0-9]+).
        labels: Of bags in a folder: the CSV of their labels. None: the one in the folder, or the
            names of its folders.
        columns: Of bags: what columns of the table or the CSV are called that do not have their
            usual names, as bag=slide_name label=diagnosis.
        out: Draw some of the images, with their labels and boxes, to this .png or .jpg file.
    """
    if out is not None:
        _require_new_picture(out)
    from loss_attention.bags.check import is_bags

    if labels is not None or columns or is_bags(data):
        if out is not None or group is not None:
            raise InputError(f"{data} holds bags, and `out` and `group` are for images")
        return _check_bags(console, data, labels, columns)
    from loss_attention.data.check import check_named, contact_sheet
    from loss_attention.data.records import count
    from loss_attention.saving import write_whole
    from loss_attention.terminal import counted, say_line

    with counted("looking at images", console) as progress:
        source, result = check_named(data, progress, group=group)
    _say_checked(console, source.where, result)
    if out is not None:
        drawn = io.BytesIO()
        contact_sheet(source).save(drawn, "PNG" if out.suffix.lower() == ".png" else "JPEG")
        write_whole(out, drawn.getvalue())
        say_line(console, f"contact sheet: {out}")
    if result.faults:
        hint = "--skip-broken trains without images that have an error"
        return fail(f"{count(len(result.faults), 'error')} in {data}; {hint}")
    read = count(sum(map(len, source.parts)), "image")
    partly = f"{read} read without errors; other files are not read, see above"
    say_line(console, partly if source.unread else f"no errors in {read}")
    return 0


def _check_bags(console: Console, data: str, labels: Path | None, columns: tuple[str, ...]) -> int:
    from loss_attention.bags.check import check_bags
    from loss_attention.bags.labels import how_asked
    from loss_attention.data.records import count
    from loss_attention.terminal import counted, say_line

    with counted("looking at bags", console) as progress:
        read, result = check_bags(data, labels, progress, how_asked(columns))
    _say_checked(console, data, result)
    if result.faults:
        return fail(f"{count(len(result.faults), 'error')} in {data}: mend them before training")
    say_line(console, f"no errors in {count(read, 'bag')}")
    return 0


def _say_checked(console: Console, where: str, result: Checked) -> None:
    """Print what a check found, of each kind so many lines."""
    from loss_attention.terminal import say_line

    say_line(console, where)
    for title, lines in (
        ("", result.facts),
        ("warning: ", result.doubts),
        ("error: ", result.faults),
    ):
        for line in lines[:MOST_LINES]:
            say_line(console, f"  {title}{line}")
        if len(lines) > MOST_LINES:
            say_line(console, f"  {title}and {len(lines) - MOST_LINES:,} more")


def _require_new_picture(out: Path) -> None:
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise InputError(f"--out {out}: the contact sheet is a picture, .png or .jpg")
    if out.exists():
        raise InputError(f"--out {out} exists already; name another")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}")
