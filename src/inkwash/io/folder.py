"""A model on disk: a folder in the diffusers layout, plus what mathematics and proof need.

    model_index.json            parts and their classes
    inkwash.json                ModelInfo: process, prediction, statistics, sizes, defaults, card, vocabulary
    manifest.json               SHA-256 of every tensor and of every other file
    unet|transformer/ vae/ text_encoder/ conditioner/    config.json + safetensors
    tokenizer/tokenizer.json    scheduler/scheduler_config.json

A part's config.json holds the text of a NetworkConfig, beside the keys of diffusers where that has the network too;
`parse(text, NetworkConfig).build()` makes the module and the tensors fill it. A folder of diffusers without `inkwash.json` is read as it is.
Every write is atomic and durable, and every read is checked against the manifest. Nothing is ever unpickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from inkwash.errors import CheckpointError, UsageError
from inkwash.io.durable import write_text
from inkwash.io.find import read_info
from inkwash.io.foreign import describe, foreign_config, foreign_hash, foreign_tensors, foreign_tokenizer, marks, tokenizer_files
from inkwash.io.foreign_config import to_foreign
from inkwash.io.foreign_info import is_foreign
from inkwash.io.foreign_own import CODE, LOADER, own_index
from inkwash.io.info import INFO, ModelInfo, info_text
from inkwash.io.path import as_path
from inkwash.io.tensors import MANIFEST, Entry, load_tensors, read_file, read_manifest, save_tensors, text_entry, write_manifest
from inkwash.nn.config import NetworkConfig
from inkwash.tokenizer import END, PAD, START, Tokenizer
from inkwash.value import Value, parse

OWN = "_inkwash"  # our config inside theirs: diffusers passes keys with an underscore over
DIFFUSERS_PARTS = ("unet", "transformer", "vae")
_MATHS = ("process", "prediction", "gauge", "sigma_data", "coordinate", "network", "codec", "channels", "factor", "mean", "std",
          "conditioning", "length")


def weights_name(name: str) -> str:
    """The file that holds a part's tensors, as diffusers and transformers call it."""
    return "diffusion_pytorch_model.safetensors" if name in DIFFUSERS_PARTS else "model.safetensors"


def save_part(folder: Path, name: str, module: nn.Module, config: NetworkConfig | None = None, dtype: torch.dtype | None = None) -> None:
    """Writes one part and enters it in the manifest. `config` is `module.config` unless given; `dtype` casts the floating tensors."""
    value = config if config is not None else module.config
    if not isinstance(value, NetworkConfig):
        raise TypeError(f"the config of part {name!r} must be a NetworkConfig, got {type(value).__name__}")
    where = folder / name
    where.mkdir(parents=True, exist_ok=True)
    tensors = {key: tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
               for key, tensor in module.state_dict().items()}
    foreign = to_foreign(value)
    known = {**foreign, OWN: explicit(value)} if foreign else {"config": explicit(value)}
    text = json.dumps({"_class_name": type(module).__name__, **known}, indent=1) + "\n"
    write_text(where / "config.json", text)
    entry = save_tensors(where / weights_name(name), tensors, {"format": "pt", "inkwash.config": explicit(value)})
    _enter(folder, {f"{name}/config.json": text_entry(text), f"{name}/{weights_name(name)}": entry})


def load_part(folder: Path, name: str) -> nn.Module:
    """The module of one part, in float32 and eval mode whatever torch's default type is, its tensors checked against the manifest.

    Raises CheckpointError: `model_damaged`, `ckpt_corrupt` naming the tensor, `unsafe_format`, `arch_mismatch` with the first differences.
    """
    config = part_config(folder, name)
    path = folder / name / weights_name(name)
    tensors = foreign_tensors(path) if is_foreign(folder) else load_tensors(path, _listed(folder, f"{name}/{weights_name(name)}"))
    with torch.device("meta"), _Unfilled():                # no weights are drawn, and none of the size that a damaged config asks for
        module = config.build()
    stored = module.state_dict()
    require_match(path, {key: tuple(item.shape) for key, item in stored.items()}, tensors)
    if any(name not in stored for name, _ in module.named_buffers()):                   # what it computes for itself is no weight
        with torch.random.fork_rng(devices=[]):
            module = config.build().float()
    module.load_state_dict({key: item.to(torch.float32 if item.is_floating_point() else item.dtype, copy=True) for key, item in tensors.items()},
                           assign=True)
    return module.eval()


class _Unfilled(TorchFunctionMode):
    """Within it the functions of `torch.nn.init` leave a tensor as it is. To fill one on `meta`, torch imports its compiler, which takes seconds."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return given["tensor"] if "tensor" in given else args[0]
        return func(*args, **given)


def explicit(value: object) -> str:
    """The text of a Value with every field, defaults too: a stored model must not change when a default does."""
    if isinstance(value, Value):
        fields = [field.name for field in dataclasses.fields(value) if field.init]  # type: ignore[arg-type]
        return f"{type(value).__name__}({', '.join(f'{name}={explicit(getattr(value, name))}' for name in fields)})"
    if isinstance(value, tuple):
        return "(" + "".join(f"{explicit(item)}, " for item in value) + ")"
    return repr(value)


def part_config(folder: Path, name: str) -> NetworkConfig:
    """The config of a part, without its tensors."""
    register_networks()
    if is_foreign(folder):
        return foreign_config(folder, name)
    path = folder / name / "config.json"
    raw = _read_json(folder, f"{name}/config.json")
    try:
        return parse(str(raw[OWN] if OWN in raw else raw["config"]), NetworkConfig)  # type: ignore[type-abstract]
    except (KeyError, TypeError, UsageError) as error:
        raise CheckpointError("model_damaged", f'"{path}": cannot build the part: {error}; restore the file') from None


def part_folder(path: str | Path, part: str) -> Path:
    """The folder that holds `part`: `path` itself, or `path`/model when `path` is the folder of a run.

    Raises CheckpointError `no_part`, UsageError `bad_path`.
    """
    found = as_path(path, f"the folder of a finished {part}")
    for folder in (found, found / "model"):
        try:
            if (folder / part / "config.json").is_file():
                return folder
        except OSError as error:
            raise CheckpointError("no_part", f'cannot look into "{folder}": {error.strerror}; give a folder that may be read') from None
    raise CheckpointError("no_part", f'"{path}" has no finished {part}; give the --out folder of a finished run, or a model folder')


def part_hash(folder: Path, part: str) -> str:
    """SHA-256 that stands for the tensors of one part, from the manifest; "" when the folder has no such part.

    Raises CheckpointError: `ckpt_corrupt`, `ckpt_missing`.
    """
    if is_foreign(folder):
        return hashlib.sha256(read_file(folder / part / weights_name(part))).hexdigest() if (folder / part).is_dir() else ""
    tensors = [entry.get("tensors") for name, entry in read_manifest(folder).items() if name == f"{part}/{weights_name(part)}"]
    return hashlib.sha256(json.dumps(tensors, sort_keys=True).encode()).hexdigest() if tensors else ""


def save_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Writes tokenizer/tokenizer.json, and what transformers reads for CLIP's; the length is part of ModelInfo."""
    (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
    texts = {f"tokenizer/{name}": text for name, text in {"tokenizer.json": tokenizer.text(), **tokenizer_files(tokenizer)}.items()}
    for name, text in texts.items():
        write_text(folder / name, text)
    _enter(folder, {name: text_entry(text) for name, text in texts.items()})


def load_tokenizer(folder: Path, length: int) -> Tokenizer:
    """The tokenizer of a model. Raises CheckpointError `model_damaged`."""
    if is_foreign(folder):
        return foreign_tokenizer(folder, length)
    _checked_text(folder, "tokenizer/tokenizer.json")
    where = folder / "tokenizer"
    beside = [name for name in read_manifest(folder) if name in ("tokenizer/tokenizer_config.json", "tokenizer/special_tokens_map.json")]
    for name in beside:
        _checked_text(folder, name)
    names = marks(where) if beside else (PAD, START, END)
    return Tokenizer.load(where / "tokenizer.json", length, names)


def save_info(folder: Path, info: ModelInfo) -> None:
    """Writes inkwash.json, what diffusers opens the folder by, and the scheduler's config. Call it last: it completes a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    index: dict[str, Any] = {"_class_name": "Pipeline", "_inkwash_version": info.inkwash, "scheduler": ["inkwash", info.process.split("(")[0]]}
    configs = {path.parent.name: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*/config.json"))}
    index |= {name: ["inkwash", raw["_class_name"]] for name, raw in configs.items()}
    tokenizer = (folder / "tokenizer" / "tokenizer.json").is_file()
    if tokenizer:
        index["tokenizer"] = ["tokenizers", "Tokenizer"]
    (folder / "scheduler").mkdir(exist_ok=True)
    files = {"model_index.json": index, "scheduler/scheduler_config.json": {"_class_name": "Schedule", "process": info.process,
                                                                            "prediction": info.prediction, "gauge": info.gauge}}
    files |= describe(info, configs, tokenizer)
    texts = {INFO: info_text(info)}
    if own := own_index(info, configs, tokenizer):
        files["model_index.json"], texts[LOADER] = own, CODE
    texts |= {name: json.dumps(raw, indent=1) + "\n" for name, raw in files.items()}
    for name, text in texts.items():
        write_text(folder / name, text)
    _enter(folder, {name: text_entry(text) for name, text in texts.items()})


def load_info(folder: Path) -> ModelInfo:
    """`read_info`, compared with the manifest."""
    info = read_info(folder)
    if not is_foreign(folder):
        _checked_text(folder, INFO)
    return info


def model_hash(folder: Path) -> str:
    """SHA-256 of what decides the pixels: tensors, configs, tokenizer and the mathematics of inkwash.json; not the card or the defaults."""
    if is_foreign(folder):
        return foreign_hash(folder)
    info = read_info(folder)
    files = {name: entry.get("tensors", entry.get("sha256")) for name, entry in read_manifest(folder).items() if "/" in name}
    maths = {name: getattr(info, name) for name in _MATHS}
    return hashlib.sha256(json.dumps([maths, files], sort_keys=True).encode()).hexdigest()


def register_networks() -> None:
    """Imports every module of `inkwash.nn`, so that each network's config is known by name."""
    import inkwash.nn as package

    importlib.import_module("inkwash.condition")
    for item in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{item.name}")


def _enter(folder: Path, entries: Mapping[str, Entry]) -> None:
    known = read_manifest(folder) if (folder / MANIFEST).is_file() else {}
    write_manifest(folder, {**known, **entries})


def _listed(folder: Path, name: str) -> Entry:
    entry = read_manifest(folder).get(name)
    if entry is None:
        raise CheckpointError("model_damaged", f'"{folder / MANIFEST}" does not list "{name}"; the folder is incomplete, restore it')
    return entry


def _checked_text(folder: Path, name: str) -> str:
    entry = _listed(folder, name)
    try:
        text = (folder / name).read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError("model_damaged", f'cannot read "{folder / name}": {error}; restore the file') from None
    if text_entry(text) != {"bytes": entry.get("bytes"), "sha256": entry.get("sha256")}:
        raise CheckpointError("model_damaged", f'"{folder / name}": sha256 mismatch with {MANIFEST}; restore the file')
    return text


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        raw = json.loads(_checked_text(folder, name))
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError("model_damaged", f'cannot read "{folder / name}": {error}; restore the file') from None
    if not isinstance(raw, dict):
        raise CheckpointError("model_damaged", f'"{folder / name}" is not a JSON object; restore the file')
    return raw


def require_match(path: Path, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError `arch_mismatch` with the first differences unless `found` has the `expected` names and shapes."""
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    differences = [f"{name}: expected {expected.get(name, 'nothing')}, found {shapes.get(name, 'nothing')}"
                   for name in sorted({*expected, *shapes}) if expected.get(name) != shapes.get(name)]
    if differences:
        more = f" and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise CheckpointError("arch_mismatch", f'"{path}" does not fit its network: {"; ".join(differences[:5])}{more}; '
                                               "use the matching config or weights")
