"""Which way to train the embedded model: along each axis of its recipes the ways are trained for the same processor time and compared.

What counts is the processor time of the steps, of all threads; data and measuring are free. Every way starts from nothing, with the same
pictures in the same order, at a constant rate, and averaged: each point of a curve is a fair end of a shorter run. How much a step costs drifts with
the machine, by a tenth and more. So a way is afterwards timed by turns with the base, and what is compared is its curve where it would have
been had the machine stood still.

Denoisers are compared in one unit whatever they predict: the error of x0 on held-out pictures, E |x0' - x0|^2 (1 + SNR), for v its loss, over
the same noise at ten levels of equal distance in log SNR. Beside it stands the share of garments and colours that come as asked, by judges that
no run has seen. Autoencoders are compared by PSNR on held-out pictures; beside it stands the perceptual distance, in which a way that was
trained by it has an advantage. The file comes with a page and with curves.

    python choices.py --emoji FILE --clothing FILE --out FILE.json [--axis NAME ...] [--way NAME ...] [--narrow 2] [--seconds 240] [--num 48]

keeps what is finished: the same command goes on with the ways that are missing. `choices_axes.py` lists the ways. Where the processor is slow,
`--narrow 2` compares at half of every width and in batches of 32, which gives five to seven times as many pictures for the same time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

import mini_garments
import torch
from choices_axes import Ways, bases, recipes
from choices_page import curves, page
from filelock import FileLock
from harness import machine
from mini import commit
from mini_bench import open_bench
from torch import Tensor

from inkwash.cond import Cond
from inkwash.core.level import Gauge
from inkwash.core.noise import generator
from inkwash.data.choice import choose
from inkwash.data.heldout import hold_out
from inkwash.data.item import Source
from inkwash.data.source import open_source
from inkwash.data.transform import decode, fit
from inkwash.io.find import find_model
from inkwash.io.folder import load_part
from inkwash.pipeline import Pipeline
from inkwash.train.config import RunConfig, read_recipe
from inkwash.train.distributed import Group
from inkwash.train.perceptual import load_perceptual
from inkwash.train.run import build_task, export
from inkwash.train.setting import Setting
from inkwash.train.trainer import Trainer

SHARES = (0.125, 0.25, 0.5, 1.0)                                  # of the time, where a curve has its points
PROBE = 12                                                 # steps that are timed to know how many fit
LAMBDAS = torch.linspace(-3.0, 3.0, 10, dtype=torch.float64)   # half log SNR
COMMON = ("optimizer.schedule=constant", "optimizer.warmup=50", "optimizer.cooldown=0", "validate_every=0", "sample.every=0")


class Data:
    """Training and held-out pictures, the same for every way."""

    def __init__(self, paths: Sequence[str], size: int, count: int) -> None:
        self.source = open_source(paths)
        self.training, held_out = hold_out(self.source, count)
        assert held_out is not None
        self.held_out: Source = held_out
        self.images = torch.stack([fit(decode(held_out[i], hint=size), size) for i in range(len(held_out))])
        self.captions = [held_out.caption(i) for i in range(len(held_out))]


def setting_of(config: RunConfig, data: Data, folder: Path, cache: Path) -> Setting:
    """Where a run happens."""
    return Setting(choose(data.training, config.data.leave_out, config.data.repeat), data.held_out, cache, folder, torch.device("cpu"))


def step_seconds(configs: Sequence[RunConfig], settings: Sequence[Setting]) -> list[float]:
    """Processor time of a step of each run; the runs take their steps by turns."""
    with ExitStack() as stack:
        trainers, times = [], [[0.0] * 0 for _ in configs]
        for config, setting in zip(configs, settings, strict=True):
            torch.manual_seed(config.seed)
            task = build_task(config, setting)
            stack.callback(task.close)
            trainers.append(Trainer(task, config, Group(alone=True)))
        for _ in range(PROBE):
            for trainer, each in zip(trainers, times, strict=True):
                start = time.process_time()
                trainer.run_step()
                each.append(time.process_time() - start)
    return [statistics.median(each[2:]) for each in times]


def cost(config: RunConfig, base: RunConfig, data: Data, folder: Path, cache: Path) -> float:
    """Processor time of a picture, as a multiple of the base's. A discriminator that starts late is counted from the start."""
    if config.task == "autoencoder":
        config = config.model_copy(update={"adversarial_start": 0})
    mine, of_base = step_seconds([config, base], [setting_of(one, data, folder, cache) for one in (config, base)])
    return (mine / config.batch) / (of_base / base.batch)


@torch.no_grad()
def errors(model: Path, data: Data) -> Tensor:
    """The error of x0 of every held-out picture (N,), in units of the loss of v, mean over LAMBDAS."""
    pipe = Pipeline.from_pretrained(model)
    x0 = torch.cat([pipe.codec.encode(part).x for part in data.images.split(16)])
    cond = pipe.conditioner(data.captions)
    total = torch.zeros(len(x0), dtype=torch.float64)
    for number, lam in enumerate(LAMBDAS):
        level = Gauge.VP.split(lam.expand(len(x0)))
        x = level.mix(x0, torch.randn(x0.shape, generator=generator(0, number, 0, "choices")))
        for rows in torch.arange(len(x0)).split(32):
            there = type(level)(level.alpha[rows], level.sigma[rows])
            guess = pipe.denoiser(x[rows], there, Cond({name: value[rows] for name, value in cond.items()}))
            total[rows] += (guess - x0[rows]).double().square().flatten(1).mean(1) / there.sigma.square()
    return total / len(LAMBDAS)


def psnr(model: Path, data: Data) -> Tensor:
    """PSNR in dB of every held-out picture (N,) after an autoencoder."""
    found = [10 * torch.log10(255**2 / (back - part).double().square().flatten(1).mean(1).clamp(min=1e-12)) for part, back in again(model, data)]
    return torch.cat(found)


def perceived(model: Path, data: Data) -> float:
    """Mean perceptual distance of held-out pictures from themselves after an autoencoder, in the activations of the embedded extractor."""
    distance = load_perceptual(None)
    with torch.no_grad():
        return float(torch.cat([distance(part / 127.5 - 1, back / 127.5 - 1) for part, back in again(model, data)]).mean())


@torch.no_grad()
def again(model: Path, data: Data) -> list[tuple[Tensor, Tensor]]:
    """Held-out pictures and what an autoencoder makes of them, in parts, 0 to 255."""
    vae: Any = load_part(model, "vae")
    return [(part, ((vae.decode(vae.encode(part / 127.5 - 1)[0]).clamp(-1, 1) + 1) * 127.5).round()) for part in data.images.float().split(16)]


def trained(config: RunConfig, data: Data, folder: Path, cache: Path, seconds: float) -> dict[str, Any]:
    """One way: its points, and the model in `folder`/model."""
    setting = setting_of(config, data, folder, cache)
    [each_step] = step_seconds([config], [setting])
    config = config.model_copy(update={"steps": max(len(SHARES), round(seconds / each_step))})
    of = errors if config.task == "denoiser" else psnr
    torch.manual_seed(config.seed)
    task = build_task(config, setting)
    points: list[dict[str, Any]] = []
    each = torch.zeros(0)
    try:
        trainer, spent = Trainer(task, config, Group(alone=True)), 0.0
        marks = [max(1, round(share * config.steps)) for share in SHARES]
        while trainer.step < config.steps:
            start = time.process_time()
            if trainer.run_step().get("skipped"):
                return {"failed": f"step {trainer.step} was not finite", "points": points}
            spent += time.process_time() - start
            if trainer.step in marks:
                export(trainer, setting)
                each = of(folder / "model", data)
                points.append({"seconds": round(spent, 1), "samples": trainer.step * config.batch, "value": float(each.mean())})
                print(f"  {points[-1]}", flush=True)
        weights = sum(p.numel() for module in task.roles.values() for p in module.parameters())
    finally:
        task.close()
    return {"points": points, "parameters": weights, "each": [round(float(one), 6) for one in each]}


def judged(model: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Shares of garments and of colours as asked."""
    bench = open_bench(str(model), args.emoji, args.clothing, None, args.folder / "pictures")
    made = mini_garments.judged(bench, args.num)
    found = mini_garments.shares(mini_garments.hits(mini_garments.read(made.samples.pictures), [one.prompt for one in made.samples.requests]))
    return {kind: share._asdict() for kind, share in zip(mini_garments.KINDS, found, strict=True)}


def axis(name: str, ways: Ways, recipe: str, data: Data, args: argparse.Namespace, found: dict[str, Any]) -> None:
    """All ways of one axis that are not in `found` yet."""
    fixed = bases(args.narrow)[recipe]
    if recipe == "mini-denoiser":
        fixed = (*fixed, f"autoencoder={find_model(args.parts)}", f"text={args.text or find_model(args.parts)}")
    base = read_recipe(recipe, [*COMMON, *fixed])
    for way, settings in ways.items():
        if settings and args.way and way not in args.way:
            continue
        key = f"{recipe}: {name}: {way}" if settings else f"{recipe}: base"
        folder, cache = args.folder / "runs" / key.replace(" ", "-").replace("/", "_"), args.folder / "cache"
        config = read_recipe(recipe, [*COMMON, *fixed, *settings])
        if key in found["ways"]:
            if "cost" not in found["ways"][key]:
                print(f"{key}: cost", flush=True)
                keep(args.out, key, {**found["ways"][key], "cost": cost(config, base, data, folder, cache)}, found)
            continue
        print(key, flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        one = trained(config, data, folder, cache, args.seconds)
        if recipe == "mini-denoiser" and args.num and "failed" not in one:
            one["judged"] = judged(folder / "model", args)
        if recipe == "mini-autoencoder" and "failed" not in one:
            one["perceived"] = round(perceived(folder / "model", data), 5)
        keep(args.out, key, {"settings": list(settings), "cost": cost(config, base, data, folder, cache), **one}, found)


def keep(out: Path, key: str, one: dict[str, Any], found: dict[str, Any]) -> None:
    """Adds a way to what the files hold by now, since another process may be at other axes."""
    with FileLock(str(out) + ".lock"):
        if out.exists():
            found["ways"] |= json.loads(out.read_text("utf-8"))["ways"]
        found["ways"][key] = one
        save(out, found)


def save(out: Path, found: dict[str, Any]) -> None:
    """Writes `out`, and beside it the page and the curves."""
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(page(found, out.with_suffix(".svg").name), encoding="utf-8")
    out.with_suffix(".svg").write_text(curves(found), encoding="utf-8")


def main() -> None:
    here, every = Path(__file__).resolve().parent, list(dict.fromkeys(name for axes in recipes(1).values() for name in axes))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emoji", required=True)
    parser.add_argument("--clothing", required=True)
    parser.add_argument("--scenes", nargs="*", default=["scenes:2000,objects=1..2"])
    parser.add_argument("--axis", nargs="+", choices=every, default=every)
    parser.add_argument("--way", nargs="+", help="of these axes, the base and these ways only")
    parser.add_argument("--narrow", type=int, choices=(1, 2), default=1, help="every width of the networks is divided by this")
    parser.add_argument("--seconds", type=float, default=240.0, help="processor time of each way")
    parser.add_argument("--num", type=int, default=48, help="garments drawn by each denoiser; 0 for none")
    parser.add_argument("--parts", default="mini", help="the model whose autoencoder and text encoder the denoisers have")
    parser.add_argument("--text", help="another text encoder, as one that was only trained against pictures")
    parser.add_argument("--out", type=Path, default=here / f"{date.today().isoformat()}-choices.json")
    parser.add_argument("--folder", type=Path, default=here.parent / "outputs" / "choices", help="where runs and pictures are kept")
    args = parser.parse_args()
    told = {"date": date.today().isoformat(), "machine": machine(), "commit": commit(), "seconds": args.seconds,
            "narrow": args.narrow, "command": "python choices.py --emoji emoji.parquet --clothing clothing-train.parquet "
                                              f"--narrow {args.narrow} --seconds {args.seconds:g} --num {args.num}"
                                              f"{' --text DIR' if args.text else ''}"}
    found: dict[str, Any] = json.loads(args.out.read_text("utf-8")) if args.out.exists() else {"about": told, "ways": {}}
    if (found["about"]["seconds"], found["about"]["narrow"]) != (args.seconds, args.narrow):
        before = f"--seconds {found['about']['seconds']:g} --narrow {found['about']['narrow']}"
        raise SystemExit(f"{args.out} is of {before}; name another file with --out, or give {before}")
    data = Data([args.emoji, args.clothing, *args.scenes], 128, 128)
    for recipe, axes in recipes(args.narrow).items():
        for name in axes:
            if name in args.axis:
                axis(name, axes[name], recipe, data, args, found)


if __name__ == "__main__":
    main()
