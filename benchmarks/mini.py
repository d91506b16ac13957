"""What the embedded model can do, and what it costs: every number with its interval, the number of pictures behind it, and the goal.

    python mini.py --emoji FILE --clothing FILE --out FILE.json           everything
    python mini.py --emoji FILE --clothing FILE --part garments cost      some parts
    python mini.py --emoji FILE --clothing FILE --num 16                  everything, with few pictures

Parts: garments, emoji, left_out, scenes, autoencoder, frechet, memory, curves, cost, sheets. Each is written to FILE.json and FILE.md when it is
done, and joins those that are there. Pictures are kept in `--folder`, so the same command goes on where it was stopped, and a larger --num adds to
them. The files mini_*.py say how each part judges.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mini_cost
import mini_curves
import mini_emoji
import mini_garments
import mini_left_out
import mini_pictures
import mini_scenes
import mini_sheet
from harness import machine
from mini_bench import Bench, open_bench
from mini_result import Row, merged, save

from inkwash.errors import InkwashError

Part = Callable[[Bench, int], tuple[list[Row], list[str]]]
SIZES = {"garments": 500, "emoji": 300, "left_out": 200, "scenes": 500, "autoencoder": 128, "frechet": 512, "memory": 300, "curves": 32, "cost": 5,
         "sheets": 300}
ROWS: dict[str, Part] = {"garments": mini_garments.part, "emoji": mini_emoji.part, "left_out": mini_left_out.part, "scenes": mini_scenes.part,
                         "autoencoder": mini_pictures.autoencoder, "frechet": mini_pictures.frechet, "memory": mini_pictures.copies,
                         "cost": mini_cost.part}


def measured(bench: Bench, name: str, num: int, images: Path) -> dict[str, Any]:
    """One part as it is written."""
    start = time.perf_counter()
    found: dict[str, Any]
    if name == "curves":
        points, chosen, notes = mini_curves.points(bench, num)
        found = {"rows": [], "points": points, "cheapest": chosen, "notes": notes}
    elif name == "sheets":
        found = {"rows": [], "notes": [f"{path.name}" for path in mini_sheet.write(bench, num, images)]}
    else:
        rows, notes = ROWS[name](bench, num)
        found = {"rows": [row.json() for row in rows], "notes": notes}
    return {"num": num, "commit": commit(), "machine": machine(), "seconds": round(time.perf_counter() - start, 1), **found}


def commit() -> str:
    """The commit that is measured; "+" says that files differ from it."""
    try:
        said = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "not known"
    return said.stdout.strip()


def result(bench: Bench, parts: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured, of which model, in which features."""
    shown = bench.template
    settings = f"{shown.steps} steps of {shown.sampler} on {shown.spacing}, guidance {shown.guidance:g}, {shown.width}x{shown.height}"
    return {"what": "what the embedded model can do", "model": {"name": bench.pipeline.info.name, "hash": bench.pipeline.hash, "settings": settings},
            "extractor": f"{bench.extractor.name} {bench.extractor.hash}", "parts": parts}


def main() -> None:
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emoji", required=True, help="emoji.parquet, by this name, since held-out pictures are known by it")
    parser.add_argument("--clothing", required=True, help="clothing-train.parquet, likewise")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--part", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--num", type=int, help=f"pictures of each part; without it {', '.join(f'{name} {num}' for name, num in SIZES.items())}")
    parser.add_argument("--held-out", nargs="*", metavar="REGEX",
                        help="captions left out of training; without it those that the model's card names, which are data.leave_out of its recipe")
    parser.add_argument("--out", type=Path, default=here / f"{datetime.date.today().isoformat()}-mini.json")
    parser.add_argument("--images", type=Path, help="where sheets go; without it beside --out")
    parser.add_argument("--folder", type=Path, default=here.parent / "outputs" / "mini", help="where what was made is kept")
    asked = parser.parse_args()
    try:
        bench = open_bench(asked.model, asked.emoji, asked.clothing, asked.held_out, asked.folder)
        old = json.loads(asked.out.read_text("utf-8")) if asked.out.exists() else None
        found = merged(old, result(bench, {}))
        for name in asked.part:
            found = merged(found, result(bench, {name: measured(bench, name, asked.num or SIZES[name], asked.images or asked.out.parent)}))
            found["parts"] = {one: found["parts"][one] for one in SIZES if one in found["parts"]}
            save(asked.out, found)
            print(f"{name}: {asked.out}", flush=True)
    except InkwashError as error:
        sys.exit(f"error [{error.code}]: {error}")


if __name__ == "__main__":
    main()
