"""The service under load, over real HTTP: capacity, overload, the target of a thousand images a minute, and how right the plan is.

    python benchmarks/load.py --out benchmarks/DATE-load.json
    python benchmarks/load.py target --steps 8 --guidance 1 --rate 1000/min --minutes 10 --out benchmarks/DATE-load.json
    python benchmarks/load.py --short

A server of its own is started, and the load comes from this process: both share the machine, and `cores` says how many cores the workers, the web
process and the generator took. Requests come at Poisson times whatever became of earlier ones, and latency counts from the intended start. A sample
of the pictures is made again by the library, alone, and must have the same pixels. The parts: `capacity`, images a second when the queue is never
empty, at several settings; `overload`, ten times the capacity, twice, so that memory can be compared after each; `target`, a fixed rate for some
minutes; `predict`, five workloads, each as `inkwash plan` predicted it and as it was. The file of `--out` is written after each part, and keeps the
parts that it has from before. `--short` takes less than a minute on two quiet cores and fails when there is an error or a wrong byte.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import machine
from load_server import Served, capacity

from inkwash import Pipeline, Request
from inkwash.io.png import pixel_sha256
from inkwash.output import to_pil
from inkwash.serve import Engine
from inkwash.serve.load import report, run, wrong
from inkwash.serve.plan.answer import plan, work_sec
from inkwash.serve.plan.measure import measure
from inkwash.serve.plan.prove import prove
from inkwash.serve.plan.simulate import Server
from inkwash.serve.plan.traffic import Arrival, poisson

PARTS = ("capacity", "overload", "target", "predict")
CLIENTS = 24                                               # fewer than one key may have in work, more than a batch has rows
GOALS = {"goodput_share": 0.9, "refused_p99": 0.1, "target_p99": 10.0, "predicted": 0.1}
Body = dict[str, Any]


class Bench:
    """A model, a server of it, and the settings that are asked."""

    def __init__(self, pipe: Pipeline, served: Served, options: argparse.Namespace) -> None:
        self.pipe, self.served, self.options = pipe, served, options
        usual = pipe.info.defaults
        self.usual: Body = {"steps": usual.steps, "guidance": float(usual.guidance), "sampler": usual.sampler, "spacing": usual.spacing}
        self.asked = {**self.usual, **{name: value for name, value in (("steps", options.steps), ("guidance", options.guidance),
                                                                       ("sampler", options.sampler)) if value is not None}}

    def request(self, body: Body) -> Request:
        """What a body asks."""
        return Request(body.get("prompt", "x"), "", body.get("seed", 0), body["steps"], body["sampler"], body["spacing"], body["guidance"],
                       *self.pipe.info.sizes.default)

    def solo(self, arrival: Arrival) -> str:
        """The hash of the pixels that the library makes alone."""
        [image] = self.pipe.generate([self.request(dict(arrival.body))])
        assert image.pixels is not None
        return pixel_sha256(to_pil(image.pixels))

    def capacity_of(self, body: Body) -> float:
        """Images a second, measured now."""
        return capacity(self.served.target, body, Engine(self.pipe).cost(self.request(body)), CLIENTS, self.options.seconds)

    def load(self, body: Body, rate: float, seconds: float, seed: int, sample: int) -> dict[str, Any]:
        """A Poisson load and its report, wrong pictures included."""
        began, before = time.perf_counter(), self.served.cpu()
        sent = run(self.served.target, poisson(rate, max(8, round(rate * seconds)), seed, [body], self.options.deadline), sample)
        took, memory = time.perf_counter() - began, self.served.memory()
        cores = {name: round((late - before[name]) / took, 3) for name, late in self.served.cpu().items()}
        bad, checked = wrong(sent, self.solo)
        return {"rate": round(rate, 3), **report(sent), "wrong": bad, "checked": checked, "memory_mib": round(memory, 1), "cores": cores}


def part_capacity(bench: Bench) -> list[dict[str, Any]]:
    """Images a second at the model's own settings, at ten steps, at ten steps without guidance, and at the settings asked for."""
    few = {**bench.usual, "steps": 10}
    bodies = (bench.usual, few, {**few, "guidance": 1.0}, bench.asked)
    kinds = {json.dumps(body): body for body in bodies}.values()
    return [{**body, "images_per_sec": round(most, 3), "images_per_min": round(60 * most, 1)} for body in kinds for most in [bench.capacity_of(body)]]


def part_overload(bench: Bench) -> dict[str, Any]:
    """Ten times the capacity, twice. The capacity is measured before, between and after: a machine that others share changes its speed."""
    before = bench.served.memory()
    most, rounds = [bench.capacity_of(bench.asked)], []
    for seed in (1, 2):
        rounds.append(bench.load(bench.asked, 10 * most[0], bench.options.seconds, seed, 10 * bench.options.sample))
        most.append(bench.capacity_of(bench.asked))
    shares = [2 * one["goodput"] / (early + late) for one, early, late in zip(rounds, most, most[1:])]
    return {**bench.asked, "capacities": [round(one, 3) for one in most], "memory_before_mib": round(before, 1), "rounds": rounds,
            "goodput_shares": [round(one, 3) for one in shares], "goodput_share": round(min(shares), 3),
            "refused_p99": max(one.get("refused_p99", 0.0) for one in rounds),
            "memory_growth_mib": round(rounds[1]["memory_mib"] - rounds[0]["memory_mib"], 1)}


def part_target(bench: Bench) -> dict[str, Any]:
    """A fixed rate for some minutes."""
    return {**bench.asked, **bench.load(bench.asked, bench.options.rate, 60 * bench.options.minutes, 3, bench.options.sample)}


def part_predict(bench: Bench) -> list[dict[str, Any]]:
    """Five workloads: half load, high load, short jobs without guidance, a mix, and more than can be done."""
    own, short = bench.usual, {**bench.usual, "steps": 6, "guidance": 1.0}
    mix = [{**own, "steps": steps, "guidance": scale} for steps in (4, 8, 20, 30) for scale in (1.0, 4.0)]
    found = []
    for name, bodies, load in (("half", [own], 0.5), ("high", [own], 0.8), ("short", [short], 0.7), ("mix", mix, 0.6), ("too much", [own], 1.5)):
        trial = poisson(1.0, 100, 4, bodies, bench.options.deadline)
        work = sum(work_sec(one, bench.options.curve, bench.options.curve.row_sec()) for one in trial) / len(trial)
        rate = load / work
        arrivals = poisson(rate, max(20, round(1.2 * rate * bench.options.seconds)), 5, bodies, bench.options.deadline)
        [row] = plan(arrivals, rate, bench.options.curve, Server(), 0.0, 1).rows
        proof = prove(bench.served.target, arrivals, row, bench.options.curve, 0.0, bench.options.sample // 2)
        errors = {one.name: round(one.error, 4) for one in proof.compared}
        found.append({"workload": name, "load": load, "rate": round(rate, 3), "errors": errors, "predicted": row._asdict(), "measured": proof.load,
                      "wrong": proof.wrong, "checked": proof.checked, "tick": proof.tick and proof.tick._asdict(),
                      "worker_mib": {"predicted": bench.options.curve.peak_mib, "measured": round(bench.served.worker_memory(), 1)}})
        print(json.dumps(found[-1]), flush=True)
    return found


def faults(result: dict[str, Any]) -> list[str]:
    """Loads that had an error, a wrong picture, or no picture to check."""
    loads = [*result.get("overload", {}).get("rounds", []), *([result["target"]] if "target" in result else [])]
    return [json.dumps(one) for one in loads if one["errors"] or one["wrong"] or not one["checked"]]


def rate(text: str) -> float:
    """Requests a second from 2.5 or 1000/min."""
    number, _, unit = text.partition("/")
    return float(number) / {"": 1.0, "s": 1.0, "min": 60.0}[unit]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--model", default="mini")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--sampler")
    parser.add_argument("--device", default="cpu", help="of the server's workers; cpu,cpu are two, on half of the cores each")
    parser.add_argument("--queue", type=int, default=64, help="images that a worker has in work or waiting")
    parser.add_argument("--rate", type=rate, default=1000 / 60, help="of the target, such as 1000/min")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the target")
    parser.add_argument("--seconds", type=float, default=60.0, help="of every other load")
    parser.add_argument("--deadline", type=float, default=10.0, help="seconds that a caller waits")
    parser.add_argument("--sample", type=int, default=40, help="pictures of a load that are made again")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {sorted(unknown)[0]!r}; known: {', '.join(PARTS)}")
    if options.short:
        options.parts, options.seconds, options.minutes, options.sample = ["overload", "target"], 3.0, 8 / 60, 6
        options.steps, options.rate = options.steps or 4, min(options.rate, 2.0)
    pipe = Pipeline.from_pretrained(options.model)
    chosen = [name for name in PARTS if name in (options.parts or PARTS)]
    result: dict[str, Any] = {"what": __doc__.splitlines()[0], "model": pipe.info.name, "hash": pipe.hash, "goals": GOALS, "machine": machine(),
                              "seconds": options.seconds, "deadline_sec": options.deadline, "device": options.device, "queue": options.queue}
    if "predict" in chosen:
        options.curve = measure(pipe, pipe.info.sizes.default)
        result["curve"] = options.curve.model_dump()
    do: dict[str, Callable[[Bench], Any]] = {"capacity": part_capacity, "overload": part_overload, "target": part_target, "predict": part_predict}
    with tempfile.TemporaryDirectory() as work, Served(str(Path(options.model).resolve() if Path(options.model).is_dir() else options.model),
                                                       Path(work), "--device", options.device, "--queue", str(options.queue)) as served:
        bench = Bench(pipe, served, options)
        for name in chosen:
            result[name] = do[name](bench)
            print(json.dumps({name: result[name]}), flush=True)
            if options.out:
                write(options.out, result)
    found = faults(result)
    if found:
        raise SystemExit("errors, wrong pictures, or none to check:\n" + "\n".join(found))


def write(out: Path, result: dict[str, Any]) -> None:
    """Writes a result; parts of the same model that the file has from before stay."""
    before = json.loads(out.read_text("utf-8")) if out.exists() else {}
    kept = before if before.get("hash", result["hash"]) == result["hash"] else {}
    out.write_text(json.dumps({**kept, **result}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
