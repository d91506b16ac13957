"""Planted faults: ways in which a model folder can say what is not so. They show that `verify` catches them.

Each one changes a copy of a correct folder: what `inkwash.json` declares, a file, or a tensor. Where a check of hashes would see the change at
once, the manifest is written anew, as someone would who exported the folder with wrong settings; so only the behaviour gives it away.

A few declarations are other words for the same thing, and are no faults: EDM(sigma_data=1) is -V; Angle(), whose unit is a thousandth of a right
angle, is TimeIndex(Cosine()) within 1 %; the process of a network that is told a function of lam is a choice of the sampler, not a property
of the weights, as long as its last level lets x0 be found; std twice as large with sigma_data twice as small is the same scale.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load, save
from torch import Tensor

from inkwash.io.find import read_info
from inkwash.io.folder import save_info, weights_name
from inkwash.io.info import ModelInfo
from inkwash.io.tensors import MANIFEST, describe, read_manifest, text_entry, write_manifest

Change = Callable[[ModelInfo], dict[str, object]]


class Mislabel(NamedTuple):
    """`plant(folder)` changes the folder in place; one of `claims` at least must fail. `needs`: "", "latent", "text" or "none" (no condition)."""

    name: str
    claims: tuple[str, ...]
    plant: Callable[[Path], None]
    needs: str = ""


def relabelled(name: str, claims: str, change: Change, needs: str = "") -> Mislabel:
    """A fault in inkwash.json, with a manifest to match."""
    def plant(folder: Path) -> None:
        info = read_info(folder)
        save_info(folder, dataclasses.replace(info, **change(info)))  # type: ignore[arg-type]

    return Mislabel(name, tuple(claims.split(", ")), plant, needs)


def rewritten(name: str, claims: str, part: str, change: Callable[[dict[str, Tensor]], None], *, manifest: bool, needs: str = "") -> Mislabel:
    """A fault in the tensors of a part ("" is the network); `manifest` writes new hashes for them."""
    def plant(folder: Path) -> None:
        own = part or read_info(folder).network
        path = folder / own / weights_name(own)
        old = path.read_bytes()
        tensors = load(old)
        change(tensors)
        data = save(tensors, json.loads(old[8:8 + int.from_bytes(old[:8], "little")]).get("__metadata__"))
        path.write_bytes(data)
        if manifest:
            files = read_manifest(folder)
            write_manifest(folder, {**files, f"{own}/{path.name}": {"bytes": len(data), "tensors": describe(tensors)}})

    return Mislabel(name, tuple(claims.split(", ")), plant, needs)


def twins(tensors: dict[str, Tensor]) -> tuple[str, str]:
    """Two tensors of one shape and of different content, the largest there are."""
    names = sorted((name for name in tensors if tensors[name].dim() > 1), key=lambda name: -tensors[name].numel())
    for i, one in enumerate(names):
        for other in names[i + 1:]:
            if tensors[one].shape == tensors[other].shape and not torch.equal(tensors[one], tensors[other]):
                return one, other
    raise ValueError("no two tensors have one shape")


def _flip(tensors: dict[str, Tensor]) -> None:
    name = max(tensors, key=lambda key: tensors[key].numel())
    tensors[name].view(torch.uint8).view(-1)[0] ^= 1


def _swap(tensors: dict[str, Tensor]) -> None:
    one, other = twins(tensors)
    tensors[one], tensors[other] = tensors[other], tensors[one]


def _spoil(tensors: dict[str, Tensor]) -> None:
    tensors[max(tensors, key=lambda key: tensors[key].numel())].view(-1)[0] = float("nan")


def _foreign(tensors: dict[str, Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    for name in ("token", "pooled"):
        tensors[name] = torch.randn(tensors[name].shape, generator=generator) * 3


def _reverse(tensors: dict[str, Tensor]) -> None:
    """A UNet that was trained on pictures in the order blue, green, red."""
    tensors["conv_in.weight"] = tensors["conv_in.weight"].flip(1).contiguous()
    for name in ("out.weight", "out.bias"):
        tensors[name] = tensors[name].flip(0).contiguous()


def configured(name: str, claim: str, old: str, new: str, *, manifest: bool) -> Mislabel:
    """A fault in the network's config.json."""
    def plant(folder: Path) -> None:
        path = f"{read_info(folder).network}/config.json"
        replace_text(folder, path, (folder / path).read_text("utf-8").replace(old, new), manifest=manifest)

    return Mislabel(name, (claim,), plant)


def replace_text(folder: Path, name: str, text: str, *, manifest: bool) -> None:
    """Writes a file of a model folder, and its hash if `manifest`."""
    (folder / name).write_text(text, "utf-8")
    if manifest:
        write_manifest(folder, {**read_manifest(folder), name: text_entry(text)})


def _renumber(folder: Path) -> None:
    """A tokenizer with the same words under other numbers, as another training would give them."""
    raw = json.loads((folder / "tokenizer" / "tokenizer.json").read_text("utf-8"))
    special = {item["content"] for item in raw["added_tokens"]}
    words = [word for word in raw["model"]["vocab"] if word not in special]
    ids = [raw["model"]["vocab"][word] for word in words]
    raw["model"]["vocab"] |= dict(zip(words, ids[len(ids) // 3:] + ids[:len(ids) // 3], strict=True))
    replace_text(folder, "tokenizer/tokenizer.json", json.dumps(raw, ensure_ascii=False), manifest=True)


def _retype(folder: Path) -> None:
    """A manifest that gives another dtype for one tensor."""
    files = read_manifest(folder)
    own = read_info(folder).network
    next(iter(files[f"{own}/{weights_name(own)}"]["tensors"].values()))["dtype"] = "float64"
    write_manifest(folder, files)


def _delist(folder: Path) -> None:
    own = read_info(folder).network
    (folder / MANIFEST).write_text(json.dumps({"format": 1, "files": {name: entry for name, entry in read_manifest(folder).items()
                                                                      if not name.startswith(f"{own}/diffusion")}}), "utf-8")


def _rolled(values: tuple[float, ...]) -> tuple[float, ...]:
    return values[1:] + values[:1]


def _lose(tensors: dict[str, Tensor]) -> None:
    del tensors[max(tensors, key=lambda key: tensors[key].numel())]


MISLABELS = (
    relabelled("eps for v", "prediction", lambda info: {"prediction": "Eps()", "process": "Linear()"}),
    relabelled("x0 for v", "prediction", lambda info: {"prediction": "X0()"}),
    relabelled("velocity for v", "prediction", lambda info: {"prediction": "Velocity()"}),
    relabelled("score for v", "prediction", lambda info: {"prediction": "Score()", "process": "Linear()"}),
    relabelled("v with its sign flipped", "prediction", lambda info: {"prediction": "EDM()"}),
    relabelled("EDM of data of std 0.5", "prediction", lambda info: {"prediction": "EDM(sigma_data=0.5)"}),
    relabelled("eps at zero terminal SNR", "terminal", lambda info: {"prediction": "Eps()", "process": "Cosine()"}),
    relabelled("rectified flow for cosine v", "prediction, gauge",
               lambda info: {"prediction": "Velocity()", "process": "Straight()", "gauge": "FLOW"}),
    relabelled("a process that ends too early", "terminal", lambda info: {"process": "Linear(beta_end=0.004)"}),
    relabelled("time mirrored", "coordinate, prediction", lambda info: {"coordinate": "TimeIndex(Cosine(), -1000.0, 1000.0)"}),
    relabelled("log sigma for angle", "coordinate", lambda info: {"coordinate": "QuarterLogSigma()"}),
    relabelled("coordinate over 1000", "coordinate", lambda info: {"coordinate": "Angle(scale=1.0)"}),
    relabelled("coordinate times 1000", "coordinate", lambda info: {"coordinate": "Angle(scale=1000000.0)"}),
    relabelled("index of the linear schedule", "coordinate", lambda info: {"coordinate": "TimeIndex(Linear())"}),
    relabelled("gauge FLOW for VP", "gauge", lambda info: {"gauge": "FLOW"}),
    relabelled("gauge VE for VP", "gauge", lambda info: {"gauge": "VE"}),
    relabelled("sigma_data half", "scale", lambda info: {"sigma_data": info.sigma_data / 2}),
    relabelled("sigma_data double", "scale", lambda info: {"sigma_data": info.sigma_data * 2}),
    relabelled("latent scale left out", "statistics, scale", lambda info: {"std": (1.0,) * info.channels, "mean": (0.0,) * info.channels}, "latent"),
    relabelled("latent scale inverted", "statistics, scale", lambda info: {"std": tuple(1 / std for std in info.std)}, "latent"),
    relabelled("latent scale applied twice", "statistics, scale", lambda info: {"std": tuple(std / 0.18215 for std in info.std)}, "latent"),
    relabelled("latent mean left out", "statistics", lambda info: {"mean": (0.0,) * info.channels}, "latent"),
    relabelled("stds of channels moved by one", "statistics", lambda info: {"std": _rolled(info.std)}, "latent"),
    relabelled("text of another length", "parts", lambda info: {"length": info.length // 2}, "text"),
    relabelled("latent side", "parts", lambda info: {"factor": info.factor * 2}, "latent"),
    rewritten("null condition of another model", "condition", "conditioner", _foreign, manifest=True, needs="text"),
    rewritten("channels in reverse order", "order", "", _reverse, manifest=True),
    Mislabel("words numbered by another tokenizer", ("condition",), _renumber, "text"),
    Mislabel("another dtype in the manifest", ("files",), _retype),
    rewritten("one bit flipped", "files", "", _flip, manifest=False),
    rewritten("two tensors swapped", "files", "", _swap, manifest=False),
    rewritten("a tensor missing", "files", "", _lose, manifest=False),
    rewritten("a tensor missing, manifest to match", "parts", "", _lose, manifest=True),
    rewritten("a NaN, manifest to match", "files", "", _spoil, manifest=True),
    configured("config edited", "files", "dropout=0.0", "dropout=0.1", manifest=False),
    configured("config of another depth, manifest to match", "parts", "blocks=1", "blocks=2", manifest=True),
    configured("called distilled, manifest to match", "parts", "guidance=False", "guidance=True", manifest=True),
    relabelled("a default sampler that does not exist", "defaults",
               lambda info: {"defaults": dataclasses.replace(info.defaults, sampler="eular")}),
    relabelled("default guidance with nothing to be guided by", "defaults",
               lambda info: {"defaults": dataclasses.replace(info.defaults, guidance=4.0)}, "none"),
    Mislabel("weights not in the manifest", ("files",), _delist),
)


def suited(info: ModelInfo) -> tuple[Mislabel, ...]:
    """Those that a model of this kind can have."""
    kinds = {"", info.codec, info.conditioning}
    return tuple(fault for fault in MISLABELS if fault.needs in kinds)
