"""Does the loss of a DiT fall with training compute, as its paper says? Four sizes see the same pictures in the same order with the same noise.

The paper (Peebles & Xie 2022, arXiv 2212.09748, section 5) finds that quality follows Gflop whether they come from width, depth or patches. Here:
CIFAR-10, pixels of 32 x 32 in patches of 4, told nothing, one recipe with a constant learning rate and averaged weights, so that every point of
a run is a fair end of a shorter one. Compute is counted, not timed: the operations of one step, forward and backward, times the steps. The loss is
that of held-out pictures with the same noise for all, so differences of sizes are far more certain than the losses themselves.

    python benchmarks/dit_scaling.py --data FILE [--samples 48000] [--batch 32] [--out FILE.json]

keeps what is finished: the same command goes on with the sizes that are missing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import tempfile
import time
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from harness import machine
from scaling import exponent
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from inkwash.core.noise import generator
from inkwash.data.heldout import hold_out
from inkwash.data.source import open_source
from inkwash.train.config import DenoiserRun
from inkwash.train.diffusion import DenoiserTask
from inkwash.train.distributed import Group
from inkwash.train.setting import Setting
from inkwash.train.trainer import Trainer

SIZES = ((48, 3), (96, 5), (160, 7), (256, 10))
HELD_OUT, TIMES, SHARES = 128, 10, (0.5, 1.0)


def recipe(width: int, depth: int, samples: int, batch: int) -> DenoiserRun:
    """The one recipe; only the size differs."""
    return DenoiserRun.model_validate({
        "task": "denoiser", "name": f"dit-{width}-{depth}", "steps": samples // batch, "batch": batch, "sigma_data": 0.5,
        "network": f"DiTConfig(in_channels=3, out_channels=3, patch=4, width={width}, depth={depth}, heads={width // 16})",
        "process": "Cosine()", "prediction": "V()", "levels": "stratified", "ema_half_life": 10**6, "ema_ramp": 0.1,
        "optimizer": {"lr": 1e-3, "warmup": 50}, "data": {"size": 32, "validation": HELD_OUT, "flip": True, "cache": False}})


def gflop(config: DenoiserRun) -> float:
    """Operations of one training sample, forward and backward; attention is written out, since its own kernel is not counted."""
    network = dataclasses.replace(config.network, form="naive").build()
    with FlopCounterMode(display=False) as counter:
        network(torch.randn(1, 3, 32, 32), torch.full((1,), 500.0), {}).square().mean().backward()
    return counter.get_total_flops() / 1e9


@torch.no_grad()
def held_out_losses(trainer: Trainer, task: DenoiserTask) -> Tensor:
    """Mean squared error of v of every held-out picture (N,), over TIMES noise levels, with averaged weights."""
    given = task.features.held_out(HELD_OUT)
    assert given is not None
    x0, cond, _ = given
    eps = torch.randn(x0.shape, generator=generator(0, 0, 0, "validation"))
    with trainer.averaged(), trainer.precision():
        return sum(task.error(x0, torch.full((len(x0),), (k + 0.5) / TIMES, dtype=torch.float64), eps, cond)[0]
                   for k in range(TIMES)) / TIMES


def trained(data: Path, width: int, depth: int, samples: int, batch: int, folder: Path) -> dict[str, Any]:
    """One size: its losses at the SHARES of the samples, and what they cost."""
    config = recipe(width, depth, samples, batch)
    training, validation = hold_out(open_source([data]), HELD_OUT)
    torch.manual_seed(0)
    task = DenoiserTask(config, Setting(training, validation, folder, folder, torch.device("cpu"), names=(data.name,)))
    trainer = Trainer(task, config, Group(alone=True))
    cost = gflop(config)
    marks, points, began = {round(share * config.steps) for share in SHARES}, [], time.process_time()
    while trainer.step < config.steps:
        if trainer.run_step().get("skipped"):
            raise RuntimeError(f"a step of {config.name} was not finite")
        if trainer.step in marks:
            each = held_out_losses(trainer, task)
            points.append({"samples": trainer.step * batch, "gflop": trainer.step * batch * cost, "loss": float(each.mean())})
            print(config.name, json.dumps(points[-1]), round(time.process_time() - began), "s", flush=True)
    task.close()
    return {"width": width, "depth": depth, "parameters": sum(p.numel() for p in task.network.parameters()), "points": points,
            "gflop_a_sample": cost, "processor_sec": round(time.process_time() - began, 1),
            "each": [round(value, 6) for value in each.tolist()]}


def summary(sizes: list[dict[str, Any]]) -> dict[str, Any]:
    """The fits of log loss over log compute, and the differences of neighbours with their standard errors over pictures."""
    last = [size["points"][-1] for size in sizes]
    logs = torch.tensor([[math.log(point["gflop"]), math.log(point["loss"])] for point in last], dtype=torch.float64).T
    steps = [torch.tensor(a["each"]) - torch.tensor(b["each"]) for a, b in pairwise(sizes)]
    return {"slope": exponent([p["gflop"] for p in last], [p["loss"] for p in last]), "correlation": float(torch.corrcoef(logs)[0, 1]),
            "falls": [{"mean": float(d.mean()), "standard_error": float(d.std()) / math.sqrt(len(d))} for d in steps],
            "slope_within": [exponent([p["gflop"] for p in size["points"]], [p["loss"] for p in size["points"]]) for size in sizes]}


def report(found: dict[str, Any]) -> str:
    lines = ["# DiTs of four sizes on the same pictures", "", f"{found['about']['date']}, `{found['about']['command']}`, commit {found['commit']}, "
             f"torch {found['about']['versions']['torch']}, one core.", "",
             f"CIFAR-10, {found['samples']} samples in batches of {found['batch']}; loss of {HELD_OUT} held-out pictures at {TIMES} noise levels, "
             "averaged weights.", "",
             "| width x depth | parameters | Gflop a training sample | " + " | ".join(f"loss after {share:g} of the samples" for share in SHARES)
             + " | training Gflop |", "|" + " --- |" * (4 + len(SHARES))]
    lines += [f"| {size['width']} x {size['depth']} | {size['parameters']:,} | {size['gflop_a_sample']:.3f} | "
              + " | ".join(f"{point['loss']:.4f}" for point in size["points"]) + f" | {size['points'][-1]['gflop']:,.0f} |"
              for size in found["sizes"]]
    if len(found["sizes"]) > 1:
        fit = found["fit"]
        falls = ", ".join(f"{d['mean']:.4f} ± {1.96 * d['standard_error']:.4f}" for d in fit["falls"])
        lines += ["", f"Loss ~ compute^{fit['slope']:.4f} over the sizes, correlation of the logarithms {fit['correlation']:.3f}.",
                  f"Falls from size to size: {falls} (95 %, over pictures).",
                  f"Slopes within a run, as it goes on: {', '.join(f'{slope:.3f}' for slope in fit['slope_within'])}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 as Parquet")
    parser.add_argument("--samples", type=int, default=48_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--commit", default="not said")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / f"{date.today()}-dit-scaling.json")
    given = parser.parse_args()
    found: dict[str, Any] = json.loads(given.out.read_text("utf-8")) if given.out.exists() else {}
    same = (found.get("samples"), found.get("batch")) == (given.samples, given.batch)
    sizes = found["sizes"] if same else []
    for width, depth in SIZES[len(sizes):]:
        with tempfile.TemporaryDirectory() as folder:
            sizes.append(trained(given.data, width, depth, given.samples, given.batch, Path(folder)))
        found = {"about": machine(), "commit": given.commit, "samples": given.samples, "batch": given.batch, "sizes": sizes}
        if len(sizes) > 1:
            found["fit"] = summary(sizes)
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        given.out.with_suffix(".md").write_text(report(found), encoding="utf-8")
    print(report(found))


if __name__ == "__main__":
    main()
