"""Weights of other people's networks, from files: read without running them, compared, then kept.

Such files have no form of their own. The tensors may lie in a dictionary of a training's state,
their names may begin with the path of the network within a larger one, and there may be a
classifier that nobody wants. What is left has to be the network's own tensors, every one.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from loss_attention.errors import InputError, printable, quoted, reason
from loss_attention.saving import file_digest

State = Mapping[str, Tensor]

WRAPPINGS = (
    *("state_dict_ema", "model_ema", "teacher", "state_dict", "model_state_dict", "model"),
    *("net", "network", "backbone"),
)
"""Keys under which files keep the tensors; the first that is there, so averaged ones come first."""
SPARE = ("num_batches_tracked", "relative_position_index", "relative_coords_table", "attn_mask")
"""Last parts of names of buffers that files hold or lack as the version of a library has it."""
UNUSED = ("mask_token", "position_ids", *SPARE)
"""The same of tensors that files may hold although the network has no use for them."""
MOST_TENSORS = 50_000


class Loaded(NamedTuple):
    """Weights for a network, and where they come from.

    Attributes:
        state: the tensors by the network's names.
        facts: what a run records of them.
        note: what a user should know, in a line, or None.
    """

    state: dict[str, Tensor]
    facts: dict[str, str]
    note: str | None = None


def read_weights_file(
    path: Path,
    network: State,
    whole: State,
    *,
    of: str,
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
) -> Loaded:
    """Return a network's weights from a file, safetensors or what `torch.save` wrote of tensors.

    Shapes are compared before tensors are read. Names count; only where no name agrees and all
    tensors of the whole network, classifier included, have the same shapes and types in the same
    order, that order is taken.

    Args:
        path: the file.
        network: the tensors that the network wants; may be on the meta device.
        whole: those of the network as published, with its classifier, in its order; may be on the
            meta device.
        of: the network's name, for errors.
        convert: renames or resizes tensors of another form of the same network.

    Raises:
        InputError: no such file, one that is truncated or damaged or holds no tensors by name,
            weights of another network, or values that are not finite.
    """
    wanted = {name: tensor for name, tensor in network.items() if not _ends(name, SPARE)}
    header = read_tensors(path, "meta")
    note = None
    prefix = _prefix(header, wanted)
    names = {
        name: prefix + name
        for name, tensor in network.items()
        if prefix + name in header
        and (name in wanted or header[prefix + name].shape == tensor.shape)
    }
    difference = _difference(header, names, wanted, whole, prefix)
    state: dict[str, Tensor]
    if difference is None:
        tensors = read_tensors(path)
        state = {name: tensors[there] for name, there in names.items()}
    elif not names and not _is_safetensors(path) and _same_order(header, whole):
        tensors = read_tensors(path)
        own = [name for name in whole if not _ends(name, SPARE)]
        theirs = [name for name in header if not _ends(name, SPARE)]
        state = {
            name: tensors[there] for name, there in zip(own, theirs, strict=True) if name in wanted
        }
        note = (
            f"{path.name}: no tensor has the name that {of} gives it; all {len(own)} have its "
            "shapes in its order, so they were taken in order"
        )
    else:
        converted = None if convert is None else _converted(convert, read_tensors(path))
        names = {name: name for name in network if converted and name in converted}
        if converted is None or _difference(converted, names, wanted, whole, ""):
            raise InputError(
                f"the weights in {printable(str(path))} are not those of {of}: {difference}"
            )
        state = {name: converted[name] for name in names}
    # Copies: a file that is mapped into memory ends where it is truncated.
    state = {name: tensor.to(network[name].dtype, copy=True) for name, tensor in state.items()}
    check_finite(state, path)
    return Loaded(state, file_facts(path), note)


def file_facts(path: Path) -> dict[str, str]:
    """Return what a run records of a file of weights."""
    return {"file": str(path), "sha256": file_digest(path)}


def check_finite(tensors: State, path: Path) -> None:
    """Raise `InputError` where weights hold NaN or infinity."""
    for name, tensor in tensors.items():
        if tensor.numel() and not all(bound.isfinite() for bound in tensor.aminmax()):
            raise InputError(
                f"the weights in {printable(str(path))} are not finite: {name} holds NaN or "
                "infinity"
            )


def is_unused(name: str) -> bool:
    """Whether a file may hold a tensor of this name although a network has no use for it."""
    return _ends(name, UNUSED)


def _ends(name: str, parts: Iterable[str]) -> bool:
    return name.rpartition(".")[2] in parts


def _is_safetensors(path: Path) -> bool:
    return path.suffix == ".safetensors"


def read_tensors(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """Return the tensors of a file by name; on the meta device, without their values.

    Raises:
        InputError: no such file, or one that is truncated or damaged or holds no tensors by name.
    """
    name = printable(str(path))
    if not path.is_file():
        raise InputError(f"`weights`: there is no file {name}")
    try:
        if _is_safetensors(path):
            return _safetensors(path, device)
        zipped = zipfile.is_zipfile(path)
        if zipped:
            _check_zip(path)
        content = torch.load(path, map_location=device, weights_only=True, mmap=zipped)
        return _unwrapped(content, path.stat().st_size)
    except InputError as error:
        raise InputError(f"the weights in {name} cannot be read: {error}") from error
    except UnpicklingError as error:  # its own text is long, and says how to have code run
        raise InputError(
            f"the weights in {name} cannot be read: it is damaged, no file of tensors, or holds "
            "more than tensors and plain values"
        ) from error
    except Exception as error:  # whatever broken content leads to
        raise InputError(f"the weights in {name} cannot be read: {reason(error)}") from error


def _safetensors(path: Path, device: str) -> dict[str, Tensor]:
    try:
        file: Any = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise InputError(f"it is truncated or no safetensors file ({reason(error)})") from error
    names = list(file.keys())
    _check_count(names)
    if device == "cpu":
        return {name: file.get_tensor(name) for name in names}
    return {name: _outline(file.get_slice(name)) for name in names}


def _outline(header: Any) -> Tensor:
    kind = header.get_dtype()
    floating = kind.startswith(("F", "BF"))
    dtype = {"F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}.get(kind)
    dtype = dtype or (torch.float32 if floating else torch.int64)
    return torch.empty(tuple(header.get_shape()), dtype=dtype, device="meta")


def _check_zip(path: Path) -> None:
    """Raise `InputError` for an archive that would unpack to more than it is."""
    with zipfile.ZipFile(path) as archive:
        if any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist()):
            raise InputError("it is compressed, as no weights are")


def _check_count(names: Any) -> None:
    if len(names) > MOST_TENSORS:
        raise InputError(f"it holds {len(names):,} tensors, more than any network")


def _unwrapped(content: Any, file_size: int) -> dict[str, Tensor]:
    """Return the tensors of what a file holds, out of the wrappings that there are."""
    for _ in range(4):
        if not isinstance(content, Mapping):
            break
        _check_count(content)
        inner = next((key for key in WRAPPINGS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = content[inner]
    tensors = {}
    if isinstance(content, Mapping):
        tensors = {
            name: value
            for name, value in content.items()
            if isinstance(name, str) and isinstance(value, Tensor)
        }
    if not tensors:
        raise InputError("it holds no tensors by name")
    if any(tensor.layout != torch.strided for tensor in tensors.values()):
        raise InputError("it holds sparse tensors")
    if any(tensor.numel() * tensor.element_size() > file_size for tensor in tensors.values()):
        raise InputError("it holds a tensor that is larger than the file")
    return tensors


def _prefix(found: State, wanted: State) -> str:
    """Return what the names of a file have before those of the network, where most agree."""
    sample = list(wanted)[:: max(1, len(wanted) // 8)]
    counted = Counter(
        there.removesuffix(name)
        for name in sample
        for there in found
        if there == name or there.endswith(f".{name}")
    )
    # The shortest of equals, so that the network itself comes before one within it.
    return min(counted, key=lambda prefix: (-counted[prefix], len(prefix)), default="")


def _difference(
    found: State,
    names: Mapping[str, str],
    wanted: State,
    whole: State,
    prefix: str,
) -> str | None:
    """Say what a file has other than a network's weights; None: nothing."""
    for name, tensor in wanted.items():
        if name not in names:
            hint = "" if names else f" (the file begins with {quoted(next(iter(found)))})"
            return f"{name} is missing{hint}"
        there = found[names[name]]
        if there.shape != tensor.shape:
            return f"{name} has the shape {quoted(tuple(there.shape))}, not {tuple(tensor.shape)}"
        if there.is_floating_point() != tensor.is_floating_point():
            return f"{name} has the type {there.dtype}"
    used = set(names.values())
    for full in found:
        name = full.removeprefix(prefix)
        spare = name in whole or is_unused(name) or name.split(".")[0] in CLASSIFIERS
        if full.startswith(prefix) and full not in used and not spare:
            return f"{quoted(full)} is too many"
    return None


CLASSIFIERS = {"head", "heads", "fc", "classifier", "head_dist", "last_linear", "pre_logits"}
"""First parts of names of layers that come after the last feature map."""


def _same_order(found: State, whole: State) -> bool:
    own = [tensor for name, tensor in whole.items() if not _ends(name, SPARE)]
    theirs = [tensor for name, tensor in found.items() if not _ends(name, SPARE)]
    pairs = zip(own, theirs, strict=False)
    return len(own) == len(theirs) and all(
        one.shape == other.shape and one.dtype == other.dtype for one, other in pairs
    )


def _converted(
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]], tensors: dict[str, Tensor]
) -> dict[str, Tensor] | None:
    try:
        return convert(tensors)
    except Exception:  # whatever another library raises about what is not its own
        return None
