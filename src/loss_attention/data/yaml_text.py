"""YAML whose scalars are texts: `no`, `010`, `null` and `1e3` are what stands in the file."""

from __future__ import annotations

from typing import Any

import yaml

from loss_attention.errors import quoted

MOST_BYTES = 2**20
_MOST_DEEP = 20


def read_yaml(content: bytes) -> Any:
    """Return what a YAML file holds: texts, and lists and dictionaries of these.

    It is made from the parser's events, so that nothing is built that the file only refers to: an
    alias is the same object once more, and depth is bounded on the way.

    Raises:
        ValueError: it is no YAML, is too large or too deep, or gives a key twice.
        yaml.YAMLError: likewise.

    Example:
        >>> read_yaml(b"{names: [no, 010, 'yes'], nc: 3}")
        {'names': ['no', '010', 'yes'], 'nc': '3'}
    """
    if len(content) > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES / 2**20:.0f} MiB")
    documents: list[Any] = []
    holders: list[Any] = [documents]
    keys: list[str | None] = [None]
    anchors: dict[str, Any] = {}
    loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    for event in yaml.parse(content, Loader=loader):
        if isinstance(event, yaml.CollectionEndEvent):
            holders.pop()
            keys.pop()
            continue
        value: Any
        if isinstance(event, yaml.ScalarEvent):
            value = event.value
        elif isinstance(event, yaml.SequenceStartEvent):
            value = []
        elif isinstance(event, yaml.MappingStartEvent):
            value = {}
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchors:
                raise ValueError(
                    f"{_line(event)}: the alias {quoted(event.anchor)} refers to nothing before it"
                )
            value = anchors[event.anchor]
        else:
            continue
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            anchors[event.anchor] = value
        holder = holders[-1]
        if isinstance(holder, list):
            holder.append(value)
        elif keys[-1] is not None:
            holder[keys[-1]], keys[-1] = value, None
        elif not isinstance(value, str):
            raise ValueError(f"{_line(event)}: a list or a mapping where a name should be")
        elif value in holder:
            raise ValueError(f"{_line(event)}: {quoted(value)} stands there a second time")
        else:
            keys[-1] = value
        if isinstance(event, yaml.CollectionStartEvent):
            holders.append(value)
            keys.append(None)
            if len(holders) > _MOST_DEEP:
                raise ValueError(f"{_line(event)}: it is nested more than {_MOST_DEEP} deep")
    if len(documents) > 1:
        raise ValueError("it holds several documents, divided by ---")
    return documents[0] if documents else None


def _line(event: yaml.Event) -> str:
    return f"line {event.start_mark.line + 1}" if event.start_mark else "somewhere"
