"""A request from its photos to its answers: decoded by threads, answered in batches, in time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loss_attention.data.decoding import UnreadableImage, read_image, read_size, to_array
from loss_attention.errors import InputError
from loss_attention.explained.described import describe
from loss_attention.explained.objects import find_objects
from loss_attention.explained.pictures import said_of
from loss_attention.explained.pipeline import cores
from loss_attention.explained.questions import own_marks
from loss_attention.explained.reading import drawn_on
from loss_attention.memory import images_at_once
from loss_attention.predicting import Predicted, predicted_of
from loss_attention.prediction import probabilities_of
from loss_attention.report.drawing import overlay
from loss_attention.serve.answering import Asked, Said, Served, asked, explained
from loss_attention.serve.batching import Batches, FullError
from loss_attention.serve.counting import Counts
from loss_attention.serve.limits import Limits, RequestError

if TYPE_CHECKING:  # it takes the features of training along
    from loss_attention.serve.neighbours import Neighbour, Neighbours

NEAREST = 4
"""Training images that are shown beside a photo."""
LONGEST_NAME = 100
"""Letters of a file's name, as an error has it."""

Result = TypeVar("Result")


class Photo(NamedTuple):
    """An image file as it was sent: its name and its bytes."""

    name: str
    content: bytes


class _Read(NamedTuple):
    """A photo, decoded: as the model sees it, width and height upright, and what is drawn on."""

    name: str
    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    picture: Image.Image | None


class ExplainedPhoto(NamedTuple):
    """What is said of a photo.

    Attributes:
        described: its JSON, as the API answers it, but for the picture.
        picture: the map over the photo, with its legend; None: none was asked for.
        nearest: the training images that it is most like; none where they were not asked for.
    """

    described: dict[str, Any]
    picture: Image.Image | None = None
    nearest: Sequence[Neighbour] = ()


class Service:
    """Answers photos with a model, many people's at a time.

    Args:
        served: what answers.
        limits: what a request may cost.
        neighbours: training images to find those in that a photo is like, where they are known.

    Attributes:
        counts: where requests, images and batches are counted.
    """

    def __init__(
        self, served: Served, limits: Limits, neighbours: Neighbours | None = None
    ) -> None:
        self.served, self.limits, self._neighbours = served, limits, neighbours
        self.counts = Counts()
        self._pool = ThreadPoolExecutor(max(2, cores()), thread_name_prefix="photos")
        self._batches: Batches[NDArray[np.uint8], Said] = Batches(
            lambda images: served.said(np.stack(images)),
            most=images_at_once(served.image_size, limits.batch_size),
            wait=limits.batch_wait_ms / 1000,
            waiting=limits.max_waiting,
            done=self.counts.batch,
        )

    @property
    def waiting(self) -> int:
        """How many images wait for the network."""
        return len(self._batches)

    def close(self) -> None:
        """Finish what is worked on, and refuse what comes later."""
        self._batches.close()
        self._pool.shutdown(cancel_futures=True)

    def ask(
        self, target: str | None = None, versus: str | None = None, map: str | None = None
    ) -> Asked:
        """Return a question by the names in it.

        Raises:
            RequestError: it cannot be asked of this model.
        """
        try:
            return asked(self.served, target, versus, map)
        except InputError as error:
            both = versus is not None and map is not None  # each of them may be asked for
            raise RequestError(409 if both else 422, str(error)) from error

    async def predict(self, photos: Sequence[Photo]) -> list[dict[str, Any]]:
        """Return the class and probabilities of photos, as JSON.

        Raises:
            RequestError: an image that cannot be read, too many of them, no room, no time.
        """
        found = await self._in_time(self._said(photos))
        return [self._predicted(read, said) for read, said in found]

    async def explain(
        self,
        photos: Sequence[Photo],
        question: Asked,
        *,
        pictures: bool = False,
        nearest: bool = False,
    ) -> list[ExplainedPhoto]:
        """Return what decided for a class of photos.

        Args:
            photos: the photos.
            question: what is asked about each.
            pictures: draw their maps.
            nearest: find the training images that they are most like, where these are known.

        Raises:
            RequestError: as `predict`; `versus` is the class that is explained.
        """

        async def answers() -> list[ExplainedPhoto]:
            found = await self._said(photos, pictures=pictures)
            alike = self._neighbours if nearest else None
            return await self._each(
                lambda one: self._explained(one[0], one[1], question, alike), found
            )

        return await self._in_time(answers())

    async def _in_time(self, answers: Awaitable[Result]) -> Result:
        try:
            async with asyncio.timeout(self.limits.max_seconds):
                return await answers
        except TimeoutError:
            seconds = self.limits.max_seconds
            raise RequestError(503, f"no answer within {seconds:g} s: try again later") from None

    async def _said(
        self, photos: Sequence[Photo], *, pictures: bool = False
    ) -> list[tuple[_Read, Said]]:
        """Return photos, decoded, and what the network says of each."""
        self.limits.check_images(len(photos))
        read = await self._each(lambda photo: self._read(photo, pictures=pictures), photos)
        try:
            futures = self._batches.submit([one.pixels for one in read])
        except FullError:
            raise RequestError(503, "too many images wait already: try again later") from None
        said = await asyncio.gather(*map(asyncio.wrap_future, futures))
        self.counts.images(len(photos))
        return list(zip(read, said, strict=True))

    async def _each(self, do: Callable[[Any], Result], items: Sequence[Any]) -> list[Result]:
        """Have threads do something with each item."""
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(self._pool, do, one) for one in items))

    def _read(self, photo: Photo, *, pictures: bool) -> _Read:
        served, name = self.served, photo.name[:LONGEST_NAME]
        try:
            width, height = read_size(photo.content, name)
            if width * height > self.limits.pixels:
                raise RequestError(
                    422,
                    f"{name} has {width} x {height} pixels, more than "
                    f"{self.limits.max_megapixels:g} million",
                )
            image = read_image(photo.content, served.in_channels, name)
        except UnreadableImage as error:
            raise RequestError(422, str(error)) from error
        pixels = to_array(image, served.image_size, served.resize)
        drawn = drawn_on(image, served.image_size, served.resize) if pictures else None
        return _Read(name, pixels, image.size, drawn)

    def _predicted(self, read: _Read, said: Said) -> dict[str, Any]:
        logits = said.prediction.logits
        probabilities = probabilities_of(logits, competing=self.served.competing)
        try:
            found = predicted_of(self.served, read.name, probabilities[0].numpy())
        except InputError as error:  # the weights are damaged, which no request can help
            raise RequestError(500, str(error)) from error
        return _as_json(found, read.size, self.served.class_names)

    def _explained(
        self, read: _Read, said: Said, question: Asked, neighbours: Neighbours | None
    ) -> ExplainedPhoto:
        served = self.served
        answer = self._predicted(read, said)
        try:
            own = explained(served, said.prediction, question)
        except InputError as error:  # known only now: it depends on what was predicted
            raise RequestError(409, str(error)) from error
        found = find_objects(own, served.threshold)
        described = describe(
            own,
            0,
            served.class_names,
            read.size,
            served.resize,
            None if found is None else found[0],
            served.threshold,
            most_numbers=0,
        )
        assert own.patch_map is not None
        values = own.patch_map[0].reshape(own.grid.rows, own.grid.columns).tolist()
        versus, objects = described["versus"], described["objects"]
        answer |= {
            "target": described["target"],
            "versus": versus
            and {"class": versus["class"], "logit_difference": versus["difference_of_logits"]},
            "map": {"note": None, **described["heat_map"], "values": values},
            "box": described["box"],
            "objects": objects and objects["found"],
        }
        picture, nearest = None, list[Any]()
        if read.picture is not None:
            picture = overlay(read.picture, own_marks(own, found, 0), **said_of(described))
        if neighbours is not None and said.mean is not None:
            nearest = neighbours.of(said.mean, NEAREST)
        return ExplainedPhoto(answer, picture, nearest)


def _as_json(found: Predicted, size: tuple[int, int], class_names: Sequence[str]) -> dict[str, Any]:
    return {
        "file": found.file,
        "width": size[0],
        "height": size[1],
        "prediction": found.prediction,
        "probability": found.probability,
        "labels": None if found.labels is None else list(found.labels),
        "probabilities": dict(zip(class_names, found.probabilities, strict=True)),
    }
