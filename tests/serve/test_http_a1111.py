"""The interface of A1111's web UI over a real server, asked by the client `webuiapi` as it is."""

from __future__ import annotations

import base64
import io
import threading
from pathlib import Path
from typing import Any

import httpx2
import PIL.Image
import pytest
from PIL.PngImagePlugin import PngInfo
from serving import Running, wait

from inkwash import Pipeline, Request
from inkwash.io.png import pixel_sha256
from inkwash.output import to_pil
from inkwash.picture import Picture

webuiapi = pytest.importorskip("webuiapi")

PROMPT = "a small red cube"


@pytest.fixture(scope="module")
def client(server: Running) -> Any:
    return webuiapi.WebUIApi(baseurl=f"{server.url}/sdapi/v1")


def post(server: Running, **body: Any) -> httpx2.Response:
    usual = {"prompt": PROMPT, "seed": 5, "steps": 3, "width": 32, "height": 32}
    return httpx2.post(f"{server.url}/sdapi/v1/txt2img", json={**usual, **body}, timeout=250)


def test_the_client_gets_the_bytes_of_the_library(client: Any, tiny_model: Path) -> None:
    found = client.txt2img(prompt=PROMPT, negative_prompt="blue", seed=5, steps=3, cfg_scale=2.5, width=48, height=32, batch_size=2,
                           sampler_name="DPM++ 2M", scheduler="Karras")
    requests = [Request(PROMPT, "blue", seed, 3, "dpmpp_2m", "karras", 2.5, 48, 32) for seed in (5, 6)]
    made = [image.pixels for image in Pipeline.from_pretrained(tiny_model).generate(requests)]
    assert [pixel_sha256(image) for image in found.images] == [pixel_sha256(to_pil(pixels)) for pixels in made if pixels is not None]
    assert found.info["all_seeds"] == [5, 6]
    assert any("eta is inert" in text for text in found.info["warnings"])
    read = client.png_info(found.images[0])
    assert read.json["parameters"]["Prompt"] == PROMPT
    assert read.info.startswith(PROMPT)


def test_a_picture_and_a_mask(client: Any, tiny_model: Path) -> None:
    start = PIL.Image.merge("RGB", [PIL.Image.linear_gradient("L").resize((32, 32))] * 3)
    mask = PIL.Image.new("L", (32, 32), 0)
    mask.paste(255, (0, 0, 16, 32))
    found = client.img2img(images=[start], mask_image=mask, prompt=PROMPT, seed=5, steps=5, cfg_scale=3.0, width=32, height=32, sampler_name="DDIM",
                           denoising_strength=0.6, mask_blur=0, inpainting_fill=1, inpaint_full_res=False, resize_mode=1)
    request = Request(PROMPT, "", 5, 5, "ddim", "trailing", 3.0, 32, 32, Picture.of(start), Picture.of(mask), 0.6)
    pixels = Pipeline.from_pretrained(tiny_model).generate([request])[0].pixels
    assert pixels is not None
    assert pixel_sha256(found.images[0]) == pixel_sha256(to_pil(pixels))
    assert "init_images" not in found.parameters
    warned = client.img2img(images=[start], mask_image=mask, prompt=PROMPT, steps=2, width=32, height=32).info["warnings"]
    assert {text.split()[0] for text in warned if " is inert" in text} == {"eta", "resize_mode", "mask_blur", "inpainting_fill", "inpaint_full_res"}
    with pytest.raises(RuntimeError, match="missing_parameter"):
        client.img2img(images=[], prompt=PROMPT)


def test_what_tools_ask_first(client: Any) -> None:
    assert {"name": "Euler a", "aliases": ["euler_a"], "options": {}} in client.get_samplers()
    assert client.get_sd_models()[0]["model_name"] == client.get_options()["sd_model_checkpoint"] == "tiny"
    assert client.set_options(client.get_options()) == {}
    assert client.get_progress()["progress"] == 0.0


def test_progress_and_interrupt(server: Running, client: Any) -> None:
    answers: list[httpx2.Response] = []
    thread = threading.Thread(target=lambda: answers.append(post(server, steps=300)))
    thread.start()
    wait(lambda: client.get_progress()["progress"] > 0 and client.get_progress()["current_image"], 250)
    assert 0 < client.get_progress()["progress"] < 1
    client.interrupt()
    thread.join()
    assert answers[0].json()["images"] == []
    assert client.get_progress()["state"]["job_count"] == 0


@pytest.mark.parametrize(("body", "code", "param"), [
    ({"tiling": True}, "unsupported_parameter", "tiling"), ({"enable_hr": True}, "unsupported_parameter", "enable_hr"),
    ({"alwayson_scripts": {"x": {}}}, "unsupported_parameter", "alwayson_scripts"), ({"styles": ["a"]}, "unsupported_parameter", "styles"),
    ({"override_settings": {"CLIP_stop_at_last_layers": 2}}, "unsupported_parameter", "override_settings"),
    ({"override_settings": {"sd_model_checkpoint": "nothing"}}, "model_not_found", "model"), ({"stepps": 1}, "unknown_parameter", "stepps"),
    ({"steps": 0}, "bad_steps", "steps"), ({"width": 33}, "invalid_size", "width"), ({"cfg_scale": 1e9}, "bad_guidance", "cfg_scale"),
    ({"batch_size": 4, "n_iter": 4}, "too_many_images", "batch_size"), ({"sampler_name": "nonsense"}, "unknown_name", "sampler"),
    ({"prompt": ""}, "empty_prompt", "prompt"), ({"seed": -2}, "bad_seed", "seed"),
], ids=str)
def test_what_is_not_there_is_refused(server: Running, body: dict[str, Any], code: str, param: str) -> None:
    found = post(server, **body)
    assert found.status_code in (400, 404)
    assert (found.json()["error"]["code"], found.json()["error"]["param"]) == (code, param)


def test_options_are_not_changed_for_others(server: Running) -> None:
    found = httpx2.post(f"{server.url}/sdapi/v1/options", json={"sd_model_checkpoint": "other"}, timeout=250)
    assert (found.status_code, found.json()["error"]["code"]) == (400, "unsupported_parameter")
    assert httpx2.get(f"{server.url}/sdapi/v1/progress?skip_current_image=maybe", timeout=250).status_code == 400
    texts = PngInfo()
    texts.add_text("parameters", 'x\nSteps: 1, Seed: 2, A: "\\x"')
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (8, 8)).save(buffer, "PNG", pnginfo=texts)
    broken = httpx2.post(f"{server.url}/sdapi/v1/png-info", json={"image": base64.b64encode(buffer.getvalue()).decode()}, timeout=250)
    assert (broken.status_code, broken.json()["error"]["code"]) == (400, "bad_image")
    assert httpx2.post(f"{server.url}/sdapi/v1/png-info", json={"image": "AAAA"}, timeout=250).json()["error"]["code"] == "bad_image"
