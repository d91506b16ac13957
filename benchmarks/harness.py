"""How things are timed here: ways to do one thing, in one process, by turns.

A machine is never quiet, so a way is never timed alone: in each round every way runs once, the order turns by one from round to round, and what
is compared is the median of the rounds. A row says the median, the least and the most, and the ratio to the best peer; a ratio below 1 means
that we are slower, and is printed as plainly as any other.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("inkwash", "torch", "diffusers", "denoising-diffusion-pytorch", "numpy")


def spread(times: list[float]) -> dict[str, float]:
    """Median, least and most of some seconds, and how many there are."""
    return {"median": round(statistics.median(times), 6), "min": round(min(times), 6), "max": round(max(times), 6), "runs": len(times)}


def alternate(ways: Mapping[str, Callable[[], object]], rounds: int, limit: float = 60.0) -> dict[str, dict[str, float]]:
    """Seconds of one call of each way: after one call that does not count, `rounds` rounds by turns, fewer (at least 3) after `limit` seconds."""
    names = list(ways)
    for name in names:
        ways[name]()
    times: dict[str, list[float]] = {name: [] for name in names}
    start = time.perf_counter()
    for number in range(rounds):
        if number >= 3 and time.perf_counter() - start > limit:
            break
        for name in names[number % len(names):] + names[: number % len(names)]:
            before = time.perf_counter()
            ways[name]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - before)
    return {name: spread(found) for name, found in times.items()}


def compare(title: str, found: Mapping[str, Mapping[str, float]], unit: str, amount: float) -> dict[str, Any]:
    """A table of ways: `amount` per median second in `unit`. Ways whose name starts with "inkwash" are ours, all others are peers."""
    rows = {name: {unit: round(amount / one["median"], 4), "slowest": round(amount / one["max"], 4), "fastest": round(amount / one["min"], 4),
                   "seconds": one["median"], "runs": one["runs"]} for name, one in found.items()}
    ours = {name: row[unit] for name, row in rows.items() if name.startswith("inkwash")}
    peers = {name: row[unit] for name, row in rows.items() if not name.startswith("inkwash")}
    result: dict[str, Any] = {"title": title, "unit": unit, "rows": rows}
    if ours and peers:
        best, peer = max(ours, key=lambda name: ours[name]), max(peers, key=lambda name: peers[name])
        result["ratio"] = round(ours[best] / peers[peer], 3)
        result["best"], result["peer"] = best, peer
    return result


def show(section: str, results: list[dict[str, Any]]) -> str:
    """The section as Markdown, ratios first."""
    lines = [f"## {section}", ""]
    for result in results:
        lines.append(f"### {result['title']}")
        lines.append("")
        if "ratio" in result:
            word = "as fast as" if result["ratio"] >= 1 else "as fast as (slower than)"
            lines += [f"**{result['ratio']:.2f} x** {word} the best peer: {result['best']} against {result['peer']}.", ""]
        if "rows" in result:
            unit = result["unit"]
            lines += [f"| way | {unit} | slowest to fastest | runs |", "|---|---|---|---|"]
            lines += [f"| {name} | {row[unit]:.4g} | {row['slowest']:.4g} to {row['fastest']:.4g} | {row['runs']} |"
                      for name, row in result["rows"].items()]
            lines.append("")
        for key, value in result.get("notes", {}).items():
            lines.append(f"- {key}: {value}")
        if result.get("notes"):
            lines.append("")
    return "\n".join(lines) + "\n"


def memory() -> float:
    """MiB that this process holds now (0 where the system does not say)."""
    path = Path("/proc/self/status")
    if not path.exists():
        return 0.0
    return next(float(line.split()[1]) / 1024 for line in path.read_text().splitlines() if line.startswith("VmRSS"))


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    info = Path("/proc/cpuinfo")
    named = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {"date": datetime.date.today().isoformat(), "processor": (named or [platform.processor()])[0], "cores": len(os.sched_getaffinity(0)),
            "threads": torch.get_num_threads(), "load": round(os.getloadavg()[0], 2), "amx": bool(torch.cpu._is_amx_tile_supported()),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none", "python": platform.python_version(),
            "system": platform.system(), "versions": versions, "command": " ".join(["python", *(os.path.relpath(sys.argv[0]), *sys.argv[1:])])}
