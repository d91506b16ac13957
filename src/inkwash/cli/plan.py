"""`inkwash plan`: how many workers a traffic needs, how long its callers wait, and what an image costs."""

from __future__ import annotations

import importlib.util
import json as json_text
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from inkwash.cli.settings import Options, check_options, describe_model, first_request, load
from inkwash.errors import UsageError, install
from inkwash.io.path import as_path
from inkwash.request import check_int

if TYPE_CHECKING:
    from inkwash.serve.plan.curve import Curve
    from inkwash.serve.plan.prove import Proof
    from inkwash.serve.plan.simulate import Server
    from inkwash.serve.plan.traffic import Arrival

SAMPLE = 20


def plan(*, traffic: Path | None = None, rate: str | None = None, deadline: str, model: str = "mini", steps: str | None = None,
         sampler: str | None = None, spacing: str | None = None, guidance: str | None = None, size: str | None = None, count: str | None = None,
         seed: str | None = None, curve: Path | None = None, save_curve: Path | None = None, device: str | None = None, price: str = "0",
         workers: str | None = None, config: Path | None = None, prove: str | None = None,
         json: Annotated[bool, Parameter(negative="", show_default=False)] = False) -> int:
    """Predict workers, latency, memory and cost for a traffic.

    The engine's admission and policy are simulated with a batch curve that is measured here and now, or given. With --prove the same
    traffic is sent to a live server, and each number stands beside what was measured.

    Parameters
    ----------
    traffic
        A file with one JSON object a line: at, in seconds, and fields of POST /v1/images/generations.
    rate
        Poisson traffic of so many requests a second, or such as 1000/min.
    deadline
        Seconds that a caller waits.
    model
        An embedded model or the folder of one.
    steps
        1..1000; these settings are the model's own unless given.
    sampler
        A name or a text such as DDIM(eta=0.5).
    spacing
        Which noise levels the steps visit.
    guidance
        A scale, where 1 is no guidance.
    size
        SIDE or WIDTHxHEIGHT in pixels.
    count
        Requests of Poisson traffic; 5000 unless given.
    seed
        Of Poisson traffic; 0 unless given.
    curve
        A batch curve as JSON; measured unless given.
    save_curve
        Keep the measured curve here.
    device
        cpu, cuda, mps or auto, where the curve is measured; auto unless given.
    price
        Of a worker for an hour, for the cost of an image.
    workers
        Simulate this number instead of looking for the least.
    config
        The YAML file of inkwash serve: policy and queue.
    prove
        URL of a live server; INKWASH_API_KEY holds its key.
    json
        Print the result as JSON.
    """
    if (traffic is None) == (rate is None):
        raise UsageError("bad_traffic", "give either --traffic FILE or --rate NUMBER")
    if curve is not None and save_curve is not None:
        raise UsageError("two_curves", "--save-curve keeps a curve that is measured, and --curve gives one; leave one of them out")
    for given, name, why in ((traffic is not None and count, "--count", "Poisson traffic, and a file has as many requests as it has"),
                             (traffic is not None and seed, "--seed", "Poisson traffic, and a file says when its requests come"),
                             (curve is not None and device, "--device", "the measurement of a curve, and one is given by --curve"),
                             (prove is not None and workers, "--workers", "a prediction alone, and --prove takes as many as the server has")):
        if given:
            raise UsageError("inert_option", f"{name} is for {why}; leave it out")
    if save_curve is not None:
        as_path(save_curve, "--save-curve")
    deadline_sec = _positive(deadline, "--deadline", 3600.0)
    hourly = 0.0 if price == "0" else _positive(price, "--price", 1e6)
    options = Options(steps, sampler, spacing, guidance, None, seed or "0", size)
    check_options("x", options)
    for name in ("starlette", "prometheus_client", "sqlalchemy", "obstore"):
        if importlib.util.find_spec(name) is None:
            raise UsageError("not_installed", f"inkwash plan needs the package {name}; {install('serve')}")
    from inkwash.serve.plan.answer import plan as answer_of
    from inkwash.serve.plan.curve import read_curve, write_curve
    from inkwash.serve.plan.tell import tell

    folder, info = describe_model(model)
    usual = first_request("x", options, info)
    if isinstance(usual.guidance, str):
        raise UsageError("bad_guidance", "--guidance must be a number here, since the rows of a step are counted from it")
    size = f"{usual.width}x{usual.height}"
    body = {"model": info.name, "size": size, **{name: getattr(usual, name) for name in ("steps", "sampler", "spacing", "guidance")}}
    arrivals, per_sec = _arrivals(traffic, rate, count, usual.seed, body, deadline_sec)
    server = _server(config)
    target = None
    number_of_workers = None if workers is None else check_int(workers, "--workers", "bad_workers", 1, 1000)
    if prove is not None:
        from inkwash.serve.load import Target
        from inkwash.serve.plan.prove import workers_of

        target = Target(prove, os.environ.get("INKWASH_API_KEY", ""))
        number_of_workers = workers_of(target, info.name)
    known = read_curve(curve) if curve is not None else _measure(folder, device or "auto", (usual.width, usual.height))
    if known.size:
        _require_size([size], known.size)
    if save_curve is not None:
        write_curve(known, save_curve)
    answer = answer_of(arrivals, per_sec, known, server, hourly, number_of_workers)
    if not json:
        print("\n".join(tell(answer, known)), flush=True)
    proof = None
    if target is not None:
        from inkwash.serve.plan.prove import prove as prove_it

        print(f"inkwash: sending {len(arrivals)} requests for {arrivals[-1].at:.0f} s", file=sys.stderr, flush=True)
        proof = prove_it(target, arrivals, answer.rows[-1], known, hourly, SAMPLE)
    if json:
        print(json_text.dumps({**answer.as_dict(), "curve": known.model_dump(), "proof": None if proof is None else _as_dict(proof)}))
    elif proof is not None:
        _tell(proof)
    return 0 if proof is None or not (proof.wrong or proof.load["errors"]) else 8


def _arrivals(traffic: Path | None, rate: str | None, count: str | None, seed: int, body: dict[str, Any],
              deadline_sec: float) -> tuple[list[Arrival], float]:
    """The requests, and how many come in a second."""
    from inkwash.serve.plan.traffic import MAX_ARRIVALS, poisson, rate_of, read_traffic

    if traffic is None:
        per_sec = _rate(str(rate))
        return poisson(per_sec, check_int(count or "5000", "--count", "bad_count", 1, MAX_ARRIVALS), seed, [body], deadline_sec), per_sec
    found = read_traffic(traffic, body, deadline_sec)
    _require_size([str(arrival.body["size"]) for arrival in found], body["size"])
    return found, rate_of(found)


def _measure(folder: Path, device: str, size: tuple[int, int]) -> Curve:
    from inkwash.serve.plan.measure import measure

    return measure(load(folder, device), size)


def _server(config: Path | None) -> Server:
    from inkwash.serve.http.settings import load_settings
    from inkwash.serve.plan.simulate import Server
    from inkwash.serve.policy import Policy
    from inkwash.value import parse

    settings = load_settings(config, {})
    return Server(parse(settings.policy, Policy), settings.queue, settings.of_key(settings.queue_per_key))  # type: ignore[type-abstract]


def _tell(proof: Proof) -> None:
    print("\n               predicted  measured     error")
    for one in proof.compared:
        print(f"{one.name:15s}{one.predicted:9.4g}{one.measured:10.4g}{one.error:+10.1%}")
    load = proof.load
    if proof.tick is not None:
        print(f"\na tick took {proof.tick.measured:.4f} s for {proof.tick.rows:.1f} rows; by the curve {proof.tick.predicted:.4f} s", end="")
    print(f"\n{load['requests']} requests in {load['span_sec']:g} s, {load['errors']} errors, {proof.wrong} of {proof.checked} checked pictures "
          f"wrong, sent at most {load['lag_p99']:g} s late (99 %)")


def _as_dict(proof: Proof) -> dict[str, object]:
    return {"compared": [{**one._asdict(), "error": one.error} for one in proof.compared], "load": proof.load, "wrong": proof.wrong,
            "checked": proof.checked, "tick": None if proof.tick is None else proof.tick._asdict()}


def _require_size(sizes: list[str], wanted: str) -> None:
    other = next((size for size in sizes if size not in (wanted, "auto")), None)
    if other is not None:
        raise UsageError("two_sizes", f"a curve is for one size; this one is for {wanted}, and {other} is asked for; give --size, or plan them apart")


def _rate(text: str) -> float:
    """Requests a second from "2.5" or "1000/min". Raises UsageError `bad_number`."""
    number, slash, unit = text.partition("/")
    per = {"": 1.0, "s": 1.0, "min": 60.0, "h": 3600.0}.get(unit.strip())
    if per is None or (slash and not unit):
        raise UsageError("bad_number", f"--rate must be such as 2.5, 1000/min or 5000/h, got {text[:40]!r}")
    return _positive(number, "--rate", 1e6) / per


def _positive(text: str, option: str, most: float) -> float:
    """A number above 0. Raises UsageError `bad_number`."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= most:
        raise UsageError("bad_number", f"{option} must be a number above 0 and at most {most:g}, got {text[:40]!r}")
    return value
