"""The engine against the obvious alternative under a mixed Poisson load, and what the engine itself costs.

    python benchmarks/engine_load.py --out benchmarks/DATE-engine-load.json

The alternative batches whole requests: when it is free it takes the oldest request and all waiting ones of equal settings, as many as fit into
the same number of network rows, and runs them to their end. Both face the same arrivals and the same machine: time is simulated, and a network
call takes the seconds that this program measured for its number of rows (processor time of one thread, so that a busy machine does not matter),
a decoding likewise. What runs is the real engine, on a network that answers nothing but lets the clock go on. Then its own cost is measured for
real: eight guided requests of equal settings, by the engine and by the bare loop of the kernel with the same calls; and once more with a network
that takes no time, so that the difference is the engine alone.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from harness import machine
from torch import Tensor, nn

from inkwash import Pipeline, Request
from inkwash.calls import cut
from inkwash.codec import Pixels
from inkwash.cond import Cond
from inkwash.condition import NoConditioner
from inkwash.core.level import Clean, Gauge, Level
from inkwash.core.prediction import V
from inkwash.denoiser import Denoiser
from inkwash.io.info import Defaults, ModelInfo, Sizes
from inkwash.sample import run
from inkwash.serve import Engine

ROWS = 16
SHORT = 8                                                  # steps, at most, of a short job


class Arrival(NamedTuple):
    """When a request comes, and what it asks."""

    at: float
    request: Request


class Virtual:
    """A clock that goes on when the network is called, and a model that does nothing else."""

    def __init__(self, seconds: Mapping[int, float], decode_sec: float) -> None:
        self.now, self.seconds = 0.0, dict(seconds)
        virtual = self

        class Network(nn.Module):
            def forward(self, x: Tensor, noise: Tensor, cond: Cond) -> Tensor:
                virtual.now += virtual.seconds[len(x)]
                return x

        class Free(Pixels):
            def restore(self, clean: Clean) -> Tensor:
                virtual.now += decode_sec * len(clean.x)
                return super().restore(clean)

        info = ModelInfo("virtual", "Cosine()", "V()", codec="pixels", channels=3, factor=1, conditioning="none", sizes=Sizes((2, 2), 2, 4, 2),
                         defaults=Defaults(4, "ddim", "trailing", 2.0))
        self.pipe = Pipeline(Denoiser(Network(), V(), Gauge.VP), Free(), NoConditioner(), info)
        self.pipe.call_seconds = lambda shape, most: self.seconds  # type: ignore[method-assign]
        self.pipe.calls = lambda shape, pending: lambda count: cut(count, self.seconds)  # type: ignore[method-assign]


def engine_times(arrivals: list[Arrival], seconds: Mapping[int, float], decode_sec: float) -> list[float]:
    """Seconds from arrival to image of each request, by the engine."""
    world = Virtual(seconds, decode_sec)
    engine = Engine(world.pipe, rows=ROWS, queue=100_000, clock=lambda: world.now)
    waiting, place, found = list(reversed(arrivals)), {}, [0.0] * len(arrivals)
    while waiting or engine.pending:
        if not engine.pending:
            world.now = max(world.now, waiting[-1].at)
        while waiting and waiting[-1].at <= world.now:
            number = len(arrivals) - len(waiting)
            place[engine.submit(waiting.pop().request)] = number
        for finished in engine.tick():
            found[place[finished.ticket]] = world.now - arrivals[place[finished.ticket]].at
    return found


def batcher_times(arrivals: list[Arrival], seconds: Mapping[int, float], decode_sec: float) -> list[float]:
    """The same by whole batches of equal settings, the oldest request first."""
    def settings(request: Request) -> tuple[object, ...]:
        return request.steps, request.sampler, request.spacing, request.guidance, request.width, request.height

    now, found, waiting, coming = 0.0, [0.0] * len(arrivals), [], list(range(len(arrivals)))
    while waiting or coming:
        if not waiting:
            now = max(now, arrivals[coming[0]].at)
        while coming and arrivals[coming[0]].at <= now:
            waiting.append(coming.pop(0))
        first = arrivals[waiting[0]].request
        branches = 1 if first.guidance == 1.0 else 2
        batch = [i for i in waiting if settings(arrivals[i].request) == settings(first)][: ROWS // branches]
        now += first.steps * sum(seconds[size] for size in cut(branches * len(batch), seconds)) + decode_sec * len(batch)
        for i in batch:
            found[i] = now - arrivals[i].at
            waiting.remove(i)
    return found


def asks(draw: random.Random, variety: str) -> Request:
    """A request of the mix: four in five are short. "routes" has two settings only, "users" what people choose, "equal" one setting."""
    if variety == "equal":
        return Request("", seed=1, steps=20, sampler="ddim", guidance=3.0, width=2, height=2)
    short = draw.random() < 0.8
    if variety == "routes":
        return Request("", seed=1, steps=6 if short else 50, sampler="ddim", guidance=1.0 if short else 4.0, width=2, height=2)
    steps = draw.choice((4, 6, 8)) if short else draw.choice((20, 25, 30, 50))
    return Request("", seed=1, steps=steps, sampler=draw.choice(("ddim", "euler", "dpmpp_2m")), guidance=draw.choice((1.0, 3.0, 5.0, 7.5)), width=2,
                   height=2)


def traffic(variety: str, load: float, count: int, seconds: Mapping[int, float], decode_sec: float, seed: int) -> list[Arrival]:
    """`count` requests at Poisson times, at `load` times what full batches can do."""
    draw = random.Random(seed)
    requests = [asks(draw, variety) for _ in range(count)]
    full = sum(seconds[size] for size in cut(ROWS, seconds)) / ROWS
    each = statistics.mean(request.steps * (1 if request.guidance == 1.0 else 2) * full + decode_sec for request in requests)
    at, found = 0.0, []
    for request in requests:
        at += draw.expovariate(load / each)
        found.append(Arrival(at, request))
    return found


def summary(times: list[float], arrivals: list[Arrival]) -> dict[str, float]:
    """Percentiles in seconds, and images a second from the first arrival to the last image."""
    short = sorted(time for time, one in zip(times, arrivals) if one.request.steps <= SHORT) or sorted(times)
    long = sorted(time for time, one in zip(times, arrivals) if one.request.steps > SHORT)
    end = max(time + one.at for time, one in zip(times, arrivals))
    return {"short_p50": _at(short, 0.5), "short_p95": _at(short, 0.95), "long_p50": _at(long, 0.5), "long_p95": _at(long, 0.95),
            "images_per_sec": round(len(times) / (end - arrivals[0].at), 4)}


def _at(ordered: list[float], share: float) -> float:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 4) if ordered else 0.0


def measured(pipe: Pipeline) -> tuple[dict[int, float], float]:
    """Processor seconds of a network call of each certified size, and of decoding one image."""
    shape = pipe.codec.shape(*pipe.info.sizes.default)
    cond = pipe.conditioner(["two green cones"])
    found = {}
    with torch.inference_mode():
        for size in pipe.call_seconds(shape, ROWS):
            x, level = torch.randn(size, *shape), Level(*(torch.full((size,), 0.7, dtype=torch.float64),) * 2)
            found[size] = least(lambda x=x, level=level, size=size: pipe.denoiser(x, level, cond.pad(size)), 4)
        return found, least(lambda: pipe.codec.decode(Clean(torch.randn(1, *shape))), 4)


def least(what: Callable[[], object], times: int) -> float:
    """The least processor time of some calls, after one that does not count."""
    what()
    found = []
    for _ in range(times):
        began = time.process_time()
        what()
        found.append(time.process_time() - began)
    return min(found)


def own_cost(pipe: Pipeline, steps: int, rounds: int) -> dict[str, float]:
    """Processor seconds of eight guided requests by the engine and by the bare loop, by turns, each with an encoding and a decoding."""
    requests = [Request("two green cones", seed=i, steps=steps, sampler="ddim", guidance=3.0, width=pipe.info.sizes.default[0],
                        height=pipe.info.sizes.default[1]) for i in range(ROWS // 2)]
    sizes = cut(ROWS, pipe.call_seconds(pipe.codec.shape(*pipe.info.sizes.default), ROWS))

    def engine() -> None:
        one = Engine(pipe, rows=ROWS)
        for request in requests:
            one.submit(request)
        assert len(one.run()) == len(requests)

    @torch.inference_mode()
    def bare() -> None:
        both = Cond.cat([pipe.conditioner(["two green cones"]).pad(len(requests)), pipe.conditioner.null(len(requests))])

        def denoise(x: Tensor, level: Level, index: Tensor) -> Tensor:
            rows, where, found = torch.cat([x, x]), torch.arange(ROWS) % len(requests), []
            for start, size in zip(range(0, ROWS, sizes[0]), sizes, strict=True):
                place = torch.arange(start, start + size)
                found.append(pipe.denoiser(rows[place], level.take(where[place]), both.take(place)))
            cond, null = torch.cat(found).chunk(2)
            return 3.0 * cond - 2.0 * null

        for result in run(denoise, [pipe.program(request) for request in requests]):
            pipe.codec.decode(Clean(result.clean.x[None]))

    ways: dict[str, Callable[[], None]] = {"engine": engine, "bare": bare}
    best = by_turns(ways, rounds)
    network = pipe.denoiser.network
    pipe.denoiser.network = Silent()
    try:
        quiet = by_turns(ways, 4 * rounds)
    finally:
        pipe.denoiser.network = network
    extra = quiet["engine"] - quiet["bare"]
    return {**{f"{name}_sec": round(sec, 4) for name, sec in best.items()}, "cost": round(best["engine"] / best["bare"] - 1, 4),
            **{f"{name}_sec_without_network": round(sec, 5) for name, sec in quiet.items()}, "extra_ms_of_a_tick": round(1e3 * extra / steps, 3),
            "extra_over_bare": round(extra / best["bare"], 4), "steps": steps, "rounds": rounds}


class Silent(nn.Module):
    """A network that takes no time."""

    def forward(self, x: Tensor, noise: Tensor, cond: Cond) -> Tensor:
        return x


def by_turns(ways: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """The least processor seconds of each way, the order turned round by round."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in list(ways) if number % 2 else reversed(list(ways)):
            began = time.process_time()
            ways[name]()
            found[name].append(time.process_time() - began)
    return {name: min(times[1:]) for name, times in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--steps", type=int, default=8, help="of the requests that measure the engine's own cost")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pipe = Pipeline.from_pretrained(options.model)
    seconds, decode_sec = measured(pipe)
    result: dict[str, Any] = {"what": __doc__.splitlines()[0], "model": pipe.info.name, "rows": ROWS, "requests": options.count,
                              "call_seconds": {size: round(sec, 5) for size, sec in seconds.items()}, "decode_sec": round(decode_sec, 5), "load": []}
    for variety in ("users", "routes", "equal"):
        for load in (0.5, 0.8, 0.95, 3.0):
            arrivals = traffic(variety, load, options.count, seconds, decode_sec, seed=11)
            ours, theirs = (summary(way(arrivals, seconds, decode_sec), arrivals) for way in (engine_times, batcher_times))
            row = {"mix": variety, "load": load, "engine": ours, "equal settings only": theirs,
                   "short_p95_ratio": round(ours["short_p95"] / theirs["short_p95"], 3),
                   "throughput_ratio": round(ours["images_per_sec"] / theirs["images_per_sec"], 3)}
            print(json.dumps(row), flush=True)
            result["load"].append(row)
    result["own_cost"] = own_cost(pipe, options.steps, options.rounds)
    print(json.dumps(result["own_cost"]), flush=True)
    result["machine"] = machine()
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
