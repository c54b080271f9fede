"""The page in a browser: dropped, clicked, seen; what of the machine it lets anybody reach."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from apart import until
from browsing import open_page
from serve.photos import photo
from serve.running import Running, running
from training.tiny import new_run
from typed import make_folder

import loss_attention as la
from loss_attention.training.recipe import Recipe

pytest.importorskip("gradio")

CLASSES = ("dark", "light")
DROP = "#photos input[type=file]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on grey squares, which learned nothing, and photos beside it."""
    folder = tmp_path_factory.mktemp("page")
    data, size = make_folder(folder / "data", CLASSES), (32, 32)
    model = la.create_model(width=0.01, image_size=size, num_classes=2, class_names=CLASSES)
    run = new_run(folder / "squares", Recipe("squares", str(data), width=0.01, image_size=size))
    run.write_facts({"format_version": 1, "finished": True})
    run.write("model.safetensors", model.to_bytes())
    (folder / "bad.png").write_bytes(b"no image")
    (folder / "photo.png").write_bytes(photo(0, (90, 60)))
    return folder


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Running]:
    with running(["squares", "--port", "0", "--max-images", "3"], folder) as found:
        yield found


def status_of(address: str) -> int:
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_no_file_and_no_other_server_can_be_reached(service: Running, folder: Path) -> None:
    files = f"{service.address}/gradio_api/file="
    secret = folder / "squares" / "run.json"
    assert secret.is_file()
    for path in (secret, "/etc/passwd", "squares/run.json", "../squares/run.json", "run.json"):
        for written in (str(path), urllib.parse.quote(str(path), safe="")):
            assert status_of(files + written) == 404, path
    uploaded = upload(service, "photo.png", photo())
    assert status_of(files + uploaded) == 200
    climbing = str(Path(uploaded).parent / ".." / ".." / ".." / str(secret).lstrip("/"))
    assert status_of(files + climbing) == 404
    for path in (
        *("gradio_api/proxy=http://127.0.0.1:1/", "gradio_api/file=http://127.0.0.1:1/a.png"),
        *("monitoring", "gradio_api/openapi.json", "docs", "gradio_api/runs", "svelte/../config"),
        *("gradio_api/file/etc/passwd", "gradio_api/vibe-code/", "gradio_api/deep_link"),
        *("static/../../../../../../../etc/passwd", "assets/%2e%2e/%2e%2e/%2e%2e/pyproject.toml"),
    ):
        assert status_of(f"{service.address}/{path}") in (403, 404), path


def upload(service: Running, name: str, content: bytes) -> str:
    """Send a file as the page does; return where it is kept."""
    body = (
        f'--b\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n--b--\r\n"
    )
    request = urllib.request.Request(
        f"{service.address}/gradio_api/upload",
        body,
        {"Content-Type": "multipart/form-data; boundary=b"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        [path] = json.load(answer)
    return str(path)


def ask(service: Running, file: dict[str, Any]) -> str:
    """Ask as the page does about a file; return all that is answered."""
    with urllib.request.urlopen(f"{service.address}/config", timeout=60) as answer:
        config = json.load(answer)
    photos = next(one for one in config["components"] if one["props"].get("elem_id") == "photos")
    function = next(
        one for one in config["dependencies"] if [photos["id"], "change"] in one["targets"]
    )
    asked = {
        "data": [[{"meta": {"_type": "gradio.FileData"}} | file], "", ""],
        "fn_index": function["id"],
        "session_hash": "abc",
    }
    request = urllib.request.Request(
        f"{service.address}/gradio_api/queue/join",
        json.dumps(asked).encode(),
        {"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=60).close()
    address = f"{service.address}/gradio_api/queue/data?session_hash=abc"
    found = ""
    with urllib.request.urlopen(address, timeout=60) as answer:
        for line in answer:
            found += line.decode()
            if "process_completed" in found or "close_stream" in found:
                break
    return found


def test_an_address_in_place_of_a_file_is_not_fetched(service: Running, folder: Path) -> None:
    asked: list[str] = []

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Other) as other:
        Thread(target=other.serve_forever, daemon=True).start()
        elsewhere = f"http://127.0.0.1:{other.server_port}/photo.png"
        assert '"success":false' in ask(service, {"path": elsewhere, "url": elsewhere})
        other.shutdown()
    assert not asked
    # Nor a file of the machine; what was sent is answered.
    secret = str(folder / "photo.png")
    assert '"success":false' in ask(service, {"path": secret})
    assert '"success":false' in ask(service, {"path": secret, "meta": {}})
    assert '"success":true' in ask(service, {"path": upload(service, "a.png", photo())})


@pytest.fixture
def page(browser: Any, service: Running) -> Any:
    browser.get_log("browser")
    open_page(browser, service.address)
    until(lambda: bool(found(browser, DROP)))
    return browser


def found(page: Any, selector: str) -> list[Any]:
    elements: list[Any] = page.find_elements("css selector", selector)
    return elements


def text(page: Any, selector: str) -> str:
    from selenium.common.exceptions import StaleElementReferenceException

    try:
        return " ".join(one.text for one in found(page, selector))
    except StaleElementReferenceException:  # it is being drawn anew
        return ""


def shown(page: Any, selector: str) -> list[int]:
    """The widths of the pictures there that are loaded, in pixels of the files."""
    images = f"[...document.querySelectorAll('{selector} img')]"
    widths: list[int] = page.execute_script(
        f"return {images}.filter((one) => one.complete).map((one) => one.naturalWidth)"
    )
    return widths


def drawn(page: Any) -> str:
    """Where the picture that is shown is from."""
    return str(page.execute_script("return document.querySelector('#picture img')?.src ?? ''"))


def drop(page: Any, *paths: Path) -> None:
    found(page, DROP)[0].send_keys("\n".join(map(str, paths)))


def choose(page: Any, selector: str, name: str) -> None:
    found(page, f"{selector} input")[0].click()
    until(lambda: name in text(page, "[role=option]"))
    next(one for one in found(page, "[role=option]") if one.text.strip() == name).click()


def test_a_photo_is_dropped_and_its_class_and_map_are_seen(page: Any, folder: Path) -> None:
    assert text(page, "#said").startswith("Drop a photo")
    drop(page, folder / "data" / "light" / "3.png")
    until(lambda: "%" in text(page, "#said"))
    assert any(name in text(page, "#said") for name in CLASSES)
    until(lambda: min(shown(page, "#picture"), default=0) >= 384)
    assert all(name in text(page, "#probabilities") for name in CLASSES)
    # Why not the other class?
    other = next(name for name in CLASSES if name not in text(page, "#said"))
    choose(page, "#versus", other)
    until(lambda: f"not {other}?" in text(page, "#more"))
    assert "adds up to" in text(page, "#more")
    # And why not itself: in words, and it goes on.
    choose(page, "#target", other)
    until(lambda: "another class" in text(page, "#said"))
    choose(page, "#versus", "-")
    until(lambda: "%" in text(page, "#said"))
    assert not [line for line in page.get_log("browser") if line["level"] == "SEVERE"]


def test_several_photos_are_chosen_from(page: Any, folder: Path) -> None:
    drop(page, folder / "photo.png", folder / "data" / "dark" / "1.png")
    until(lambda: len(shown(page, "#several")) == 2)
    until(lambda: len(shown(page, "#picture")) == 1)
    source = drawn(page)
    found(page, "#several button img")[1].click()
    until(lambda: drawn(page) != source)
    # It stays chosen where something else is asked.
    source = drawn(page)
    choose(page, "#versus", next(name for name in CLASSES if name not in text(page, "#said")))
    until(lambda: "Why" in text(page, "#more"))
    until(lambda: drawn(page) != source)
    assert found(page, "#several button img")


def test_an_example_of_the_run_is_tried(page: Any) -> None:
    until(lambda: len(shown(page, "#examples")) >= 2)
    found(page, "#examples button img")[0].click()
    until(lambda: "%" in text(page, "#said"))
    until(lambda: len(shown(page, "#picture")) == 1)


def test_what_is_wrong_is_said_in_words(page: Any, folder: Path) -> None:
    drop(page, folder / "bad.png")
    until(lambda: "bad.png cannot be read as an image" in text(page, "#said"))
    assert shown(page, "#picture") == []


def test_nothing_is_loaded_from_elsewhere(page: Any, service: Running, folder: Path) -> None:
    drop(page, folder / "photo.png")
    until(lambda: len(shown(page, "#picture")) == 1)
    loaded = page.execute_script(
        "return performance.getEntriesByType('resource').map((one) => one.name)"
    )
    assert len(loaded) > 10
    elsewhere = [one for one in loaded if not one.startswith((service.address, "data:", "blob:"))]
    assert not elsewhere
    # What the page's scripts would have from elsewhere is refused by the browser, and said here.
    assert not [one for one in page.get_log("browser") if "Content Security" in one["message"]]


def test_it_fits_a_telephone(page: Any, folder: Path) -> None:
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True},
    )
    try:
        drop(page, folder / "photo.png")
        until(lambda: len(shown(page, "#picture")) == 1)
        assert page.execute_script("return document.documentElement.scrollWidth") <= 390
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
