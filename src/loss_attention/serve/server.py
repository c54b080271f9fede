"""The server: a port taken before anything is loaded, requests answered until a signal comes."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
from collections.abc import Iterator
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from loss_attention.errors import InputError, reason
from loss_attention.interruption import StopRequest
from loss_attention.serve.front import Front
from loss_attention.serve.limits import Limits

MOST_CONNECTIONS = 1000
"""Connections at a time, idle ones included."""
GRACE_SECONDS = 2
"""How long what is being answered may take once the server is to stop."""


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens, so that nobody else takes the port meanwhile.

    Raises:
        InputError: the port is out of its range or in use, or the host is none of this machine.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"`port` must be in 0..65535, got {port}")
    try:
        # By its protocol the event loop knows that answers are to be sent as they are written: a
        # connection of protocol 0 holds the second part of each back for up to 40 ms.
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )[0]
        taken = socket.socket(family, kind, protocol)
        try:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(address)
            taken.listen()
        except OSError:
            taken.close()
            raise
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"cannot listen at {host} port {port}: {reason(error)}; name another `port` or `host`"
        ) from error
    return taken


def address_of(listener: socket.socket) -> str:
    """Return the address of the page."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def run(front: Front, listener: socket.socket, limits: Limits, stop: StopRequest) -> str:
    """Answer requests until a signal comes; return its name.

    A second signal ends the process at once.
    """

    class Protocol(_Protocol):
        seconds = limits.max_seconds

    config = uvicorn.Config(
        front,
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    # Pages keep a connection open, which is no reason to say something as they are ended.
    logging.getLogger("uvicorn.error").addFilter(lambda line: "graceful" not in str(line.msg))
    _Server(config, stop).run([listener])
    return signal.Signals(stop.number).name if stop.number else "itself"


class _Protocol(H11Protocol):
    """HTTP; the head of a request is not waited for longer than its content.

    Attributes:
        seconds: how long.
    """

    seconds: float
    _end: float | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)  # which ends the waiting, be it for a byte of the head
        self._await_head()

    def _await_head(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._end = None
        elif self.timeout_keep_alive_task is None:
            self._end = self._end or self.loop.time() + self.seconds
            self.timeout_keep_alive_task = self.loop.call_at(
                self._end, self.timeout_keep_alive_handler
            )


class _Server(uvicorn.Server):
    """A server that stops as other subcommands do: on any of their signals, in order."""

    def __init__(self, config: uvicorn.Config, stop: StopRequest) -> None:
        super().__init__(config)
        self._stop = stop

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        with self._stop.listening():
            yield

    async def on_tick(self, counter: int) -> bool:
        return self._stop.requested or await super().on_tick(counter)
