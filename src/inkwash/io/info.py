"""What a model folder says about itself: `inkwash.json`, read without importing torch.

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
from pathlib import Path
from typing import Any

from inkwash._version import __version__
from inkwash.errors import CheckpointError, UsageError

FORMAT = 1
INFO = "inkwash.json"
MODELS = Path(__file__).resolve().parent.parent / "models"
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


@dataclass(frozen=True)
class Sizes:
    """Image sizes in pixels: width and height from `least` to `most` in steps of `multiple`; `default` is the size of training."""

    default: tuple[int, int] = (128, 128)  # width, height
    least: int = 64
    most: int = 256
    multiple: int = 16

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
        wanted = self.channels if self.codec == "latent" else 0
        if not len(self.mean) == len(self.std) == wanted or not all(math.isfinite(s) and s > 0 for s in self.std):
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


def known_models() -> list[str]:
    """Names of the models inside the package."""
    return sorted(path.parent.name for path in MODELS.glob(f"*/{INFO}"))


def find_model(name: str | Path) -> Path:
    """The folder of an embedded model's name or of a path. Raises CheckpointError `model_not_found`, which lists the known names."""
    text = str(name)
    embedded = MODELS / text
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", text) and (embedded / INFO).is_file():
        return embedded
    path = Path(name)
    if (path / INFO).is_file() or _is_foreign(path):
        return path
    known = ", ".join(known_models()) or "none"
    if path.is_dir():
        raise CheckpointError("model_not_found", f'"{path}" is a folder without {INFO}; give a model folder or a known model: {known}')
    raise CheckpointError("model_not_found", f'no model "{text[:120]}"; known: {known}; or give the path of a model folder')


def _is_foreign(folder: Path) -> bool:
    from inkwash.io.foreign_info import is_foreign

    return is_foreign(folder)


def read_info(folder: Path) -> ModelInfo:
    """Reads `inkwash.json`, or the configs of a diffusers folder without one.

    Raises CheckpointError `model_damaged`, `unsupported_model` for a foreign one that is not known, or `model_too_new` for a newer format.
    """
    path = folder / INFO
    if _is_foreign(folder):
        from inkwash.io.foreign_info import foreign_info

        return foreign_info(folder)
    try:
        raw = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise CheckpointError("model_not_found", f'"{folder}" has no {INFO}; give a model folder') from None
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise CheckpointError("model_damaged", f'cannot read "{path}": {error}; restore the file') from None
    if not isinstance(raw, dict) or not isinstance(raw.get("format"), int):
        raise CheckpointError("model_damaged", f'"{path}" is not a model description: it has no number called "format"; restore the file')
    if raw["format"] > FORMAT:
        raise CheckpointError("model_too_new", f'"{path}" has format {raw["format"]}, this version reads up to {FORMAT}; '
                                               f"update inkwash (the folder was written by {raw.get('inkwash', 'a newer version')})")
    try:
        return _build(ModelInfo, raw)
    except (TypeError, ValueError) as error:
        raise CheckpointError("model_damaged", f'"{path}": {error}; restore the file') from None


def info_text(info: ModelInfo) -> str:
    """The text of `inkwash.json`."""
    return json.dumps(dataclasses.asdict(info), indent=1, ensure_ascii=False) + "\n"


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
