"""A batch of explained images as columns of a table: a pure function, which any engine may call.

It opens no file, draws nothing and keeps nothing: what `explain --format parquet` writes with it
on one machine, many machines can.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from loss_attention.data.placement import Resize, placement_of
from loss_attention.data.sample import to_original
from loss_attention.errors import InputError
from loss_attention.explained.objects import FoundObject
from loss_attention.explained.reading import ReadImage
from loss_attention.explanation import Explanation
from loss_attention.terminal import as_unicode

Columns = dict[str, list[Any]]
"""As many values in each list; None where there is none."""

NAMES = (
    *("path", "error", "width", "height", "class", "probability", "target", "logits"),
    *("grid", "patch_weights", "evidence", "margin", "margin_is_empty", "box", "objects"),
)
UNITS = (
    "path: of the image file; error: why it could not be read or explained, and then all else is "
    "null. width, height, box, objects and grid: in pixels of the upright original. class, "
    "probability: the predicted one. logits: of all classes. target: the explained class; "
    "evidence: of each patch for it, float16, row by row of the grid; they sum to its logit but "
    "for float16's rounding. margin: its evidence less that for its closest rival. patch_weights: "
    "they sum to 1. grid: the window of row r and column c is step_x * c + x to the right, "
    "step_y * r + y down, window_width wide and window_height high; what of it is outside the "
    "image the network does not see. objects: as in the JSON of `explain`."
)
MOST_HALF = float(np.finfo(np.float16).max)
"""Larger values, which no network in use has, are written as this one."""


def table_schema() -> Any:
    """Return the Arrow schema of the table, for whoever writes its columns elsewhere."""
    import pyarrow as pa

    halves, floats = pa.list_(pa.float16()), pa.list_(pa.float32())
    lengths = ("x", "y", "step_x", "step_y", "window_width", "window_height")
    grid = [("rows", pa.int32()), ("columns", pa.int32())]
    objects = [("class", pa.string()), ("score", pa.float32()), ("share", pa.float32())]
    return pa.schema(
        [
            ("path", pa.string()),
            ("error", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("class", pa.string()),
            ("probability", pa.float32()),
            ("target", pa.string()),
            ("logits", floats),
            ("grid", pa.struct([*grid, *((name, pa.float32()) for name in lengths)])),
            ("patch_weights", halves),
            ("evidence", halves),
            ("margin", halves),
            ("margin_is_empty", pa.bool_()),
            ("box", floats),
            ("objects", pa.list_(pa.struct([*objects, ("box", floats)]))),
        ]
    )


def columns_of(
    batch: Sequence[ReadImage],
    explanation: Explanation | None,
    objects: Sequence[Sequence[FoundObject]] | None,
    class_names: Sequence[str],
    resize: Resize = "squash",
) -> Columns:
    """Return the columns of a batch: a row for each image, in order, also where it is unreadable.

    Args:
        batch: the images, those that could not be read or explained among them.
        explanation: of the others, in their order; None: there are none.
        objects: likewise what was found in each; None: nothing was looked for.
        class_names: of the model.
        resize: how they were brought to the model's size.

    Raises:
        InputError: logits that are not finite numbers.
    """
    rows: list[dict[str, Any]] = [
        {"path": as_unicode(str(image.source)), "error": image.error or None} for image in batch
    ]
    if explanation is not None:
        readable = [row for row in rows if row["error"] is None]
        sizes = [image.size for image in batch if not image.error]
        for name, values in _explained(explanation, sizes, class_names, resize).items():
            for row, value in zip(readable, values, strict=True):
                row[name] = value
        if objects is not None:
            placements = _placements(explanation, sizes, resize)
            for row, found in zip(
                readable, _objects(objects, placements, class_names), strict=True
            ):
                row["objects"] = found
    return {name: [row.get(name) for row in rows] for name in NAMES}


def _explained(
    explanation: Explanation,
    sizes: Sequence[tuple[int, int]],
    class_names: Sequence[str],
    resize: Resize,
) -> dict[str, Sequence[Any]]:
    """Return the columns of images that were explained, but for their objects."""
    logits = explanation.logits.float().cpu()
    if not logits.isfinite().all():
        raise InputError("the model's logits are not finite numbers: its weights are damaged")
    predicted = logits.argmax(dim=1)
    probabilities = explanation.probabilities.float().cpu().gather(1, predicted.unsqueeze(1))
    placements = _placements(explanation, sizes, resize)
    boxes = to_original(explanation.boxes.float().cpu().unsqueeze(1), placements)[:, 0]
    none = explanation.boxes.cpu().isnan().any(dim=1).tolist()
    columns: dict[str, Sequence[Any]] = {
        "width": [width for width, _ in sizes],
        "height": [height for _, height in sizes],
        "class": [class_names[index] for index in predicted.tolist()],
        "probability": probabilities.squeeze(1).tolist(),
        "target": [class_names[index] for index in explanation.target.tolist()],
        "logits": list(logits.numpy()),
        "grid": _grids(explanation, placements),
        "patch_weights": _halves(explanation.patch_weights),
        "box": [None if no else box for no, box in zip(none, boxes.numpy(), strict=True)],
    }
    if explanation.target_evidence is not None:
        columns["evidence"] = _halves(explanation.target_evidence)
    if explanation.target_margin is not None and explanation.no_margin is not None:
        columns["margin"] = _halves(explanation.target_margin)
        columns["margin_is_empty"] = explanation.no_margin.tolist()
    return columns


def _halves(values: Float[Tensor, "B M"]) -> list[NDArray[np.float16]]:
    """Return a row of float16 for each image."""
    whole = values.float().cpu().clamp(-MOST_HALF, MOST_HALF)
    return list(whole.half().numpy())


def _placements(
    explanation: Explanation, sizes: Sequence[tuple[int, int]], resize: Resize
) -> Float[Tensor, "B 6"]:
    seen = explanation.grid.height, explanation.grid.width
    return torch.tensor([placement_of(size, seen, resize) for size in sizes]).float()


def _grids(explanation: Explanation, placements: Float[Tensor, "B 6"]) -> list[dict[str, Any]]:
    """Return where the patches of each image lie in its original."""
    grid = explanation.grid
    scale = (placements[:, 4:] - placements[:, 2:4]) / placements[:, :2]  # of x and of y
    corner = 0 - placements[:, 2:4] / scale
    return [
        {
            "rows": grid.rows,
            "columns": grid.columns,
            "x": x,
            "y": y,
            "step_x": grid.stride / across,
            "step_y": grid.stride / down,
            "window_width": grid.window / across,
            "window_height": grid.window / down,
        }
        for (x, y), (across, down) in zip(corner.tolist(), scale.tolist(), strict=True)
    ]


def _objects(
    found: Sequence[Sequence[FoundObject]],
    placements: Float[Tensor, "B 6"],
    class_names: Sequence[str],
) -> list[list[dict[str, Any]]]:
    """Return the objects of each image; one on its border alone is nowhere in the original."""
    rows: list[list[dict[str, Any]]] = [[] for _ in found]
    each = [(image, one) for image, objects in enumerate(found) for one in objects]
    if not each:
        return rows
    placed = placements[[image for image, _ in each]]
    boxes = to_original(torch.tensor([[one.box] for _, one in each]), placed)[:, 0].tolist()
    for (image, one), box in zip(each, boxes, strict=True):
        if box[0] < box[2] and box[1] < box[3]:
            named = {"class": class_names[one.class_index], "score": one.score, "share": one.share}
            rows[image].append(named | {"box": box})
    return rows
