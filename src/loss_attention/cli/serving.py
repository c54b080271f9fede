"""The subcommand `serve`: a model or an exported file behind a web page and an HTTP API."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from loss_attention.cli.elsewhere import ModelOrFile, exported_file, opened_model
from loss_attention.cli.options import Device
from loss_attention.cli.subcommands import Flat
from loss_attention.errors import InputError
from loss_attention.serve.limits import Limits

if TYPE_CHECKING:
    from rich.console import Console

    from loss_attention.serve.answering import Served, ServedModel
    from loss_attention.serve.neighbours import Neighbours
    from loss_attention.serve.page import Example
    from loss_attention.training.run_folder import RunFolder

PORT = 7860


def serve(
    console: Console,
    run: ModelOrFile,
    limits: Annotated[Limits, Flat] = Limits(),  # noqa: B008 (it is frozen)
    host: str = "127.0.0.1",
    port: int = PORT,
    page: bool = True,
    examples: int = 8,
    accelerator: Device = "auto",
) -> int:
    """Answer photos on a web page and over HTTP, until Ctrl-C.

    The page shows the class of a photo that is dropped, its map, why it is not another class, and
    what was found. /v1/predict and /v1/explain answer programs; /openapi.json describes them,
    /health and /metrics are for those who watch over it. Nobody else is told anything, and no file
    of this machine can be reached.

    Args:
        host: Where to listen. 127.0.0.1: for this machine alone; 0.0.0.0: for all that reach it,
            who need no password.
        port: Likewise. 0: one that is free.
        page: Have the web page; without, the API alone.
        examples: Test images of a run that the page offers, whose data must be there; 0: none.
        accelerator: For a run, as exported files run on the CPU.
    """
    from loss_attention.exporting.reading import required
    from loss_attention.interruption import StopRequest
    from loss_attention.terminal import say_line

    if examples < 0:
        raise InputError(f"`examples` must be at least 0, got {examples}")
    with tempfile.TemporaryDirectory(prefix="loss-attention-") as name:
        uploads = Path(name).resolve()
        # Gradio reads these as it is imported.
        os.environ["GRADIO_TEMP_DIR"] = str(uploads)
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        for library in ("fastapi", "uvicorn", *(("gradio",) if page else ())):
            required(library)
        from loss_attention.serve import server
        from loss_attention.serve.answering import ServedModel
        from loss_attention.serve.api import create_api
        from loss_attention.serve.front import Front
        from loss_attention.serve.service import Service

        with server.listening(host, port) as listener:
            served, folder = _served(run, accelerator)
            title, alike = run.resolve().name, None
            tries: list[Example] = []
            if page and folder is not None and isinstance(served, ServedModel):
                tries, alike = _of_run(folder, served, examples, uploads, console)
            service = Service(served, limits, alike)
            try:
                shown = None
                if page:
                    from loss_attention.serve.page import page_app

                    shown = page_app(service, title, tries)
                api = create_api(service, title)
                front = Front(api, shown, uploads, limits, service.counts)
                what = "page and API" if page else "API"
                at = server.address_of(listener)
                say_line(console, f"{title}: {what} at {at} (Ctrl-C to stop)")
                stopped_by = server.run(front, listener, limits, StopRequest())
            finally:
                service.close()
    say_line(console, f"stopped by {stopped_by}")
    return 0


def _served(run: Path, accelerator: Device) -> tuple[Served, RunFolder | None]:
    """Return what answers, and the run's folder if it is one."""
    exported = exported_file(run)
    if exported is None:
        model, folder = opened_model(run, accelerator)
    from loss_attention.explained.objects import THRESHOLD
    from loss_attention.serve.answering import ServedFile, ServedModel
    from loss_attention.training.finished import object_threshold

    if exported is not None:
        return ServedFile(exported), None
    found = None if folder is None else object_threshold(folder)
    return ServedModel(model, THRESHOLD if found is None else found), folder


def _of_run(
    folder: RunFolder, served: ServedModel, examples: int, uploads: Path, console: Console
) -> tuple[list[Example], Neighbours | None]:
    """Return images of a run to try, and its training images by their features if it keeps them.

    Where its data is gone, say so and return none.
    """
    from rich.console import Console as AnyConsole

    from loss_attention import runs
    from loss_attention.data.loading import MADE
    from loss_attention.serve.examples import examples_of
    from loss_attention.serve.neighbours import has_features, neighbours_of
    from loss_attention.terminal import say_line

    kept = has_features(folder)
    if not (examples or kept):
        return [], None
    quiet = console if console.is_terminal else AnyConsole(quiet=True)
    try:
        # Features are known by the images as they were in training; of others only what is shown
        # need be decoded, unless they are made in memory anyhow.
        whole = kept or folder.recipe().data in MADE
        splits = runs.own_data(folder, quiet, stream=None if whole else "yes")
        tries = examples_of(splits.test, examples, uploads) if examples else []
    except InputError as error:
        say_line(console, f"no examples on the page: {error}")
        return [], None
    if not kept:
        return tries, None
    try:
        alike = neighbours_of(folder, served.model, splits.trainval)
    except InputError as error:
        say_line(console, f"no nearest training images on the page: {error}")
        return tries, None
    served.wants_means = True
    return tries, alike
