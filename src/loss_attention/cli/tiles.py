"""The subcommand `tile`: images as a folder of bags."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from loss_attention.cli.options import Device
from loss_attention.interruption import Interrupted, RunStopped

if TYPE_CHECKING:
    from rich.console import Console


def tile(
    console: Console,
    data: Annotated[
        tyro.conf.Positional[str],
        tyro.conf.arg(help="Images with labels, as train --data takes them."),
    ],
    out: Path,
    tile: int,
    stride: int | None = None,
    image_size: int | None = None,
    backbone: str = "timm/tf_efficientnet_lite0",
    levels: tuple[int, ...] = (),
    pretrained: bool = True,
    weights: str | None = None,
    revision: str | None = None,
    objects: Literal["auto", "masks", "boxes", "none"] = "auto",
    covered: float = 0.01,
    group: str | None = None,
    skip_broken: bool = False,
    precision: Literal["auto", "32", "bf16"] = "auto",
    accelerator: Device = "auto",
) -> int:
    """Make bags of images: features of their tiles, which `train bags` trains on.

    Each image becomes a file: what a frozen backbone makes of each of its tiles, and where they
    lie. Interrupted, the same command goes on.

    Args:
        out: The folder of the bags.
        tile: Side of a tile, in pixels of the image.
        stride: Pixels from one tile to the next. None: those of tile, so that none overlap but at
            the right and lower edge.
        image_size: Pixels of a side that the backbone sees of a tile. None: those of tile.
        backbone: The network, by a name that train --backbone takes.
        levels: Strides of the feature maps whose means are taken, such as 8 16 32; timm/ and hf/
            only. None: the last map.
        pretrained: Take the backbone's weights from the Hugging Face hub, unless --weights are
            given. Without either they are random.
        weights: Take them from this file: safetensors, or tensors that torch.save wrote.
        revision: With weights of the hub: branch, tag or commit. None: its main branch.
        objects: What says which tiles show which class. auto: the mask of an image, or the boxes
            of one without. none: tiles are given no labels.
        covered: Fraction of a tile that an object covers at least for the tile to have its class.
        group: Which images belong together, as those of a patient do: a column of the table that
            lists them, or a pattern with one group that is found in their paths, as num_([0-9]+).
        skip_broken: Go on without the images that have an error, and say which.
        precision: Of the arithmetic. auto: bf16 if the hardware has fast bf16, else 32.
    """
    from loss_attention.bags.tiles import Tiling

    tiling = Tiling(tile, stride, image_size, objects, covered)
    import torch

    from loss_attention.bags.images import images_to_tile
    from loss_attention.bags.tile_files import tile_images, told
    from loss_attention.model import create_model
    from loss_attention.terminal import counted, say_line
    from loss_attention.training.devices import choose_device
    from loss_attention.training.environment import choose_precision
    from loss_attention.training.features import FrozenBackbone

    device = choose_device(accelerator)
    images = images_to_tile(data, group=group, skip_broken=skip_broken)
    torch.manual_seed(0)  # of a backbone without weights, which is gone on with
    model = create_model(
        backbone,
        levels=levels,
        head="mean",
        hidden_channels=(),
        patch_kernel=1,
        patch_stride=1,
        pretrained=pretrained and weights is None,
        weights=weights,
        revision=revision if weights is None else None,
    ).eval()
    frozen = FrozenBackbone(model, choose_precision(precision, device.type), device)
    for line in images.notes:
        say_line(console, line)
    try:
        with counted("tiling", console) as progress:
            done = tile_images(
                images, frozen, tiling, out, skip_broken=skip_broken, progress=progress
            )
    except Interrupted as stop:
        raise RunStopped(
            f"stopped; the bags that are done are kept in {out}: the same command goes on",
            stop.number,
        ) from stop
    for line in told(done, tiling, out):
        say_line(console, line)
    return 0
