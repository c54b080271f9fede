"""The web page: photos dropped, their classes and maps shown, and why not another class.

Gradio draws it. Nothing in it is loaded from elsewhere, and nothing is told to anybody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gradio as gr
from fastapi import FastAPI
from gradio.utils import get_upload_folder

from loss_attention.explained.questions import LEAST_DRAWN
from loss_attention.serve.answering import WITHOUT_PATCHES
from loss_attention.serve.limits import RequestError
from loss_attention.serve.service import ExplainedPhoto, Photo, Service
from loss_attention.terminal import markdown

if TYPE_CHECKING:  # it takes the features of training along
    from loss_attention.serve.neighbours import Neighbour

FONT = ("Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONOSPACED = ("Menlo", "Consolas", "monospace")
"""The reader's own letters: others would be fetched."""
STYLE = """
#picture img, #several img { max-height: 78vh; object-fit: contain; }
#said { font-size: 1.25rem; min-height: 2rem; }
"""
COLUMNS = 4
"""Small pictures in a row."""
MOST_BARS = 5
"""Classes whose probability is drawn."""
KEPT_SECONDS, CLEANED_SECONDS = 3600, 600
"""How long photos and pictures are kept on the disk, and how often those that are older go."""
BEFORE = "Drop a photo, and its class and the patches that decided for it appear here."


class Example(NamedTuple):
    """An image to try: its file in the page's folder, and what it is."""

    path: Path
    label: str


async def _only_uploaded(file: Any) -> str | None:
    """Return the path of a file that a client names as one that it has uploaded.

    In place of Gradio's own, which takes the path of any file of the machine where an app is
    mounted and not launched, and fetches what is an address. (A class with this method would have
    Gradio write a file of types beside this module.)
    """
    return None if file is None else str(_uploaded(file))


def _uploaded(file: Any) -> Path:
    """Return the path of a file that was uploaded.

    Raises:
        gr.Error: it lies elsewhere, or is an address.
    """
    path, uploads = Path(str(file)).resolve(), Path(get_upload_folder()).resolve()
    if uploads not in path.parents:
        raise gr.Error("photos are files that were dropped here")
    return path


def page_app(service: Service, name: str, examples: Sequence[Example]) -> FastAPI:
    """Return the page as an application.

    Args:
        service: what answers.
        name: what to call what is served.
        examples: images to try, in the folder that Gradio has for files.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    blocks = _blocks(service, name, examples)
    limits = service.limits
    # Many people's photos at a time, which the service puts together.
    blocks.queue(
        api_open=False,
        max_size=limits.max_waiting,
        default_concurrency_limit=limits.batch_size,
    )
    blocks.has_launched = True  # or Gradio checks no path
    return gr.mount_gradio_app(  # type: ignore[no-any-return]
        app,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        show_error=True,
        max_file_size=limits.bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Default(font=FONT, font_mono=MONOSPACED),
        css=STYLE,
    )


class _Shown(NamedTuple):
    """What changes on the page with an answer, in the order of the outputs."""

    said: Any
    picture: Any
    several: Any
    probabilities: Any
    more: Any
    nearest: Any
    number: int


def _blocks(service: Service, name: str, examples: Sequence[Example]) -> gr.Blocks:
    with gr.Blocks(
        analytics_enabled=False,
        title=f"{name}: loss-attention",
        delete_cache=(CLEANED_SECONDS, KEPT_SECONDS),
    ) as blocks:
        gr.Markdown(f"## {markdown(name)}\n{_about(service)}")
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                photos = gr.File(
                    label="Photos",
                    file_count="multiple",
                    file_types=["image"],
                    height=150,
                    elem_id="photos",
                )
                photos.async_move_resource_to_block_cache = _only_uploaded
                target, versus = _choices(service)
            with gr.Column(scale=3, min_width=280):
                said = gr.Markdown(BEFORE, elem_id="said")
                picture = gr.Image(
                    show_label=False,
                    format="png",
                    interactive=False,
                    visible=False,
                    buttons=["download", "fullscreen"],
                    elem_id="picture",
                )
                several = _strip("several", "All photos: choose one")
                probabilities = gr.Label(
                    label="Probabilities",
                    num_top_classes=MOST_BARS,
                    show_heading=False,
                    visible=False,
                    elem_id="probabilities",
                )
                more = gr.Markdown(visible=False, elem_id="more")
                nearest = _strip("nearest", "The training images that it is most like")
        tries = _examples(examples)
        gr.Markdown("For programs: [the HTTP API](/openapi.json).")
        number = gr.State(0)  # of the photo that is shown in full
        outputs = [said, picture, several, probabilities, more, nearest, number]
        given = [photos, target, versus]
        how: dict[str, Any] = {"api_visibility": "private", "show_progress_on": [said]}

        async def begin(files: Any, target: str, versus: str) -> _Shown:
            return await _answer(service, files or [], target, versus, 0)

        async def again(files: Any, target: str, versus: str, number: int) -> _Shown:
            return await _answer(service, files or [], target, versus, number)

        async def choose(files: Any, target: str, versus: str, chosen: gr.SelectData) -> _Shown:
            some = (files or [])[chosen.index : chosen.index + 1]
            shown = await _answer(service, some, target, versus, 0)
            return shown._replace(several=gr.skip(), number=chosen.index)

        photos.change(begin, given, outputs, **how)
        for one in (target, versus):
            one.input(again, [*given, number], outputs, **how)
        several.select(choose, given, outputs, **how)
        if tries is not None:
            paths = [str(example.path) for example in examples]

            def take(chosen: gr.SelectData) -> list[str]:
                return [paths[chosen.index]]

            tries.select(take, None, photos, api_visibility="private")
    return blocks


def _about(service: Service) -> str:
    """Say in a line or two what is served."""
    served = service.served
    classes = f"{len(served.class_names)} classes" if len(served.class_names) > 1 else "one class"
    said = f"{markdown(served.kind)}; {classes}."
    return said if served.has_patches else f"{said} {WITHOUT_PATCHES.capitalize()}."


def _choices(service: Service) -> tuple[gr.Dropdown, gr.Dropdown]:
    """Return what is chosen to be explained, and what it is held against."""
    served = service.served
    names = list(served.class_names)
    with gr.Row():
        target = gr.Dropdown(
            [("predicted", ""), *names],
            value="",
            label="Explain",
            visible=served.has_patches and not served.predicted_alone,
            elem_id="target",
        )
        versus = gr.Dropdown(
            [("-", ""), *names],
            value="",
            label="Why not …?",
            visible=served.has_evidence and len(names) > 1,
            elem_id="versus",
        )
    return target, versus


def _examples(examples: Sequence[Example]) -> gr.Gallery | None:
    """Return images to try, where there are any."""
    if not examples:
        return None
    gr.Markdown("Or try a test image of the run:")
    shown = [(str(example.path), example.label) for example in examples]
    return _strip("examples", "Test images of the run", shown)


def _strip(name: str, label: str, pictures: Any = None) -> gr.Gallery:
    """Return small pictures in rows, hidden as long as there are none."""
    return gr.Gallery(
        pictures,
        label=label,
        show_label=pictures is None,
        columns=COLUMNS,
        height="auto",
        format="png",
        interactive=False,
        visible=pictures is not None,
        allow_preview=False,
        object_fit="contain",
        buttons=[],
        elem_id=name,
    )


async def _answer(
    service: Service, files: Sequence[str], target: str, versus: str, number: int
) -> _Shown:
    """Return what the page shows of photos: all of them, and one in full."""
    if not files:
        return _nothing(BEFORE)
    try:
        photos = await asyncio.to_thread(_read, files)
        if not service.served.has_patches:
            found = [ExplainedPhoto(one) for one in await service.predict(photos)]
        else:
            question = service.ask(target or None, versus or None)
            found = await service.explain(photos, question, pictures=True, nearest=True)
    except RequestError as error:
        return _nothing(markdown(error.line.replace("`", "")))
    return _shown(found, min(number, len(found) - 1))


def _read(files: Sequence[str]) -> list[Photo]:
    try:
        return [Photo(path.name, path.read_bytes()) for path in map(_uploaded, files)]
    except FileNotFoundError:
        raise RequestError(422, "a photo is no longer kept here: drop it again") from None


def _nothing(said: str) -> _Shown:
    hidden = [gr.update(value=None, visible=False) for _ in _Shown._fields[1:-1]]
    return _Shown._make((said, *hidden, 0))


def _shown(found: Sequence[ExplainedPhoto], number: int) -> _Shown:
    described, picture, alike = found[number]
    pictures = [
        (one.picture, f"{_sentence(one.described)} ({one.described['file']})")
        for one in found
        if one.picture is not None
    ]
    several = pictures if len(pictures) > 1 else None
    more = _more(described)
    nearest = [(one.picture, _verdict(one)) for one in alike]
    return _Shown(
        _said(described),
        gr.update(value=picture, visible=picture is not None),
        gr.update(value=several, visible=several is not None, selected_index=None),
        gr.update(value=described["probabilities"], visible=True),
        gr.update(value=more, visible=bool(more)),
        gr.update(value=nearest, visible=bool(nearest)),
        number,
    )


def _verdict(one: Neighbour) -> str:
    """Say what a training image is, and what the model says of it where that is something else."""
    said = "" if one.prediction == one.label else f", which the model calls {one.prediction}"
    return f"{one.label}{said} ({one.similarity:.2f})"


def _sentence(described: dict[str, Any]) -> str:
    """Say what a photo is called."""
    if described["labels"] is not None:
        return ", ".join(described["labels"]) or "none of the classes"
    return f"{described['prediction']}, {described['probability']:.1%}"


def _said(described: dict[str, Any]) -> str:
    """Say what a photo is called, as Markdown."""
    return f"**{markdown(_sentence(described))}**"


def _more(described: dict[str, Any]) -> str:
    """Say what a photo's map adds up to and what was found, as Markdown."""
    lines = []
    versus, objects = described.get("versus"), described.get("objects")
    if versus is not None:
        target, rival = markdown(described["target"]), markdown(versus["class"])
        lines.append(
            f"**Why {target} and not {rival}?** The evidence for {target} less that for {rival} "
            f"adds up to {versus['logit_difference']:+.2f} over all patches, which is the "
            "difference of the two logits: red patches speak for the former, blue ones for the "
            "latter."
        )
    drawn = [one for one in objects or () if one["share"] >= LEAST_DRAWN]
    if drawn:
        boxes = ["**Found**, in pixels of the photo from its upper left corner:", ""]
        for one in drawn:
            x0, y0, x1, y1 = (f"{side:.0f}" for side in one["box"])
            boxes.append(
                f"- {markdown(one['class'])}: {x0}, {y0} to {x1}, {y1}, with "
                f"{one['share']:.0%} of the evidence for it"
            )
        lines.append("\n".join(boxes))
    return "\n\n".join(lines)
