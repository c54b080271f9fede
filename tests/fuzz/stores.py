"""Weights, checkpoints and parquet files that are whole and say something that cannot be."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from functools import cache
from random import Random
from typing import Any

from fuzz.documents import json_value
from fuzz.hostile import TEXTS, VALUES, shown
from fuzz.pictures import picture

_SIZES = (0, 1, 7, 2**20, 2**31, 2**40, 2**63 - 1, 2**64 - 1)
_NUMBERS = (0, -1, 1, 3, 10**4, 10**6, 10**9, 10**12, 2**63, 10**30, 0.5, 1e9, 1e30, 1e308, "3")
_FIELDS = {
    "num_classes": _NUMBERS,
    "in_channels": _NUMBERS,
    "width": _NUMBERS,
    "patch_kernel": _NUMBERS,
    "patch_stride": _NUMBERS,
    "threshold": _NUMBERS,
    "strided_layers": ([-1], [10**30], ["8"], [8] * 10**5, [[8]], 8, [8.0], [True]),
    "class_names": (["a"] * 10**5, [1, 2], "ab", {"a": 1}, ["a", None], ["\x1b[31m", "a"], [[]]),
    "image_size": ([0, 0], [1, 1], [10**6] * 2, [10**12] * 2, "ab", [1.5, 2], [-1, -1], 9, {}),
    "backbone": ("", "resnet50", "vgg16_bn", "x" * 10**5, None, ["vgg11_bn"], {}, "\x1b[31m"),
    "head": ("baseline", "mean", "capsule-dynamic-routing", "", None, [], "capsule-loss-attention"),
    "multi_label": ("yes", 2, None, []),
    "centre": (True, None, "yes", 2, []),
    "one_vs_rest": (True, "yes", 2, None, []),
    "resize": ("pad", "", None, []),
    "unknown": (1,),
}


def safetensors(rng: Random, content: bytes) -> tuple[bytes, str]:
    """Change the header of a safetensors file, or the description of the model in it."""
    (size,) = struct.unpack("<Q", content[:8].ljust(8, b"\0"))
    header, tensors = content[8 : 8 + size], content[8 + size :]
    how = rng.choice(("header", "header", "length", "config", "config", "config", "description"))
    if how == "length":
        size = rng.choice((*_SIZES, size - 1, size + 1, 2 * size)) % 2**64
        return struct.pack("<Q", size) + content[8:], f"header said to be {size} bytes"
    try:
        parsed = json.loads(header)
        description = json.loads(parsed["__metadata__"]["loss-attention"])
        config = dict(description["config"])
        description["config"] = config
    except (ValueError, KeyError, TypeError, RecursionError):
        return content, "no header any more"
    if how == "header":
        header, what = json_value(rng, header)
    elif how == "config":
        name = rng.choice(list(_FIELDS))
        config[name] = rng.choice(_FIELDS[name])
        what = f"config {name} = {shown(repr(config[name]))}"
        parsed["__metadata__"]["loss-attention"] = json.dumps(description)
        header = json.dumps(parsed).encode()
    else:
        text, what = json_value(rng, json.dumps(description).encode())
        parsed["__metadata__"]["loss-attention"] = text.decode("utf-8", "surrogatepass")
        header = json.dumps(parsed).encode()
        what = f"description {what}"
    return struct.pack("<Q", len(header)) + header + tensors, what


def shard(rng: Random, content: bytes) -> tuple[bytes, str]:
    """Change the header of a shard of a checkpoint, or where its tensors belong."""
    (size,) = struct.unpack("<Q", content[:8].ljust(8, b"\0"))
    header, tensors = content[8 : 8 + size], content[8 + size :]
    how = rng.choice(("header", "length", "places", "places"))
    if how == "length":
        size = rng.choice((*_SIZES, size - 1, size + 1, 2 * size)) % 2**64
        return struct.pack("<Q", size) + content[8:], f"header said to be {size} bytes"
    if how == "header":
        header, what = json_value(rng, header)
    else:
        try:
            parsed = json.loads(header)
            text, what = json_value(rng, parsed["__metadata__"]["DCP_SHARDING_INFO"].encode())
            parsed["__metadata__"]["DCP_SHARDING_INFO"] = text.decode("utf-8", "surrogatepass")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return content, "no header any more"
        header, what = json.dumps(parsed).encode(), f"places {what}"
    return struct.pack("<Q", len(header)) + header + tensors, what


class _Call:
    """Runs something where it is unpickled."""

    def __reduce__(self) -> Any:
        return print, ("unpickled something that it should not have",)


def checkpoint(rng: Random, content: bytes) -> tuple[bytes, str]:
    """Save another state, or spoil a part of the zip that holds it."""
    import torch

    if rng.random() < 0.4:
        try:
            archive = zipfile.ZipFile(io.BytesIO(content))
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
        except Exception:  # an earlier change has spoiled it
            return content, "no zip any more"
        return _spoiled_zip(rng, members)
    try:
        state = torch.load(io.BytesIO(content), weights_only=True)
    except Exception:
        return content, "no checkpoint any more"
    places = list(_places(state, "state"))
    if not places:
        return content, "nothing in it to change"
    home, key, path = rng.choice(places)
    values: tuple[Any, ...] = (
        *(None, -1, 10**30, float("nan"), float("inf"), "", "x" * 1000, [], {}, (), True, 0.5, []),
        *(torch.zeros(0), torch.zeros(3), torch.full((2, 2), torch.nan), torch.tensor(7)),
        *(torch.zeros(1).expand(10**9), torch.zeros(2, dtype=torch.int64), [[]] * 1000),
    )
    how = rng.choice(("value",) * 4 + ("drop", "rename"))
    if how == "value":
        home[key] = rng.choice(values)
        what = f"{path} = {shown(repr(type(home[key])))}"
    elif how == "drop":
        del home[key]
        what = f"{path} dropped"
    else:
        if isinstance(home, dict):
            home[rng.choice(TEXTS[:20])] = home.pop(key)
        what = f"{path} renamed"
    if rng.random() < 0.05:
        state, what = rng.choice(([], None, torch.zeros(3), "state", {1: 2})), "another state"
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue(), what


def _places(value: Any, path: str) -> Any:
    if isinstance(value, (dict, list)):
        keys = list(value) if isinstance(value, dict) else range(len(value))
        for key in keys:
            yield value, key, f"{path}[{key!r}]"
            yield from _places(value[key], f"{path}[{key!r}]")


def _spoiled_zip(rng: Random, members: list[tuple[str, bytes]]) -> tuple[bytes, str]:
    at = rng.randrange(len(members))
    name, data = members[at]
    how = rng.choice(("drop", "cut", "random", "pickle", "call", "protocol"))
    if how == "drop":
        del members[at]
    elif how == "cut":
        members[at] = (name, data[: len(data) // 2])
    elif how == "random":
        members[at] = (name, rng.randbytes(len(data)))
    else:
        at = next((k for k, (one, _) in enumerate(members) if one.endswith("data.pkl")), at)
        name = members[at][0]
        other = {"pickle": rng.choice(VALUES[:60]), "call": _Call(), "protocol": {"a": 1}}[how]
        members[at] = (name, pickle.dumps(other, 0 if how == "protocol" else 2))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for member, held in members:
            archive.writestr(zipfile.ZipInfo(member), held)  # without the time of day
    return file.getvalue(), f"{name}: {how}"


@cache
def _rows() -> list[dict[str, Any]]:
    return [
        {"image": {"bytes": picture("png"), "path": f"{k}.png"}, "label": k % 2} for k in range(4)
    ]


def table_bytes(columns: dict[str, list[Any]], metadata: dict[bytes, bytes] | None = None) -> bytes:
    """Return a parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(columns)
    file = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), file)
    return file.getvalue()


def plain_columns() -> dict[str, list[Any]]:
    """Return columns of images and labels."""
    return {"image": [row["image"] for row in _rows()], "label": [row["label"] for row in _rows()]}


def features() -> bytes:
    """Return what `datasets` writes of those columns, the names of the classes with them."""
    described = {
        "image": {"_type": "Image"},
        "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
    }
    return json.dumps({"info": {"features": described}}).encode()


def parquet(rng: Random, content: bytes) -> tuple[bytes, str]:
    """Write a table in which a column, a cell or the description of the columns is another."""
    columns, described = plain_columns(), features()
    how = rng.choice(
        ("image", "image", "label", "label", "label", "names", "features", "features", "objects")
    )
    if how == "features":
        described, what = json_value(rng, described)
    elif how == "names":
        old = rng.choice(list(columns))
        new = rng.choice(TEXTS[:40])
        columns[new.encode("utf-8", "replace").decode()[:1000]] = columns.pop(old)
        what = f"column {old} named {shown(new)}"
    elif how == "image":
        cell = rng.choice(_IMAGE_CELLS)
        rows = range(4) if rng.random() < 0.5 else (rng.randrange(4),)
        columns["image"] = [cell if k in rows else one for k, one in enumerate(columns["image"])]
        what = f"image {shown(repr(cell))} in rows {list(rows)}"
    elif how == "objects":
        cells = [{"bbox": [[1.0, 1.0, 5.0, 4.0]], "category": [k % 2]} for k in range(4)]
        cells[rng.randrange(4)] = rng.choice(_OBJECT_CELLS)
        columns["objects"], what = cells, f"objects {shown(repr(cells))}"
    else:
        columns["label"], what = _labels(rng)
    with_features = how == "features" or (how != "label" and rng.random() < 0.5)
    try:
        return table_bytes(columns, {b"huggingface": described} if with_features else None), what
    except Exception:  # pyarrow does not take this either
        return table_bytes({"image": columns["image"][:1]}), "a table of one row without labels"


_IMAGE_CELLS: tuple[Any, ...] = (
    None,
    {"bytes": None, "path": None},
    {"bytes": b"", "path": "a.png"},
    {"bytes": b"no picture", "path": "\x1b[31m.png"},
    {"bytes": None, "path": "../../../../etc/passwd"},
    {"bytes": None, "path": "/dev/zero"},
    {"bytes": None, "path": "http://localhost/a.png"},
    {"bytes": None, "path": "zip://a.png::http://localhost/a.zip"},
    {"bytes": None, "path": ""},
    {"bytes": None, "path": "a\0b"},
    {"bytes": b"GIF89a", "path": "x" * 10_000},
)


_OBJECT_CELLS: tuple[Any, ...] = (
    None,
    {"bbox": None, "category": None},
    {"bbox": [], "category": [1]},
    {"bbox": [[1.0, 1.0, 5.0, 4.0]], "category": []},
    {"bbox": [[1.0, 1.0]], "category": [0]},
    {"bbox": [None], "category": [None]},
    {"bbox": [[float("nan")] * 4], "category": [0]},
    {"bbox": [[1e300, -1e300, float("inf"), 0.0]], "category": [2**40]},
    {"bbox": [[-5.0, -5.0, -1.0, -1.0]], "category": [-1]},
)


def _labels(rng: Random) -> tuple[list[Any], str]:
    whole: tuple[list[Any], ...] = (
        [None] * 4,
        [float("nan")] * 4,
        [float("nan"), 1.0, 2.0, 1.0],
        [-1, 0, 1, 2**40],
        ["a", "b", None, "a"],
        ["\x1b[31mred", "b", "a\nb", "[/b]"],
        ["x" * 100_000, "b", "a", "b"],
        [[0], [1], [], [0, 1]],
        [[0], None, [None], [1]],
        [[[0]], [[1]], [[0]], [[1]]],
        [{"a": 1}, {"a": 2}, {"a": 1}, {"a": 2}],
        [b"\xff", b"b", b"a", b"b"],
        [True, False, True, False],
        [1.5, 2.5, 1.5, 2.5],
        [0, 0, 0, 0],
        [0, 1, 2, 3],
    )
    chosen = rng.choice(whole)
    return chosen, f"labels {shown(repr(chosen))}"
