"""The configuration of a training run: read from YAML, overridden by `--set key.sub=value`, checked before anything starts.

Networks, processes, predictions, levels and weightings are Values and stand here as their text. Unknown keys are errors with the nearest
known key. `batch` is the number of samples of one optimizer step, over all processes and accumulation steps: learning rates, EMA and
randomness refer to it, so that the same run on other hardware is the same run.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, model_validator

from inkwash.core.coordinate import Coordinate
from inkwash.core.prediction import Prediction
from inkwash.core.schedule import Schedule
from inkwash.errors import UsageError, expect
from inkwash.io.folder import register_networks
from inkwash.io.path import as_path
from inkwash.nn.config import NetworkConfig
from inkwash.nn.patch_discriminator import PatchDiscriminatorConfig
from inkwash.train.levels import Levels, UniformLevels
from inkwash.train.weighting import SimpleWeight, Weighting
from inkwash.value import Value, parse


def _reader(base: type[Value]) -> BeforeValidator:
    def read(text: object) -> Value:
        register_networks()
        return text if isinstance(text, base) else parse(str(text), base)

    return BeforeValidator(read)


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text[:80]!r} is not a regular expression: {error}") from None
    return text


def _rule(rule: tuple[str, str]) -> tuple[str, str]:
    try:
        re.sub(*rule, "")
    except (re.error, IndexError) as error:
        raise ValueError(f"{rule[1][:80]!r} cannot replace what {rule[0][:80]!r} finds: {error}") from None
    return rule


_AS_TEXT = PlainSerializer(repr, return_type=str)
NetworkText = Annotated[Any, _reader(NetworkConfig), _AS_TEXT]
ScheduleText = Annotated[Any, _reader(Schedule), _AS_TEXT]
PredictionText = Annotated[Any, _reader(Prediction), _AS_TEXT]
CoordinateText = Annotated[Any, _reader(Coordinate), _AS_TEXT]
LevelsText = Annotated[Any, _reader(Levels), _AS_TEXT]
WeightingText = Annotated[Any, _reader(Weighting), _AS_TEXT]

Pattern = Annotated[str, AfterValidator(_pattern)]
Rule = Annotated[tuple[Pattern, str], AfterValidator(_rule)]
Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class OptimizerConfig(Strict):
    """AdamW, or Muon for hidden matrices and AdamW for the rest. Times in steps.

    schedule: constant; cosine (to `final` x lr at the end); wsd (constant, then linear to `final` x lr over the last `cooldown` steps;
    0 for the part of a run that a later one ends).
    `scale` multiplies the rates of parameters: by regular expressions over their names, the first that is found counts.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    muon_lr: Annotated[float, Field(gt=0)] = 0.02
    betas: tuple[Beta, Beta] = (0.9, 0.99)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Weight = 0.0
    schedule: Literal["constant", "cosine", "wsd"] = "constant"
    warmup: NotNegative = 0
    cooldown: NotNegative = 0
    final: Share = 0.0
    scale: dict[Pattern, Annotated[float, Field(gt=0)]] = {}
    clip: Annotated[float, Field(gt=0)] | None = 1.0

    @model_validator(mode="after")
    def _no_idle_setting(self) -> OptimizerConfig:
        for name, kinds in (("cooldown", ("wsd",)), ("final", ("wsd", "cosine"))):
            if getattr(self, name) and self.schedule not in kinds:
                raise ValueError(f"{name} has no effect with schedule {self.schedule}; write schedule: {kinds[0]}, or leave it out")
        return self


class DataConfig(Strict):
    """`size` in pixels; `validation` is the number of items held out; `cache` keeps decoded pixels, latents and tokens on disk.

    Regular expressions over captions: items that match one of `leave_out` are not trained on; `repeat` says how many times an epoch shows an
    item, by the first pattern that matches, once when none does. Held-out items are chosen before. `rewrite` is a list of [pattern, replacement],
    other forms of captions that are as likely as the caption itself.

    mode: crop and pad make squares. bucket keeps each image's aspect ratio: a batch has one shape, of at most size^2 pixels, sides that are
    multiples of `step`, and an aspect ratio within 1/`ratio`..`ratio`; latents are then computed in every step. Held-out items are squares.
    """

    size: Annotated[int, Field(gt=0, le=4096)] = 128
    mode: Literal["crop", "pad", "bucket"] = "crop"
    step: Positive = 32
    ratio: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0
    flip: bool = False
    validation: NotNegative = 64
    cache: bool = True
    unreadable: Share = 0.02
    leave_out: tuple[Pattern, ...] = ()
    repeat: dict[Pattern, Positive] = {}
    rewrite: tuple[Rule, ...] = ()


class SampleConfig(Strict):
    """The sheet of fixed prompts (rows) and seeds (columns), drawn every `every` steps and at step 0; 0 switches it off."""

    every: NotNegative = 0
    prompts: tuple[str, ...] = ()
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2, 3)
    steps: Positive = 20
    sampler: str = "dpmpp_2m"
    spacing: str = "trailing"
    guidance: float = 4.0


class RunConfig(Strict):
    """What every run has. `ema_half_life` in samples; 0 switches the EMA off."""

    buckets: ClassVar[bool] = False                                                     # whether batches may have shapes of their own
    task: str
    name: str = "run"
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    steps: Positive
    batch: Annotated[int, Field(gt=0, le=65_536)] = 16
    accumulate: Positive = 1
    precision: Literal["auto", "bf16", "float32"] = "auto"
    compile: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"
    ema_half_life: NotNegative = 20_000
    ema_ramp: Share = 0.1
    export_dtype: Literal["float32", "bf16"] = "bf16"
    log_every: Positive = 20
    checkpoint_every: Positive = 500
    keep: Positive = 2
    validate_every: NotNegative = 500
    optimizer: OptimizerConfig = OptimizerConfig()
    data: DataConfig = DataConfig()
    sample: SampleConfig = SampleConfig()

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> RunConfig:
        if self.batch % self.accumulate:
            raise ValueError(f"batch {self.batch} must be a multiple of accumulate {self.accumulate}")
        return self

    @model_validator(mode="after")
    def _buckets(self) -> RunConfig:
        if self.data.mode == "bucket":
            if not self.buckets:
                raise ValueError("data.mode: bucket is for autoencoder and denoiser runs; write crop or pad")
            if self.data.size % self.data.step:
                raise ValueError(f"data.size {self.data.size} must be a multiple of data.step {self.data.step} with data.mode: bucket")
            return self
        for name in ("step", "ratio"):
            if getattr(self.data, name) != DataConfig.model_fields[name].default:
                raise ValueError(f"data.{name} has no effect with data.mode: {self.data.mode}; write data.mode: bucket, or leave it out")
        return self


class AutoencoderRun(RunConfig):
    """Weights of the reconstruction terms; `kl` weighs the KL divergence in nats per latent number.

    `perceptual` weighs the distance in the activations of the embedded extractor, or of a finished features or contrastive run, `perceptual_from`.
    `adversarial` weighs what a patch discriminator says, from step `adversarial_start` on; it is trained along, its parameters' names begin with
    "patches" for `optimizer.scale`.
    """

    buckets: ClassVar[bool] = True
    task: Literal["autoencoder"]
    network: NetworkText
    l1: Weight = 1.0
    l2: Weight = 1.0
    edges: Weight = 1.0
    kl: Weight = 1e-5
    perceptual: Weight = 0.0
    perceptual_from: Path | None = None
    adversarial: Weight = 0.0
    adversarial_start: NotNegative = 0
    discriminator: NetworkText = PatchDiscriminatorConfig()

    @model_validator(mode="after")
    def _no_idle_setting(self) -> AutoencoderRun:
        for weight, names in (("perceptual", ("perceptual_from",)), ("adversarial", ("adversarial_start", "discriminator"))):
            for name in names:
                if not getattr(self, weight) and getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} has no effect without {weight}; give {weight} a weight above 0, or leave {name} out")
        if not isinstance(self.discriminator, PatchDiscriminatorConfig):
            raise ValueError(f"discriminator must be a PatchDiscriminatorConfig, got {self.discriminator!r}")
        if self.adversarial and self.adversarial_start >= self.steps:
            raise ValueError(f"adversarial_start {self.adversarial_start} is not before the last of {self.steps} steps, so adversarial has no effect")
        return self


class ContrastiveRun(RunConfig):
    """`network` is a ClipConfig; `vocab` the largest number of tokens of the BPE that is learned from the captions."""

    task: Literal["contrastive"]
    network: NetworkText
    vocab: Annotated[int, Field(ge=259)] = 4096


class DenoiserRun(RunConfig):
    """`autoencoder` and `text` are folders of finished parts; without them the run is on pixels, or told nothing.

    `text_network`, a TextEncoderConfig or a ClipTextConfig, is trained along with the denoiser instead of `text`, with a BPE of at most `vocab`
    tokens. `start`, the folder or the embedded name of a finished model, is trained on: the run begins with its denoiser, and has its autoencoder
    and its text encoder. `train_text` trains a finished text encoder along; `optimizer.scale` with "^text" gives it a rate of its own.
    `coordinate` is how the network is told the noise level, by default Angle().

    `drop` is the share of conditions replaced by the null token; `sigma_data` the standard deviation of the data in model space; `card` what
    the model folder tells people, such as licence, credits and intended use.
    """

    buckets: ClassVar[bool] = True
    task: Literal["denoiser"]
    network: NetworkText
    process: ScheduleText
    prediction: PredictionText
    coordinate: CoordinateText | None = None
    levels: LevelsText = UniformLevels()
    weighting: WeightingText = SimpleWeight()
    sigma_data: Annotated[float, Field(gt=0)] = 1.0
    drop: Share = 0.1
    autoencoder: Path | None = None
    text: Path | None = None
    text_network: NetworkText | None = None
    train_text: bool = False
    start: str | None = None
    vocab: Annotated[int, Field(ge=259)] = 1024
    card: dict[str, str] = {}

    @model_validator(mode="after")
    def _one_text(self) -> DenoiserRun:
        if self.start is not None and (self.autoencoder, self.text, self.text_network) != (None, None, None):
            raise ValueError("a run that starts from a model has its autoencoder and its text encoder; leave out autoencoder, text and text_network")
        if self.text is not None and self.text_network is not None:
            raise ValueError("give text, a finished part, or text_network, one that is trained along, not both")
        if self.train_text and self.text_network is not None:
            raise ValueError("train_text trains a finished text encoder along, a text_network is trained anyway; leave out one of both")
        return self


class ClassifierRun(RunConfig):
    """A classifier of noisy samples: the class of an item is the one of `classes` that its caption names; others are left out."""

    task: Literal["classifier"]
    network: NetworkText
    process: ScheduleText
    levels: LevelsText = UniformLevels()
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    autoencoder: Path | None = None


class FeaturesRun(RunConfig):
    """A feature extractor; `network` is a FeatureNetConfig and `projection` the dimension in which two views of a picture are compared.

    `words` weighs the word loss, over the words that at least `min_count` captions have. `classes` are the garments that a linear head on the
    finished features tells apart in photos; without them there is none. `card` is what the folder tells people.
    """

    task: Literal["features"]
    network: NetworkText
    projection: Positive = 128
    temperature: Annotated[float, Field(gt=0)] = 0.15
    words: Weight = 0.3
    min_count: Positive = 8
    classes: tuple[str, ...] = ()
    card: dict[str, str] = {}


_TASKS: dict[str, type[RunConfig]] = {"autoencoder": AutoencoderRun, "contrastive": ContrastiveRun, "denoiser": DenoiserRun,
                                      "classifier": ClassifierRun, "features": FeaturesRun}


def add_kind(task: str, kind: type[RunConfig]) -> None:
    """Lets recipes say `task: task`."""
    _TASKS[task] = kind


def recipe_folder() -> Path:
    return Path(__file__).resolve().parent.parent / "recipes"


def recipe_names() -> list[str]:
    """Names of the recipes inside the package."""
    return sorted(path.stem for path in recipe_folder().glob("*.yaml"))


def read_recipe(recipe: str | Path, settings: Sequence[str] = ()) -> RunConfig:
    """The config of a shipped recipe's name or of a YAML file, with `key.sub=value` settings on top.

    Raises UsageError: `unknown_recipe` listing the known ones, `bad_recipe` as `file: key: message`, `bad_setting`.
    """
    path = as_path(recipe, "a recipe")
    recipe = str(recipe)
    if recipe in recipe_names():
        path = recipe_folder() / f"{recipe}.yaml"
    if not path.is_file():
        near = difflib.get_close_matches(recipe, recipe_names(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError("unknown_recipe", f"no recipe {recipe[:80]!r}; {hint}known: {', '.join(recipe_names())}; or give the path of a YAML file")
    try:
        raw = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError, RecursionError) as error:
        raise UsageError("bad_recipe", f"{path.name}: cannot be read as YAML: {error}") from None
    if not isinstance(raw, dict):
        raise UsageError("bad_recipe", f"{path.name}: must be a mapping of keys to values")
    expect(settings, (list, tuple), "settings", "bad_setting")
    for setting in settings:
        _apply(raw, setting)
    return validate(raw, path.name)


def _apply(raw: dict[str, Any], setting: str) -> None:
    expect(setting, str, "a setting", "bad_setting")
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise UsageError("bad_setting", f"--set {setting[:80]!r} is not key=value; write for example --set optimizer.lr=0.001")
    where: Any = raw
    *folders, last = key.strip().split(".")
    for name in folders:
        where = where.setdefault(name, {})
        if not isinstance(where, dict):
            raise UsageError("bad_setting", f"--set {key}: {name} is a value and has no keys of its own")
    try:
        value = yaml.safe_load(text) if text else ""
    except (yaml.YAMLError, RecursionError):
        value = text
    where[last] = text if isinstance(value, dict) and not text.strip().startswith("{") else value


def validate(raw: dict[str, Any], name: str) -> RunConfig:
    """A RunConfig from plain data. Raises UsageError `bad_recipe` as `name: key: message`, with the nearest known key."""
    expect(raw, dict, name, "bad_recipe")
    task = raw.get("task")
    if not isinstance(task, str) or task not in _TASKS:
        raise UsageError("bad_recipe", f"{name}: task: must be one of {', '.join(_TASKS)}, got {task!r}")
    try:
        return _TASKS[task].model_validate(raw)
    except ValidationError as error:
        found = error.errors()[0]
        where = [str(part) for part in found["loc"]]
        message = found["msg"].removeprefix("Value error, ")
        if found["type"] == "extra_forbidden":
            near = difflib.get_close_matches(where[-1], _keys(_TASKS[task], where[:-1]), n=1)
            message = "is not a known key" + (f"; did you mean {near[0]}?" if near else f"; known: {', '.join(_keys(_TASKS[task], where[:-1]))}")
        elif found["type"] != "value_error" and "input" in found and found["type"] != "missing":
            message += f", got {str(found['input'])[:60]!r}"
        rest = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise UsageError("bad_recipe", f"{name}: {'.'.join(where) or 'recipe'}: {message}{rest}") from None


def _keys(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    for part in path:
        inner = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)
