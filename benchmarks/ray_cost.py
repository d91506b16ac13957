"""What it costs to serve from Ray on one machine instead of from worker processes: seconds to the first readiness, memory, and time a request.

    python benchmarks/ray_cost.py --out benchmarks/DATE-ray.json

Both servers run after each other with one engine and the same settings. A request asks for one image of `--steps` steps without guidance; they come
one after the other, so that the difference of the medians is the way through Ray and back. Memory is that of all processes of a server, shared
pages counted once (PSS).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness import machine, spread
from load_server import Served, _children


def family(number: int) -> list[int]:
    """A process and all that came from it."""
    return [number] + [one for child in _children(number) for one in family(child)]


def held(number: int) -> float:
    """MiB of a process, its part of what it shares; 0 for one that is gone."""
    path = Path(f"/proc/{number}/smaps_rollup")
    try:
        return sum(float(line.split()[1]) / 1024 for line in path.read_text().splitlines() if line.startswith("Pss:"))
    except OSError:
        return 0.0


def cost(model: str, words: list[str], requests: int, steps: int) -> dict[str, Any]:
    """Start, memory and time of a server with these options."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        with Served(model, Path(folder), *words) as server:
            start = time.perf_counter() - began
            body = {"prompt": "emoji of a smiling cat", "steps": steps, "guidance": 1, "seed": 7}
            taken, found = [], set()
            for _ in range(requests + 3):
                began = time.perf_counter()
                status, answer = server.target.ask("POST", "/v1/images/generations", body)
                taken.append(1000 * (time.perf_counter() - began))
                if status != 200:
                    raise SystemExit(f"status {status}: {answer[:500]!r}")
                found.add(json.loads(answer)["data"][0]["pixel_sha256"])
            numbers = family(server.process.pid)
            return {"start_sec": start, "memory_mib": sum(map(held, numbers)), "processes": len(numbers), "request_ms": spread(taken[3:]),
                    "pixels": sorted(found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = {"machine": machine(), "ray version": version("ray")}
    for name, words in (("plain", []), ("ray", ["--ray"])):
        found[name] = cost(args.model, words, args.requests, args.steps)
    if found["plain"]["pixels"] != found["ray"]["pixels"]:
        raise SystemExit("the two servers gave other pixels")
    print(json.dumps(found, indent=1))
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
