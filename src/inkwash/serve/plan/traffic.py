"""Traffic: when requests come, and what each asks. Open loop: nobody waits for an earlier answer before asking.

A Poisson process of rate R has independent gaps of mean 1/R; it is what many independent callers look like. A file of traffic has one JSON
object a line: `at` in seconds, and the fields of POST /v1/images/generations. The same lines are simulated and sent.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from inkwash.errors import DataError
from inkwash.io.path import as_path
from inkwash.request import MAX_STEPS, check_guidance, check_int

PROMPTS = ("a small red cube", "two green cones", "emoji of a cat", "a black leather jacket", "a blue sphere left of a cone")
MAX_ARRIVALS = 1_000_000
FIELDS = ("prompt", "negative_prompt", "steps", "sampler", "spacing", "guidance", "seed", "size", "deadline_ms")


class Arrival(NamedTuple):
    """A request: when it comes, what its image costs, and how long its caller waits. `body` is what is sent, but for `deadline_ms`."""

    at: float                                              # seconds from the start
    steps: int
    guided: bool
    deadline_sec: float
    body: Mapping[str, Any]


def poisson(rate: float, count: int, seed: int, bodies: Sequence[Mapping[str, Any]], deadline_sec: float) -> list[Arrival]:
    """`count` requests, `rate` a second; each is one of `bodies` (with steps and guidance), drawn at random, with a seed of its own."""
    draw = random.Random(seed)
    at, found = 0.0, []
    for number in range(count):
        at += draw.expovariate(rate)
        body = dict(draw.choice(bodies))
        body.setdefault("prompt", draw.choice(PROMPTS))
        body["seed"] = number
        found.append(Arrival(at, int(body["steps"]), body["guidance"] != 1.0, deadline_sec, body))
    return found


def read_traffic(file: Path, usual: Mapping[str, Any], deadline_sec: float) -> list[Arrival]:
    """The traffic of a file; `usual` (with steps and guidance) and the deadline are for lines that do not say.

    Raises DataError `file_not_found`, `bad_traffic`.
    """
    as_path(file, "--traffic")
    try:
        lines = file.read_text("utf-8").splitlines()
    except FileNotFoundError:
        raise DataError("file_not_found", f'there is no file "{file}"; give lines such as {{"at": 0.5, "steps": 20}}') from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("bad_traffic", f'cannot read "{file}": {str(error)[:160]}') from None
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.append(_arrival(line, number, usual, deadline_sec))
            except (ValueError, OverflowError, RecursionError) as error:                 # the others of numbers and nests without end
                raise DataError("bad_traffic", f'"{file}", line {number}: {error}') from None
    if not found or len(found) > MAX_ARRIVALS:
        raise DataError("bad_traffic", f'"{file}" has {len(found)} requests; give 1..{MAX_ARRIVALS}')
    return sorted(found, key=lambda arrival: arrival.at)


def _arrival(line: str, number: int, usual: Mapping[str, Any], deadline_sec: float) -> Arrival:
    body = json.loads(line)
    if not isinstance(body, dict):
        raise ValueError("a line must be a JSON object")
    at = body.pop("at", None)
    if isinstance(at, bool) or not isinstance(at, int | float) or not math.isfinite(at) or at < 0:
        raise ValueError(f"at must be seconds from the start, got {str(at)[:40]}")
    unknown = [name for name in body if name not in FIELDS]
    if unknown:
        raise ValueError(f"there is no field {str(unknown[0])[:60]!r} of traffic; known: at, {', '.join(FIELDS)}")
    body = {"prompt": PROMPTS[number % len(PROMPTS)], "seed": number, **usual, **body}
    scale = check_guidance(body["guidance"], "guidance")
    if isinstance(scale, str):
        raise ValueError("guidance must be a number here, since the rows of a step are counted from it")
    wait = body.pop("deadline_ms", 1000 * deadline_sec)
    if isinstance(wait, bool) or not isinstance(wait, int | float) or not 0 < wait <= 3_600_000:
        raise ValueError(f"deadline_ms must be 1..3600000, got {str(wait)[:40]}")
    steps = check_int(body["steps"], "steps", "bad_steps", 1, MAX_STEPS)
    return Arrival(float(at), steps, scale != 1.0, wait / 1000, {**body, "steps": steps, "guidance": scale})


def rate_of(arrivals: Sequence[Arrival]) -> float:
    """Requests a second, by the time of the last one; where all come at once, by the longest time that one of them waits."""
    return len(arrivals) / (arrivals[-1].at or max(arrival.deadline_sec for arrival in arrivals))
