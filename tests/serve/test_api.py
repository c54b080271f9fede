"""The HTTP API: it answers what the model says, and refuses in one line; its schema is true."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from serve.photos import CLASSES, SIZE, Slow, bomb, model_of, photo

from loss_attention.data.decoding import read_image, to_tensor
from loss_attention.explained.files import explain_files
from loss_attention.model import PatchClassifier
from loss_attention.serve.answering import Served, ServedModel
from loss_attention.serve.limits import Limits

fastapi = pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

from loss_attention.serve.api import create_api  # noqa: E402
from loss_attention.serve.front import Front  # noqa: E402
from loss_attention.serve.service import Service  # noqa: E402

LIMITS = Limits(max_mb=0.05, max_megapixels=0.5, max_images=3, max_seconds=60, max_waiting=4)
FORM = "multipart/form-data; boundary=b"


class Client:
    """Asks a service that runs in this process, without a server."""

    def __init__(self, served: Served, limits: Limits = LIMITS) -> None:
        self.service = Service(served, limits)
        self.api = create_api(self.service, "a model")
        self.front = Front(self.api, None, Path("/nowhere"), limits, self.service.counts)

    async def send(self, method: str, path: str, **more: Any) -> Any:
        # What is not the client's fault is answered with 500 too, and not raised here.
        transport = httpx.ASGITransport(self.front, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **more)

    def ask(self, method: str, path: str, **more: Any) -> Any:
        return asyncio.run(self.send(method, path, **more))

    def post(self, path: str, *photos: bytes, **more: Any) -> Any:
        files = [("files", (f"{n}.png", content)) for n, content in enumerate(photos)]
        return self.ask("POST", path, files=files, **more)


@pytest.fixture(scope="module")
def model() -> PatchClassifier:
    torch.manual_seed(1)
    return model_of()


@pytest.fixture(scope="module")
def client(model: PatchClassifier) -> Iterator[Client]:
    client = Client(ServedModel(model, threshold=0.3))
    yield client
    client.service.close()


def flat(rows: list[list[float]]) -> list[float]:
    return [value for row in rows for value in row]


def as_seen(content: bytes) -> torch.Tensor:
    """A photo as the model sees it, decoded by itself."""
    return to_tensor(read_image(content, 3), SIZE, "pad")


def test_classes_are_those_of_the_model(client: Client, model: PatchClassifier) -> None:
    photos = [photo(0), photo(1, (33, 90), "JPEG"), photo(2, kind="WEBP")]
    answer = client.post("/v1/predict", *photos)
    assert answer.status_code == 200, answer.text
    found = answer.json()["images"]
    assert [one["file"] for one in found] == ["0.png", "1.png", "2.png"]
    assert [(one["width"], one["height"]) for one in found] == [(60, 40), (33, 90), (60, 40)]
    own = model.explain(torch.stack([as_seen(one) for one in photos])).probabilities
    for one, probabilities in zip(found, own.tolist(), strict=True):
        assert list(one["probabilities"]) == list(CLASSES)
        assert list(one["probabilities"].values()) == pytest.approx(probabilities, abs=1e-6)
        assert one["probability"] == max(one["probabilities"].values())
        assert one["probabilities"][one["prediction"]] == one["probability"]
        assert one["labels"] is None


def test_the_map_is_that_of_the_model(client: Client, model: PatchClassifier) -> None:
    own = model.explain(as_seen(photo(1)))
    answer = client.ask(
        "POST", "/v1/explain", content=photo(1), headers={"content-type": "image/png"}
    )
    assert answer.status_code == 200, answer.text
    [found] = answer.json()["images"]
    assert found["target"] == found["prediction"] == CLASSES[int(own.target)]
    assert found["map"]["shows"] == own.shown_of(0).name
    rows, columns = own.grid.rows, own.grid.columns
    assert (len(found["map"]["values"]), len(found["map"]["values"][0])) == (rows, columns)
    shown = own.target_margin.clamp(min=0) if not own.no_margin.any() else own.patch_map
    assert flat(found["map"]["values"]) == pytest.approx(shown[0].tolist(), abs=1e-5)
    assert found["versus"] is None
    assert found["picture"] is None


def test_why_one_class_and_not_another(client: Client, model: PatchClassifier) -> None:
    own = model.explain(as_seen(photo(0)), "dog", versus="gnu")
    answer = client.post("/v1/explain", photo(0), params={"target": "dog", "versus": "gnu"})
    [found] = answer.json()["images"]
    values = flat(found["map"]["values"])
    difference = own.evidence[0, :, 1] - own.evidence[0, :, 4]
    assert values == pytest.approx(difference.tolist(), abs=1e-5)
    assert sum(values) == pytest.approx(found["versus"]["logit_difference"], abs=1e-4)
    logits = float(own.logits[0, 1] - own.logits[0, 4])
    assert found["versus"] == {"class": "gnu", "logit_difference": pytest.approx(logits, abs=1e-5)}


def test_boxes_and_pictures_are_those_of_explain(
    client: Client, model: PatchClassifier, tmp_path: Path
) -> None:
    (tmp_path / "0.png").write_bytes(photo(2))
    explain_files(model, [tmp_path / "0.png"], tmp_path / "out", object_threshold=0.3)
    of_command = json.loads((tmp_path / "out" / "0.json").read_text(encoding="utf-8"))
    [found] = client.post("/v1/explain", photo(2), params={"picture": True}).json()["images"]
    assert found["box"] == of_command["box"]
    others = of_command["objects"]["found"]
    assert [one["box"] for one in found["objects"]] == [one["box"] for one in others]
    assert [one["class"] for one in found["objects"]] == [one["class"] for one in others]
    drawn = Image.open(io.BytesIO(base64.b64decode(found["picture"])))
    with Image.open(tmp_path / "out" / "0.png") as other:
        assert drawn.tobytes() == other.tobytes()


def test_a_model_without_patches_names_classes_alone() -> None:
    from heads.used import used_baseline

    model = used_baseline()
    model.image_size = (64, 64)
    client = Client(ServedModel(model))
    assert client.post("/v1/predict", photo()).status_code == 200
    answer = client.post("/v1/explain", photo())
    assert answer.status_code == 422
    assert "this model has no patches" in answer.json()["error"]
    assert client.ask("GET", "/v1/model").json()["explains"] is False
    client.service.close()


def test_several_labels_an_image() -> None:
    client = Client(ServedModel(model_of(multi_label=True)))
    [found] = client.post("/v1/explain", photo()).json()["images"]
    assert found["map"]["shows"] == "evidence"
    likely = [name for name, value in found["probabilities"].items() if value >= 0.5]
    assert found["labels"] == likely
    client.service.close()


@pytest.mark.parametrize(
    ("path", "sent", "status", "line"),
    [
        ("predict", {"content": b"no image", "type": "image/png"}, 422, "of no known image format"),
        ("predict", {"content": b"", "type": "image/png"}, 422, "image cannot be read as an image"),
        ("predict", {"content": photo()[:300], "type": "image/png"}, 422, "truncated"),
        ("predict", {"content": bomb(), "type": "image/png"}, 422, "more than 89,478,485 pixels"),
        ("predict", {"content": bomb(1000), "type": "image/png"}, 422, "1000 x 1000 pixels, more"),
        ("predict", {"content": b"{}", "type": "application/json"}, 415, "send multipart/form"),
        ("predict", {"content": b"{}"}, 415, "of the type none"),
        ("predict", {"content": b"--b--\r\n", "type": FORM}, 422, "the request has no image"),
        ("predict", {"content": b"--x", "type": FORM}, 400, ""),
        ("predict", {"content": b"a" * 60_000, "type": "image/png"}, 413, "larger than 0.05 MB"),
        ("predict", {"data": {"files": "text"}, "files": {"x": b""}}, 422, "unknown part 'files'"),
        ("predict", {"files": [("files", photo())] * 4}, 422, "4 images in a request, at most 3"),
        ("predict?size=3", {"files": {"files": photo()}}, 422, "unknown parameter 'size'"),
        ("explain?target=dig", {"files": {"files": photo()}}, 422, "did you mean 'dog'"),
        ("explain?map=x", {"files": {"files": photo()}}, 422, "`map`: Input should be 'margin'"),
        ("explain?picture=x", {"files": {"files": photo()}}, 422, "`picture`: Input should be a"),
        (
            "explain?target=dog&versus=dog",
            {"files": {"files": photo()}},
            409,
            "`versus` must be another class",
        ),
        ("predicts", {"content": b""}, 404, "Not Found"),
    ],
)
def test_what_is_refused_is_one_line(
    client: Client, path: str, sent: dict[str, Any], status: int, line: str
) -> None:
    kind = sent.get("type")
    more = {name: value for name, value in sent.items() if name != "type"}
    headers = {} if kind is None else {"content-type": kind}
    answer = client.ask("POST", f"/v1/{path}", headers=headers, **more)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    said = answer.json()["error"]
    assert line in said
    assert said
    assert "\n" not in said
    # And it goes on.
    assert client.post("/v1/predict", photo()).status_code == 200


def test_names_of_files_are_data(client: Client) -> None:
    name = "\x1b[31m<b>../../etc/passwd.png"
    answer = client.ask("POST", "/v1/predict", files=[("files", (name, b"x"))])
    assert answer.status_code == 422
    assert "\x1b" not in answer.json()["error"]


def test_another_method_is_refused(client: Client) -> None:
    answer = client.ask("GET", "/v1/predict")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json() == {"error": "Method Not Allowed"}


def test_what_arrives_together_is_one_batch(model: PatchClassifier) -> None:
    slow = Slow(model)
    client = Client(slow, Limits(max_images=3, max_waiting=6))

    async def ask() -> list[Any]:
        first = asyncio.create_task(client.send("POST", "/v1/predict", files={"files": photo()}))
        while not slow.begun.is_set():
            await asyncio.sleep(0.005)
        others = [
            asyncio.create_task(client.send("POST", "/v1/predict", files={"files": photo(n)}))
            for n in range(5)
        ]
        while client.service.waiting < 5:
            await asyncio.sleep(0.005)
        slow.let.set()
        return [one.json() for one in await asyncio.gather(first, *others)]

    answers = asyncio.run(ask())
    assert slow.batches == [1, 5]
    own = client.post("/v1/predict", photo(0)).json()["images"][0]["probabilities"]
    for answer in answers[:2]:
        assert answer["images"][0]["probabilities"] == pytest.approx(own, abs=1e-6)
    client.service.close()


def test_a_full_queue_says_to_come_again(model: PatchClassifier) -> None:
    slow = Slow(model)
    client = Client(slow, Limits(max_images=2, max_waiting=2))

    async def ask() -> list[Any]:
        send = [
            asyncio.create_task(client.send("POST", "/v1/predict", files={"files": photo()}))
            for _ in range(6)
        ]
        done, _ = await asyncio.wait(send, return_when=asyncio.FIRST_COMPLETED)
        refused = next(iter(done)).result()
        # What is not asked of the network is answered all the same.
        health = await client.send("GET", "/health")
        slow.let.set()
        return [refused, health, *await asyncio.gather(*send)]

    refused, health, *answers = asyncio.run(ask())
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert "try again later" in refused.json()["error"]
    assert health.json()["status"] == "ok"
    assert {one.status_code for one in answers} == {200, 503}
    assert client.post("/v1/predict", photo()).status_code == 200
    client.service.close()


def test_an_answer_has_its_time(model: PatchClassifier) -> None:
    slow = Slow(model)
    client = Client(slow, Limits(max_seconds=0.3))
    answer = client.post("/v1/predict", photo())
    assert answer.status_code == 503
    assert answer.json() == {"error": "no answer within 0.3 s: try again later"}
    slow.let.set()
    assert client.post("/v1/predict", photo()).status_code == 200
    client.service.close()


def test_an_error_of_ours_is_said_to_be(model: PatchClassifier) -> None:
    class Broken(ServedModel):
        def said(self, images: Any) -> Any:
            raise RuntimeError("out of luck")

    client = Client(Broken(model))
    answer = client.post("/v1/predict", photo())
    assert answer.status_code == 500
    assert "an error of the service" in answer.json()["error"]
    assert "luck" not in answer.text
    assert client.ask("GET", "/health").status_code == 200
    client.service.close()


def body(parts: Any) -> tuple[Any, list[int]]:
    """What receives the parts of a content as a server hands them on, and how much was taken."""
    taken: list[int] = []

    async def receive() -> dict[str, Any]:
        part = next(parts, None)
        if part is None:
            await asyncio.sleep(60)
        taken.append(len(part))
        return {"type": "http.request", "body": part, "more_body": True}

    return receive, taken


def answered(front: Front, headers: dict[str, str], receive: Any) -> list[dict[str, Any]]:
    """What an application sends, asked as a server asks it."""
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/predict",
        "raw_path": b"/v1/predict",
        "query_string": b"",
        "headers": pairs,
    }
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(front(scope, receive, send))
    return sent


CHUNKED = {"transfer-encoding": "chunked"}


@pytest.mark.parametrize(
    "kind", ["application/octet-stream", "multipart/form-data; boundary=b", "text/plain"]
)
def test_endless_content_is_refused_while_it_is_read(client: Client, kind: str) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
    endless = (head if n == 0 else b"a" * 10_000 for n in range(100_000))  # a gigabyte
    receive, taken = body(endless)
    start, *_ = answered(client.front, {"content-type": kind, **CHUNKED}, receive)
    assert start["status"] == (415 if kind == "text/plain" else 413)
    assert sum(taken) <= LIMITS.bytes + 10_000
    assert (b"connection", b"close") in start["headers"]  # nobody listens to the rest


def test_what_is_said_to_be_too_large_is_not_read(client: Client) -> None:
    receive, taken = body(iter([b"a"]))
    headers = {"content-type": "image/png", "content-length": str(10**9)}
    start, said = answered(client.front, headers, receive)
    assert (start["status"], taken) == (413, [])
    assert json.loads(said["body"]) == {"error": "the request is larger than 0.05 MB"}


def test_a_slow_client_is_not_waited_for(model: PatchClassifier) -> None:
    client = Client(ServedModel(model), Limits(max_seconds=0.1))
    receive, _ = body(iter([b"a", b"b"]))
    start, said = answered(client.front, {"content-type": "image/png", **CHUNKED}, receive)
    assert start["status"] == 408
    assert json.loads(said["body"])["error"] == "the request did not arrive within 0.1 s"
    assert (b"connection", b"close") in start["headers"]
    client.service.close()


def test_the_state_is_told(model: PatchClassifier) -> None:
    client = Client(ServedModel(model))
    about = client.ask("GET", "/v1/model").json()
    assert about["classes"] == list(CLASSES)
    assert about["input"] == {"height": 24, "width": 20, "channels": 3, "resize": "pad"}
    assert about["limits"]["images"] == 3
    client.post("/v1/predict", photo(0), photo(1))
    client.post("/v1/predict", b"x")
    answer = client.ask("GET", "/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = answer.text.splitlines()
    assert 'loss_attention_requests_total{path="/v1/predict",status="200"} 1' in lines
    assert 'loss_attention_requests_total{path="/v1/predict",status="422"} 1' in lines
    assert "loss_attention_images_total 2" in lines
    client.service.close()


def image_files() -> Any:
    from hypothesis import strategies

    return strategies.sampled_from([photo(0), photo(1, (8, 9)), photo(2, kind="JPEG")])


def test_the_schema_is_true(model: PatchClassifier) -> None:
    """What it allows is accepted, what it does not is refused, and all answers are as it says."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings
    from schemathesis import GenerationMode

    schemathesis.openapi.format("binary", image_files())
    # One that has room for all of what is generated.
    client = Client(ServedModel(model), Limits(max_images=3))
    schema = schemathesis.openapi.from_asgi("/openapi.json", client.front)
    tried = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        nothing_to_get_wrong = operation.method == "get"
        for mode in GenerationMode:
            if mode == GenerationMode.NEGATIVE and nothing_to_get_wrong:
                continue
            strategy = operation.as_strategy(generation_mode=mode)

            @settings(max_examples=15, suppress_health_check=list(HealthCheck), deadline=None)
            @given(case=strategy)
            def conforms(case: Any) -> None:
                nonlocal tried
                tried += 1
                case.call_and_validate()

            conforms()
    assert tried > 60
    client.service.close()
