"""A request for one image, checked before anything expensive happens. Imports no torch.

Every field that decides a pixel is here and nothing else is: an image is a function of its request and the model alone. Samplers,
spacings and guidances are texts of Values, so that a request can be stored in the image it made and asked again.
"""

from __future__ import annotations

import re
import secrets
import unicodedata
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from inkwash.errors import UsageError, shown
from inkwash.labels import read_label
from inkwash.picture import Picture

MAX_STEPS = 1000
MAX_SEED = 2**63 - 1
MAX_PROMPT = 4000
MAX_GUIDANCE = 100.0
USUAL_STRENGTH = 0.75
_BIDI = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}


@dataclass(frozen=True)
class Request:
    """One image. `guidance` is a scale for classifier-free guidance (1 = none) or the text of a Guidance.

    `steps` counts evaluations asked of the sampler; `spacing` of "" leaves it to the sampler's own; sizes are in pixels.
    `image` is a Picture of the request's size to start from; `strength` in (0, 1] says how much of it changes (0.75 where it is None): the
    last round(strength * steps) steps run, at least one. `mask`, another Picture of that size, says where: white is painted, black is kept.
    Raises UsageError with codes bad_steps, bad_seed, bad_guidance, invalid_size, prompt_too_long, invalid_characters, bad_strength,
    bad_image, image_size_differs, mask_size_differs, needs_image.
    """

    prompt: str
    negative: str = ""
    seed: int = 0
    steps: int = 20
    sampler: str = "dpmpp_2m"
    spacing: str = "trailing"
    guidance: float | str = 4.0
    width: int = 128
    height: int = 128
    image: Picture | None = None
    mask: Picture | None = None
    strength: float | None = None

    def __post_init__(self) -> None:
        check_text(self.prompt, "the prompt")
        check_text(self.negative, "the negative prompt")
        for name in ("sampler", "spacing"):
            if not isinstance(getattr(self, name), str):
                raise UsageError("bad_value", f"{name} must be text, got {type(getattr(self, name)).__name__}; write a name or Name(field=value)")
        known = {"seed": check_int(self.seed, "seed", "bad_seed", 0, MAX_SEED), "steps": check_int(self.steps, "steps", "bad_steps", 1, MAX_STEPS),
                 "guidance": self.guidance if isinstance(self.guidance, str) else check_guidance(self.guidance, "guidance")}
        known |= {name: check_int(getattr(self, name), "width and height", "invalid_size", 1, 1 << 16) for name in ("width", "height")}
        for name, value in known.items():                  # a numpy number, or text, becomes a number that can be stored
            object.__setattr__(self, name, value)
        if self.image is None:
            for name in ("mask", "strength"):
                if getattr(self, name) is not None:
                    raise UsageError("needs_image", f"{name} has no meaning without an image to start from; give an image too, or leave it out")
            return
        for name in ("image", "mask"):
            self._check_picture(name, getattr(self, name))
        usual = USUAL_STRENGTH if self.strength is None else check_strength(self.strength, "strength")
        object.__setattr__(self, "strength", usual)

    def _check_picture(self, name: str, picture: object) -> None:
        if picture is None:
            return
        if not isinstance(picture, Picture):
            raise UsageError("bad_image", f"{name} must be a Picture, got {type(picture).__name__}; Picture.of reads a file")
        if (picture.width, picture.height) != (self.width, self.height):
            raise UsageError(f"{name}_size_differs", f"the {name} has {picture.size} pixels and the request {self.width}x{self.height}; "
                                                     "Picture.fit cuts and resizes")


def check_text(text: object, what: str) -> str:
    """A prompt: at most 4000 characters, no control characters, no bidi overrides, no lone surrogates."""
    if not isinstance(text, str):
        raise UsageError("bad_prompt", f"{what} must be text, got {type(text).__name__}")
    if len(text) > MAX_PROMPT:
        raise UsageError("prompt_too_long", f"{what} has {len(text)} characters; at most {MAX_PROMPT} are read; shorten it")
    for position, character in enumerate(text, 1):
        code = ord(character)
        if code in _BIDI or 0xD800 <= code < 0xE000 or (unicodedata.category(character) == "Cc" and character not in "\n\t"):
            raise UsageError("invalid_characters", f"{what} has U+{code:04X} at character {position}; control characters, text direction marks "
                                                   "and broken surrogates are not allowed; remove it")
    return text


def require_prompt(text: str) -> str:
    """A prompt that says something. Raises UsageError `empty_prompt`."""
    check_text(text, "the prompt")
    if not text.strip():
        raise UsageError("empty_prompt", f"the prompt is empty; describe the picture in 1..{MAX_PROMPT} characters")
    return text


def random_seed() -> int:
    """A fresh seed that is short enough to type."""
    return secrets.randbelow(2**32)


def check_int(value: object, name: str, code: str, low: int, high: int) -> int:
    """A whole number in [low, high]; text is read too, floats and bools are refused."""
    given = shown(value, 40)
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,40}\s*", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
        raise UsageError(code, f"{name} must be {_range(low, high)}, got {given}")
    return int(value)


def check_guidance(value: object, name: str) -> float | str:
    """A finite scale up to 100 in size; a text that names a Guidance is passed on, percentages are refused."""
    given = shown(value, 60)
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            if re.match(r"\s*[A-Za-z_]", str(value)):
                return str(value).strip()
    ok = isinstance(value, Real) and not isinstance(value, bool) and bool(abs(value) <= MAX_GUIDANCE)  # type: ignore[operator]  # false for NaN
    if not ok:
        raise UsageError("bad_guidance", f"{name} must be a finite number from -100 to 100 (1 = no guidance, usual 1..10), got {given}; "
                                         "a guidance scale is a factor and not a percentage")
    return float(value)  # type: ignore[arg-type]


def check_strength(value: object, name: str) -> float:
    """A number above 0 and up to 1; text is read too. Raises UsageError `bad_strength`."""
    given = shown(value, 60)
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = None
    ok = isinstance(value, Real) and not isinstance(value, bool) and bool(0 < value <= 1) and float(value) > 0  # type: ignore[operator]
    if not ok:
        raise UsageError("bad_strength", f"{name} must be above 0 (nothing changes) and at most 1 (nothing is kept), got {given}; usual 0.3..0.8")
    return float(value)  # type: ignore[arg-type]


def check_size(text: str, allowed: str) -> tuple[int, int]:
    """(width, height) from "128" or "128x96"; whether a model makes it is the model's to say. `allowed` goes into the message."""
    found = re.fullmatch(r"\s*([0-9]{1,9})(?:\s*[xX×]\s*([0-9]{1,9}))?\s*", text)
    if not found:
        raise UsageError("invalid_size", f"--size must be SIDE or WIDTHxHEIGHT, such as 128 or 128x96, got {text[:40]!r}; allowed: {allowed}")
    return int(found[1]), int(found[2] or found[1])


def sampler_and_spacing(sampler: str | None, spacing: str | None, usual_sampler: str, usual_spacing: str) -> tuple[str, str]:
    """What is asked for, labels of other programs ("DPM++ 2M Karras") included, or what is usual. Raises UsageError `two_spacings`."""
    name, ending = read_label(sampler) if sampler else (usual_sampler, None)
    if ending is not None and spacing and spacing != ending:
        raise UsageError("two_spacings", f"the sampler {sampler!r} already names the spacing {ending}; "
                                         f"{spacing!r} is asked for too; leave one out")
    return name, ending or spacing or usual_spacing


def as_dict(request: Request) -> dict[str, Any]:
    """The fields for JSON, those of pictures left out where there is none; a picture is named by its size and hash."""
    fields = {name: value for name, value in request.__dict__.items() if value is not None}
    return {name: {"size": value.size, "sha256": value.sha256} if isinstance(value, Picture) else value for name, value in fields.items()}


def _range(low: int, high: int) -> str:
    return f"{low}..{'2^63-1' if high == MAX_SEED else high}"
