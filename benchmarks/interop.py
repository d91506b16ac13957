"""The same pictures in diffusers: a model folder of ours, opened there as it is, beside ours.

    python benchmarks/interop.py --model mini

Both programs get the same start noise, sampler, steps and guidance, in float32, and the two uint8 pictures are compared: the largest and the mean
difference in levels of 255. Each row of settings is one scheduler; the first is that of the folder itself, unless it draws noise of its own, which
the two programs do not share. Beside them, the ids that both tokenizers give to texts of every kind. It exits with 1 when a picture differs by more
than 2 levels, or an id at all.

Where a process ends without signal, all their schedulers but DDIM end at abar = 2^-24, and a multistep method feels that in its second step. There
our sampler is given their levels, and the difference from our own end is told beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from harness import machine
from torch import Tensor

from inkwash import Pipeline, Request
from inkwash.condition import TextConditioner
from inkwash.core.schedule import Schedule, Tabulated
from inkwash.io.find import find_model
from inkwash.io.foreign_info import GRIDS, INDEX, read_config
from inkwash.io.foreign_own import LOADER
from inkwash.io.foreign_scheduler import levels_config
from inkwash.io.info import Defaults
from inkwash.sample import Sampler
from inkwash.value import parse

GOAL = 2
PROMPTS = ("a small red cube", "two green cones in soft light", "emoji of a smiling cat", "photo of a black leather jacket")
TEXTS = (*PROMPTS, "", "   ", "The  cat, it's naïve 42!", "DON'T we'LL 's", "日本語の文, русский текст, العربية", "emoji 👩🏽‍🚀 😀\t\n new line",
         "cafe\u0301 café ﬁ Ⅷ ½ İstanbul ΣΑΣ", "a\u00a0b\u3000c\u200bd", "100% $5 -- ... ???", "x" * 400, "a red cube and " * 40,
         "<|endoftext|> inside <|startoftext|>")
Setting = tuple[Defaults, str]                             # what is asked of both, and a word for it


def own_setting(usual: Defaults, scheduler: Any) -> list[Setting]:
    """The folder's defaults on the grid that its scheduler has; none for a sampler that draws noise."""
    if parse(usual.sampler, Sampler).stochastic:  # type: ignore[type-abstract]
        return []
    grid = next((name for key, name in GRIDS.items() if scheduler.config.get(key)), "trailing")
    return [(dataclasses.replace(usual, spacing=grid), "the folder's own")]


def open_there(folder: Path) -> Any:
    """Their pipeline of a folder of ours, nothing changed. Exits for a folder that it does not open."""
    import diffusers

    kind = read_config(folder / INDEX).get("_class_name")
    if kind not in ("StableDiffusionPipeline", [LOADER.removesuffix(".py"), "InkwashPipeline"]):
        sys.exit(f"{folder.name} is a {kind}, which diffusers does not have; the guide to foreign weights says what it opens")
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True, dtype=torch.float32, trust_remote_code=isinstance(kind, list))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def scheduler_of(ours: Pipeline, asked: Defaults) -> Any:
    """Their scheduler for other defaults of the same model."""
    import diffusers

    config = levels_config(dataclasses.replace(ours.info, defaults=asked))
    return getattr(diffusers, config.pop("_class_name")).from_config(config)


def their_levels(process: Schedule, scheduler: Any) -> Schedule:
    """`process`, or the table of their levels where it ends without signal and theirs does not."""
    abar = scheduler.alphas_cumprod.double()
    if process.leak() > 0 or float(abar[-1]) == 0:
        return process
    return Tabulated(tuple((1 - abar / torch.cat([abar.new_ones(1), abar[:-1]])).tolist()))


@torch.no_grad()
def picture_there(pipe: Any, ours: Pipeline, request: Request) -> Tensor:
    """Their picture (3, H, W) uint8 from our start noise."""
    program = ours.program(request)
    pipe.scheduler.set_timesteps(request.steps)
    own_gauge = float(pipe.scheduler.init_noise_sigma) == 1.0                            # VP as ours; the others scale noise of unit size
    latents = (program.x if own_gauge else program.x / float(program.plan.sigma[0]))[None]
    made = pipe(request.prompt, negative_prompt=request.negative or None, num_inference_steps=request.steps, guidance_scale=request.guidance,
                height=request.height, width=request.width, latents=latents, output_type="np").images
    return torch.from_numpy((made[0] * 255).round().astype("uint8")).permute(2, 0, 1)


def picture_here(ours: Pipeline, request: Request) -> Tensor:
    """Our picture (3, H, W), as whole numbers whose difference has a sign."""
    pixels = ours.generate([request])[0].pixels
    assert pixels is not None
    return pixels.int()


def pictures(ours: Pipeline, pipe: Any, rows: list[Setting], prompts: tuple[str, ...]) -> list[dict[str, Any]]:
    """One row for each setting: differences per prompt, and how much the pictures have in them."""
    width, height = ours.info.sizes.default
    own, process, found = pipe.scheduler, ours.schedule, []
    for asked, word in rows:
        pipe.scheduler = own if word else scheduler_of(ours, asked)
        shared = their_levels(process, pipe.scheduler)
        per: dict[str, dict[str, float]] = {}
        spreads = []
        for seed, prompt in enumerate(prompts):
            request = Request(prompt, "", seed, asked.steps, asked.sampler, asked.spacing, asked.guidance, width, height)
            there = picture_there(pipe, ours, request).int()
            ours.schedule = shared
            here = picture_here(ours, request)
            ours.schedule = process
            apart = (here - there).abs()
            own_end = apart if shared == process else (picture_here(ours, request) - there).abs()
            per[prompt] = {"largest": int(apart.max()), "mean": round(float(apart.float().mean()), 4), "largest_from_our_end": int(own_end.max())}
            spreads.append(float(here.float().std()))
        found.append({**dataclasses.asdict(asked), "scheduler": type(pipe.scheduler).__name__, "what": word, "spread": round(min(spreads), 1),
                      "largest": max(row["largest"] for row in per.values()), "mean": round(statistics.mean(row["mean"] for row in per.values()), 4),
                      "largest_from_our_end": max(row["largest_from_our_end"] for row in per.values()), "prompts": per})
        print(f"{asked.sampler:<10} {asked.steps:>3} steps, {asked.spacing}, guidance {asked.guidance:g}: largest {found[-1]['largest']}, "
              f"mean {found[-1]['mean']}", flush=True)
    pipe.scheduler = own
    return found


def token_differences(ours: Pipeline, pipe: Any, texts: tuple[str, ...]) -> list[str]:
    """The texts to which the two tokenizers give other ids."""
    conditioner, other = ours.conditioner, pipe.tokenizer
    assert isinstance(conditioner, TextConditioner)
    theirs = other(list(texts), padding="max_length", truncation=True, max_length=other.model_max_length, return_tensors="pt").input_ids
    return [text for text, a, b in zip(texts, conditioner.tokenizer(texts).ids, theirs, strict=True) if not torch.equal(a, b)]


def compare(model: str, steps: tuple[int, ...], guidances: tuple[float, ...], samplers: tuple[str, ...], prompts: tuple[str, ...]) -> dict[str, Any]:
    """All that is compared, as it is written."""
    ours, pipe = Pipeline.from_pretrained(model, dtype=torch.float32), open_there(find_model(model))
    asked: list[Setting] = [(Defaults(count, sampler, "trailing", scale), "") for sampler in samplers for count in steps for scale in guidances]
    rows = pictures(ours, pipe, own_setting(ours.info.defaults, pipe.scheduler) + asked, prompts)
    return {"model": ours.info.name, "hash": ours.hash, "parts": {name: type(part).__name__ for name, part in pipe.components.items() if part},
            "goal": GOAL, "largest": max(row["largest"] for row in rows), "pictures": rows, "texts": len(TEXTS),
            "texts_with_other_ids": token_differences(ours, pipe, TEXTS)}


def table(found: dict[str, Any]) -> str:
    """The result in Markdown."""
    head = found["machine"]
    lines = ["# Pictures of diffusers from our folder", "", f"- model: {found['model']}, {found['hash'][:12]}",
             f"- date: {head['date']}; torch {head['versions']['torch']}, diffusers {head['versions']['diffusers']}; {head['command']}",
             f"- largest difference of all: {found['largest']} levels (goal: at most {found['goal']})",
             f"- texts to which the tokenizers give other ids: {len(found['texts_with_other_ids'])} of {found['texts']}", "",
             "| sampler | scheduler | grid | steps | guidance | largest difference, levels | mean difference, levels | largest from our own end |",
              "|" + " --- |" * 8]
    lines += [f"| {row['sampler']}{', ' + row['what'] if row['what'] else ''} | {row['scheduler']} | {row['spacing']} | {row['steps']} | "
              f"{row['guidance']:g} | {row['largest']} | {row['mean']} | {row['largest_from_our_end']} |" for row in found["pictures"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini", help="an embedded model or a model folder")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 20, 50], help="numbers that divide the steps of training")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 4.0, 7.5])
    parser.add_argument("--samplers", nargs="+", default=["ddim", "dpmpp_2m", "euler"])
    parser.add_argument("--prompts", nargs="+", default=list(PROMPTS))
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent)
    given = parser.parse_args()
    found = {**compare(given.model, tuple(given.steps), tuple(given.guidance), tuple(given.samplers), tuple(given.prompts)), "machine": machine()}
    name = given.out / f"{found['machine']['date']}-interop-{found['model']}"
    name.with_suffix(".json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    name.with_suffix(".md").write_text(table(found), "utf-8")
    print(table(found))
    sys.exit(found["largest"] > GOAL or bool(found["texts_with_other_ids"]))


if __name__ == "__main__":
    main()
