"""The Images API over a real server: what a client asks for is what it gets, byte for byte, or it is told why not."""

from __future__ import annotations

import base64
import io
import itertools
import json
import socket
import threading
from pathlib import Path
from typing import Any

import httpx2
import PIL.Image
import pytest
from serving import Running, meter, wait

from inkwash import Pipeline, Request
from inkwash.io.png import pixel_sha256
from inkwash.output import to_pil

openai = pytest.importorskip("openai")

PROMPT = "a small red cube"


@pytest.fixture(scope="module")
def client(server: Running) -> Any:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=250)


@pytest.fixture(scope="module")
def solo(tiny_model: Path) -> Any:
    """The hash of what the library makes of a request alone."""
    pipeline = Pipeline.from_pretrained(tiny_model)

    def of(request: Request) -> str:
        pixels = pipeline.generate([request])[0].pixels
        assert pixels is not None
        return pixel_sha256(to_pil(pixels))

    return of


def post(server: Running, body: object, **headers: str) -> httpx2.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx2.post(f"{server.url}/v1/images/generations", content=content, headers={"content-type": "application/json", **headers}, timeout=250)


def usual(**changes: Any) -> dict[str, Any]:
    return {"prompt": PROMPT, "steps": 3, "seed": 5, **changes}


def test_the_openai_client_gets_the_bytes_of_the_library(client: Any, solo: Any) -> None:
    found = client.images.generate(prompt=PROMPT, n=2, size="48x32", extra_body={"seed": 11, "steps": 3, "sampler": "euler_a", "guidance": 2.5,
                                                                                  "negative_prompt": "blue"})
    assert [image.seed for image in found.data] == [11, 12]
    for image in found.data:
        data = base64.b64decode(image.b64_json)
        picture = PIL.Image.open(io.BytesIO(data))
        assert picture.size == (48, 32)
        request = Request(PROMPT, "blue", image.seed, 3, "euler_a", "trailing", 2.5, 48, 32)
        assert pixel_sha256(picture) == image.pixel_sha256 == solo(request)
        assert json.loads(picture.text["inkwash"])["request"]["seed"] == image.seed  # type: ignore[attr-defined]
        assert image.nfe == 6
    assert found.usage.output_tokens == 12
    assert found.determinism == "exact"


def test_unlike_requests_at_once_are_those_alone(server: Running, solo: Any) -> None:
    bodies = [usual(seed=i, steps=steps, sampler=sampler, guidance=guidance) for i, (steps, sampler, guidance)
              in enumerate(itertools.product((1, 4), ("ddim", "dpmpp_2m_sde", "heun"), (1.0, 3.0)))]
    answers: dict[int, Any] = {}
    threads = [threading.Thread(target=lambda i=i, body=body: answers.update({i: post(server, body).json()})) for i, body in enumerate(bodies)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, body in enumerate(bodies):
        request = Request(PROMPT, "", i, body["steps"], body["sampler"], "trailing", body["guidance"], 32, 32)
        assert answers[i]["data"][0]["pixel_sha256"] == solo(request), body


def test_a_stream_shows_previews_and_ends_with_the_image(client: Any, server: Running) -> None:
    events = list(client.images.generate(prompt=PROMPT, stream=True, partial_images=2, extra_body={"seed": 5, "steps": 3}))
    assert [event.type for event in events] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    assert all(PIL.Image.open(io.BytesIO(base64.b64decode(event.b64_json))).size == (32, 32) for event in events)
    assert events[-1].pixel_sha256 == post(server, usual()).json()["data"][0]["pixel_sha256"]


@pytest.mark.parametrize(("form", "kind"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_the_format_is_the_one_asked_for(server: Running, form: str, kind: str) -> None:
    found = post(server, usual(output_format=form)).json()
    assert PIL.Image.open(io.BytesIO(base64.b64decode(found["data"][0]["b64_json"]))).format == kind
    assert found["output_format"] == form


CHANGES: list[dict[str, Any]] = [
    {"prompt": "two green cones in soft light"}, {"seed": 6}, {"steps": 4}, {"num_inference_steps": 4, "steps": None}, {"sampler": "euler_a"},
    {"sampler": "DPM++ 2M Karras"}, {"spacing": "karras"}, {"guidance": 1}, {"guidance": "CFG(scale=6.0)"}, {"guidance_scale": 5.5},
    {"cfg_scale": 5.5},
    {"negative_prompt": "blue"}, {"size": "48x48"}, {"output_format": "jpeg"}, {"output_format": "jpeg", "output_compression": 10}, {"n": 2},
    {"output_compression": 10}, {"quality": "hd"}, {"style": "vivid"}, {"moderation": "low"}, {"user": "u"}, {"safety_identifier": "s"},
    {"partial_images": 2},
]


@pytest.fixture(scope="module")
def plain(server: Running) -> dict[str, Any]:
    found: dict[str, Any] = post(server, usual()).json()
    assert not found["warnings"]
    return found


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_every_field_changes_the_bytes_or_is_called_inert(server: Running, plain: dict[str, Any], change: dict[str, Any]) -> None:
    found = post(server, usual(**change)).json()
    name = list(change)[-1]
    inert = any(text.startswith(f"{name} is inert") for text in found["warnings"])
    assert inert != ([one["b64_json"] for one in found["data"]] != [one["b64_json"] for one in plain["data"]])


def test_every_field_of_the_schema_is_tried(server: Running) -> None:
    schema = httpx2.get(f"{server.url}/openapi.json", timeout=250).json()["paths"]["/v1/images/generations"]["post"]["requestBody"]["content"]
    names = set(schema["application/json"]["schema"]["properties"])
    elsewhere = {"model", "stream", "deadline_ms", "response_format", "background"}
    assert names - elsewhere <= {name for change in CHANGES for name in change}


BAD: list[tuple[Any, int, str, str | None]] = [
    (usual(steps=0), 400, "bad_steps", "steps"), (usual(steps=10**9), 400, "bad_steps", "steps"), (usual(steps=2.5), 400, "invalid_value", "steps"),
    ({"prompt": PROMPT, "num_inference_steps": -1}, 400, "bad_steps", "num_inference_steps"),
    *[(usual(size=size), 400, "invalid_size", "size") for size in ("1024x", "0x64", "63x64", "99999x99999", "64x64x3", 64)],
    *[(usual(n=n), 400, "invalid_value", "n") for n in (0, 11, 2147483648, "4", True, 1.5)],
    *[(b'{"prompt": "x", "guidance_scale": %s}' % text, 400, "invalid_json", None) for text in (b"NaN", b"Infinity", b"1e999")],
    (usual(guidance=-1e9), 400, "bad_guidance", "guidance"), (usual(guidance_scale="7.5%"), 400, "bad_guidance", "guidance_scale"),
    (usual(guidance="Nonsense()"), 400, "unknown_name", "guidance"), (usual(sampler="nonsense"), 400, "unknown_name", "sampler"),
    *[(usual(seed=seed), 400, "bad_seed", "seed") for seed in (-1, 2**64)],
    *[(usual(seed=seed), 400, "invalid_value", "seed") for seed in (1.0, "abc")],
    (usual(seed=2**63 - 1, n=2), 400, "bad_seed", "seed"), ({"steps": 3}, 400, "missing_parameter", "prompt"),
    (usual(prompt=" "), 400, "empty_prompt", "prompt"),
    (usual(prompt="x" * 4001), 400, "prompt_too_long", "prompt"), (usual(prompt="x" * 2**20), 413, "body_too_large", None),
    *[(usual(prompt=f"a{mark}b"), 400, "invalid_characters", "prompt") for mark in ("\0", "\x1b", "\u202e", "\ud800")],
    (usual(negative_prompt="\ud800"), 400, "invalid_characters", "negative_prompt"), (usual(**{"\ud800": 1}), 400, "invalid_json", None),
    (usual(steps_typo=3), 400, "unknown_parameter", "steps_typo"), (usual(model="nothing"), 404, "model_not_found", "model"),
    (usual(steps=3, num_inference_steps=3), 400, "two_names", "num_inference_steps"),
    (usual(background="transparent"), 400, "invalid_value", "background"),
    (usual(response_format="url"), 400, "invalid_value", "response_format"), (usual(prompt=["a"]), 400, "invalid_value", "prompt"),
    *[(body, 400, "invalid_json", None) for body in (b"", b"{", b"[" * 100_000, b'{"a":' * 50_000, b'"' + b'\\"' * 100_000, b"[1]",
                                                      b'{"prompt": "a", "prompt": "b"}', b'{"seed": ' + b"1" * 5000 + b"}",
                                                      '{"prompt": "a"}'.encode("utf-16"), b'\xef\xbb\xbf{"prompt": "a"}')],
    (usual(deadline_ms=1, steps=1000), 400, "deadline_impossible", "deadline_ms"), (usual(deadline_ms=0), 400, "invalid_value", "deadline_ms"),
]


@pytest.mark.parametrize(("body", "status", "code", "param"), BAD, ids=lambda value: str(value)[:40])
def test_what_is_wrong_is_told(server: Running, body: Any, status: int, code: str, param: str | None) -> None:
    found = post(server, body)
    error = found.json()["error"]
    assert (found.status_code, error["code"], error["param"]) == (status, code, param)
    assert set(error) == {"message", "type", "param", "code"}
    assert found.headers["x-request-id"].startswith("req_")
    assert "Traceback" not in found.text
    assert str(Path(__file__).parent.parent.parent) not in found.text


def test_the_nearest_name_is_offered(server: Running) -> None:
    assert "did you mean 'steps'" in post(server, usual(stepps=3)).json()["error"]["message"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_only_json_is_json(server: Running, kind: str) -> None:
    assert post(server, usual(), **{"content-type": kind}).status_code == 415


def test_the_openai_client_raises_its_own_errors(client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.images.generate(prompt=PROMPT, extra_body={"steps": 0})
    assert (bad.value.code, bad.value.param) == ("bad_steps", "steps")
    with pytest.raises(openai.BadRequestError):
        list(client.images.generate(prompt=PROMPT, stream=True, extra_body={"sampler": "nonsense"}))
    with pytest.raises(openai.NotFoundError):
        client.images.generate(prompt=PROMPT, model="dall-e-3")


def test_models_are_listed(client: Any) -> None:
    [model] = client.models.list().data
    assert (model.id, model.determinism, model.ready) == ("tiny", "exact", True)
    assert client.models.retrieve("tiny").defaults["sampler"] == "ddim"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("../../etc/passwd")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_its_work(server: Running, stream: bool) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps(usual(steps=1000, stream=stream, deadline_ms=3_600_000)).encode()
    before = meter(server.url, "inkwash_images_total", end="cancelled")
    lines = len([line for line in server.log if line.get("code") == "client_gone"])
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(b"POST /v1/images/generations HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                     % (f"{host}:{port}".encode(), len(body), body))
        wait(lambda: meter(server.url, "inkwash_live_images") == 1, 60)
        rows = meter(server.url, "inkwash_rows_total")
        wait(lambda: meter(server.url, "inkwash_rows_total") > rows, 60)
    wait(lambda: meter(server.url, "inkwash_live_images") == 0, 20)
    assert meter(server.url, "inkwash_images_total", end="cancelled") == before + 1
    assert meter(server.url, "inkwash_rows_total") < 2 * 1000
    wait(lambda: len([line for line in server.log if line.get("code") == "client_gone"]) == lines + 1, 20)
