"""Is a model folder whole, and do its parts fit together? Read from the files, before any network runs.

The manifest lists every file with its bytes and every tensor with name, shape, dtype and SHA-256; `load_tensors` compares all of them and
refuses NaN. The parts then have to agree on the numbers that they share: channels, the side of a latent, the width and length of the text.
A folder of diffusers has no manifest: its tensors are read and must be finite, and nothing says whether they are the right ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inkwash.core.schedule import Schedule
from inkwash.errors import CheckpointError, InkwashError
from inkwash.io.folder import part_config
from inkwash.io.foreign_info import PREDICTIONS, is_foreign, process_of
from inkwash.io.info import ModelInfo
from inkwash.io.tensors import Entry, load_tensors, read_manifest, read_text
from inkwash.value import parse


def faults(folder: Path) -> tuple[int, list[str]]:
    """How many tensors were compared with the manifest, and what is wrong, one sentence for each file."""
    found: list[str] = []
    weights = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors"))
    try:
        listed: Mapping[str, Entry | None] = dict.fromkeys(weights) if is_foreign(folder) else read_manifest(folder)
    except CheckpointError as error:
        return 0, [error.message]
    count = 0
    for name, entry in listed.items():
        try:
            if entry is None or "tensors" in entry:
                count += len(load_tensors(folder / name, entry))
            else:
                read_text(folder, name)
        except InkwashError as error:
            found.append(error.message.partition(";")[0])
    found += [f'"{folder / name}" is not in the manifest' for name in weights if name not in listed]
    return count, found


def disagreements(folder: Path, info: ModelInfo) -> list[str]:
    """Where the parts do not fit each other or inkwash.json, one sentence each."""
    network: Any = part_config(folder, info.network)
    pairs: list[tuple[str, object, str, object]] = []
    if info.channels:                                      # a pixel model of diffusers states none
        pairs += [("channels", info.channels, f"{info.network} in_channels", network.in_channels)]
    if info.codec == "latent":
        vae: Any = part_config(folder, "vae")
        pairs += [("channels", info.channels, "vae latent_channels", vae.latent_channels), ("factor", info.factor, "vae factor", vae.factor)]
    if info.conditioning == "text":
        text: Any = part_config(folder, "text_encoder")
        pairs += [("length", info.length, "text_encoder max_tokens", text.max_tokens)]
        if (folder / "conditioner").is_dir():
            null: Any = part_config(folder, "conditioner")
            pairs += [(f"{info.network} {name}", getattr(network, name), f"conditioner {theirs}", getattr(null, theirs))
                      for name, theirs in (("text_dim", "width"), ("pooled_dim", "pooled")) if getattr(network, name, 0)]
    if not is_foreign(folder):
        pairs += scheduler(folder, info)
    found = [f"{left} is {ours}, {right} is {theirs}" for left, ours, right, theirs in pairs if ours != theirs]
    width, height = info.sizes.default
    found += [f"size {width}x{height} is no multiple of the latent's {info.factor}"] if width % info.factor or height % info.factor else []
    return found


def scheduler(folder: Path, info: ModelInfo) -> list[tuple[str, object, str, object]]:
    """What inkwash.json and the scheduler's config, ours or in the form of diffusers, say of the same things."""
    raw = json.loads(read_text(folder, "scheduler/scheduler_config.json"))
    if raw.get("_class_name") == "Schedule":
        return [(name, getattr(info, name), f"the scheduler's {name}", raw.get(name)) for name in ("process", "prediction", "gauge")]
    ours, theirs = (parse(text, Schedule) for text in (info.process, process_of(raw)))  # type: ignore[type-abstract]
    return [("process", ours, "the scheduler's process", theirs),
            ("prediction", info.prediction, "the scheduler's prediction", PREDICTIONS.get(raw.get("prediction_type", "epsilon")))]
