"""What a model folder says about itself: the content of `inkwash.json`, without importing torch.

The file holds the mathematics as texts of Values (process, prediction), the statistics of the latent space, what the model is
conditioned on, which sizes it makes, its default settings, its card, and how often each word occurred in the captions it was
trained on. Unknown keys are an error: a file written by a newer version must not be half understood.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from inkwash._version import __version__
from inkwash.errors import UsageError

FORMAT = 1
INFO = "inkwash.json"
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


@dataclass(frozen=True)
class Sizes:
    """Image sizes in pixels: width and height from `least` to `most` in steps of `multiple`; `default` is the size of training."""

    default: tuple[int, int] = (128, 128)  # width, height
    least: int = 64
    most: int = 256
    multiple: int = 16

    def __post_init__(self) -> None:
        if not (1 <= self.least <= self.most and self.multiple >= 1):
            raise ValueError(f"sizes must be 1 <= least <= most in steps of at least 1, got {self.least}, {self.most} and {self.multiple}")

    def check(self, width: int, height: int) -> tuple[int, int]:
        """Returns the size, or raises UsageError `invalid_size` that says which are allowed."""
        if any(not self.least <= side <= self.most or side % self.multiple for side in (width, height)):
            raise UsageError("invalid_size", f"size {width}x{height} is not one this model makes; allowed: {self}")
        return width, height

    def __str__(self) -> str:
        trained = "{}x{}".format(*self.default)
        if self.least == self.most:
            return trained
        return f"width and height {self.least}..{self.most} in steps of {self.multiple} (trained at {trained})"


@dataclass(frozen=True)
class Defaults:
    """Settings that a request without them gets; sampler and spacing are texts of Values."""

    steps: int = 20
    sampler: str = "dpmpp_2m"
    spacing: str = "trailing"
    guidance: float = 4.0


@dataclass(frozen=True)
class ModelInfo:
    """The content of `inkwash.json`.

    `network` is the folder of the denoiser (`unet` or `transformer`); `codec` is "latent" or "pixels", `mean` and `std` its
    statistics per latent channel (C,); `conditioning` is "text" or "none"; `vocabulary` counts each word of the training captions.
    """

    name: str
    process: str
    prediction: str
    gauge: str = "VP"
    sigma_data: float = 1.0
    coordinate: str = ""
    network: str = "unet"
    codec: str = "latent"
    channels: int = 4
    factor: int = 8
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    conditioning: str = "text"
    length: int = 0
    sizes: Sizes = Sizes()
    defaults: Defaults = Defaults()
    card: dict[str, Any] = field(default_factory=dict)
    vocabulary: dict[str, int] = field(default_factory=dict)
    format: int = FORMAT
    inkwash: str = __version__

    def __post_init__(self) -> None:
        if self.network not in ("unet", "transformer"):
            raise ValueError(f"network must be 'unet' or 'transformer', got {self.network!r}")
        if self.codec not in ("latent", "pixels"):
            raise ValueError(f"codec must be 'latent' or 'pixels', got {self.codec!r}")
        if self.conditioning not in ("text", "none"):
            raise ValueError(f"conditioning must be 'text' or 'none', got {self.conditioning!r}")
        if not (math.isfinite(self.sigma_data) and self.sigma_data > 0):
            raise ValueError(f"sigma_data must be finite and above zero, got {self.sigma_data}")
        wanted = self.channels if self.codec == "latent" else 0
        if not len(self.mean) == len(self.std) == wanted or not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std, default=1.0) <= 0:
            raise ValueError(f"mean and std need one finite value for each of {wanted} latent channels, std above zero")


def words(text: str) -> list[str]:
    """The words of a text in lower case: runs of letters and digits, apostrophes inside a word kept."""
    return [match.replace("’", "'") for match in _WORD.findall(text.lower())]


def count_words(captions: Iterable[str]) -> dict[str, int]:
    """How many captions have each word, most frequent first: the vocabulary to store."""
    counts: dict[str, int] = {}
    for caption in captions:
        for word in set(words(caption)):
            counts[word] = counts.get(word, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def unknown_words(prompt: str, vocabulary: Mapping[str, int]) -> list[str]:
    """Words of `prompt` that `vocabulary` lacks, in order, each once. Empty when the vocabulary is, as nothing is known then."""
    return [word for word in dict.fromkeys(words(prompt)) if vocabulary and word not in vocabulary]


def info_text(info: ModelInfo) -> str:
    """The text of `inkwash.json`."""
    return json.dumps(dataclasses.asdict(info), indent=1, ensure_ascii=False) + "\n"


def build_info(raw: object) -> ModelInfo:
    """The content of `inkwash.json` from its JSON. Raises TypeError or ValueError where it is not one."""
    info: ModelInfo = _build(ModelInfo, raw)
    return info


def _build(cls: type[Any], raw: object) -> Any:
    """A dataclass from JSON, with the types checked."""
    if not isinstance(raw, dict):
        raise TypeError(f"{cls.__name__} must be an object")
    fields = {item.name: item for item in dataclasses.fields(cls)}
    if unknown := sorted(set(raw) - set(fields)):
        raise TypeError(f"unknown key {unknown[0]!r}")
    given: dict[str, Any] = {}
    for name, value in raw.items():
        given[name] = _typed(name, str(fields[name].type), value)
    return cls(**given)


def _typed(name: str, kind: str, value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    match kind:
        case "str" if isinstance(value, str):
            return value
        case "int" if number and isinstance(value, int):
            return value
        case "float" if number:
            return float(value)
        case "tuple[float, ...]" if isinstance(value, list) and all(isinstance(item, int | float) for item in value):
            return tuple(map(float, value))
        case "tuple[int, int]" if isinstance(value, list) and len(value) == 2 and all(isinstance(item, int) for item in value):
            return tuple(value)
        case "dict[str, Any]" if isinstance(value, dict):
            return value
        case "dict[str, int]" if isinstance(value, dict) and all(isinstance(item, int) for item in value.values()):
            return value
        case "Sizes":
            return _build(Sizes, value)
        case "Defaults":
            return _build(Defaults, value)
    raise TypeError(f"{name} must be {kind}, got {str(value)[:60]!r}")
