"""The fields of a request for images: honoured, refused, or returned as inert with the reason. None is ignored in silence.

The names are those of the OpenAI Images API, and those that this field adds: seed, steps, sampler, spacing, guidance, negative_prompt,
deadline_ms. A null is the same as a field that is not there. Types are strict: "4", true and 1.5 are no counts.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from inkwash.errors import InkwashError
from inkwash.io.info import ModelInfo
from inkwash.request import MAX_SEED, MAX_STEPS, Request, check_guidance, check_int, check_text, random_seed, require_prompt, sampler_and_spacing
from inkwash.serve.http.backend import Wish
from inkwash.serve.http.errors import ApiError, from_inkwash, unknown_parameter

MAX_IMAGES = 10
ALIASES = {"num_inference_steps": "steps", "guidance_scale": "guidance", "cfg_scale": "guidance"}
INERT = {"quality": "there is one quality; use steps", "style": "say the style in the prompt", "moderation": "no filter is installed",
         "user": "the API key says who asks", "safety_identifier": "the API key says who asks",
         "input_fidelity": "use strength"}
_SIZE = re.compile(r"([0-9]{1,6})[xX]([0-9]{1,6})")
Body = TypeVar("Body", bound=BaseModel)


class Generation(BaseModel):
    """`POST /v1/images/generations`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str = Field(description="what to draw, 1..4000 characters")
    model: str | None = Field(None, description="a model of GET /v1/models; the first one by default")
    n: int | None = Field(None, ge=1, le=MAX_IMAGES, description="1..10 images; image i has seed + i")
    size: str | None = Field(None, description="WIDTHxHEIGHT or auto, the size of training")
    response_format: Literal["b64_json"] | None = Field(None, description="pictures are in the answer; there are no URLs")
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: int | None = Field(None, ge=0, le=100, description="quality of jpeg and webp; inert for png")
    background: Literal["auto", "opaque"] | None = Field(None, description="pictures have no transparency")
    stream: bool | None = Field(None, description="answer with events")
    partial_images: int | None = Field(None, ge=0, le=3, description="previews in a stream; inert without stream")
    quality: Literal["auto", "low", "medium", "high", "standard", "hd"] | None = Field(None, description="inert")
    style: Literal["vivid", "natural"] | None = Field(None, description="inert")
    moderation: Literal["auto", "low"] | None = Field(None, description="inert")
    user: str | None = Field(None, max_length=256, description="inert")
    safety_identifier: str | None = Field(None, max_length=256, description="inert")
    seed: int | None = Field(None, description="0..2^63-1; random when not given")
    steps: int | None = Field(None, description="1..1000 steps of the sampler (num_inference_steps)")
    sampler: str | None = Field(None, max_length=200, description="a name or a text such as DDIM(eta=0.5)")
    spacing: str | None = Field(None, max_length=200, description="which noise levels the steps visit")
    guidance: float | str | None = Field(None, description="1 is none; or a text such as CFG(scale=4.0) (guidance_scale, cfg_scale)")
    negative_prompt: str | None = Field(None, description="what to keep away from")
    deadline_ms: int | None = Field(None, ge=1, le=3_600_000, description="refused when it cannot be made in time")


def read_fields(cls: type[Body], found: Mapping[str, Any], aliases: Mapping[str, str]) -> Body:
    """A body of the model `cls`. Raises ApiError 400 that names the field, as the caller wrote it."""
    written: dict[str, str] = {}
    for name in found:
        field = aliases.get(name, name)
        if field in written:
            raise ApiError(400, "two_names", f"{written[field]} and {name} mean the same; give one", name)
        written[field] = name
    try:
        return cls.model_validate({field: found[name] for field, name in written.items()})
    except ValidationError as error:
        raise _refusal(cls, error, written, aliases) from None


def _refusal(cls: type[BaseModel], error: ValidationError, written: Mapping[str, str], aliases: Mapping[str, str]) -> ApiError:
    details = error.errors(include_url=False)
    first = next((item for item in details if item["type"] == "extra_forbidden"), details[0])
    field = str(first["loc"][0])
    name = written.get(field, field)
    if first["type"] == "extra_forbidden":
        return unknown_parameter(field, cls.model_fields, aliases=aliases)
    if first["type"] == "missing":
        return ApiError(400, "missing_parameter", f"the parameter {name!r} is missing", name)
    about = cls.model_fields[field].description
    shown = repr(first["input"])[:40] if isinstance(first["input"], str | int | float | bool) else type(first["input"]).__name__
    code = "invalid_size" if field == "size" else "invalid_value"
    return ApiError(400, code, f"{name}: {first['msg'].lower()}, got {shown}{f' ({about})' if about else ''}", name)


def size_of(text: str | None, info: ModelInfo) -> tuple[int, int]:
    """(width, height). Raises ApiError 400 `invalid_size` with the sizes of the model."""
    if text is None or text == "auto":
        return info.sizes.default
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ApiError(400, "invalid_size", f"size must be WIDTHxHEIGHT or auto, got {text[:20]!r}; allowed: {info.sizes}", "size")
    try:
        return info.sizes.check(int(found[1]), int(found[2]))
    except InkwashError as error:
        raise from_inkwash(error, "size") from None


def requests_of(asked: Generation, info: ModelInfo, written: Mapping[str, Any]) -> list[Request]:
    """One request per image. Raises ApiError 400; `written` are the fields under the names that the caller used."""
    names = {ALIASES.get(name, name): name for name in written}
    width, height = size_of(asked.size, info)
    usual = info.defaults
    try:
        prompt = require_prompt(asked.prompt)
        steps = check_int(usual.steps if asked.steps is None else asked.steps, names.get("steps", "steps"), "bad_steps", 1, MAX_STEPS)
        seed = check_int(random_seed() if asked.seed is None else asked.seed, "seed", "bad_seed", 0, MAX_SEED)
        check_int(seed + (asked.n or 1) - 1, "seed + n - 1", "bad_seed", 0, MAX_SEED)
        sampler, spacing = sampler_and_spacing(asked.sampler, asked.spacing, usual.sampler, usual.spacing)
        guidance = check_guidance(usual.guidance if asked.guidance is None else asked.guidance, names.get("guidance", "guidance"))
        first = Request(prompt, "", seed, steps, sampler, spacing, guidance, width, height)
    except InkwashError as error:
        raise from_inkwash(error, names.get(_field_of(error))) from None
    try:
        first = dataclasses.replace(first, negative=check_text(asked.negative_prompt or "", "the negative prompt"))
    except InkwashError as error:
        raise from_inkwash(error, "negative_prompt") from None
    return [dataclasses.replace(first, seed=seed + i) for i in range(asked.n or 1)]


def _field_of(error: InkwashError) -> str:
    return {"bad_steps": "steps", "bad_guidance": "guidance"}.get(error.code, "")


def wish_of(asked: Generation, steps: int) -> Wish:
    """How to deliver; previews are spread evenly over the steps, and there are fewer when there are few steps."""
    number = (asked.partial_images or 0) if asked.stream else 0
    at = sorted({round(steps * (i + 1) / (number + 1)) for i in range(number)} - {0, steps})
    return Wish(asked.output_format or "png", 100 if asked.output_compression is None else asked.output_compression, tuple(at))


def inert_fields(asked: Generation) -> list[str]:
    """What of the body has no effect, one sentence each."""
    found = [f"{name} is inert: {why}" for name, why in INERT.items() if getattr(asked, name, None) is not None]
    if asked.output_compression is not None and (asked.output_format or "png") == "png":
        found.append("output_compression is inert: png keeps every pixel")
    if asked.partial_images and not asked.stream:
        found.append("partial_images is inert without stream")
    return found
