"""What one image costs: seconds after loading, the most memory that a process needs that makes one, and seconds of `make image` when set up.

Each is the median of several, at the model's default settings, on all cores that this process may use. Take the numbers on a machine that does
nothing else.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from mini_bench import Bench
from mini_result import Row

from inkwash.evaluate.metrics.interval import Estimate, bootstrap

ROOT = Path(__file__).resolve().parents[1]
PROMPT = "emoji of a smiling cat"
SECONDS, MIB, MAKE_SECONDS = 0.7, 600.0, 5.0             # the goals


def middle(values: list[float], note: str = "") -> Estimate:
    """The median with its bootstrap interval."""
    return bootstrap(torch.tensor(values, dtype=torch.float64), torch.median, note=note)


def loaded(bench: Bench, runs: int) -> list[float]:
    """Seconds of one image each, after two that do not count."""
    times = []
    for i in range(runs + 2):
        start = time.perf_counter()
        bench.pipeline(PROMPT, seed=i)
        times.append(time.perf_counter() - start)
    return times[2:]


def process(command: list[str]) -> tuple[float, float]:
    """Seconds and MiB at most of a process that must succeed. Raises CalledProcessError."""
    start = time.perf_counter()
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    return time.perf_counter() - start, used.ru_maxrss / 1024


def part(bench: Bench, num: int) -> tuple[list[Row], list[str]]:
    runs = max(3, num)
    rows = [Row("one image after loading", middle(loaded(bench, runs)), SECONDS, "s", True)]
    notes = [f"median of {runs}; {bench.template.steps} steps of {bench.template.sampler}; torch uses {torch.get_num_threads()} thread(s)"]
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(sys.executable).parent / "inkwash")
        model = str(bench.pipeline.source)
        alone = [process([program, "generate", PROMPT, "--model", model, "--quiet", "-o", f"{folder}/{i}.png"]) for i in range(runs + 1)][1:]
        rows += [Row("a process that makes one image", middle([seconds for seconds, _ in alone]), unit="s", smaller=True),
                 Row("its memory at most", middle([mib for _, mib in alone]), MIB, "MiB", True)]
        if subprocess.run(["make", "-q", ".venv/bin/.core"], cwd=ROOT, capture_output=True).returncode:
            return rows, [*notes, "make image: not measured, since it is not set up here; run it once and measure again"]
        made = [process(["make", "image", f"ARGS=--quiet -o {folder}/make{i}.png"])[0] for i in range(runs + 1)][1:]
    return [*rows, Row("make image when set up", middle(made), MAKE_SECONDS, "s", True)], notes
