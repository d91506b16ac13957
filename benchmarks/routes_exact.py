"""Randomly mixed requests over HTTP and the command line against each one's solo run: how many have other pixels?

    python benchmarks/routes_exact.py --count 10000 --out benchmarks/DATE-routes-exact.json

The requests are those of `engine_exact.py`. A server is started; callers side by side, each on a connection of its own, ask for them as JSON, and
some hang up before they are answered. Some of the same requests are then asked of `inkwash generate`, alone or as one of several pictures. The solo
run is made by a pipeline in this process, one request at a time. An answer counts as different where the pixels of its file, the hash that was told
with it, or the number of network rows are not those of the solo run. With the same options, it goes on where `--out` ends.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import dataclasses
import http.client
import io
import json
import random
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from engine_exact import tiny
from engine_mix import mixed
from harness import machine
from load_server import Served
from PIL import Image

from inkwash import Pipeline, Request
from inkwash.cli.main import run
from inkwash.io.png import pixel_sha256
from inkwash.output import to_pil
from inkwash.serve.load import Target

CALLERS = 16
HANGS_UP = 0.05                                            # the share of requests whose caller leaves before the answer
ON_COMMAND_LINE = 4                                        # of each part, for every command loads the model
COUNTS = ("answered", "hung_up", "on_command_line", "different")


class Made(NamedTuple):
    """What was told of an image, and what its file holds."""

    file: str
    told: str
    nfe: int


def body_of(request: Request) -> dict[str, Any]:
    """The request as `POST /v1/images/generations` takes it."""
    return {"prompt": request.prompt, "negative_prompt": request.negative, "seed": request.seed, "steps": request.steps, "sampler": request.sampler,
            "spacing": request.spacing, "guidance": request.guidance, "size": f"{request.width}x{request.height}", "deadline_ms": 600_000}


def over_http(target: Target, request: Request) -> Made:
    """Raises SystemExit for an answer other than 200."""
    status, answer = target.ask("POST", "/v1/images/generations", body_of(request), 600.0)
    found = json.loads(answer)
    if status != 200:
        raise SystemExit(f"{request}: {status} {found}")
    [picture] = found["data"]
    return Made(pixel_sha256(Image.open(io.BytesIO(base64.b64decode(picture["b64_json"])))), picture["pixel_sha256"], picture["nfe"])


def hang_up(target: Target, request: Request, seconds: float) -> None:
    """Asks, and closes the connection after `seconds`."""
    link = http.client.HTTPConnection(target.host, target.port, timeout=seconds)
    with contextlib.suppress(OSError, http.client.HTTPException):
        link.request("POST", "/v1/images/generations", json.dumps(body_of(request)).encode(), target.headers)
        link.getresponse().read()
    link.close()


def on_command_line(model: str, request: Request, before: int, work: Path) -> Made:
    """The picture of `request` among those that one command makes: `before` others with smaller seeds come first, and one after it."""
    folder = Path(tempfile.mkdtemp(dir=work))
    words = ["--model", model, "--out", str(folder), "--num", str(before + 2), "--seed", str(request.seed - before), "--steps", str(request.steps),
             "--sampler", request.sampler, "--spacing", request.spacing, f"--guidance={request.guidance}", "--negative", request.negative,
             "--size", f"{request.width}x{request.height}", "--device", "cpu", "--json"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = run(["generate", request.prompt, *words])
    if code:
        raise SystemExit(f"{request}: inkwash generate ended with {code}")
    found = json.loads(printed.getvalue().splitlines()[before])
    return Made(pixel_sha256(Image.open(found["path"])), found["pixel_sha256"], found["nfe"])


def part(pipe: Pipeline, model: str, target: Target, count: int, seed: int, most_steps: int, work: Path) -> dict[str, int]:
    """One share of the requests. Counts of what happened."""
    least, multiple = pipe.info.sizes.least, pipe.info.sizes.multiple
    sizes = [(least, least), (least + multiple, least), pipe.info.sizes.default]
    draw = random.Random(seed)
    requests = [dataclasses.replace(request, prompt=request.prompt or "x") for request in islice(mixed(pipe, seed, sizes, most_steps), count)]
    leaves = [draw.random() < HANGS_UP for _ in requests]
    with ThreadPoolExecutor(CALLERS) as callers:
        calls = [callers.submit(hang_up, target, request, draw.uniform(0.005, 0.3)) if gone else callers.submit(over_http, target, request)
                 for request, gone in zip(requests, leaves)]
        answers = [call.result() for call in calls]
    target.close()
    found = dict.fromkeys(COUNTS, 0)
    for number, (request, made) in enumerate(zip(requests, answers)):
        if made is None:
            found["hung_up"] += 1
            continue
        [alone] = pipe.generate([request])
        assert alone.pixels is not None
        solo = pixel_sha256(to_pil(alone.pixels))
        right = Made(solo, solo, alone.nfe)
        found["answered"] += 1
        found["different"] += made != right
        if number < ON_COMMAND_LINE:
            found["on_command_line"] += 1
            found["different"] += on_command_line(model, request, draw.randrange(4), work) != right
    return found


def measure(options: argparse.Namespace, model: str, work: Path) -> None:
    """Runs the parts, and writes what was found after each."""
    began = time.monotonic()
    before = json.loads(options.out.read_text("utf-8")) if options.out and options.out.exists() else {"parts": [], "seconds": 0}
    parts, pipe = before["parts"], Pipeline.from_pretrained(model)
    with Served(model, work) as served:
        for number in range(len(parts), -(-options.count // options.part)):
            count = min(options.part, options.count - number * options.part)
            parts.append({"seed": number, **part(pipe, model, served.target, count, number, options.steps, work)})
            total = {name: sum(int(one[name]) for one in parts) for name in COUNTS}
            result = {"what": __doc__.splitlines()[0], "asked": sum(one["answered"] + one["hung_up"] for one in parts), **total,
                      "determinism": pipe.determinism, "model": pipe.info.name, "callers": CALLERS, "parts": parts,
                      "seconds": round(before["seconds"] + time.monotonic() - began, 1), "machine": machine()}
            print(json.dumps(parts[-1]), flush=True)
            if options.out:
                options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="a model; without one, the tiny untrained model of the tests")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--part", type=int, default=250, help="requests between two writings of the file")
    parser.add_argument("--steps", type=int, default=50, help="the most steps of a request")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        measure(options, str(Path(options.model).resolve() if Path(options.model).is_dir() else options.model) if options.model
                else str(tiny(work / "tiny")), work)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
