"""Inception v3 from a file that the user has: the space of most published Frechet inception distances.

Three layouts of tensor names are read. The TensorFlow port of 2015 has 1008 classes, torchvision's network 1000 and auxiliary logits; both
name their blocks alike. pytorch-fid wraps the first in numbered blocks. The variant decides how the network pools (`inkwash.nn.inception`), so it
is told from the file or refused, never guessed. Images become 299 x 299 by the rule of `inkwash.evaluate.extractors.features`, then 2 x / 255 - 1.
Published numbers differ in how they resize; compare only numbers made by one program with one set of weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from inkwash.errors import CheckpointError
from inkwash.evaluate.extractors.network import CPU, NetworkExtractor, require_tensors, resize
from inkwash.io.tensors import digest, load_tensors
from inkwash.nn.inception import DIM, SIZE, InceptionConfig

CLASSES = {1008: "fid", 1000: "imagenet"}
_WRAPPED = (("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"), ("Conv2d_3b_1x1", "Conv2d_4a_3x3"),
            ("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
            ("Mixed_7a", "Mixed_7b", "Mixed_7c"))


def safetensors_file(path: Path) -> Path:
    """`path`, or the one safetensors file in it. Raises CheckpointError `ckpt_missing` for none or several."""
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        raise CheckpointError("ckpt_missing", f'"{path}" holds {len(found)} safetensors files, expected 1; give the path of the file')
    return found[0]


def unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """pytorch-fid's `blocks.2.3.conv.weight` under the name of its block; other names stay."""
    found = {}
    for name, tensor in tensors.items():
        match = re.match(r"blocks\.(\d)\.(\d)\.(.+)", name)
        if match is not None and int(match[1]) < len(_WRAPPED) and int(match[2]) < len(_WRAPPED[int(match[1])]):
            name = f"{_WRAPPED[int(match[1])][int(match[2])]}.{match[3]}"
        found[name] = tensor
    return found


def variant_of(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """"fid" or "imagenet", by the number of classes, the wrapper, or the auxiliary logits. Raises CheckpointError `arch_mismatch`."""
    head = tensors.get("fc.weight")
    if head is not None:
        if head.shape[0] in CLASSES:
            return CLASSES[head.shape[0]]
        raise CheckpointError("arch_mismatch", f'"{path}": fc.weight has {head.shape[0]} classes, expected 1008 (FID) or 1000 (torchvision); '
                                               "give one of these two Inception v3")
    if any(name.startswith("blocks.") for name in tensors):
        return "fid"
    if any(name.startswith("AuxLogits.") for name in tensors):
        return "imagenet"
    raise CheckpointError("arch_mismatch", f'"{path}" has neither fc.weight nor AuxLogits nor numbered blocks, so the two Inception v3, which pool '
                                           "differently, cannot be told apart; give a file with its classifier fc")


def load_inception(path: Path, device: torch.device = CPU) -> NetworkExtractor:
    """The Inception v3 in a safetensors file, or in a folder with one such file: 2048 pooled features.

    Raises CheckpointError: `arch_mismatch` with the first differences, and those of `load_tensors`.
    """
    file = safetensors_file(path)
    tensors = load_tensors(file)
    if not any(name.split(".")[0] in ("Conv2d_1a_3x3", "blocks") for name in tensors):
        raise CheckpointError("arch_mismatch", f'"{file}" is not an Inception v3: expected Conv2d_1a_3x3.conv.weight, first tensors are '
                                               f'{", ".join(list(tensors)[:3]) or "none"}; give Inception v3 weights')
    variant = variant_of(file, tensors)
    network = InceptionConfig(variant).build()
    kept = {name: tensor.float() for name, tensor in unwrapped(tensors).items()
            if not name.startswith(("fc.", "AuxLogits.")) and not name.endswith("num_batches_tracked")}
    require_tensors(file, network, kept)
    network.load_state_dict(kept, strict=False)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return NetworkExtractor(f"inception-v3-{variant}", network, prepare, DIM, device=device, weights_hash=digest(tensors))


def prepare(images: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) -> (B, 3, 299, 299) in [-1, 1]."""
    return (resize(images, SIZE, SIZE) / 127.5 - 1).to(memory_format=torch.channels_last)
