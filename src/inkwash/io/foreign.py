"""Model folders of diffusers: their parts as our modules, and our parts as theirs.

A folder without `inkwash.json` but with a `model_index.json` is read by their configs; its weights are checked for format, names, shapes
and finite values, as no manifest vouches for them. In the other direction `describe` says how diffusers must open a folder of ours, if
it can: all networks have their form, the mathematics fits one of their schedulers, the latents have mean 0 and one scale, and the condition of
nothing is the empty prompt. `AutoencoderKL.absorb` makes the latents so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from torch import Tensor

from inkwash.core.coordinate import Coordinate, TimeIndex
from inkwash.core.prediction import Prediction
from inkwash.core.schedule import DiscreteCosine, Linear, ScaledLinear, Schedule, Sigmoid, Tabulated, ZeroTerminal
from inkwash.errors import CheckpointError
from inkwash.io.foreign_config import from_foreign
from inkwash.io.foreign_info import PREDICTIONS, SAMPLERS, read_config
from inkwash.io.info import ModelInfo
from inkwash.io.tensors import load_tensors
from inkwash.nn.config import NetworkConfig
from inkwash.tokenizer import Tokenizer
from inkwash.value import parse

WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def foreign_config(folder: Path, name: str) -> NetworkConfig:
    """The NetworkConfig of one part of a foreign folder. Raises CheckpointError `model_damaged`, `unsupported_model`."""
    return from_foreign(read_config(folder / name / "config.json"))


def foreign_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one foreign file under the names of our modules. Raises CheckpointError as `load_tensors` does."""
    return {name: tensor for key, tensor in load_tensors(path).items() if (name := _name(key, path.parent.name))}


def _name(key: str, part: str) -> str:
    if part == "text_encoder":
        key = key if key.startswith("text_") else f"text_model.{key}"                   # transformers 5 leaves the first word out
        return "" if key.endswith("position_ids") else key
    words = key.split(".")
    if part == "vae" and "attentions" in words:
        return ".".join(_OLD_NAMES.get(word, word) for word in words)
    return key


def foreign_hash(folder: Path) -> str:
    """SHA-256 of the files that decide the pixels: configs, weights, tokenizer."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.glob("*/*") if path.suffix in (".json", ".safetensors", ".txt")):
        with path.open("rb") as file:
            total.update(f"{path.relative_to(folder).as_posix()} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def foreign_tokenizer(folder: Path, length: int) -> Tokenizer:
    """CLIP's tokenizer from `tokenizer.json`, or from `vocab.json` and `merges.txt`. Raises CheckpointError `model_damaged`."""
    where = folder / "tokenizer"
    whole = where / "tokenizer.json"
    try:
        backend = tokenizers.Tokenizer.from_str(whole.read_text("utf-8")) if whole.is_file() else _clip_backend(where)
        return Tokenizer(backend, length, marks(where))
    except CheckpointError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError("model_damaged", f'cannot read the tokenizer in "{where}": {error}; restore the files') from None


def marks(where: Path) -> tuple[str, str, str]:
    """The tokens for padding, start and end that a tokenizer's config names."""
    names = {"pad_token": "<|endoftext|>", "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        raw = read_config(where / file) if (where / file).is_file() else {}
        for name in names:
            value = raw.get(name)
            names[name] = value["content"] if isinstance(value, dict) else value or names[name]
    return names["pad_token"], names["bos_token"], names["eos_token"]


def _clip_backend(where: Path) -> tokenizers.Tokenizer:
    lines = (where / "merges.txt").read_text("utf-8").split("\n")
    merges = [(left, right) for line in lines if not line.startswith("#version") and line.strip() for left, right in [line.split()]]
    backend = tokenizers.Tokenizer(models.BPE(vocab=read_config(where / "vocab.json"), merges=merges, unk_token="<|endoftext|>",
                                              continuing_subword_prefix="", end_of_word_suffix="</w>"))
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORDS), "removed", invert=True),
                                                     pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.decoder = decoders.ByteLevel()
    return backend


def tokenizer_files(tokenizer: Tokenizer) -> dict[str, str]:
    """What transformers' CLIPTokenizer reads beside `tokenizer.json`; empty for a tokenizer of another kind."""
    model = json.loads(tokenizer.text())["model"]
    if model.get("type") != "BPE" or model.get("end_of_word_suffix") != "</w>":
        return {}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    pad, start, end = tokenizer.names
    special = {"bos_token": start, "eos_token": end, "pad_token": pad, "unk_token": end}
    return {"vocab.json": json.dumps(model["vocab"], ensure_ascii=False) + "\n", "merges.txt": "\n".join(["#version: 0.2", *merges]) + "\n",
            "special_tokens_map.json": json.dumps(special, indent=1) + "\n",
            "tokenizer_config.json": json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": tokenizer.length, **special},
                                                indent=1) + "\n"}


def scheduler_config(info: ModelInfo) -> dict[str, Any]:
    """The scheduler_config.json with the same mathematics as `info`; empty where no scheduler of theirs has it."""
    process = parse(info.process, Schedule)  # type: ignore[type-abstract]
    wanted = {parse(text, Prediction): name for name, text in PREDICTIONS.items()}  # type: ignore[type-abstract]
    prediction = wanted.get(parse(info.prediction, Prediction))  # type: ignore[type-abstract]
    steps = process.num_steps
    told = parse(info.coordinate, Coordinate) if info.coordinate else None  # type: ignore[type-abstract]
    base = process.base if isinstance(process, ZeroTerminal) else process
    betas = _betas(base)
    if not betas or prediction is None or info.gauge != "VP" or info.sigma_data != 1.0 or told != TimeIndex(process, float(steps or 0), -1.0):
        return {}
    samplers = {name: kind for kind, name in SAMPLERS.items()}
    spacing = info.defaults.spacing if info.defaults.spacing in ("leading", "linspace") else "trailing"
    return {"_class_name": samplers.get(info.defaults.sampler, "DPMSolverMultistepScheduler"), **betas, "num_train_timesteps": steps,
            "prediction_type": prediction, "rescale_betas_zero_snr": isinstance(process, ZeroTerminal), "timestep_spacing": spacing,
            "clip_sample": False, "set_alpha_to_one": True, "steps_offset": 1}


def _betas(process: Schedule) -> dict[str, Any]:
    match process:
        case Linear() | ScaledLinear():
            return {"beta_schedule": "linear" if isinstance(process, Linear) else "scaled_linear", "beta_start": process.beta_start,
                    "beta_end": process.beta_end}
        case DiscreteCosine(s=0.008, floor=0.0, cap=0.999):
            return {"beta_schedule": "squaredcos_cap_v2"}
        case Sigmoid(span=6.0, symmetric=True):
            return {"beta_schedule": "sigmoid", "beta_start": process.beta_start, "beta_end": process.beta_end}
        case Tabulated():
            return {"trained_betas": list(process.values)}
        case _:
            return {}


def describe(info: ModelInfo, configs: Mapping[str, Mapping[str, Any]], tokenizer: bool) -> dict[str, dict[str, Any]]:
    """The files by which diffusers opens a folder of ours, {"model_index.json": ..., ...}; empty where it cannot.

    `configs` are the parts' config.json by folder, with `_class_name` or `architectures` where the network has a foreign form.
    """
    text = info.conditioning == "text"
    parts = {"unet": "diffusers", **({"vae": "diffusers", "text_encoder": "transformers"} if text else {})}
    known = {name: _class(configs[name]) for name in parts if name in configs and _class(configs[name])}
    one_scale = not any(info.mean) and len(set(info.std)) <= 1
    if set(configs) != set(parts) or set(known) != set(parts) or not one_scale or tokenizer != text:
        return {}
    scheduler = scheduler_config(info)
    if not scheduler:
        return {}
    index: dict[str, Any] = {"_class_name": "StableDiffusionPipeline" if text else "DDIMPipeline", "_inkwash_version": info.inkwash,
                             "scheduler": ["diffusers", scheduler["_class_name"]], **{name: [parts[name], kind] for name, kind in known.items()}}
    files = {"model_index.json": index, "scheduler/scheduler_config.json": scheduler}
    if text:
        index |= {"tokenizer": ["transformers", "CLIPTokenizer"], "safety_checker": [None, None], "feature_extractor": [None, None],
                  "image_encoder": [None, None], "requires_safety_checker": False}
        files["vae/config.json"] = {**configs["vae"], "scaling_factor": 1 / info.std[0]}
    return files


def _class(config: Mapping[str, Any]) -> str:
    """The class by which another program opens a part; "" for a part that has none."""
    name = str(next(iter(config.get("architectures", [config.get("_class_name")]))))
    image = name in ("UNet2DConditionModel", "UNet2DModel", "AutoencoderKL") and "block_out_channels" in config
    return name if image or name == "CLIPTextModel" else ""
