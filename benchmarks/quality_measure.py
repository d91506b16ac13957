"""The Frechet distance of each contestant's pictures to pictures that none has seen, in the features of the embedded extractor `ink`."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from quality_data import reference
from quality_sample import PART, Way, of_cifar10, pictures
from quality_train import about
from safetensors.torch import load_file, save_file
from torch import Tensor

from inkwash.evaluate.extractors.features import extract
from inkwash.evaluate.extractors.load import load_extractor
from inkwash.evaluate.metrics.frechet import frechet_distance
from inkwash.evaluate.metrics.interval import Estimate

SECONDS = "seconds.json"


class Entry(NamedTuple):
    """Weights of one contestant after `minutes` core-minutes; `NAME.last` are those of the last step in place of their average."""

    name: str
    minutes: float
    images: int
    weights: Path


def entries(folder: Path, final: bool = False) -> list[Entry]:
    """What has been trained in `folder` so far; with `final` the end of each contestant's budget alone."""
    found = []
    for path in sorted(folder.glob("*-*.safetensors")):
        name, _, minutes = path.stem.rpartition("-")
        if name.partition(".")[0] in ("diffusers", "lucidrains") and minutes.replace(".", "").isdigit():
            facts = about(path)
            found.append(Entry(name, float(facts["seconds"]) / 60, int(facts["images"]), path))
    for path in sorted(folder.glob(f"inkwash-*/{SECONDS}")):
        card = json.loads((path.parent / "model" / "inkwash.json").read_text())["card"]
        found.append(Entry("inkwash", json.loads(path.read_text())["seconds"] / 60, card["steps"] * card["batch"], path.parent / "model"))
    last = {entry.name: entry for entry in sorted(found, key=lambda entry: entry.minutes)}
    return sorted(last.values() if final else found, key=lambda entry: (entry.name, entry.minutes))


def features(images: Tensor, path: Path) -> tuple[Tensor, str]:
    """(features (N, D), extractor) of uint8 images, kept at `path`."""
    extractor = load_extractor("ink")
    if not path.exists():
        save_file({"features": extract(extractor, images.split(PART))}, path)
    return load_file(path)["features"], f"{extractor.name}, D = {extractor.dim}, SHA-256 {extractor.hash}"


def measure(folder: Path, count: int, way: Way, which: list[Entry]) -> dict[str, Any]:
    """Pictures, features and distances of `which`, and the distance of as many training pictures for scale."""
    apart = reference(folder)
    real, extractor = features(apart, folder / "reference.features.safetensors")
    rows = []
    for entry in which:
        key = f"{entry.weights.parent.name if entry.name == 'inkwash' else entry.weights.stem}-{way.sampler}-{way.steps}"
        images = pictures(functools.partial(of_cifar10, entry.name, entry.weights), way, [""], count, folder / "samples" / key)
        sheet(images).save(folder / f"{key}.png")
        found = frechet_distance(real, features(images, folder / f"{key}-{count}.features.safetensors")[0])
        rows.append({"name": entry.name, "core_minutes": round(entry.minutes, 2), "images_seen": entry.images,
                     "fd": shown(found.unbiased), "fd_at_n": shown(found.plain)})
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(0))       # the file is sorted by class
    half = frechet_distance(real[order[count:]], real[order[:count]])
    return {"extractor": extractor, "count": count, "reference": len(apart), "sampler": f"{way.sampler}, {way.steps} steps, trailing, x0 clamped",
            "rows": rows, "real": {"fd": shown(half.unbiased), "fd_at_n": shown(half.plain)}}


def page(found: dict[str, Any]) -> str:
    """The result as Markdown."""
    peers = [row for row in found["rows"] if row["name"] != "inkwash"]
    best = min(peers, key=lambda row: row["fd_at_n"]["value"], default=None)
    on = found["machine"]
    lines = ["# Time to quality, CIFAR-10", "", "Fréchet distance, smaller is better; in bold at this N.", ""]
    for row in (row for row in found["rows"] if best and row["name"] == "inkwash"):
        lines += [f"**inkwash after {row['core_minutes']:g} core-minutes: {row['fd_at_n']['value']:.1f}; the best peer, {best['name']} after "
                  f"{best['core_minutes']:g}: {best['fd_at_n']['value']:.1f}** ({best['core_minutes'] / row['core_minutes']:.1f} x the time).", ""]
    lines += ["| recipe | core-minutes | pictures seen | Frechet distance, extrapolated | at this N |", "|---|---|---|---|---|"]
    for row in found["rows"]:
        lines.append(f"| {row['name']} | {row['core_minutes']:g} | {row['images_seen']:,} | {interval(row['fd'])} | {interval(row['fd_at_n'])} |")
    lines += [f"| other real pictures, as a floor | | | {interval(found['real']['fd'])} | {interval(found['real']['fd_at_n'])} |", ""]
    lines += [f"- features: {found['extractor']}",
              f"- {found['count']} pictures of each against {found['reference']} that none has seen; {found['sampler']}",
              f"- {on['date']}, {on['processor']}, {on['cores']} core(s), {on['threads']} thread(s); `{on['command']}`",
              f"- {', '.join(f'{name} {version}' for name, version in on['versions'].items())}"]
    return "\n".join([*lines, *[f"- {note}" for note in found["notes"]]]) + "\n"


def interval(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"


def shown(estimate: Estimate) -> dict[str, float]:
    return {"value": round(estimate.value, 3), "low": round(estimate.low, 3), "high": round(estimate.high, 3)}


def sheet(images: Tensor, across: int = 12, down: int = 6, times: int = 2) -> Image.Image:
    """The first pictures, each pixel as `times` x `times`; rows that are not full are left out."""
    across = min(across, len(images))
    rows = min(down, len(images) // across)
    chosen = images[: across * rows].repeat_interleave(times, -1).repeat_interleave(times, -2)
    whole = torch.cat([torch.cat(list(row), dim=-1) for row in chosen.split(across)], dim=-2)
    return Image.fromarray(whole.permute(1, 2, 0).numpy())
