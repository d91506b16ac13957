"""Randomly mixed requests through the engine against each one's solo run: how many have another pixel hash?

    python benchmarks/engine_exact.py --count 10000 --out benchmarks/DATE-engine-exact.json

Requests differ in prompt, negative prompt, sampler, spacing, steps, guidance (off, on, by interval, rescaled), seed and size; they arrive at random
ticks under random priorities, and some are cancelled, or suspended to bytes and resumed, in mid-image. The solo run is made by a second pipeline
that makes one request at a time, with two rows to a network call. The count of hashes that differ must be 0. With the same
options, it goes on where `--out` ends.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import torch
from engine_mix import mixed, pixel_hash
from harness import machine

from inkwash import Pipeline, Request
from inkwash.serve import Engine
from inkwash.serve.policy import Policy
from inkwash.value import parse, registry


def part(model: str, count: int, seed: int, policy: str, rows: int, most_steps: int) -> dict[str, int]:
    """One engine's share of the requests. Counts of what happened."""
    pipe, other = Pipeline.from_pretrained(model), Pipeline.from_pretrained(model)
    least, multiple = pipe.info.sizes.least, pipe.info.sizes.multiple
    sizes = [(least, least), (least + multiple, least), pipe.info.sizes.default]
    engine, draw, stream = Engine(pipe, policy=parse(policy, Policy), rows=rows, queue=64), random.Random(seed), mixed(pipe, seed, sizes, most_steps)  # type: ignore[type-abstract]
    found = dict.fromkeys(("finished", "different", "cancelled", "moved", "rows", "ticks"), 0)
    left, made = count, []
    while left or engine.pending:
        for _ in range(min(left, draw.choice((0, 1, 6)), engine.queue - len(engine.live))):
            engine.submit(next(stream), key=draw.choice("abcd"), priority=draw.choice((0, 0, 0, 1)))
            left -= 1
        made += engine.tick()
        if engine.live and draw.random() < 0.02:
            engine.resume(engine.suspend(draw.choice(engine.live)), key="moved")
            found["moved"] += 1
        if engine.live and draw.random() < 0.02:
            found["cancelled"] += engine.cancel(draw.choice(engine.live))
    for finished in made:
        request: Request = finished.ticket.request
        [alone] = other.generate([request])
        assert finished.image is not None
        found["finished"] += 1
        found["different"] += (pixel_hash(alone), alone.nfe) != (pixel_hash(finished.image), finished.image.nfe)
    return {**found, "rows": engine.rows_done, "ticks": engine.ticks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="", help="a model; without one, the tiny untrained model of the tests")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--part", type=int, default=500, help="requests of one engine")
    parser.add_argument("--steps", type=int, default=50, help="the most steps of a request")
    parser.add_argument("--limit-minutes", type=float, default=1e9, help="begin no part after this")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(options, options.model or str(tiny(Path(folder) / "tiny")))


def tiny(folder: Path) -> Path:
    """The model of the tests: latent diffusion with text at 32 x 32, random weights."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from tiny import build_tiny

    return build_tiny(folder)


def measure(options: argparse.Namespace, model: str) -> None:
    """Runs the parts, and writes what was found after each."""
    began = time.monotonic()
    before = json.loads(options.out.read_text("utf-8")) if options.out and options.out.exists() else {"parts": [], "seconds": 0}
    parts = before["parts"]
    policies = [str(cls()) for cls in registry(Policy).values()]
    for number in range(len(parts), -(-options.count // options.part)):
        if time.monotonic() - began > 60 * options.limit_minutes:
            break
        policy, rows = policies[number % len(policies)], (16, 2, 7, 32)[(number + number // 4) % 4]
        count = min(options.part, options.count - number * options.part)
        parts.append({"policy": policy, "most_rows_of_a_tick": rows, "seed": number, **part(model, count, number, policy, rows, options.steps)})
        total = {name: sum(int(one[name]) for one in parts) for name in ("finished", "different", "cancelled", "moved", "rows", "ticks")}
        pipe = Pipeline.from_pretrained(model)
        result = {"what": __doc__.splitlines()[0], "asked": options.count, **total, "determinism": pipe.determinism, "model": pipe.info.name,
                  "parts": parts, "seconds": round(before["seconds"] + time.monotonic() - began, 1), "machine": machine()}
        print(json.dumps(parts[-1]), flush=True)
        if options.out:
            options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
