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
from torch import Tensor

from inkwash.errors import CheckpointError
from inkwash.io.foreign_config import from_foreign
from inkwash.io.foreign_info import read_config
from inkwash.io.foreign_scheduler import scheduler_config
from inkwash.io.info import ModelInfo
from inkwash.io.tensors import load_tensors
from inkwash.nn.config import NetworkConfig
from inkwash.tokenizer import Tokenizer, clip_backend

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
    return clip_backend(read_config(where / "vocab.json"), merges)


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
