"""`inkwash inspect`: what a model is made of, what it knows, and what it promises."""

from __future__ import annotations

import json as json_text
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from inkwash.cli.main import print_json
from inkwash.cli.settings import describe_model, load
from inkwash.io.foreign_info import is_foreign
from inkwash.io.info import ModelInfo

if TYPE_CHECKING:
    from inkwash.pipeline import Pipeline


def inspect(model: str = "mini", /, *, words: int = 40, json: Annotated[bool, Parameter(negative="", show_default=False)] = False) -> int:
    """Show what a model is made of and what it knows.

    Parameters
    ----------
    model
        An embedded model or the folder of one.
    words
        How many words of its vocabulary to show, most frequent first.
    json
        Print one JSON object with everything.
    """
    folder, info = describe_model(model)
    found = describe(folder, info)
    if json:
        print_json(found)
    else:
        print(text_of(found, words))
    return 0


def describe(folder: Path, info: ModelInfo) -> dict[str, Any]:
    """Everything about a model. Loads it, since determinism is a matter of trying."""
    pipeline = load(folder, "cpu")
    from inkwash.core.prediction import Prediction
    from inkwash.nn import native
    from inkwash.value import parse

    schedule, prediction = pipeline.schedule, parse(info.prediction, Prediction)  # type: ignore[type-abstract]
    parts, writer = parts_of(folder), "diffusers" if is_foreign(folder) else f"inkwash {info.inkwash}"
    return {
        "name": info.name, "hash": pipeline.hash, "written_by": writer, "parts": parts,
        "parameters": sum(part["parameters"] for part in parts), "bytes": sum(part["bytes"] for part in parts),
        "process": info.process, "terminal_leak": schedule.leak(), "prediction": info.prediction, "prediction_parsed": repr(prediction),
        "gauge": info.gauge, "sigma_data": info.sigma_data, "coordinate": repr(pipeline.denoiser.coordinate),
        "codec": {"kind": info.codec, "factor": info.factor, "channels": info.channels, "mean": list(info.mean), "std": list(info.std)},
        "savings": savings(*info.sizes.default, info.channels, info.factor), "flops": flops(pipeline),
        "conditioning": info.conditioning, "length": info.length, "sizes": str(info.sizes), "defaults": dict(info.defaults.__dict__),
        "compute_dtype": str(pipeline.dtype).removeprefix("torch."), "determinism": pipeline.determinism, "native": native.status(),
        "vocabulary": info.vocabulary, "card": info.card,
    }


def savings(width: int, height: int, channels: int, factor: int) -> dict[str, float]:
    """What a latent space saves, counted separately: numbers (all channels) and positions (what attention and convolutions visit)."""
    pixels, positions = width * height, (width // factor) * (height // factor)
    return {"image_numbers": 3 * pixels, "latent_numbers": channels * positions, "times_fewer_numbers": 3 * pixels / (channels * positions),
            "image_positions": pixels, "latent_positions": positions, "times_fewer_positions": pixels / positions}


def flops(pipeline: Pipeline) -> dict[str, int]:
    """Floating-point operations, counted while they run: one evaluation of the denoiser for one image, and one decoding."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from inkwash.core.level import Clean

    shape = pipeline.codec.shape(*pipeline.info.sizes.default)
    x = torch.zeros(1, *shape, device=pipeline.device)
    level = pipeline.schedule(torch.tensor([0.5]))
    with torch.inference_mode(), FlopCounterMode(display=False) as network:
        pipeline.denoiser(x, level, pipeline.conditioner.null(1))
    with FlopCounterMode(display=False) as decoder:
        pipeline.codec.decode(Clean(x))
    return {"evaluation": network.get_total_flops(), "decoding": decoder.get_total_flops()}


def parts_of(folder: Path) -> list[dict[str, Any]]:
    """Name, config, parameters, bytes and dtypes of every part, from manifest and configs; of a folder of diffusers from the files themselves."""
    from inkwash.io.folder import part_config, weights_name
    from inkwash.io.tensors import describe as tensors_of
    from inkwash.io.tensors import load_tensors, read_manifest

    files = read_manifest(folder) if not is_foreign(folder) else {
        f"{path.parent.name}/{path.name}": {"bytes": path.stat().st_size, "tensors": tensors_of(load_tensors(path))}
        for path in folder.glob("*/*.safetensors") if path.name == weights_name(path.parent.name)}
    found = []
    for name, entry in sorted(files.items()):
        if "tensors" in entry:
            tensors = entry["tensors"].values()
            part = name.split("/")[0]
            found.append({"part": part, "config": repr(part_config(folder, part)),
                          "parameters": sum(math.prod(item["shape"]) for item in tensors), "tensors": len(tensors), "bytes": entry["bytes"],
                          "dtype": ", ".join(sorted({item["dtype"] for item in tensors}))})
    return found


def text_of(found: dict[str, Any], words: int) -> str:
    """The description for people."""
    size = f"{found['parameters']:,} parameters, {found['bytes'] / 2**20:.1f} MiB"
    lines = [f"{found['name']}  {found['hash'][:10]}  {size}, {found['written_by']}", ""]
    for part in found["parts"]:
        lines += [f"  {part['part']:<14}{part['parameters']:>12,} parameters{part['bytes'] / 2**20:8.2f} MiB  {part['dtype']}",
                  f"  {'':<14}{part['config']}"]
    leak = found["terminal_leak"]
    codec = found["codec"]
    lines += ["", f"process        {found['process']}",
              f"               terminal leak sqrt(alpha_bar_T) = {leak:.3g}" + ("" if leak else ": pure noise at the start"),
              f"prediction     {found['prediction']}, gauge {found['gauge']}, sigma_data {found['sigma_data']:g}",
              f"               noise told as {found['coordinate']}"]
    if codec["kind"] == "latent":
        lines += [f"latents        {codec['channels']} channels, 1/{codec['factor']} of the size",
                  f"               mean {_numbers(codec['mean'])}", f"               std  {_numbers(codec['std'])}"]
    else:
        lines += ["latents        none, diffusion on pixels"]
    saved, work = found["savings"], found["flops"]
    lines += [f"work           {saved['image_numbers']:,} numbers become {saved['latent_numbers']:,}, {saved['times_fewer_numbers']:g} times fewer;",
              f"               {saved['image_positions']:,} positions become {saved['latent_positions']:,}, "
              f"{saved['times_fewer_positions']:g} times fewer",
              f"               one evaluation {work['evaluation'] / 1e9:.3f} GFLOP, one decoding {work['decoding'] / 1e9:.3f} GFLOP (counted)"]
    default = found["defaults"]
    lines += [f"conditioning   {found['conditioning']}" + (f", {found['length']} tokens" if found["length"] else ""),
              f"sizes          {found['sizes']}",
              f"defaults       {', '.join(f'{key} {value}' for key, value in default.items())}",
              f"determinism    {found['determinism']} on this machine, computing in {found['compute_dtype']}",
              f"native kernels {found['native']}"]
    vocabulary = found["vocabulary"]
    if vocabulary:
        shown = list(vocabulary.items())[: max(0, words)]
        more = len(vocabulary) - len(shown)
        lines += [f"vocabulary     {len(vocabulary):,} words of its training captions, with the number of captions:",
                  "               " + ", ".join(f"{word} {count}" for word, count in shown) + (f", and {more:,} more" if more > 0 else "")]
    for key, value in found["card"].items():
        if key == "evaluation":
            from inkwash.evaluate.report.card import told

            rows = told(value)
            width = max(len(row) for row, _ in rows) + 2
            lines += ["evaluation", *(f"  {row:<{width}}{text}" for row, text in rows)]
            continue
        lines.append(f"{key:<15}{value if isinstance(value, str) else json_text.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines)


def _numbers(values: list[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)
