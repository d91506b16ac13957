"""Our side of the comparison with peers: `inkwash train`, one process for each core, as long as a peer trains.

The clock is on the wall and counts whole commands: start, encoding all pictures and captions, training, export, and the few steps before each
training that tell how many fit into its time. A stage that was stopped begins again, since nobody knows how long it had run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from inkwash.io.durable import write_text
from inkwash.train.config import RunConfig, read_recipe
from inkwash.train.log import read_log

SECONDS = "seconds.json"
PROBE, WINDOW = 24, 8                                      # steps that tell the rate; it is that of the last WINDOW
START = 15.0                                               # seconds that a command needs around its steps


class Stage(NamedTuple):
    """A recipe with its share of the budget."""

    name: str
    recipe: str
    share: float


FROM_NOTHING = (Stage("text", "mini-contrastive", 0.1), Stage("autoencoder", "mini-autoencoder", 0.3), Stage("denoiser", "mini-denoiser", 0.6))
GIVEN_PARTS = (Stage("denoiser", "mini-denoiser", 1.0),)


def scaled(recipe: RunConfig, steps: int) -> list[str]:
    """Settings that make a recipe as long as `steps`: cooldown in proportion, warm-up of at most a twentieth, and nothing but training."""
    optimizer = recipe.optimizer
    return [f"steps={steps}", f"optimizer.cooldown={round(optimizer.cooldown * steps / recipe.steps)}",
            f"optimizer.warmup={min(optimizer.warmup, steps // 20)}", "validate_every=0", "sample.every=0"]


def train(folder: Path, minutes: float, data: list[str], parts: dict[str, Path], stages: tuple[Stage, ...], run: Callable[[list[str]], None]) -> None:
    """Trains all stages into `folder`; `data` are arguments of `inkwash train` that all have, `parts` what is given to the denoiser."""
    for stage in stages:
        if (folder / stage.name / SECONDS).exists():
            continue
        shutil.rmtree(folder / stage.name, ignore_errors=True)
        known = parts or {other.name: folder / other.name for other in stages[:-1]}
        given = [word for name, path in known.items() for word in ("--set", f"{name}={path}")] if stage.name == "denoiser" else []
        write_text(folder / stage.name / SECONDS, json.dumps(one(stage, folder / stage.name, minutes * 60 * stage.share, [*data, *given], run)))


def one(stage: Stage, folder: Path, budget: float, arguments: list[str], run: Callable[[list[str]], None]) -> dict[str, float]:
    """One stage of at most `budget` seconds; what it took, and how many pictures it saw."""
    began = time.perf_counter()
    recipe = read_recipe(stage.recipe)

    def command(out: Path, settings: list[str]) -> None:
        run(["train", stage.recipe, "--out", str(out), *arguments, *[word for setting in settings for word in ("--set", setting)]])

    folder.mkdir(parents=True, exist_ok=True)
    command(folder / "probe", [*scaled(recipe, PROBE), f"log_every={WINDOW}"])
    rate = [event["samples_per_sec"] for event in read_log(folder / "probe") if event["event"] == "train"][-1] / recipe.batch
    shutil.rmtree(folder / "probe")
    steps = max(PROBE, int((budget - (time.perf_counter() - began) - START) * rate))
    command(folder, scaled(recipe, steps))
    return {"seconds": round(time.perf_counter() - began, 1), "steps": steps, "images": steps * recipe.batch}


def spent(folder: Path, stages: tuple[Stage, ...]) -> dict[str, dict[str, float]]:
    """What each stage took; empty before all are done."""
    paths = {stage.name: folder / stage.name / SECONDS for stage in stages}
    return {name: json.loads(path.read_text("utf-8")) for name, path in paths.items()} if all(path.exists() for path in paths.values()) else {}


def inkwash(words: list[str]) -> None:
    """Runs `inkwash` on all cores that this process may use. Raises CalledProcessError."""
    program, cores = str(Path(sys.executable).parent / "inkwash"), len(os.sched_getaffinity(0))
    many = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(cores), "--no-python"] if cores > 1 else []
    subprocess.run([*many, program, *words], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
