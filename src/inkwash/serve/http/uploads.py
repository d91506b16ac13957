"""Forms with pictures: the web process takes the bytes, a child process decodes them (raster.py), the worker gets pixels.

A form has text only, so numbers and truth values are read as the schema has them; what is no number stays text and is refused by the schema.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest

from inkwash.errors import InkwashError
from inkwash.request import USUAL_STRENGTH, check_strength
from inkwash.serve.http.errors import ApiError, from_inkwash
from inkwash.serve.http.fields import Generation
from inkwash.serve.http.raster import Start, decoded

INTS = ("n", "seed", "steps", "num_inference_steps", "deadline_ms", "partial_images", "output_compression")
FLOATS = ("guidance", "guidance_scale", "cfg_scale", "strength")
_INT, _FLOAT = re.compile(r"[+-]?[0-9]{1,30}"), re.compile(r"[+-]?[0-9]{1,30}(\.[0-9]{0,30})?([eE][+-]?[0-9]{1,2})?")


class Edit(Generation):
    """`POST /v1/images/edits`, beside the files `image` and `mask`."""

    strength: float | None = Field(None, description="how much of the picture changes: above 0 and at most 1")
    input_fidelity: Literal["high", "low"] | None = Field(None, description="inert")


async def form_body(http: HttpRequest) -> tuple[dict[str, Any], dict[str, bytes]]:
    """(fields, files) of a multipart form. Raises ApiError 415 `unsupported_media_type`, 400 `invalid_form`, `two_values`."""
    if http.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise ApiError(415, "unsupported_media_type", "send a form with the header Content-Type: multipart/form-data")
    fields: dict[str, Any] = {}
    files: dict[str, bytes] = {}
    try:
        async with http.form(max_files=4, max_fields=40, max_part_size=64 << 10) as form:
            for name, value in form.multi_items():
                if name in fields or name in files:
                    raise ApiError(400, "two_values", f"the field {name[:60]!r} stands twice; give one", name[:60])
                if isinstance(value, UploadFile):
                    files[name] = await value.read()
                else:
                    fields[name] = typed(name, value)
    except (HTTPException, UnicodeError):                  # the latter from a charset that the form names
        raise ApiError(400, "invalid_form", "cannot read the body as a multipart form, with at most 40 fields and 4 files") from None
    return fields, files


def typed(name: str, text: str) -> Any:
    """The value that a field's text means."""
    if name in INTS and _INT.fullmatch(text):
        return int(text)
    if name in FLOATS and _FLOAT.fullmatch(text):
        return float(text)
    if name == "stream" and text in ("true", "false"):
        return text == "true"
    return text


async def start_of(asked: Edit, files: dict[str, bytes]) -> Start:
    """What the image starts from. Raises ApiError for a missing, unknown, second or undecodable picture, and a strength out of range."""
    unknown = sorted(set(files) - {"image", "image[]", "mask"})
    if unknown:
        raise ApiError(400, "unknown_parameter", f"there is no file {unknown[0][:60]!r}; give image, and mask", unknown[0][:60])
    if ("image" in files) == ("image[]" in files):
        raise ApiError(400, "missing_parameter", "give one picture in the file field 'image'", "image")
    try:
        strength = check_strength(USUAL_STRENGTH if asked.strength is None else asked.strength, "strength")
    except InkwashError as error:
        raise from_inkwash(error, "strength") from None
    name = "image" if "image" in files else "image[]"
    return Start(await decoded(files[name], "image"), await decoded(files["mask"], "mask") if "mask" in files else None, strength)
