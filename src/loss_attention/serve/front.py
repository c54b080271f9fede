"""What stands before API and page: which paths there are, and how much of a request is read."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException

from loss_attention.serve.counting import Counts
from loss_attention.serve.limits import Limits, RequestError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

API_PATHS = ("/health", "/metrics", "/openapi.json", "/v1/model", "/v1/predict", "/v1/explain")
PAGE_PATHS = ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt")
GRADIO = "/gradio_api/"
PAGE_FOLDERS = (
    "/assets/",
    "/static/",
    *(f"{GRADIO}{part}" for part in ("queue/", "heartbeat/", "upload", "info", "startup-events")),
    *(f"{GRADIO}{part}" for part in ("cancel", "reset", "theme.css")),
)
"""All that the page needs of Gradio, which has more: routes that fetch from other servers, say."""
FILE = f"{GRADIO}file="
HEADERS = {
    # Nothing is loaded from elsewhere, whatever the page's scripts would have.
    "Content-Security-Policy": "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; "
    "frame-ancestors 'self'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Front:
    """An ASGI application that hands requests on to the API or the page.

    Args:
        api: answers `API_PATHS`, and everything below /v1/.
        page: the web page; None: there is none.
        folder: where the page keeps what was uploaded and drawn: the only files that are served.
        limits: what a request may cost.
        counts: where requests are counted.
    """

    def __init__(
        self, api: App, page: App | None, folder: Path, limits: Limits, counts: Counts
    ) -> None:
        self._api, self._page, self._folder = api, page, folder.resolve()
        self._limits, self._counts = limits, counts
        self._posted = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request, or begin and end with the server."""
        if scope["type"] == "lifespan":
            await (self._page or self._api)(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close"})

    async def _http(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        path, begun = scope["path"], time.monotonic()
        of_api = path in API_PATHS or path.startswith("/v1/") or self._page is None
        body = Body(scope, receive, self._limits)
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = HEADERS | ({"Connection": "close"} if body.unread else {})
                message["headers"] = [*message.get("headers", ()), *_pairs(added)]
            async with asyncio.timeout(self._limits.max_seconds):  # for a client that does not read
                await send(message)

        try:
            await self._answer(scope, body.receive, answer, of_api=of_api)
        except TimeoutError:
            return  # before the answer was whole, upon which the server ends the connection
        finally:
            if status:
                name = (path if path in API_PATHS else "other") if of_api else "page"
                # The page keeps connections open, to be told things.
                seconds = time.monotonic() - begun if of_api else None
                self._counts.request(name, status, seconds)

    async def _answer(
        self, scope: MutableMapping[str, Any], receive: Receive, send: Send, *, of_api: bool
    ) -> None:
        posted = scope["method"] == "POST"
        try:
            if posted:
                self._admit(scope)
            if not of_api and not self._is_of_page(scope["path"]):
                raise RequestError(404, "there is nothing here")
        except RequestError as error:
            await _refuse(send, error)
            return
        self._posted += posted
        try:
            app = self._api if of_api else self._page
            assert app is not None
            await app(scope, receive, send)
        finally:
            self._posted -= posted

    def _admit(self, scope: MutableMapping[str, Any]) -> None:
        """Raise `RequestError` for a request that need not be read to be refused."""
        self._limits.check_bytes(declared_bytes(scope) or 0)
        if self._posted >= self._limits.max_waiting:
            raise RequestError(503, "too many requests wait already: try again later")

    def _is_of_page(self, path: str) -> bool:
        """Return whether a path is one that the page needs."""
        if path.startswith(FILE):
            file = Path(path.removeprefix(FILE)).resolve()
            return self._folder in file.parents
        return path in PAGE_PATHS or path.startswith(PAGE_FOLDERS)


class Body:
    """A request's content, received as long as it is within the limits.

    What is too much or too late is refused at once, and not when all of it is there.

    Attributes:
        unread: there is more of it, or may be. After an answer nobody listens to that: the
            connection is to be closed.
    """

    def __init__(self, scope: MutableMapping[str, Any], receive: Receive, limits: Limits) -> None:
        self._receive, self._limits = receive, limits
        self._end = time.monotonic() + limits.max_seconds
        self._read, self._whole = 0, False
        self.unread = declared_bytes(scope) != 0

    async def receive(self) -> Message:
        """Return what comes next.

        Raises:
            HTTPException: 408 or 413; any application takes that in the midst of a request.
        """
        if self._whole:  # what comes now is that the client is gone, at any time
            return await self._receive()
        try:
            async with asyncio.timeout(self._end - time.monotonic()):
                message = await self._receive()
        except TimeoutError:
            seconds = self._limits.max_seconds
            line = f"the request did not arrive within {seconds:g} s"
            raise HTTPException(408, line) from None
        self._read += len(message.get("body", b""))
        try:
            self._limits.check_bytes(self._read)
        except RequestError as error:
            raise HTTPException(error.status, error.line) from None
        self._whole = not message.get("more_body", False)
        self.unread = not self._whole
        return message


def declared_bytes(scope: MutableMapping[str, Any]) -> int | None:
    """Return how much content a request says it has; None: it does not say how much."""
    headers = dict(scope["headers"])
    if b"transfer-encoding" in headers:
        return None
    length = headers.get(b"content-length", b"0")
    return int(length) if length.isdigit() else None


def _pairs(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


async def _refuse(send: Send, error: RequestError) -> None:
    """Answer without an application."""
    body = json.dumps({"error": error.line}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    pairs = _pairs(headers | error.headers)
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
