"""torchvision beside another build of torch than its own: Python imports this when it starts.

There its extension does not load, and it does not import for want of two operators of that, which
nothing here calls: they are declared right before it is imported. The package itself does no such
thing. Tests put this folder on PYTHONPATH, for the processes that they start.
"""

from __future__ import annotations

import sys
from typing import Any


class BeforeTorchvision:
    """Looks for no module; declares the operators when torchvision is looked for."""

    def find_spec(self, name: str, *_: Any) -> None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            declare_operators()


def declare_operators() -> None:
    import importlib.util

    import torch

    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    try:
        torch.ops.load_library(spec.origin.replace("__init__.py", "_C.so"))
    except OSError:
        if hasattr(sys, "torchvision_operators"):  # the folder is on the path, and imported too
            return
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        sys.torchvision_operators = library  # they last as long as it does


sys.meta_path.insert(0, BeforeTorchvision())
