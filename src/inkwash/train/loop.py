"""One flat loop over a Task.

Step s: take its micro-batches, add up the gradients of their mean losses, clip, update, average. Everything that happens in it is a function of
the weights and of s: data, noise and levels are positional, torch's own generator is set anew for each step. So a run that is killed and
goes on from a checkpoint ends with the bits of one that was not. A step whose loss or gradient is not finite changes nothing;
three in a row end the run.
"""

from __future__ import annotations

import math
import shlex
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from inkwash.errors import DivergedError, InkwashWarning
from inkwash.io.tensors import digest
from inkwash.train import checkpoint
from inkwash.train.checkpoint import Snapshot
from inkwash.train.config import RunConfig
from inkwash.train.distributed import Group
from inkwash.train.ema import Ema, load, state_of
from inkwash.train.log import Log
from inkwash.train.optim import Optimizers, lr_factor
from inkwash.train.task import Draw, Task

MAX_BAD_STEPS = 3


class Result(NamedTuple):
    """`sha256` of the weights and of their average; `stopped` is the signal that ended the run early, 0 if none."""

    step: int
    sha256: str
    ema_sha256: str
    stopped: int


def use_bf16(precision: str) -> bool:
    """Whether to compute in bfloat16: "auto" does where the processor or GPU is built for it."""
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


class Stop:
    """Remembers SIGINT and SIGTERM while a step runs; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.signal = 0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number

    @contextmanager
    def listening(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Trainer:
    """The state of a run: weights in the task, averages, optimizers, and the number of finished steps."""

    def __init__(self, task: Task, config: RunConfig, group: Group) -> None:
        self.task, self.config, self.group = task, config, group
        self.step, self.bad_steps = 0, 0
        self.bad: tuple[int, list[str], float, float] = (0, [], 0.0, 0.0)
        self.bf16 = use_bf16(config.precision)
        group.prepare(task.roles, config.parallel)
        self.optimizers = {role: Optimizers(module, config.optimizer) for role, module in task.roles.items()}
        self.emas = {role: Ema(module, config.ema_half_life, config.ema_ramp) for role, module in task.roles.items()}

    def run_step(self) -> dict[str, float]:
        """Step number `self.step`. Returns its mean logs; `skipped` 1.0 when it changed nothing."""
        config, task, group = self.config, self.task, self.group
        torch.manual_seed(Draw(config.seed, self.step, 1).number("torch"))
        logs: dict[str, float] = {}
        keys: list[str] = []
        for role, losses in self._rounds(keys):
            total = 0.0
            for loss in losses:
                mean = loss.value.mean() / config.accumulate
                mean.backward()  # type: ignore[no-untyped-call]
                total += float(mean.detach())
                for name, value in loss.logs.items():
                    logs[name] = logs.get(name, 0.0) + float(value.detach().float().mean()) / config.accumulate
            optimizer = self.optimizers[role]
            total, logs_reduced = group.mean(total), {name: group.mean(value) for name, value in logs.items()}
            group.average_gradients(optimizer.parameters)
            norm = group.clip(optimizer.parameters, config.optimizer.clip)
            if not math.isfinite(total) or not math.isfinite(norm):
                for other in self.optimizers.values():
                    other.zero()
                return self._skip(keys, total, norm)
            optimizer.step(lr_factor(config.optimizer, self.step, config.steps))
            logs = {**logs_reduced, f"loss_{role}" if len(task.roles) > 1 else "loss": total, "grad_norm": norm}
        self.bad_steps = 0
        self.step += 1
        for role, module in task.roles.items():
            self.emas[role].update(module, config.batch, self.step * config.batch)
        return logs

    def _rounds(self, keys: list[str]) -> Iterator[tuple[str, Iterator[Any]]]:
        """For every loss that the task yields: its role, and the losses of all micro-batches."""
        config, group = self.config, self.group
        micro = config.batch // config.accumulate
        share = micro // group.world
        running = []
        for k in range(config.accumulate):
            batch = self.task.batch(self.step * config.accumulate + k)
            keys += self.task.keys(batch)
            draw = Draw(config.seed, self.step, config.batch, k * micro + group.rank * share, share)
            running.append(self.task.losses(batch, draw))
        while True:
            with self._precision():
                first = next(running[0], None)
            if first is None:
                return
            yield first.role, self._round(first, running[1:])

    def _round(self, first: Any, others: list[Iterator[Any]]) -> Iterator[Any]:
        yield first
        for other in others:
            with self._precision():
                loss = next(other)
            yield loss

    def _precision(self) -> Any:
        return torch.autocast(self.group.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def _skip(self, keys: list[str], loss: float, norm: float) -> dict[str, float]:
        self.bad_steps += 1
        self.bad = (self.step, keys, loss, norm)
        self.step += 1
        return {"skipped": 1.0}

    def snapshot(self) -> Snapshot:
        """Everything that the next steps depend on. Collective under FSDP."""
        full = self.group.full
        weights, averages, state = {}, {}, {}
        for role, module in self.task.roles.items():
            weights.update({f"{role}/{name}": full(tensor) for name, tensor in state_of(module).items()})
            averages.update({f"{role}/{name}": full(tensor) for name, tensor in self.emas[role].tensors.items()})
            state.update({f"{role}/{name}": full(tensor) for name, tensor in self.optimizers[role].state().items()})
        info = {"config": self.config.model_dump(mode="json"), "data": self.task.fingerprint, "bad_steps": self.bad_steps}
        return Snapshot(self.step, {"weights": weights, "ema": averages, "optimizer": state}, info)

    def restore(self, snapshot: Snapshot, name: str) -> None:
        """The inverse of `snapshot`. Raises CheckpointError `arch_mismatch`."""
        mine = {f"{role}/{key}": tensor for role, module in self.task.roles.items() for key, tensor in state_of(module).items()}
        checkpoint.require_fit(name, snapshot.tensors["weights"], mine)
        checkpoint.require_fit(name, snapshot.tensors["ema"], mine)
        like = self.group.shard_like
        for role, module in self.task.roles.items():
            def part(group: str, role: str = role) -> dict[str, Tensor]:
                return {key.removeprefix(f"{role}/"): tensor for key, tensor in snapshot.tensors[group].items() if key.startswith(f"{role}/")}

            now = state_of(module)
            load(module, {key: like(tensor, now[key]) for key, tensor in part("weights").items()})
            ema = self.emas[role].tensors
            for key, tensor in part("ema").items():
                ema[key].copy_(like(tensor, ema[key]))
            self.optimizers[role].load(part("optimizer"), like)
        self.step, self.bad_steps = snapshot.step, snapshot.state["bad_steps"]

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside the block the task's networks have the averaged weights and are in eval mode, without gradients."""
        with torch.no_grad():
            managers = [self.emas[role].applied(module) for role, module in self.task.roles.items()] if self.config.ema_half_life else []
            for manager in managers:
                manager.__enter__()
            modes = {role: module.training for role, module in self.task.roles.items()}
            try:
                for module in self.task.roles.values():
                    module.eval()
                yield
            finally:
                for role, module in self.task.roles.items():
                    module.train(modes[role])
                for manager in reversed(managers):
                    manager.__exit__(None, None, None)


def fit(trainer: Trainer, out: Path, log: Log, command: list[str]) -> Result:
    """Trains until `config.steps`, from wherever `trainer` stands; writes checkpoints, samples and the log into `out`.

    Raises DivergedError after 3 steps in a row without a finite loss, ResourceError `disk_full`.
    """
    config, task = trainer.config, trainer.task
    stop, first = Stop(), trainer.step
    window: dict[str, list[float]] = {}
    since, seen = time.monotonic(), 0
    with stop.listening():
        if first == 0:
            report(trainer, out, log)
        while trainer.step < config.steps and not stop.signal:
            logs = _first_step(trainer) if trainer.step == first else trainer.run_step()
            seen += config.batch
            step = trainer.step
            if "skipped" in logs:
                _tell_skip(trainer, out, log, command)
                continue
            for name, value in logs.items():
                window.setdefault(name, []).append(value)
            rate = seen / max(1e-9, time.monotonic() - since)
            log.progress(step, logs.get("loss", math.nan), rate)
            if step % config.log_every == 0 or step == config.steps:
                means = {name: sum(values) / len(values) for name, values in window.items()}
                factor = lr_factor(config.optimizer, step - 1, config.steps)
                log.event("train", step, {**means, "lr": config.optimizer.lr * factor, "samples": step * config.batch, "samples_per_sec": round(rate, 2)})
                window, since, seen = {}, time.monotonic(), 0
            if step % config.checkpoint_every == 0 and step < config.steps:
                save(trainer, out)
            before = time.monotonic()
            report(trainer, out, log)
            since += time.monotonic() - before
            trainer.group.agree(stop)
        save(trainer, out)
    snapshot = trainer.snapshot()
    shas = digest(snapshot.tensors["weights"]), digest(snapshot.tensors["ema"])
    if not stop.signal:
        log.event("end", trainer.step, {"sha256": shas[0], "ema_sha256": shas[1]})
    return Result(trainer.step, *shas, stop.signal)


def _first_step(trainer: Trainer) -> dict[str, float]:
    """The step at which compilation happens; should it fail, the run goes on without."""
    try:
        return trainer.run_step()
    except RuntimeError as error:
        from torch._dynamo.exc import TorchDynamoException

        if not isinstance(error, TorchDynamoException):
            raise
        reason = str(error).strip().splitlines()[-1][:200]
        warnings.warn(f"compile: true has no effect, compiling failed ({reason}); training goes on without, about half as fast", InkwashWarning, stacklevel=2)
        torch.compiler.set_stance("force_eager")
        for optimizer in trainer.optimizers.values():
            optimizer.zero()
        return trainer.run_step()


def save(trainer: Trainer, out: Path) -> None:
    """Writes the checkpoint of the present step and deletes the old ones."""
    snapshot = trainer.snapshot()
    _require_finite(snapshot, out)
    if trainer.group.rank == 0:
        good = checkpoint.steps_in(out)
        intact = f"last good checkpoint step {good[-1]} is intact" if good else "no checkpoint was written yet"
        checkpoint.save(checkpoint.path_of(out, trainer.step), snapshot, intact)
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
    with trainer.averaged(), trainer._precision(), torch.compiler.set_stance("force_eager"):
        if validate:
            log.event("validation", step, trainer.task.validate())
        path = out / "samples" / f"{step:08d}.png"
        path.parent.mkdir(exist_ok=True)
        if sample and trainer.task.sample(path):
            log.image(step, path)


def _tell_skip(trainer: Trainer, out: Path, log: Log, command: list[str]) -> None:
    step, keys, loss, norm = trainer.bad
    log.event("skipped", step, {"keys": keys, "loss": str(loss), "grad_norm": str(norm)})
    log.say(f"step {step} skipped: loss {loss}, gradient norm {norm}; weights unchanged")
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


def replay(trainer: Trainer) -> list[tuple[str, float]]:
    """The losses of this process's samples at the present step, by key; nothing is changed."""
    torch.manual_seed(Draw(trainer.config.seed, trainer.step, 1).number("torch"))
    keys: list[str] = []
    values: list[float] = []
    with torch.no_grad():
        for _, losses in trainer._rounds(keys):
            values += [float(value) for loss in losses for value in loss.value]
    return list(zip(keys, values))
