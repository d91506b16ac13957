"""Speed and memory of the embedded model, the sampling kernel and the training loop, on this machine.

Every figure is a median of several runs with its spread, since machines are noisy; nothing is compared with numbers from elsewhere.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from inkwash.cond import Cond
from inkwash.core.level import Level
from inkwash.core.schedule import Cosine, Schedule
from inkwash.core.spacing import Trailing
from inkwash.guide import CFG, evaluate
from inkwash.pipeline import Pipeline
from inkwash.request import Request
from inkwash.sample import Program, Sampler, prior, run
from inkwash.value import parse

PROMPT = "emoji of a smiling cat"


def median(times: list[float]) -> dict[str, float]:
    """Median, least and most of some seconds."""
    return {"median": round(statistics.median(times), 4), "min": round(min(times), 4), "max": round(max(times), 4), "runs": len(times)}


def timed(function: Callable[[], object], runs: int) -> dict[str, float]:
    """Seconds of `runs` calls after one that does not count."""
    function()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return median(times)


def whole_process(runs: int) -> dict[str, Any]:
    """`inkwash generate` from process start to file, and the most memory that one such process held."""
    times, peak_kib = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for i in range(runs + 1):
            start = time.perf_counter()
            file = Path(folder) / f"{i}.png"
            process = subprocess.Popen([Path(sys.executable).parent / "inkwash", "generate", PROMPT, "--quiet", "--seed", str(i), "-o", file])
            usage = os.wait4(process.pid, 0)[2]
            times.append(time.perf_counter() - start)
            peak_kib = max(peak_kib, usage.ru_maxrss)
            if not file.is_file():
                raise RuntimeError(f"inkwash generate made no {file.name}")
    return {"seconds": median(times[1:]), "peak_memory_mib": round(peak_kib / 1024, 1)}


def loaded(pipe: Pipeline, runs: int) -> dict[str, Any]:
    """Seconds per image at the default settings after loading, alone and in a batch of eight."""
    default, (wide, high) = pipe.info.defaults, pipe.info.sizes.default

    def make(count: int) -> list[Any]:
        return pipe.generate([Request(PROMPT, "", seed, default.steps, default.sampler, default.spacing, default.guidance, wide, high)
                              for seed in range(count)])

    nfe = make(1)[0].nfe
    alone, eight = timed(lambda: make(1), runs), timed(lambda: make(8), max(2, runs // 2))
    return {"settings": str(default), "nfe": nfe, "seconds_alone": alone, "seconds_of_eight": eight,
            "seconds_per_image_of_eight": round(eight["median"] / 8, 4)}


def kernel(runs: int) -> dict[str, Any]:
    """Microseconds per sample and row of the sampling kernel and of guided evaluation, with a network that costs nothing."""
    found: dict[str, Any] = {}
    schedule: Schedule = Cosine()
    for name in ("ddim", "dpmpp_2m", "unipc"):
        plan = parse(name, Sampler).plan(Trailing().levels(schedule, 20))  # type: ignore[type-abstract]
        for batch in (1, 8, 64):
            programs = [Program(plan, i, 0, prior(plan, (8, 16, 16), i, 0)) for i in range(batch)]
            seconds = timed(lambda programs=programs: run(lambda x, level, index: x, programs), runs)["median"]  # type: ignore[misc]
            found[f"{name}, batch {batch}"] = round(seconds / plan.rows / batch * 1e6, 1)
    for batch in (1, 8, 64):
        x, cond = torch.randn(batch, 8, 16, 16), Cond({"tokens": torch.randn(batch, 32, 192)})
        level = Level(torch.full((batch,), 0.6, dtype=torch.float64), torch.full((batch,), 0.8, dtype=torch.float64))
        guidances = [CFG(scale=4.0)] * batch
        models = {"main": lambda x, level, cond: x}
        seconds = timed(lambda: evaluate(models, x, level, guidances, {"cond": cond, "null": cond}), runs)["median"]
        found[f"guidance, batch {batch}"] = round(seconds / batch * 1e6, 1)
    return found


def network(pipe: Pipeline, runs: int) -> dict[str, Any]:
    """Milliseconds of one call of the denoiser's network in what it computes in, and of decoding one image."""
    channels, high, wide = pipe.codec.shape(*pipe.info.sizes.default)
    found: dict[str, Any] = {"dtype": str(pipe.dtype)}
    with torch.inference_mode():
        for batch in (1, 2, 8):
            x = torch.randn(batch, channels, high, wide)
            level = Level(torch.full((batch,), 0.6, dtype=torch.float64), torch.full((batch,), 0.8, dtype=torch.float64))
            cond = pipe.conditioner([PROMPT] * batch)
            found[f"denoiser, batch {batch}, ms"] = round(timed(lambda: pipe.denoiser(x, level, cond), runs)["median"] * 1e3, 2)
    return found


def measure(quick: bool) -> list[dict[str, Any]]:
    runs = 3 if quick else 9
    pipe = Pipeline.from_pretrained("mini")
    parts = {"whole process": whole_process(2 if quick else 5), "loaded": loaded(pipe, runs), "network": network(pipe, runs),
             "kernel, microseconds per sample and row": kernel(runs)}
    return [{"title": f"mini: {name}", "notes": part} for name, part in parts.items()]
