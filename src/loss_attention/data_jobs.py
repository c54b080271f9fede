"""What `loss-attention data` does: check a data set."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from loss_attention.data.assembling import chosen
from loss_attention.data.check import Checked, check
from loss_attention.data.contact_sheet import contact_sheet
from loss_attention.data.known import KNOWN
from loss_attention.data.loading import open_source
from loss_attention.data.naming import MADE, understood
from loss_attention.data.records import Source, count
from loss_attention.errors import InputError
from loss_attention.saving import write_whole
from loss_attention.terminal import counted, say_line

_MOST_LINES = 50


def check_data(data: str, out: Path | None, console: Console) -> int:
    """Print what is in a data set and what is wrong with it; draw some of it.

    Args:
        data: as for `load_splits`.
        out: where to draw the contact sheet, a .png or .jpg that is not there yet; None: nowhere.
        console: where to print.

    Returns:
        How many things are wrong that training refuses.

    Raises:
        InputError: nothing usable there, or a picture that cannot be written.
    """
    if data in MADE:
        raise InputError(f"{data} is made here, so there is nothing to check")
    if out is not None:
        _require_picture(out)
    source = open_source(data, masks=True)
    # The training split first, as the others are held against it.
    parts = sorted((part for part in source.parts if len(part)), key=lambda p: p.name != "train")
    source = replace(source, parts=tuple(parts))
    if not source.parts:
        raise InputError(f"{source.where} holds no images that could be checked")
    missing = _compared(data, source)
    with counted("looking at images", console) as progress:
        result = check(source, progress)
    result.faults += [fault for fault in missing.faults if fault not in result.faults]
    result.doubts += missing.doubts
    say_line(console, source.where)
    for title, lines in (
        ("", result.facts),
        ("to know: ", result.doubts),
        ("wrong: ", result.faults),
    ):
        for line in lines[:_MOST_LINES]:
            say_line(console, f"  {title}{line}")
        if len(lines) > _MOST_LINES:
            say_line(console, f"  {title}and {len(lines) - _MOST_LINES:,} more")
    if out is not None:
        drawn = io.BytesIO()
        contact_sheet(source).save(drawn, "PNG" if out.suffix.lower() == ".png" else "JPEG")
        write_whole(out, drawn.getvalue())
        say_line(console, f"contact sheet: {out}")
    if not result.faults:
        read = count(sum(map(len, source.parts)), "image")
        partly = f"{read} read without a fault; other files are not read, see above"
        say_line(console, partly if source.unread else f"nothing wrong with {read}")
    return len(result.faults)


def _compared(data: str, source: Source) -> Checked:
    """Compare what is there with the published set that it is meant to be."""
    known, result = KNOWN.get(understood(data).name), Checked()
    if known is not None:
        try:
            parts = chosen(source)
            result.doubts += known.verified(parts).notes[len(parts.notes) :]
        except InputError as error:
            result.faults.append(str(error))
    return result


def _require_picture(out: Path) -> None:
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise InputError(f"--out {out}: the contact sheet is a picture, .png or .jpg")
    if out.exists():
        raise InputError(f"--out {out} exists already; name another")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}")
