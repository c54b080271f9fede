"""The HTTP API: what is asked and answered, as its OpenAPI schema says, and errors in one line."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from loss_attention import __version__
from loss_attention.errors import printable
from loss_attention.explained.encoding import encoded
from loss_attention.prediction import MAPS, MapName
from loss_attention.serve.answering import Served
from loss_attention.serve.counting import CONTENT_TYPE
from loss_attention.serve.limits import Limits, RequestError
from loss_attention.serve.service import ExplainedPhoto, Photo, Service

FORM, RAW = "multipart/form-data", "application/octet-stream"


class Problem(BaseModel):
    """Why a request was refused."""

    error: str = Field(description="One line for people.")


class Health(BaseModel):
    """That the service runs."""

    status: str
    version: str


class Input(BaseModel):
    """The images that the network is given; those that are sent are resized to it."""

    height: int
    width: int
    channels: int
    resize: str = Field(description="squash, or pad with a border of the mean colour")


class MostOf(BaseModel):
    """What a request may cost."""

    megabytes: float = Field(description="of a request, all its images together")
    megapixels: float = Field(description="of an image")
    images: int
    seconds: float = Field(description="to arrive, and as many to be answered")


class About(BaseModel):
    """What is served."""

    name: str
    kind: str
    version: str
    classes: list[str]
    multi_label: bool = Field(description="an image may have several classes")
    explains: bool = Field(description="/v1/explain answers")
    has_evidence: bool = Field(description="the decision is a sum over patches")
    input: Input
    limits: MostOf


class PredictedImage(BaseModel):
    """The class of an image."""

    file: str = Field(description="The name it was sent with.")
    width: int = Field(description="Of the upright image, in pixels.")
    height: int
    prediction: str
    probability: float
    labels: list[str] | None = Field(
        description="Where an image may have several classes, those of at least 0.5; else null."
    )
    probabilities: dict[str, float]


class Predictions(BaseModel):
    """The classes of the images of a request, in their order."""

    images: list[PredictedImage]


class _Named(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    name: str = Field(alias="class")


class Versus(_Named):
    """The class that the evidence is held against."""

    logit_difference: float = Field(
        description="The target's logit less this class's: the sum of the map's values."
    )


class Map(BaseModel):
    """What the patches say for the target class."""

    shows: str = Field(description="margin, contrast, evidence, difference or routing weight")
    unit: str
    note: str | None = Field(description="Why it is this that is shown, where that needs saying.")
    values: list[list[float]] = Field(description="A row for each row of patches.")


Box = Annotated[list[float], Field(min_length=4, max_length=4)]
BOX = "x0, y0, x1, y1 in pixels of the upright image, x1 and y1 exclusive"


class FoundBox(_Named):
    """Connected patches that speak for a class."""

    score: float = Field(description="The probability of the class times share.")
    share: float = Field(description="The fraction of its positive evidence that is theirs.")
    box: Box = Field(description=BOX)


class ExplainedImage(PredictedImage):
    """The class of an image, and where the evidence for it lies."""

    target: str = Field(description="The class that is explained.")
    versus: Versus | None
    map: Map
    box: Box | None = Field(description=f"Around all selected patches: {BOX}; null: there are none")
    objects: list[FoundBox] | None = Field(
        description="The highest score first; null where the model has no evidence."
    )
    picture: str | None = Field(
        description="A PNG in base64: the map over the image, boxes, a legend; null unless asked."
    )


class Explanations(BaseModel):
    """The explanations of the images of a request, in their order."""

    images: list[ExplainedImage]


REFUSALS: dict[int, str] = {
    400: "The form is malformed.",
    408: "The request took too long to arrive.",
    413: "The request is too large.",
    415: "The content is of another type.",
    422: "No image, too many, one that cannot be read or is too large, or an unknown name.",
    503: "Too many requests wait, or there was no answer in time: try again later.",
}
CONFLICT = "`versus` is the class that is explained, or beside `map`; or the target is not known."


def create_api(service: Service, name: str) -> FastAPI:
    """Return the API.

    Args:
        service: what answers.
        name: what to call what is served.
    """
    api = FastAPI(
        title="loss-attention",
        summary="Classes of images, and the patches that decided for them.",
        version=__version__,
        docs_url=None,  # those pages would load scripts from elsewhere
        redoc_url=None,
    )
    _refuse_in_one_line(api)
    _add_state(api, service, name)

    @api.post(
        "/v1/predict",
        response_model=Predictions,
        operation_id="predict",
        summary="Name the class of images",
        responses=_refusals(),
        openapi_extra=_body(service.limits),
    )
    async def predict(request: Request) -> Any:
        _check_names(request, ())
        return {"images": await service.predict(await _photos(request, service.limits))}

    @api.post(
        "/v1/explain",
        response_model=Explanations,
        operation_id="explain",
        summary="Show where the evidence for a class lies in images",
        responses=_refusals() | {409: {"model": Problem, "description": CONFLICT}},
        openapi_extra=_body(service.limits),
    )
    async def explain(
        request: Request,
        target: Annotated[
            str | SkipJsonSchema[None],
            Query(description="The class to explain; else the predicted."),
        ] = None,
        versus: Annotated[
            str | SkipJsonSchema[None],
            Query(description="Evidence for the target against this; without `map`."),
        ] = None,
        map: Annotated[
            MapName | SkipJsonSchema[None], Query(description="What is shown of the class.")
        ] = None,
        picture: Annotated[bool, Query(description="Draw it too.")] = False,
    ) -> Any:
        _check_names(request, ("target", "versus", "map", "picture"))
        question = service.ask(target, versus, map)
        photos = await _photos(request, service.limits)
        found = await service.explain(photos, question, pictures=picture)
        return {"images": [_with_picture(one) for one in found]}

    _say_what_there_is(api, service.served)
    return api


def _add_state(api: FastAPI, service: Service, name: str) -> None:
    """Add what says how the service is, and what it serves."""
    served, limits = service.served, service.limits
    about = About(
        name=name,
        kind=served.kind,
        version=__version__,
        classes=list(served.class_names),
        multi_label=served.multi_label,
        explains=served.has_patches,
        has_evidence=served.has_evidence,
        input=Input(
            height=served.image_size[0],
            width=served.image_size[1],
            channels=served.in_channels,
            resize=served.resize,
        ),
        limits=MostOf(
            megabytes=limits.max_mb,
            megapixels=limits.max_megapixels,
            images=limits.max_images,
            seconds=limits.max_seconds,
        ),
    )

    @api.get("/v1/model", operation_id="model", summary="What is served")
    async def model() -> About:
        return about

    @api.get("/health", operation_id="health", summary="Whether the service runs")
    async def health() -> Health:
        return Health(status="ok", version=__version__)

    @api.get(
        "/metrics",
        operation_id="metrics",
        summary="Counts of requests, images and batches, for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        return Response(service.counts.text(service.waiting), media_type=CONTENT_TYPE)


def _refusals() -> dict[int | str, dict[str, Any]]:
    return {
        status: {"model": Problem, "description": said, **_retry(status)}
        for status, said in REFUSALS.items()
    }


def _retry(status: int) -> dict[str, Any]:
    if status != 503:
        return {}
    return {"headers": {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}}


def _body(limits: Limits) -> dict[str, Any]:
    """Return what the schema says of a request's content."""
    image = {"type": "string", "format": "binary"}
    files = {"type": "array", "items": image, "minItems": 1, "maxItems": limits.max_images}
    form = {
        "type": "object",
        "properties": {"files": files},
        "required": ["files"],
        "additionalProperties": False,
    }
    content = {FORM: {"schema": form}, RAW: {"schema": image}, "image/*": {"schema": image}}
    return {
        "requestBody": {
            "required": True,
            "description": "Image files as the parts `files` of a form, or the bytes of one.",
            "content": content,
        }
    }


def _say_what_there_is(api: FastAPI, served: Served) -> None:
    """Have the schema say what of this model there is to ask for."""
    names = list(served.class_names)
    there: dict[str, list[Any]] = {"target": names, "picture": []}
    if served.has_evidence:
        maps = list(MAPS) if served.competing else ["evidence"]
        there |= {"versus": names, "map": maps}
    for operation in api.openapi()["paths"]["/v1/explain"].values():
        kept = [one for one in operation["parameters"] if one["name"] in there]
        for parameter in kept:
            if values := there[parameter["name"]]:
                parameter["schema"]["enum"] = values
        operation["parameters"] = kept


def _check_names(request: Request, known: Sequence[str]) -> None:
    """Raise `RequestError` for a parameter that there is not: nothing is left out of account."""
    for name in request.query_params:
        if name not in known:
            there = f"; there are {', '.join(known)}" if known else ""
            raise RequestError(422, f"unknown parameter {name[:100]!r}{there}")


async def _photos(request: Request, limits: Limits) -> list[Photo]:
    """Return the images of a request.

    Raises:
        RequestError: none, too many, or content of another type.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == FORM:
        async with request.form() as form:
            for name, part in form.multi_items():
                if name != "files" or not isinstance(part, UploadFile):
                    raise RequestError(
                        422, f"unknown part {name[:100]!r}: send each image as a file `files`"
                    )
            uploads = [part for part in form.getlist("files") if isinstance(part, UploadFile)]
            limits.check_images(len(uploads))
            return [Photo(one.filename or "image", await one.read()) for one in uploads]
    if kind == RAW or kind.startswith("image/"):
        return [Photo("image", await request.body())]
    given = kind[:100] or "none"
    raise RequestError(415, f"content of the type {given}: send {FORM}, {RAW} or image/*")


def _with_picture(one: ExplainedPhoto) -> dict[str, Any]:
    picture = None
    if one.picture is not None:
        picture = base64.b64encode(encoded(one.picture, "png")).decode("ascii")
    return one.described | {"picture": picture}


def _refuse_in_one_line(api: FastAPI) -> None:
    """Have every error be answered as a `Problem`."""

    def answered(status: int, line: str, headers: Any = None) -> JSONResponse:
        return JSONResponse({"error": printable(line)}, status, headers)

    @api.exception_handler(RequestError)
    async def refused(_: Request, error: RequestError) -> JSONResponse:
        return answered(error.status, error.line, error.headers)

    @api.exception_handler(HTTPException)
    async def of_http(_: Request, error: HTTPException) -> JSONResponse:
        return answered(error.status_code, str(error.detail), error.headers)

    @api.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        _, name, *_ = first["loc"]
        return answered(422, f"`{name}`: {first['msg']}")

    @api.exception_handler(Exception)
    async def ours(_: Request, __: Exception) -> JSONResponse:
        return answered(500, "an error of the service, not of the request; it is in its log")
