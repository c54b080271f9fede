"""What a YOLO data set says of itself in `data.yaml`, and what its classes are called.

Their names are a list there, or a mapping from their numbers (`names`); without a data.yaml they
stand in `classes.txt` or its like, a line each. YAML is read so that scalars are texts: `no`,
`010`, `null` and `1e3` are what stands in the file.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from loss_attention.data.division import SPLITS
from loss_attention.data.records import count
from loss_attention.data.tree import Tree
from loss_attention.errors import InputError, guarded, printable, quoted

_NAME_FILES = ("classes.txt", "_darknet.labels")
_MOST_YAML = 20  # files of that kind looked into
MOST_TEXT = 2**24
"""A label file, list or file of names of more bytes than this is refused."""
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)
_NOTHING = ("", "~", "null", "Null", "NULL", "None")
MOST_BYTES = 2**20
_MOST_DEEP = 20


@dataclass(frozen=True)
class Config:
    """A data.yaml.

    Attributes:
        name: what errors call it.
        content: its keys.
        folder: the one that it lies in, a path from the root.
        base: the one that its splits are given from; None: see `path` in it.
    """

    name: str
    content: Mapping[str, Any]
    folder: str = ""
    base: str | None = None


@dataclass(frozen=True)
class Classes:
    """The names of the classes by their numbers, and the file that gives them."""

    file: str
    names: Mapping[int, str]


def find_config(tree: Tree, where: str, *, certain: bool) -> Config | None:
    """Return the data.yaml of a tree, if it has one.

    Args:
        tree: where to look.
        where: what the data is called in errors.
        certain: it is known to hold YOLO's files: a YAML file that is broken or in doubt is an
            error.

    Raises:
        InputError: several that differ.
    """
    found: dict[str, Mapping[str, Any]] = {}
    broken: InputError | None = None
    files = [name for name in tree.names if name.lower().endswith((".yaml", ".yml"))]
    for name in sorted(files, key=lambda name: (name.count("/"), name))[:_MOST_YAML]:
        try:
            with guarded(f"{where}: {name}"):
                content = read_yaml(tree.read(name, MOST_TEXT))
        except InputError as error:
            broken = broken or error
            continue
        if describes_data(content):
            found[name] = content
    if not found:
        if certain and broken is not None:
            raise broken
        return None
    first, *others = found
    for other in others:
        if certain and found[other] != found[first]:
            raise InputError(
                f"{where}: {first} and {other} both describe the data, in different ways; name the "
                f"one that is meant: `data` {tree.path}/{other}"
            )
    return Config(first, found[first], posixpath.dirname(first))


def describes_data(content: Any) -> bool:
    """Return whether a YAML file is a data.yaml: of a model or a training it is another."""
    if not isinstance(content, dict) or "backbone" in content:
        return False
    return "names" in content or ("nc" in content and any(map(split_named_by, content)))


def declares_splits(config: Config) -> bool:
    """Return whether a data.yaml says which images train."""
    return any(split_named_by(key) and is_given(config.content[key]) for key in config.content)


def find_classes(tree: Tree, config: Config | None, where: str) -> tuple[Classes, list[str]]:
    """Return the names of the classes, and what to say of them.

    Raises:
        InputError: none, two classes of one name, or as many as the data.yaml does not say.
    """
    listed = _listed_classes(tree, where)
    notes: list[str] = []
    if config is None or not is_given(config.content.get("names")):
        if listed is None:
            raise InputError(
                f"{where} holds YOLO text files but no names of the classes: add a classes.txt, a "
                "line each"
            )
        classes = listed
    else:
        classes = Classes(config.name, _names(tree, config, where))
        if listed is not None and listed.names != classes.names:
            notes.append(
                f"the classes are those that {printable(config.name)} names; "
                f"{printable(listed.file)}, which names others, is not used"
            )
    location = f"{where}: {classes.file}"
    if not classes.names:
        raise InputError(f"{location} names no class")
    if config is not None and not _may_count(config, classes):
        raise InputError(
            f"{where}: {config.name} says nc: {quoted(config.content['nc'])[1:-1]}, and "
            f"{classes.file} names {count(len(classes.names), 'class')}"
        )
    first: dict[str, int] = {}
    for number, name in classes.names.items():
        if first.setdefault(name, number) != number:
            raise InputError(
                f"{location} gives the classes {first[name]} and {number} one name, {quoted(name)}"
            )
    return classes, notes


def _names(tree: Tree, config: Config, where: str) -> dict[int, str]:
    location, given = f"{where}: {config.name}", config.content["names"]
    if isinstance(given, list):
        pairs = list(enumerate(given))
    elif isinstance(given, dict):
        pairs = []
        for key, name in given.items():
            if not _NUMBER.fullmatch(key.strip()):
                swapped = isinstance(name, str) and _NUMBER.fullmatch(name.strip())
                hint = f"; write {name}: {key[:60]}" if swapped else ""
                raise InputError(
                    f"{location}: names has {quoted(key)}, which is not a number{hint}"
                )
            pairs.append((int(key), name))
    else:
        file = tree.find(given, (config.folder, "")) if isinstance(given, str) else None
        if file is None:
            raise InputError(
                f"{location}: names is {quoted(given)}; it has to be a list, or a mapping such as "
                "{0: cat, 1: dog}"
            )
        return _lines_of_names(tree, file)
    found: dict[int, str] = {}
    for number, name in pairs:
        if not isinstance(name, str):
            raise InputError(f"{location}: class {number} is {quoted(name)}, which is not a name")
        if number in found:
            raise InputError(f"{location}: names has class {number} twice")
        found[number] = name
    # One that is left empty has no name: an error where a label file holds it.
    return {number: name for number, name in sorted(found.items()) if name.strip()}


def _may_count(config: Config, classes: Classes) -> bool:
    """Return whether a data.yaml's count of the classes, if it has one, is theirs."""
    stated, given = config.content.get("nc"), config.content.get("names")
    possible = {len(classes.names), max(classes.names) + 1}
    if isinstance(given, (list, dict)):
        possible.add(len(given))
    if not is_given(stated):
        return True
    return isinstance(stated, str) and bool(_NUMBER.fullmatch(stated)) and int(stated) in possible


def _listed_classes(tree: Tree, where: str) -> Classes | None:
    """Return the classes of a classes.txt; several that say the same are one."""
    found: Classes | None = None
    for name in sorted(tree.names, key=lambda name: (name.count("/"), name)):
        if not names_classes(name):
            continue
        names = _lines_of_names(tree, name)
        if found is None:
            found = Classes(name, names)
        elif names != found.names:
            raise InputError(f"{where}: {found.file} and {name} name different classes; keep one")
    return found


def names_classes(name: str) -> bool:
    """Return whether a file is called like one that names classes."""
    base = posixpath.basename(name).lower()
    return base in _NAME_FILES or base.endswith(".names")


def _lines_of_names(tree: Tree, file: str) -> dict[int, str]:
    """Return the names of a file by the number of their line, from 0; blank ones count, too."""
    lines = enumerate(lines_of(tree.text(file, MOST_TEXT)))
    return {number: line.strip() for number, line in lines if line.strip()}


def lines_of(text: str) -> list[str]:
    """Return the lines of a text, ended as any system does, and by nothing else."""
    return re.split(r"\r\n?|\n", text)


def split_named_by(key: str) -> str:
    """Return the split that a key of a data.yaml means; "" if none."""
    split = SPLITS.get(key.strip().lower(), "")
    return "" if split == "extra" else split


def is_given(value: Any) -> bool:
    """Return whether a key of a data.yaml has a value."""
    return value is not None and value != [] and not (isinstance(value, str) and value in _NOTHING)


def read_yaml(content: bytes) -> Any:
    """Return what a YAML file holds: texts, and lists and dictionaries of these.

    It is made from the parser's events, so that nothing is built that the file only refers to: an
    alias is the same object once more, and depth is bounded on the way.

    Raises:
        ValueError: it is not valid YAML, is too large or too deep, or gives a key twice.
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
