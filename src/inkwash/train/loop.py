"""One flat loop: step, log, save, validate, sample, until the last step or a signal.

SIGINT and SIGTERM finish the running step and save. Three steps in a row without a finite loss end the run, with a command that shows the
losses of their samples. Resuming is starting the same loop at another step.
"""

from __future__ import annotations

import math
import shlex
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import torch

from inkwash.errors import DivergedError, InkwashWarning
from inkwash.io.tensors import digest
from inkwash.train import checkpoint
from inkwash.train.checkpoint import Snapshot
from inkwash.train.log import Log, read_log
from inkwash.train.optim import lr_factor
from inkwash.train.stop import Stop
from inkwash.train.trainer import Trainer

MAX_BAD_STEPS = 3


class Result(NamedTuple):
    """`sha256` of the weights and of their average; `stopped` is the signal that ended the run early, 0 if none."""

    step: int
    sha256: str
    ema_sha256: str
    stopped: int


def fit(trainer: Trainer, out: Path, log: Log, command: list[str], quiet: bool = False) -> Result:
    """Trains until `config.steps`, from wherever `trainer` stands; writes checkpoints, samples and the log into `out`.

    Unless `quiet`, the first process says on stderr that a signal was heard.

    Raises DivergedError after 3 steps in a row without a finite loss, ResourceError `disk_full`.
    """
    config = trainer.config
    stop, stopped, first = Stop(tell=trainer.group.rank == 0 and not quiet), 0, trainer.step
    window: dict[str, list[float]] = {}
    since, seen = time.monotonic(), 0
    with stop.listening():
        if first == 0:
            report(trainer, out, log)
        while trainer.step < config.steps and not (stopped := trainer.group.agree(stop.signal)):
            logs = _first_step(trainer) if trainer.step == first else trainer.run_step()
            seen += config.batch
            step = trainer.step
            rate = seen / max(1e-9, time.monotonic() - since)
            if "skipped" in logs:
                _tell_skip(trainer, out, log, command)
            else:
                for name, value in logs.items():
                    window.setdefault(name, []).append(value)
                log.progress(step, logs.get("loss", math.nan), rate)
            if window and (step % config.log_every == 0 or step == config.steps):
                means = {name: sum(values) / len(values) for name, values in window.items()}
                factor = lr_factor(config.optimizer, step - 1, config.steps)
                log.event("train", step, {**means, "lr": config.optimizer.lr * factor, "samples": step * config.batch,
                                          "samples_per_sec": round(rate, 2)})
                window, since, seen = {}, time.monotonic(), 0
            if step % config.checkpoint_every == 0 and step < config.steps:
                save(trainer, out)
            before = time.monotonic()
            report(trainer, out, log)
            since += time.monotonic() - before
        save(trainer, out)
        stopped = trainer.group.agree(stopped or stop.signal)
    snapshot = trainer.snapshot()
    shas = digest(snapshot.tensors["weights"]), digest(snapshot.tensors["ema"])
    if not stopped and not (first == config.steps and any(event["event"] == "end" and event["step"] == first for event in read_log(out))):
        log.event("end", trainer.step, {"sha256": shas[0], "ema_sha256": shas[1]})
    return Result(trainer.step, *shas, stopped)


def _first_step(trainer: Trainer) -> dict[str, float]:
    """The step at which compilation happens; should it fail, the run goes on without."""
    try:
        return trainer.run_step()
    except RuntimeError as error:
        from torch._dynamo.exc import TorchDynamoException

        if not isinstance(error, TorchDynamoException):
            raise
        reason = str(error).strip().splitlines()[-1][:200]
        warnings.warn(f"compile: true has no effect, compiling failed ({reason}); training goes on without, about half as fast", InkwashWarning,
                      stacklevel=2)
        torch.compiler.set_stance("force_eager")
        for optimizer in trainer.optimizers.values():
            optimizer.zero()
        return trainer.run_step()


def save(trainer: Trainer, out: Path) -> None:
    """Writes the checkpoint of the present step and deletes the old ones."""
    snapshot = trainer.snapshot()
    _require_finite(snapshot, out)
    if trainer.group.rank == 0:
        checkpoint.save(checkpoint.path_of(out, trainer.step), snapshot, checkpoint.intact(out))
        checkpoint.prune(out, trainer.config.keep)
    trainer.group.wait()


def report(trainer: Trainer, out: Path, log: Log) -> None:
    """Validates and draws samples with the averaged weights, at the steps that the config names and at the end."""
    config, step = trainer.config, trainer.step
    end = step == config.steps
    validate = config.validate_every > 0 and (step % config.validate_every == 0 or end)
    sample = config.sample.every > 0 and (step % config.sample.every == 0 or end)
    if not (validate or sample):
        return
    with trainer.averaged(), trainer.precision(), torch.compiler.set_stance("force_eager"):
        if validate:
            log.event("validation", step, trainer.task.validate())
        path = out / "samples" / f"{step:08d}.png"
        path.parent.mkdir(exist_ok=True)
        if sample and trainer.task.sample(path):
            log.image(step, path)


def _tell_skip(trainer: Trainer, out: Path, log: Log, command: list[str]) -> None:
    step, keys, role, loss, norm = trainer.bad
    log.event("skipped", step, {"keys": keys, "role": role, "loss": str(loss), "grad_norm": str(norm)})
    log.say(f"step {step} skipped: loss {loss}, gradient norm {norm}; weights of the {role} unchanged")
    if trainer.bad_steps < MAX_BAD_STEPS:
        return
    path = out / f"diverged-{step:08d}"
    trainer.step, trainer.bad_steps = step, 0
    snapshot = trainer.snapshot()
    _require_finite(snapshot, out)
    if trainer.group.rank == 0:
        checkpoint.save(path, snapshot)
    replay = shlex.join([*command, "--replay", str(path)])
    raise DivergedError("diverged", f"{MAX_BAD_STEPS} steps in a row without a finite loss, the last at step {step} "
                                    f"(loss {loss}, samples {', '.join(keys[:4])}{', ...' if len(keys) > 4 else ''}); look at it with: {replay}")


def _require_finite(snapshot: Snapshot, out: Path) -> None:
    """Raises DivergedError when the weights themselves are lost: then only an older checkpoint helps."""
    for name, tensor in snapshot.tensors["weights"].items():
        if not bool(torch.isfinite(tensor).all()):
            good = checkpoint.steps_in(out)
            last = f"the checkpoint of step {good[-1]} is good" if good else "there is no earlier checkpoint"
            raise DivergedError("diverged", f"at step {snapshot.step} the weights {name} are not finite any more; {last}; "
                                            "run again with a lower optimizer.lr or a lower optimizer.clip, and --accept-changes")
