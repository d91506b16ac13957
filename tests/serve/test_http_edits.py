"""`POST /v1/images/edits` over a real server: pictures come from a stranger, and go into the engine as those of the library do."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import PIL.Image
import PIL.PngImagePlugin
import pytest
from serving import Running, running

from inkwash import Pipeline, Request
from inkwash.io.png import pixel_sha256
from inkwash.output import to_pil
from inkwash.picture import Picture

openai = pytest.importorskip("openai")

PROMPT = "a small red cube"


DIES = """import os, sys
if "inkwash.serve.http.decode" in sys.orig_argv:
    import PIL.ImageFile, signal
    load = PIL.ImageFile.ImageFile.load
    PIL.ImageFile.ImageFile.load = lambda self: os.kill(os.getpid(), signal.SIGSEGV) if self.size == (33, 33) else load(self)
"""                                                        # a decoder with a mistake, which a picture of that size finds


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("serve")
    (folder / "sitecustomize.py").write_text(DIES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        with running(folder, str(tiny_model)) as found:
            yield found


@pytest.fixture(scope="module")
def client(server: Running) -> Any:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=250)


def picture(width: int = 32, height: int = 32) -> PIL.Image.Image:
    found = PIL.Image.linear_gradient("L").resize((width, height))
    return PIL.Image.merge("RGB", (found, found.transpose(PIL.Image.Transpose.ROTATE_90).resize((width, height)), found))


def hole(width: int = 32, height: int = 32) -> PIL.Image.Image:
    """A mask of the Images API: the left half is transparent, to be painted."""
    found = PIL.Image.new("RGBA", (width, height), (0, 0, 0, 255))
    found.paste((0, 0, 0, 0), (0, 0, width // 2, height))
    return found


def file(image: PIL.Image.Image, form: str = "PNG", **texts: str) -> bytes:
    buffer = io.BytesIO()
    info = PIL.PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    image.save(buffer, form, **({"pnginfo": info} if form == "PNG" else {}))
    return buffer.getvalue()


def post(server: Running, files: dict[str, bytes], **fields: str) -> httpx2.Response:
    return httpx2.post(f"{server.url}/v1/images/edits", files={name: ("upload", data) for name, data in files.items()},
                       data={"prompt": PROMPT, "steps": "4", "seed": "5", **fields}, timeout=250)


def test_the_openai_client_gets_the_bytes_of_the_library(client: Any, tiny_model: Path) -> None:
    found = client.images.edit(image=file(picture(), secret="a place"), mask=file(hole()), prompt=PROMPT,
                               extra_body={"strength": 0.6, "seed": 5, "steps": 5})
    data = base64.b64decode(found.data[0].b64_json)
    made = PIL.Image.open(io.BytesIO(data))
    white = PIL.Image.new("L", (32, 32), 0)
    white.paste(255, (0, 0, 16, 32))
    request = Request(PROMPT, "", 5, 5, "ddim", "trailing", 3.0, 32, 32, Picture.of(picture()), Picture.of(white), 0.6)
    pixels = Pipeline.from_pretrained(tiny_model).generate([request])[0].pixels
    assert pixels is not None
    assert pixel_sha256(made) == found.data[0].pixel_sha256 == pixel_sha256(to_pil(pixels))
    assert made.crop((16, 0, 32, 32)).tobytes() == picture().crop((16, 0, 32, 32)).tobytes(), "what is opaque keeps its bits"
    assert b"a place" not in data
    assert json.loads(made.text["inkwash"])["request"]["strength"] == 0.6  # type: ignore[attr-defined]


def test_a_stream_of_an_edit(client: Any) -> None:
    events = list(client.images.edit(image=file(picture()), prompt=PROMPT, stream=True, partial_images=1, extra_body={"steps": 8, "strength": 0.5}))
    assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]


def test_formats_and_sizes(server: Running) -> None:
    for form in ("PNG", "JPEG", "WEBP"):
        found = post(server, {"image": file(picture(100, 60), form)}).json()
        assert "cut to its middle and resized to 32x32" in " ".join(found["warnings"])
    strengths = {post(server, {"image": file(picture())}, strength=text).json()["data"][0]["pixel_sha256"] for text in ("0.3", "0.6", "1")}
    assert len(strengths) == 3
    assert "input_fidelity is inert: use strength" in post(server, {"image": file(picture())}, input_fidelity="high").json()["warnings"]


def bomb() -> bytes:
    """A small file of many pixels."""
    return file(PIL.Image.new("1", (13000, 13000)))


@pytest.mark.parametrize(("files", "fields", "status", "code", "param"), [
    ({}, {}, 415, "unsupported_media_type", None), ({"mask": file(hole())}, {}, 400, "missing_parameter", "image"),
    ({"image": b""}, {}, 400, "image_unreadable", "image"),
    ({"image": b"<svg xmlns='http://www.w3.org/2000/svg'/>"}, {}, 415, "image_format", "image"),
    ({"image": b"%!PS-Adobe-3.0 EPSF-3.0"}, {}, 415, "image_format", "image"),
    ({"image": file(picture())[:70]}, {}, 400, "image_unreadable", "image"),
    ({"image": bomb()}, {}, 400, "image_too_large", "image"), ({"image": b"x" * (17 << 20)}, {}, 413, "body_too_large", None),
    ({"image": file(picture()), "mask": file(picture())}, {}, 400, "mask_without_alpha", "mask"),
    ({"image": file(picture()), "mask": file(hole(16, 16))}, {}, 400, "mask_size_differs", "mask"),
    ({"image": file(picture()), "markup": b"x"}, {}, 400, "unknown_parameter", "markup"),
    ({"image": file(picture())}, {"strength": "0"}, 400, "bad_strength", "strength"),
    ({"image": file(picture())}, {"n": "1.5"}, 400, "invalid_value", "n"),
    ({"image": file(picture())}, {"stepz": "3"}, 400, "unknown_parameter", "stepz"),
    ({"image": file(picture())}, {"prompt": ""}, 400, "empty_prompt", "prompt"),
], ids=lambda value: str(value)[:30])
def test_what_is_wrong_is_told(server: Running, files: dict[str, bytes], fields: dict[str, str], status: int, code: str, param: str | None) -> None:
    found = post(server, files, **fields)
    error = found.json()["error"]
    assert (found.status_code, error["code"], error["param"]) == (status, code, param), error


def test_a_decoder_that_dies_costs_one_request(server: Running) -> None:
    for _ in range(3):
        found = post(server, {"image": file(picture(33, 33))})
        assert (found.status_code, found.json()["error"]["code"], found.json()["error"]["param"]) == (400, "image_unreadable", "image")
    assert post(server, {"image": file(picture())}).status_code == 200
    assert not [line for line in server.log if line["level"] == "error"]
