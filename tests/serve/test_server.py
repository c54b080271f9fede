"""The command as it is typed: what it says, whom it refuses, how it ends."""

from __future__ import annotations

import json
import select
import socket
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serve.photos import model_of, photo
from serve.running import Running, running
from typed import complaint

from loss_attention.serve.counting import resident_bytes
from loss_attention.serve.server import listening

pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")

QUICK = ("--no-page", "--port", "0", "--max-mb", "1", "--max-seconds", "4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("server")
    (folder / "model.safetensors").write_bytes(model_of().to_bytes())
    return folder


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Running]:
    with running(["model.safetensors", *QUICK], folder) as found:
        yield found
    # All that it said: where it is, and that it was stopped.
    assert found.output.read_text(encoding="utf-8").count("\n") == 2


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folder, with what the command sets for Gradio put back afterwards."""
    monkeypatch.chdir(folder)
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"):
        monkeypatch.setenv(name, "")


def connected(service: Running) -> socket.socket:
    host, port = service.address.removeprefix("http://").split(":")
    there = socket.create_connection((host, int(port)), timeout=60)
    there.settimeout(60)
    return there


def rest(there: socket.socket) -> bytes:
    """All that is answered until the connection ends."""
    found = b""
    try:
        while some := there.recv(65536):
            found += some
    except ConnectionResetError:
        pass
    return found


def predicted(service: Running) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{service.address}/v1/predict", photo(), {"Content-Type": "image/png"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def test_it_answers_over_http(service: Running) -> None:
    [image] = predicted(service)["images"]
    assert image["width"] == 60
    with urllib.request.urlopen(f"{service.address}/health", timeout=60) as answer:
        assert json.load(answer)["status"] == "ok"
    with urllib.request.urlopen(f"{service.address}/metrics", timeout=60) as answer:
        assert b"loss_attention_requests_total" in answer.read()


def test_a_gigabyte_without_a_length_is_refused_while_it_comes(service: Running) -> None:
    before = resident_bytes(str(service.pid))
    with connected(service) as there:
        there.sendall(
            b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"%x\r\n%s\r\n" % (100_000, b"a" * 100_000)
        sent = 0
        try:
            while sent < 10**9 and not select.select([there], [], [], 0)[0]:  # until it answers
                there.sendall(chunk)
                sent += 100_000
        except OSError:  # it listens no more
            pass
        answer = rest(there)
    assert sent < 10**8
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 ")
    # A connection that is ended while more comes in may take the end of the answer with it.
    assert b"larger than 1 MB" in body or not body
    if before is not None:
        assert (resident_bytes(str(service.pid)) or 0) - before < 50e6
    assert predicted(service)


def test_slow_clients_are_ended_and_others_answered_meanwhile(service: Running) -> None:
    slow = {
        "in the head": b"POST /v1/predict HTTP/1.1\r\nHost:",
        "in the body": b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\n"
        b"Content-Length: 1000\r\n\r\nabc",
        "at once": b"",
    }
    open_ones = {}
    for name, said in slow.items():
        open_ones[name] = connected(service)
        open_ones[name].sendall(said)
    assert predicted(service)
    answers = {name: rest(there) for name, there in open_ones.items()}
    for there in open_ones.values():
        there.close()
    assert answers["at once"] == answers["in the head"] == b""
    assert answers["in the body"].startswith(b"HTTP/1.1 408 ")
    assert b"did not arrive within 4 s" in answers["in the body"]


def test_what_is_no_http_is_refused(service: Running) -> None:
    with connected(service) as there:
        there.sendall(b"\x16\x03\x01\x02\x00 no http\r\n\r\n")
        assert rest(there).startswith(b"HTTP/1.1 400 ")
    assert predicted(service)


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["none.onnx"], "there is no file none.onnx"),
        (["runs/none"], "runs/none"),
        (["model.npz"], "no format has the ending '.npz'"),
        (["bad.safetensors"], "bad.safetensors"),
        (["model.safetensors", "--port", "70000"], "--port must be in 0..65535, got 70000"),
        (["model.safetensors", "--host", "256.0.0.1"], "cannot listen at 256.0.0.1 port 7860"),
        (["model.safetensors", "--max-mb", "0"], "--max-mb must be above 0"),
        (["model.safetensors", "--examples", "-1"], "--examples must be at least 0"),
    ],
)
@pytest.mark.usefixtures("here")
def test_what_cannot_be_served_is_one_line(
    folder: Path, words: list[str], wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "model.npz").write_bytes(b"")
    (folder / "bad.safetensors").write_bytes(b"no weights")
    assert wrong in complaint(capsys, "serve", "--no-page", *words)


@pytest.mark.usefixtures("here")
def test_answers_are_sent_as_they_are_written() -> None:
    # Of another protocol, asyncio leaves Nagle's algorithm on: 40 ms for each answer.
    with listening("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_a_port_that_is_in_use_is_one_line(
    service: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    port = service.address.rpartition(":")[2]
    said = complaint(capsys, "serve", "model.safetensors", "--no-page", "--port", port)
    assert "ddress already in use; name another --port or --host" in said


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("library", ["gradio", "fastapi", "uvicorn"])
def test_without_the_extra_it_says_what_to_install(
    library: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    said = complaint(capsys, "serve", "model.safetensors", "--port", "0")
    assert said.startswith(f"loss-attention: {library} is not installed (")
    assert 'pip install "loss-attention[serve]"' in said
