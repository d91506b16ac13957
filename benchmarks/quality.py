"""Time to quality: CIFAR-10 from nothing for some minutes, Frechet distance along the way, ours against each peer's own recipe.

    python benchmarks/quality.py                                  all of it: every contestant for 30 minutes on all cores, then the distances
    python benchmarks/quality.py train diffusers --minutes 36     one contestant; also lucidrains, inkwash
    python benchmarks/quality.py measure --out FILE               the distances of what has been trained so far; FILE.json and FILE.md

`--minutes` counts core-minutes. Ours is trained by `inkwash train cifar10` for a fifth of them. A command that was stopped goes on when it is
given again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import quality_measure
import quality_train
from harness import machine
from mini_peers_ours import scaled
from quality_data import FILE, examples
from quality_peers import RECIPES
from quality_sample import Way

from inkwash.train.config import RunConfig, read_recipe

FOLDER = Path("outputs") / "quality"
SHARES = (1 / 6, 1 / 3, 2 / 3, 1.0)                        # of the budget at which weights are kept
PROBES = (10, 10, 40)                                      # steps of a run that decodes all pictures, and of two that tell what a step costs

NOTES = ("time is processor time of all threads: for a peer that of its training steps alone, for ours that of the whole process of inkwash train",
         "peers: networks, schedules and losses are theirs, the loop is ours (bfloat16 autocast, channels last), for their trainers need torchvision",
         "all are sampled by one sampler, on the schedule that each was trained on")


def ours(folder: Path, minutes: float) -> None:
    """Trains our recipe for `minutes`. What it counts are whole processes, start and export included, and those that tell how many steps fit too."""
    recipe, out = read_recipe("cifar10"), folder / f"inkwash-{minutes:g}"
    costs = []
    for steps in PROBES:
        costs.append(command(recipe, steps, out / "probe", folder))
        shutil.rmtree(out / "probe")
    each = (costs[2] - costs[1]) / (PROBES[2] - PROBES[1])
    start = costs[1] - PROBES[1] * each
    steps = max(PROBES[2], int((minutes * 60 - sum(costs) - start) / each))
    seconds = sum(costs) + command(recipe, steps, out, folder)
    (out / quality_measure.SECONDS).write_text(json.dumps({"seconds": seconds}))


def command(recipe: RunConfig, steps: int, out: Path, folder: Path) -> float:
    """Runs `inkwash train cifar10` for so many steps; the processor seconds that it took."""
    before = processor_seconds()
    settings = [word for setting in scaled(recipe, steps) for word in ("--set", setting)]
    program, cache = Path(sys.executable).parent / "inkwash", folder / "cache"
    subprocess.run([program, "train", "cifar10", "--data", FILE, "--out", out, "--cache", cache, *settings], check=True)
    return processor_seconds() - before


def processor_seconds() -> float:
    """Of all commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def train(who: str, folder: Path, minutes: float) -> None:
    """One contestant."""
    if who == "inkwash":
        ours(folder, minutes)
    else:
        quality_train.train(who, RECIPES[who], lambda recipe: examples(folder, recipe.batch), folder,
                            [round(share * minutes, 2) for share in SHARES], time.process_time)


def measure(folder: Path, count: int, way: Way, out: Path, notes: list[str], final: bool) -> None:
    """Writes `out`.json and `out`.md."""
    found = {"what": "time to quality on CIFAR-10", "machine": machine(), "notes": [*NOTES, *notes],
             **quality_measure.measure(folder, count, way, quality_measure.entries(folder, final))}
    out.with_suffix(".json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    out.with_suffix(".md").write_text(quality_measure.page(found), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", nargs="?", choices=("all", "train", "measure"), default="all")
    parser.add_argument("who", nargs="?", choices=(*RECIPES, "inkwash"))
    parser.add_argument("--minutes", type=float, default=30.0 * (os.cpu_count() or 1), help="core-minutes of the budget")
    parser.add_argument("--num", type=int, default=2000, help="pictures of each contestant")
    parser.add_argument("--sampler", default=Way().sampler)
    parser.add_argument("--steps", type=int, default=Way().steps, help="of the sampler")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--final", action="store_true", help="measure the end of each budget alone, not the curve to it")
    parser.add_argument("--note", action="append", default=[], help="a line for the result")
    parser.add_argument("--out", type=Path, default=FOLDER / "quality")
    arguments = parser.parse_args()
    if arguments.stage == "train":
        if arguments.who is None:
            parser.error("train whom?")
        train(arguments.who, arguments.folder, arguments.minutes)
        return
    if arguments.stage == "all":
        for who, minutes in (*((peer, arguments.minutes) for peer in RECIPES), ("inkwash", arguments.minutes / 5)):
            subprocess.run([sys.executable, __file__, "train", who, "--minutes", f"{minutes:g}", "--folder", arguments.folder], check=True)
    measure(arguments.folder, arguments.num, Way(arguments.sampler, arguments.steps), arguments.out, arguments.note, arguments.final)


if __name__ == "__main__":
    main()
