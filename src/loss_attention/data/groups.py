"""Images that belong together, such as photos of one object: none of them is to be held out alone.

A group is named by a column of the table that lists the images, or by a part of their paths.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from loss_attention.data.formats.cells import column_called
from loss_attention.data.records import Part, Record, Source, count, few
from loss_attention.errors import InputError, nearest_name, printable, quoted, reason

SECONDS, NAMES_A_SECOND = 10, 50_000
"""How long a pattern may take, and how many paths more give it a second more; most take 1/20."""
LONGEST_PATTERN = 1000
_SEARCH = """
import json, re, sys
pattern, names = json.load(sys.stdin)
found = (re.search(pattern, name) for name in names)
json.dump([match[1] if match else None for match in found], sys.stdout)
"""


def with_groups(source: Source, group: str) -> Source:
    """Return a source whose records have groups.

    Args:
        source: if it is of tables, read with the column `group` where they have it.
        group: the name of a column, or a regular expression with one group that is found in the
            path of every image.

    Raises:
        InputError: neither, an image without a group, or a pattern that takes too long.
    """
    if column_called(group, source.columns) is not None:
        lacking = [
            record.called for part in source.parts for record in part.records if not record.group
        ]
        if lacking:
            raise InputError(f"{source.where}: no {group} in the rows of {few(lacking)}")
        return source
    _check_pattern(source, group)
    names = [record.name for part in source.parts for record in part.records]
    found = _searched(group, names)
    lacking = [name for name, one in zip(names, found, strict=True) if not one]
    if lacking:
        what = f"the pattern is not in the path of {few(lacking[:1])}"
        if len(lacking) == len(names):
            what = f"the pattern is in no path, as {few(lacking[:1])}"
        elif len(lacking) > 1:
            what += f" and {len(lacking) - 1:,} more"
        raise InputError(f"{source.where}: {_neither(source, group)}, and {what}")
    groups = iter(found)
    parts = tuple(
        Part(
            part.name,
            [replace(record, group=next(groups) or "") for record in part.records],
            part.lookup,
        )
        for part in source.parts
    )
    return replace(source, parts=parts)


def _neither(source: Source, group: str) -> str:
    """Say that there is no column of a name, and which there are."""
    if not source.columns:
        return f"`group` {quoted(group)} is not a column, as there is no table of the images"
    near = nearest_name(group, source.columns)
    meant = "" if near is None else f" (did you mean {printable(near)}?)"
    return f"`group` {quoted(group)} is not a column among {few(source.columns)}{meant}"


def _check_pattern(source: Source, group: str) -> None:
    """Raise `InputError` for what is neither a column nor a regular expression with one group."""
    try:
        if len(group) > LONGEST_PATTERN:
            raise ValueError(f"it has over {LONGEST_PATTERN:,} characters")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what another version may read otherwise
            groups = re.compile(group).groups
        if groups != 1:
            raise ValueError(f"it has {groups or 'no'} groups in parentheses")
    except Exception as error:  # whatever a pattern leads to
        raise InputError(
            f"{source.where}: {_neither(source, group)}, and no regular expression with one group "
            rf"such as num_(\d+): {reason(error)}"
        ) from error


def _searched(pattern: str, names: Sequence[str]) -> list[str | None]:
    """Return what the group of a pattern finds in each name.

    In a process of its own, which can be ended: a pattern with repeats in repeats may take longer
    than anybody lives, and nothing else stops it.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-W", "ignore", "-c", _SEARCH],
            input=json.dumps([pattern, list(names)]),
            capture_output=True,
            text=True,
            timeout=SECONDS + len(names) / NAMES_A_SECOND,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"`group` {quoted(pattern)} takes too long to find in paths such as "
            f"{quoted(max(names, key=len))}: write it without repeats in repeats"
        ) from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["it failed"])[-1]
        raise InputError(f"`group` {quoted(pattern)} cannot be searched for: {last}") from error
    found: list[str | None] = json.loads(done.stdout)
    return found


def group_numbers(parts: Sequence[Part]) -> dict[str, int]:
    """Return a number for each group of a source; none where its images have no groups."""
    names = (record.group for part in parts for record in part.records if record.group)
    return {name: number for number, name in enumerate(dict.fromkeys(names))}


def shared_groups(source: Source) -> tuple[str, ...]:
    """Return a line for each split with images of groups that stand in another one before it.

    And one where every image is a group by itself.
    """
    lines = []
    for number, part in enumerate(source.parts):
        for before in source.parts[:number]:
            known = {record.group for record in before.records if record.group}
            shared = [record for record in part.records if record.group in known]
            groups = Counter(record.group for record in shared)
            if groups:
                lines.append(
                    f"leak: {count(len(groups), 'group')} of {part.name} also in {before.name}, "
                    f"with {len(shared):,} of its {count(len(part), 'image')} (group "
                    f"{printable(next(iter(groups)))}{', say' if len(groups) > 1 else ''})"
                )
    names = [record.group for part in source.parts for record in part.records if record.group]
    if names and len(set(names)) == len(names):
        lines.append("no two images are of one group: `group` keeps nothing together")
    return tuple(lines)


def group_sizes(records: Sequence[Record]) -> str:
    """Say how many groups a split has, and how large they are."""
    sizes = Counter(record.group for record in records).values()
    least, most = min(sizes), max(sizes)
    each = count(most, "image") if least == most else f"{least:,} to {count(most, 'image')}"
    return f"{count(len(sizes), 'group')} of {each}"
