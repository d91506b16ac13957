"""The interface of A1111's web UI, for the tools that speak it: txt2img, img2img, progress, interrupt and what they ask before.

Its options are one state for all callers; here an image depends on its request alone, so options can be read and not changed. Progress and
interrupt concern the images of the caller's own key. A picture that was interrupted is left out of the answer.
"""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from PIL import Image, UnidentifiedImageError
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from inkwash._version import __version__
from inkwash.io.png import read_infotext
from inkwash.labels import ENDINGS, LABELS
from inkwash.request import Request
from inkwash.serve.http.a1111_fields import OFF, OFF_IMAGE, Image2Image, Text2Image, from_base64, inert_fields, model_of, requests_of, split, start_of
from inkwash.serve.http.backend import Backend, Made, Order, Wish
from inkwash.serve.http.errors import ApiError
from inkwash.serve.http.fields import read_fields
from inkwash.serve.http.idempotency import once, served
from inkwash.serve.http.openai import finished
from inkwash.serve.http.raster import Start
from inkwash.serve.http.reply import answer, json_body, unless_gone
from inkwash.serve.http.service import Model, Service

router = APIRouter(prefix="/sdapi/v1")


@router.post("/txt2img")
async def txt2img(http: HttpRequest) -> Response:
    """Pictures from a sentence."""
    body = await json_body(http)
    return await respond(http, read_fields(Text2Image, split(body, OFF), {}), body, body, None)


@router.post("/img2img")
async def img2img(http: HttpRequest) -> Response:
    """Pictures from a picture and a sentence."""
    body = await json_body(http)
    asked = read_fields(Image2Image, split(body, OFF_IMAGE), {})
    parameters = {name: value for name, value in body.items() if name not in ("init_images", "mask")}
    return await respond(http, asked, parameters, body, await start_of(asked))


async def respond(http: HttpRequest, asked: Text2Image, parameters: dict[str, Any], body: dict[str, Any], start: Start | None) -> Response:
    """The answer, with `parameters` as they were asked in `body`."""
    service: Service = http.app.state.service
    model = service.model(model_of(asked))
    requests = requests_of(asked, model.info)

    async def respond_once() -> Response:
        made = await unless_gone(http, make(service, model, requests, http.scope["state"]["owner"], start))
        warnings = list(dict.fromkeys([*inert_fields(asked), *(text for one in made for text in one.facts["warnings"])]))
        images = [] if asked.send_images is False else [base64.b64encode(one.data).decode() for one in made]
        return answer({"images": images, "parameters": parameters, "info": json.dumps(info(requests, made, model, warnings)), "warnings": warnings})

    return await served(once(http, body, {}), respond_once)


async def make(service: Service, model: Model, requests: Sequence[Request], owner: str, start: Start | None) -> list[Made]:
    """The images that were not interrupted."""
    made = []
    async with service.working(model, requests, owner, service.settings.deadline_sec, Wish(), start) as orders:
        for order in orders:
            try:
                made.append(await finished(order))
            except ApiError as error:
                if error.code != "cancelled":
                    raise
    return made


def info(requests: Sequence[Request], made: Sequence[Made], model: Model, warnings: Sequence[str]) -> dict[str, Any]:
    """The facts that tools read from an answer."""
    first, seeds = requests[0], [one.facts["seed"] for one in made]
    return {"prompt": first.prompt, "all_prompts": [first.prompt] * len(made), "negative_prompt": first.negative,
            "all_negative_prompts": [first.negative] * len(made), "seed": first.seed, "all_seeds": seeds, "subseed": first.seed,
            "all_subseeds": seeds, "subseed_strength": 0, "width": first.width, "height": first.height, "sampler_name": first.sampler,
            "cfg_scale": first.guidance, "steps": first.steps, "batch_size": len(requests), "sd_model_name": model.info.name,
            "sd_model_hash": model.facts["hash"][:10], "extra_generation_params": {"Schedule type": first.spacing},
            "index_of_first_image": 0, "styles": [], "infotexts": [one.facts["infotext"] for one in made],
            "job_timestamp": time.strftime("%Y%m%d%H%M%S"), "version": f"inkwash {__version__}",
            "pixel_sha256": [one.facts["pixel_sha256"] for one in made], "nfe": [one.facts["nfe"] for one in made], "warnings": list(warnings)}


def mine(http: HttpRequest) -> list[tuple[Backend, Order]]:
    """The caller's images in work, oldest first."""
    service: Service = http.app.state.service
    return [(worker, order) for worker in service.workers for order in worker.live.values()
            if order.owner == http.scope["state"]["owner"] and not order.patient]


@router.get("/progress")
async def progress(http: HttpRequest, skip_current_image: bool = False) -> Response:
    """How far the caller's images are; `current_image` is the preview that the last call asked for."""
    orders = mine(http)
    total = sum(order.total for _, order in orders)
    done = sum(order.done for _, order in orders)
    left = max((worker.rate.seconds(worker.backlog) for worker, _ in orders), default=0.0)
    preview = None
    if orders and not skip_current_image:
        worker, order = orders[0]
        preview = base64.b64encode(order.seen).decode() if order.seen else None
        worker.ask_preview(order)
    state = {"skipped": False, "interrupted": False, "stopping_generation": False, "job": "txt2img" if orders else "", "job_count": len(orders),
             "job_timestamp": time.strftime("%Y%m%d%H%M%S"), "job_no": 0, "sampling_step": done, "sampling_steps": total}
    return answer({"progress": done / total if total else 0.0, "eta_relative": left, "state": state, "current_image": preview, "textinfo": None})


@router.post("/interrupt")
async def interrupt(http: HttpRequest) -> Response:
    """Stops the caller's images before their next step."""
    for worker, order in mine(http):
        worker.cancel(order)
    return answer({})


@router.get("/samplers")
async def samplers() -> Response:
    """The labels of samplers; texts such as `DDIM(eta=0.5)` are understood too."""
    return answer([{"name": label, "aliases": [name], "options": {}} for label, name in LABELS.items()])


@router.get("/schedulers")
async def schedulers() -> Response:
    """The labels of spacings."""
    found = [{"name": name, "label": label, "aliases": None, "default_rho": -1.0, "need_inner_model": False} for label, name in ENDINGS.items()]
    return answer([{"name": "automatic", "label": "Automatic", "aliases": None, "default_rho": -1.0, "need_inner_model": False}, *found])


@router.get("/sd-models")
async def sd_models(http: HttpRequest) -> Response:
    """The models of this server."""
    service: Service = http.app.state.service
    found = []
    for name, model in service.models.items():
        digest = model.facts.get("hash", "")
        title = f"{name} [{digest[:10]}]"
        found.append({"title": title, "model_name": name, "hash": digest[:10], "sha256": digest, "filename": name, "config": None})
    return answer(found)


@router.get("/options")
async def options(http: HttpRequest) -> Response:
    """The settings that a request without override_settings gets."""
    service: Service = http.app.state.service
    return answer({"sd_model_checkpoint": next(iter(service.models)), "samples_format": "png"})


@router.post("/options")
async def set_options(http: HttpRequest) -> Response:
    """Accepts the settings as they are. Raises ApiError 400 `unsupported_parameter` for a change."""
    service: Service = http.app.state.service
    known = {"sd_model_checkpoint": next(iter(service.models)), "samples_format": "png"}
    for name, value in (await json_body(http)).items():
        if known.get(name) != value:
            raise ApiError(400, "unsupported_parameter", "options are the same for all callers and cannot be changed; choose a model by "
                                                         "override_settings of a request", name[:60])
    return answer({})


@router.get("/scripts")
async def scripts() -> Response:
    """There are no scripts."""
    return answer({"txt2img": [], "img2img": []})


@router.post("/png-info")
async def png_info(http: HttpRequest) -> Response:
    """The texts in a PNG; only what stands before its pixels is read."""
    body = await json_body(http)
    image = body.get("image")
    if set(body) != {"image"} or not isinstance(image, str):
        raise ApiError(400, "missing_parameter", "give one field, image: a PNG in base64", "image")
    try:
        with Image.open(io.BytesIO(from_base64(image, "image")), formats=["PNG"]) as opened:
            texts = {str(name): str(value) for name, value in opened.info.items() if isinstance(value, str)}
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError):
        raise ApiError(400, "bad_image", "the image is not a PNG", "image") from None
    text = texts.get("parameters", "")
    try:
        prompt, negative, settings = read_infotext(text)
    except ValueError:                                     # anybody writes anything into a PNG
        raise ApiError(400, "bad_image", "the settings in the image cannot be read", "image") from None
    parameters = {"Prompt": prompt, "Negative prompt": negative, **settings} if text else {}
    return answer({"info": text, "items": texts, "parameters": parameters})
