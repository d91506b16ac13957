"""How often the 95 % intervals of the metrics hold the truth, on data whose truth is known.

Every case draws samples, measures them as `inkwash evaluate` does, and looks whether the interval holds the truth. The truth is a closed form,
or, where a number depends on the sample size by definition (precision, recall, density, coverage), its mean over other draws. Writes a dated JSON
file and a table beside this one: `python benchmarks/coverage.py [--reps 1000] [--only WORD] [--out FILE.json]`. A file
that is there is added to, case by case.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import torch
from coverage_cases import CASES, Case
from speed import machine

from inkwash.evaluate.metrics.interval import wilson

SEED = 5 * 10**6                                           # none of the draws that the methods were chosen by
TRUTH = 3                                                  # other draws for each repetition, where the truth is their mean


def study(case: Case, reps: int) -> dict[str, Any]:
    """Coverage of one case over `reps` draws, with the interval of the coverage itself."""
    reps = min(reps, case.most)
    began = time.perf_counter()
    truths = case.truth
    if truths is None:
        draws = [case.draw(torch.Generator().manual_seed(10**6 + r)) for r in range(TRUTH * reps)]
        means = [sum(draw[i].value for draw in draws) / len(draws) for i in range(len(case.names))]
        truths = tuple(0.0 if " - truth " in name else mean for name, mean in zip(case.names, means))
    held = [[0, 0, 0] for _ in case.names]
    values: list[list[float]] = [[] for _ in case.names]
    widths = [0.0] * len(case.names)
    for r in range(reps):
        for i, estimate in enumerate(case.draw(torch.Generator().manual_seed(SEED + r))):
            held[i][0] += estimate.low <= truths[i] <= estimate.high
            held[i][1] += estimate.low > truths[i]
            held[i][2] += estimate.high < truths[i]
            values[i].append(estimate.value)
            widths[i] += (estimate.high - estimate.low) / reps
    rows = {}
    for i, name in enumerate(case.names):
        at = torch.tensor(values[i], dtype=torch.float64)
        low, high = wilson(held[i][0] / reps, reps)
        rows[name] = {"coverage": held[i][0] / reps, "coverage_low": low, "coverage_high": high,
                      "above": held[i][1] / reps, "below": held[i][2] / reps,
                      "truth": truths[i], "mean": float(at.mean()), "std": float(at.std()), "mean_width": widths[i]}
    sec = round(time.perf_counter() - began, 1)
    return {"title": case.title, "known_to_fail": case.known_to_fail, "reps": reps, "sec": sec, "rows": rows}


def table(results: list[dict]) -> str:
    """Markdown."""
    heads = ["data", "repetitions", "number", "truth", "mean", "coverage of the 95 % interval", "below truth", "above truth", "program"]
    lines = [" | ".join(["", *heads, ""]).strip(), "|" + " --- |" * len(heads)]
    for found in results:
        for name, row in found["rows"].items():
            at = {key: f"{100 * row[key]:.1f} %" if key in row else "not kept"
                  for key in ("coverage", "coverage_low", "coverage_high", "below", "above")}
            title = name + (" (expected to fail)" if found["known_to_fail"] else "")
            cells = [found["title"], str(found["reps"]), title, f"{row['truth']:.4g}",
                     f"{row['mean']:.4g}", f"{at['coverage']} ({at['coverage_low']} to {at['coverage_high']})",
                     at["below"], at["above"], found["commit"]]
            lines.append(" | ".join(["", *cells, ""]).strip())
    return "\n".join(lines)


def one(name: str, reps: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    return study(CASES[name](), reps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reps", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default="", help="cases whose name has this word; a case that is in the file already is measured anew")
    parser.add_argument("--commit", default="not said", help="what is measured, for the record")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / f"{date.today()}-coverage.json")
    options = parser.parse_args()
    before = json.loads(options.out.read_text("utf-8"))["cases"] if options.out.exists() else []
    results = {found["case"]: found for found in before}
    about = {"date": str(date.today()), "command": "python benchmarks/coverage.py", "machine": machine()}
    with ProcessPoolExecutor(options.workers) as pool:
        names = [name for name in CASES if options.only in name]
        for name, found in zip(names, pool.map(one, names, [options.reps] * len(names))):
            results[name] = {"case": name, "commit": options.commit, **found}
            for row, numbers in found["rows"].items():
                print(f"{name:20s} {row:36s} {100 * numbers['coverage']:5.1f} %  truth {numbers['truth']:.4g} mean {numbers['mean']:.4g}  "
                      f"{found['sec']} s", flush=True)
            write(options.out, about, [results[name] for name in CASES if name in results])


def write(out: Path, about: dict[str, Any], results: list[dict]) -> None:
    """The JSON file and the table beside it."""
    left = sorted(set(CASES) - {found["case"] for found in results})
    out.write_text(json.dumps({**about, "cases": results}, indent=1) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(
        f"# Coverage of the intervals\n\n{about['date']}, `{about['command']}`; the machine and all numbers are in the JSON file of the same name.\n"
        "With 400 draws a coverage is known within 2.1 percent points, with 200 within 3. \"Below\" and \"above\" say on which side of the truth\n"
        "the whole interval lay; of some cases only what was printed was kept. \"Program\" is the commit that was measured.\n\n"
        f"{table(results)}\n\nCases not measured: {', '.join(left) or 'none'}.\n", encoding="utf-8")


if __name__ == "__main__":
    main()
