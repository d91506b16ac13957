"""The fields of A1111's `txt2img` and `img2img`: many programs send all of them, most with the value that means "off".

A field that this server has is honoured. One that it has not is accepted with its neutral value only, and refused otherwise; where even the
usual value would mean something, it is named as inert.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from inkwash.errors import InkwashError
from inkwash.io.info import ModelInfo
from inkwash.labels import ENDINGS
from inkwash.request import (
    MAX_SEED,
    MAX_STEPS,
    USUAL_STRENGTH,
    Request,
    check_guidance,
    check_int,
    check_strength,
    check_text,
    random_seed,
    require_prompt,
    sampler_and_spacing,
)
from inkwash.serve.http.errors import ApiError, from_inkwash
from inkwash.serve.http.fields import MAX_IMAGES
from inkwash.serve.http.raster import Start, decoded

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "styles": ([],), "subseed": (-1,), "subseed_strength": (0,), "seed_resize_from_h": (0, -1), "seed_resize_from_w": (0, -1),
    "restore_faces": (False,), "tiling": (False,), "s_churn": (0,), "s_tmin": (0,), "s_tmax": (0,), "s_noise": (1,), "enable_hr": (False,),
    "refiner_checkpoint": ("",), "script_name": ("",), "script_args": ([],), "alwayson_scripts": ({},), "save_images": (False,),
    "force_task_id": ("",), "infotext": ("",),
    "inpainting_mask_invert": (0,), "initial_noise_multiplier": (1,), "include_init_images": (False,)}
OFF = ("hr_scale", "hr_upscaler", "hr_second_pass_steps", "hr_resize_x", "hr_resize_y", "hr_checkpoint_name", "hr_sampler_name", "hr_scheduler",
       "hr_prompt", "hr_negative_prompt", "denoising_strength", "firstphase_width", "firstphase_height", "refiner_switch_at",
       "override_settings_restore_afterwards", "do_not_save_samples", "do_not_save_grid")
OFF_IMAGE = (*(name for name in OFF if name != "denoising_strength"), "image_cfg_scale", "inpaint_full_res_padding", "mask_blur_x", "mask_blur_y")
"""Without effect in that program too, while the feature that they belong to is off."""


class Text2Image(BaseModel):
    """`POST /sdapi/v1/txt2img`: what is honoured of it; see NEUTRAL and OFF for the rest."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str = Field("", description="what to draw")
    negative_prompt: str | None = Field(None, description="what to keep away from")
    seed: int | None = Field(None, description="-1 for random")
    sampler_name: str | None = Field(None, max_length=200, description="a label of GET /sdapi/v1/samplers, or a text of Inkwash")
    sampler_index: str | None = Field(None, max_length=200, description="the old name of sampler_name")
    scheduler: str | None = Field(None, max_length=200, description="automatic, or a name of GET /sdapi/v1/schedulers")
    batch_size: int | None = Field(None, ge=1, le=MAX_IMAGES, description="images, times n_iter, at most 10")
    n_iter: int | None = Field(None, ge=1, le=MAX_IMAGES, description="images, times batch_size, at most 10")
    steps: int | None = Field(None, description="1..1000")
    cfg_scale: float | None = Field(None, description="1 is no guidance")
    width: int | None = Field(None, description="pixels")
    height: int | None = Field(None, description="pixels")
    eta: float | None = Field(None, description="inert")
    send_images: bool | None = Field(None, description="false leaves the pictures out of the answer")
    override_settings: dict[str, Any] | None = Field(None, description="sd_model_checkpoint chooses the model")


class Image2Image(Text2Image):
    """`POST /sdapi/v1/img2img`: what is honoured of it."""

    init_images: list[str] | None = Field(None, description="one picture in base64")
    mask: str | None = Field(None, description="a picture in base64: white is painted")
    denoising_strength: float | None = Field(None, description="above 0 and at most 1, how much changes; 0.75 by default")
    resize_mode: int | None = Field(None, description="inert but for 1")
    mask_blur: float | None = Field(None, description="inert")
    inpainting_fill: int | None = Field(None, description="inert but for 1")
    inpaint_full_res: bool | None = Field(None, description="inert")


async def start_of(asked: Image2Image) -> Start:
    """What the image starts from. Raises ApiError 400."""
    if len(asked.init_images or []) != 1:
        raise ApiError(400, "missing_parameter", "give one picture in init_images", "init_images")
    try:
        strength = check_strength(USUAL_STRENGTH if asked.denoising_strength is None else asked.denoising_strength, "denoising_strength")
    except InkwashError as error:
        raise from_inkwash(error, "denoising_strength") from None
    image = await decoded(from_base64((asked.init_images or [""])[0], "init_images"), "init_images")
    mask = None if asked.mask is None else await decoded(from_base64(asked.mask, "mask"), "mask")
    return Start(image, mask, strength, white_paints=True)


def from_base64(text: str, name: str) -> bytes:
    """The bytes of a picture, with or without `data:image/png;base64,` before it. Raises ApiError 400 `bad_image`."""
    try:
        return base64.b64decode(text.partition("base64,")[2] or text, validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(400, "bad_image", f"{name} is not base64", name) from None


def split(body: dict[str, Any], off: tuple[str, ...]) -> dict[str, Any]:
    """The fields that are honoured. Raises ApiError 400 `unsupported_parameter` for another than the neutral value of the others."""
    for name, values in NEUTRAL.items():
        value = body.get(name)
        if value is not None and not any(value == known and isinstance(value, bool) == isinstance(known, bool) for known in values):
            raise ApiError(400, "unsupported_parameter", f"{name} is not supported; leave it out, or give {values[0]!r}", name)
    return {name: value for name, value in body.items() if value is not None and name not in NEUTRAL and name not in off}


def model_of(asked: Text2Image) -> str | None:
    """The model that is asked for. Raises ApiError 400 for any other setting."""
    settings = asked.override_settings or {}
    unknown = sorted(set(settings) - {"sd_model_checkpoint"})
    if unknown:
        raise ApiError(400, "unsupported_parameter", f"the setting {unknown[0][:60]!r} is not supported; there is sd_model_checkpoint",
                       "override_settings")
    name = settings.get("sd_model_checkpoint")
    return None if name is None else str(name).partition(" [")[0]


def requests_of(asked: Text2Image, info: ModelInfo) -> list[Request]:
    """One request per image. Raises ApiError 400."""
    usual, (wide, high) = info.defaults, info.sizes.default
    number = (asked.batch_size or 1) * (asked.n_iter or 1)
    if number > MAX_IMAGES:
        raise ApiError(400, "too_many_images", f"batch_size times n_iter is {number}; at most {MAX_IMAGES} images are made at once", "batch_size")
    scheduler = None if asked.scheduler is None or asked.scheduler.lower() == "automatic" else asked.scheduler
    spacing = {label.lower(): name for label, name in ENDINGS.items()}.get((scheduler or "").lower(), scheduler)
    try:
        seed = check_int(random_seed() if asked.seed in (None, -1) else asked.seed, "seed", "bad_seed", 0, MAX_SEED - number + 1)
        sampler, spacing = sampler_and_spacing(asked.sampler_name or asked.sampler_index, spacing, usual.sampler, usual.spacing)
        size = info.sizes.check(wide if asked.width is None else asked.width, high if asked.height is None else asked.height)
        first = Request(require_prompt(asked.prompt), check_text(asked.negative_prompt or "", "the negative prompt"), seed,
                        check_int(usual.steps if asked.steps is None else asked.steps, "steps", "bad_steps", 1, MAX_STEPS), sampler, spacing,
                        check_guidance(usual.guidance if asked.cfg_scale is None else asked.cfg_scale, "cfg_scale"), *size)
    except InkwashError as error:
        raise from_inkwash(error, {"invalid_size": "width", "bad_guidance": "cfg_scale"}.get(error.code)) from None
    return [dataclasses.replace(first, seed=seed + i) for i in range(number)]


def inert_fields(asked: Text2Image) -> list[str]:
    """What has no effect here, one sentence each."""
    found = ["eta is inert: it belongs to the sampler, as in DDIM(eta=0.5)"] if asked.eta not in (None, 0.0) else []
    if isinstance(asked, Image2Image):
        if asked.resize_mode not in (None, 1):
            found.append("resize_mode is inert: a picture of another size is cut to its middle and resized")
        if asked.mask is not None:
            found += ["mask_blur is inert: make the edge of the mask soft"] if asked.mask_blur else []
            found += ["inpainting_fill is inert: what is painted starts from the picture"] if asked.inpainting_fill not in (None, 1) else []
            found += ["inpaint_full_res is inert: the whole picture is made"] if asked.inpaint_full_res else []
    return found
