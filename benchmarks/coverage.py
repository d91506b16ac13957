"""How often the 95 % intervals of the metrics hold the truth, on data whose truth is known.

Every case draws samples, measures them as `inkwash evaluate` does, and looks whether the interval holds the truth. The truth is a closed form,
or, where a number depends on the sample size by definition (precision, recall, density, coverage), its mean over other draws. Writes a dated JSON
file and a table beside this one: `python benchmarks/coverage.py [--reps 1000] [--only WORD] [--out FILE.json]`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from coverage_cases import CASES, Case
from speed import machine

from inkwash.evaluate.interval import wilson


def study(case: Case, reps: int) -> dict[str, object]:
    """Coverage of one case over `reps` draws, with the interval of the coverage itself."""
    began = time.perf_counter()
    truths = case.truth
    if truths is None:
        draws = [case.draw(torch.Generator().manual_seed(10**6 + r)) for r in range(reps)]
        means = [sum(draw[i].value for draw in draws) / reps for i in range(len(case.names))]
        truths = tuple(0.0 if " - truth " in name else mean for name, mean in zip(case.names, means))
    held = [[0, 0, 0] for _ in case.names]
    values: list[list[float]] = [[] for _ in case.names]
    widths = [0.0] * len(case.names)
    for r in range(reps):
        for i, estimate in enumerate(case.draw(torch.Generator().manual_seed(r))):
            held[i][0] += estimate.low <= truths[i] <= estimate.high
            held[i][1] += estimate.low > truths[i]
            held[i][2] += estimate.high < truths[i]
            values[i].append(estimate.value)
            widths[i] += (estimate.high - estimate.low) / reps
    rows = {}
    for i, name in enumerate(case.names):
        at = torch.tensor(values[i], dtype=torch.float64)
        low, high = wilson(held[i][0] / reps, reps)
        rows[name] = {"coverage": held[i][0] / reps, "coverage_low": low, "coverage_high": high, "above": held[i][1] / reps, "below": held[i][2] / reps,
                      "truth": truths[i], "mean": float(at.mean()), "std": float(at.std()), "mean_width": widths[i]}
    return {"title": case.title, "known_to_fail": case.known_to_fail, "reps": reps, "sec": round(time.perf_counter() - began, 1), "rows": rows}


def table(results: list[dict], reps: int) -> str:
    """Markdown."""
    lines = ["| data | number | truth | mean | coverage of the 95 % interval | interval below truth | above truth |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for found in results:
        for name, row in found["rows"].items():
            mark = " (expected to fail)" if found["known_to_fail"] else ""
            lines.append(f"| {found['title']} | {name}{mark} | {row['truth']:.4g} | {row['mean']:.4g} | {100 * row['coverage']:.1f} % "
                         f"({100 * row['coverage_low']:.1f}..{100 * row['coverage_high']:.1f}) | {100 * row['below']:.1f} % | {100 * row['above']:.1f} % |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reps", type=int, default=1000)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / f"{date.today()}-coverage.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    build: list[tuple[str, Callable[[], Case]]] = [(name, make) for name, make in CASES.items() if options.only in name]
    results = []
    for name, make in build:
        results.append({"case": name, **study(make(), options.reps)})
        for row, found in results[-1]["rows"].items():
            print(f"{name:28s} {row:28s} {100 * found['coverage']:5.1f} %  truth {found['truth']:.4g} mean {found['mean']:.4g}  "
                  f"{results[-1]['sec']} s", flush=True)
    about = {"date": str(date.today()), "command": f"python benchmarks/coverage.py --reps {options.reps}", "machine": machine(), "reps": options.reps}
    options.out.write_text(json.dumps({**about, "cases": results}, indent=1) + "\n", encoding="utf-8")
    error = 100 * math.sqrt(0.95 * 0.05 / options.reps)
    options.out.with_suffix(".md").write_text(
        f"# Coverage of the intervals\n\n{about['date']}, `{about['command']}`; the machine and all numbers are in the JSON file of the same name.\n"
        f"{options.reps} draws for every row, so a coverage is known within about {2 * error:.1f} percent points. \"Below\" and \"above\" say on which\n"
        f"side of the truth the whole interval lay.\n\n{table(results, options.reps)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
