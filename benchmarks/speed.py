"""Speed, beside what a user would pick instead: `python benchmarks/speed.py [SECTION ...] [--quick] [--out FOLDER]`.

Sections: ceiling, kernel, sampling, training, scaling, embedded; all of them without an argument. Peers are optional and said to be missing
when they are. Writes DATE-bench.json and DATE-bench.md beside this file; sections that these have of the same day and are not run again are kept.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from harness import machine, show

SECTIONS = ("ceiling", "kernel", "training", "sampling", "scaling", "embedded")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all unless given")
    parser.add_argument("--quick", action="store_true", help="fewer runs, smaller cases, no compiled ways: about two minutes")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="the folder of the results")
    options = parser.parse_args()
    machine_now = machine()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{machine_now['date']}-bench{'-quick' if options.quick else ''}.json"
    kept = json.loads(path.read_text("utf-8"))["sections"] if path.exists() else {}
    everything = {"machine": machine_now, "quick": options.quick, "sections": kept}
    for section in options.sections or SECTIONS:
        start = time.perf_counter()
        results = importlib.import_module(section).measure(options.quick)
        kept[section] = {"seconds": round(time.perf_counter() - start, 1), "results": results}
        print(show(section.capitalize(), results), flush=True)
        path.write_text(json.dumps(everything, indent=1) + "\n", "utf-8")
        path.with_suffix(".md").write_text(page(machine_now, kept), "utf-8")
    print(f"written to {os.path.relpath(path)} and .md")


def page(machine_now: dict[str, Any], sections: dict[str, Any]) -> str:
    """All sections, in their order, as Markdown."""
    text = [f"# Speed, {machine_now['date']}", "", *(f"- {key}: {value}" for key, value in machine_now.items()),
            "- times: median of runs taken by turns; ratios compare medians of one process", ""]
    if not torch.cuda.is_available():
        text += ["No GPU here: every figure is of the processor. With one, the same command measures it.", ""]
    return "\n".join(text + [show(name.capitalize(), sections[name]["results"]) for name in SECTIONS if name in sections])


if __name__ == "__main__":
    main()
