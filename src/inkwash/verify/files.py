"""Is a model folder whole, and do its parts fit together? Read from the files, before any network runs.

The manifest lists every file with its bytes and every tensor with name, shape, dtype and SHA-256; `load_tensors` compares all of them and
refuses NaN. The parts then have to agree on the numbers that they share: channels, the side of a latent, the width and length of the text.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from inkwash.errors import CheckpointError, InkwashError
from inkwash.io.folder import part_config
from inkwash.io.info import ModelInfo
from inkwash.io.tensors import load_tensors, read_manifest, read_text


def faults(folder: Path) -> tuple[int, list[str]]:
    """How many tensors were compared with the manifest, and what is wrong, one sentence for each file."""
    found: list[str] = []
    try:
        listed = read_manifest(folder)
    except CheckpointError as error:
        return 0, [error.message]
    count = 0
    for name, entry in listed.items():
        try:
            if "tensors" in entry:
                count += len(load_tensors(folder / name, entry))
            else:
                read_text(folder, name)
        except InkwashError as error:
            found.append(error.message.partition(";")[0])
    known = set(listed)
    found += [f'"{path}" is not in the manifest' for path in sorted(folder.rglob("*.safetensors"))
              if path.relative_to(folder).as_posix() not in known]
    return count, found


def disagreements(folder: Path, info: ModelInfo) -> list[str]:
    """Where the parts do not fit each other or inkwash.json, one sentence each."""
    network: Any = part_config(folder, info.network)
    pairs: list[tuple[str, object, str, object]] = [("channels", info.channels, f"{info.network} in_channels", network.in_channels)]
    if info.codec == "latent":
        vae: Any = part_config(folder, "vae")
        pairs += [("channels", info.channels, "vae latent_channels", vae.latent_channels), ("factor", info.factor, "vae factor", vae.factor)]
    if info.conditioning == "text":
        text: Any = part_config(folder, "text_encoder")
        null: Any = part_config(folder, "conditioner")
        pairs += [("length", info.length, "text_encoder max_tokens", text.max_tokens)]
        pairs += [(f"{info.network} {name}", getattr(network, name), f"conditioner {theirs}", getattr(null, theirs))
                  for name, theirs in (("text_dim", "width"), ("pooled_dim", "pooled")) if getattr(network, name)]
    found = [f"{left} is {ours}, {right} is {theirs}" for left, ours, right, theirs in pairs if ours != theirs]
    scheduler = json.loads(read_text(folder, "scheduler/scheduler_config.json"))
    found += [f"{name} is {getattr(info, name)}, the scheduler's is {scheduler.get(name)}" for name in ("process", "prediction", "gauge")
              if scheduler.get(name) != getattr(info, name)]
    width, height = info.sizes.default
    found += [f"size {width}x{height} is no multiple of the latent's {info.factor}"] if width % info.factor or height % info.factor else []
    return found
