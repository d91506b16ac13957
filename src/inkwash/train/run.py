"""From a recipe, data paths and a folder to a trained part: everything around the loop.

The same call starts a run, goes on with it and, when it is finished, only says so. One process at a time may train into a folder.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from inkwash.data.choice import choose
from inkwash.data.heldout import hold_out
from inkwash.data.source import open_source
from inkwash.errors import BusyError, InkwashWarning, UsageError, expect
from inkwash.io.durable import new_folder, write_text
from inkwash.io.path import as_path, as_paths
from inkwash.nn import native
from inkwash.train import checkpoint
from inkwash.train.config import RunConfig, add_kind, validate
from inkwash.train.distributed import Group
from inkwash.train.features import TOKENIZER
from inkwash.train.log import CacheLines, Log, read_log
from inkwash.train.loop import Result, fit
from inkwash.train.optim import lr_factor
from inkwash.train.setting import Preview, Setting, can_compile
from inkwash.train.task import Task
from inkwash.train.trainer import Trainer
from inkwash.train.trainer import replay as replay_step

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

FREE = {"name", "card", "steps", "accumulate", "precision", "compile", "parallel", "export_dtype", "log_every", "checkpoint_every", "keep",
        "validate_every", "sample"}
CONFIG, MODEL = "config.json", "model"


_added: dict[str, Callable[[Any, Setting], Task]] = {}


def build_task(config: RunConfig, setting: Setting) -> Task:
    """The task that the config names."""
    from inkwash.train.autoencoder import AutoencoderTask
    from inkwash.train.classifier import ClassifierTask
    from inkwash.train.contrastive import ContrastiveTask
    from inkwash.train.diffusion import DenoiserTask
    from inkwash.train.extractor import FeaturesTask

    makers: dict[str, Callable[[Any, Setting], Task]] = {
        "autoencoder": AutoencoderTask, "contrastive": ContrastiveTask, "denoiser": DenoiserTask, "classifier": ClassifierTask,
        "features": FeaturesTask}
    return {**makers, **_added}[config.task](config, setting)


def register_task(task: str, kind: type[RunConfig], maker: Callable[[Any, Setting], Task]) -> None:
    """Adds a kind of task that stands above this part, as distillation does: `maker(config, setting)` builds it from a config of `kind`."""
    add_kind(task, kind)
    _added[task] = maker


def train(config: RunConfig, data: Sequence[str | Path], out: Path, *, resume: Path | None = None, accept_changes: bool = False,
          command: Sequence[str] = ("inkwash", "train"), quiet: bool = False, cache: Path | None = None, preview: Preview | None = None) -> Result:
    """Trains `config` on `data` into `out` and writes the finished part to `out/model`.

    Decoded pixels, latents and tokens are kept in `cache`, by default `out/cache`; `preview` draws the sample sheets.
    Goes on from the newest good checkpoint in `out`, or from `resume`. Raises DataError, CheckpointError, UsageError `config_changed`,
    BusyError `run_locked`, ResourceError `disk_full`, DivergedError.
    """
    data, out = as_paths(data, "data"), as_path(out, "out")
    expect(config, RunConfig, "config", "bad_recipe")
    if "\ufffd" in os.fsencode(out).decode("utf-8", "replace"):
        raise UsageError("bad_path", f"out is {str(out)[:200]!r}; TensorBoard writes to names in UTF-8 only, give another one")
    resume = None if resume is None else as_path(resume, "resume")
    inside = [str(path) for path in data if (folder := Path(str(path).split("*")[0])).is_dir() and out.resolve().is_relative_to(folder.resolve())]
    if inside and not checkpoint.steps_in(out):
        raise UsageError("bad_path", f'--out "{out}" is inside the data {inside[0]!r}, which would then hold the pictures that the run draws; '
                                     "name a folder elsewhere")
    out.mkdir(parents=True, exist_ok=True)
    group = Group()
    try:
        with _locked(out, group):
            setting = _setting(config, data, out, group, cache, preview, _sayer(group.rank, quiet))
            return _train(config, setting, group, resume, accept_changes, list(command), quiet)
    finally:
        group.close()


def replay(config: RunConfig, data: Sequence[str | Path], out: Path, path: Path, *, cache: Path | None = None,
           accept_changes: bool = False) -> list[tuple[str, float]]:
    """The losses, by sample key, of the step at which the run left the `diverged-` folder `path`.

    Raises UsageError `config_changed`, `data_changed` when it would be another step, unless that is accepted.
    """
    data, snapshot = as_paths(data, "data"), checkpoint.load(as_path(path, "replay"))
    require_same(config, snapshot, accept_changes)
    group = Group()
    try:
        setting = _setting(config, data, out, group, cache, None, _sayer(group.rank, quiet=False))
        task = build_task(config, setting)
        try:
            trainer = Trainer(task, config, group)
            require_same_data(task, snapshot, out, accept_changes)
            trainer.restore(snapshot, str(path))
            return replay_step(trainer)
        finally:
            task.close()
    finally:
        group.close()


def _setting(config: RunConfig, data: Sequence[str | Path], out: Path, group: Group, cache: Path | None, preview: Preview | None,
             say: Callable[[str], None]) -> Setting:
    training, validation = hold_out(open_source(list(data)), config.data.validation)
    training = choose(training, config.data.leave_out, config.data.repeat)
    names = tuple(Path(str(path).split("*")[0]).name for path in data)
    return Setting(training, validation, cache or out / "cache", out, group.device, group.rank, group.world, preview, names,
                   CacheLines(say))


def _train(config: RunConfig, setting: Setting, group: Group, resume: Path | None, accept_changes: bool, command: list[str],
           quiet: bool) -> Result:
    out = setting.out
    if config.batch % (config.accumulate * group.world):
        raise UsageError("bad_batch", f"batch {config.batch} must be a multiple of accumulate x processes = {config.accumulate * group.world}; "
                                      "change one of them")
    say = _sayer(group.rank, quiet)
    snapshot = checkpoint.load(resume) if resume is not None else checkpoint.latest(out, say)
    if snapshot is not None:
        require_same(config, snapshot, accept_changes)
    checkpoint.clean(out, say)
    if group.rank == 0:
        _keep_tokenizer(out, snapshot, resume)
    torch.manual_seed(config.seed)
    task = build_task(config, setting)
    try:
        trainer = Trainer(task, config, group)
        if snapshot is not None:
            require_same_data(task, snapshot, out, accept_changes)
            trainer.restore(snapshot, f"step {snapshot.step}")
            say(f"resumed from step {snapshot.step} of {config.steps}")
            if group.rank == 0:
                checkpoint.set_aside(out, snapshot.step, say)
        if config.compile and can_compile():
            task.compile()
        if group.rank == 0:
            write_text(out / CONFIG, json.dumps(config.model_dump(mode="json"), indent=1) + "\n")
        log = Log(out, trainer.step, config.steps, quiet=group.rank != 0)
        try:
            if trainer.bf16 and group.device.type == "cpu" and group.rank == 0:
                _tell_kernels(log, trainer.step, say)
            result = fit(trainer, out, log, command, quiet)
            if not result.stopped:
                export(trainer, setting)
                say(f"finished step {result.step}: {out / MODEL}, weights sha256 {result.sha256[:16]}")
            if summary := task.summary():
                say(summary)
            return result
        finally:
            log.close()
    finally:
        task.close()


def _keep_tokenizer(out: Path, snapshot: checkpoint.Snapshot | None, resume: Path | None) -> None:
    """A tokenizer belongs to weights: one that a run left before its first checkpoint is dropped, that of a checkpoint elsewhere is copied."""
    mine = out / TOKENIZER
    if snapshot is None:
        mine.unlink(missing_ok=True)
    elif resume is not None and resume.parent.resolve() != out.resolve() and (resume.parent / TOKENIZER).is_file():
        write_text(mine, (resume.parent / TOKENIZER).read_text("utf-8"))


def _tell_kernels(log: Log, step: int, say: Callable[[str], None]) -> None:
    """One line on whether the native kernels are used; a warning where a run goes on in another way than it began, since its bits will differ."""
    used = native.usable()
    before = [event["used"] for event in read_log(log.run) if event["event"] == "native"]
    if before and before[-1] != used:
        was, now = ("used" if one else "not used" for one in (before[-1], used))
        warnings.warn(f"up to step {step} the native kernels were {was}, from here they are {now}; "
                      "the run goes on, but not with the bits of an uninterrupted one", InkwashWarning, stacklevel=2)
    log.event("native", step, {"used": used, "status": native.status()})
    say(f"native kernels: {native.status()}")


def export(trainer: Trainer, setting: Setting) -> None:
    """Writes the finished part, with the averaged weights, to `out/model`. A sharded run hands its weights to one process that is not."""
    snapshot = trainer.snapshot() if trainer.group.sharded else None
    if trainer.group.rank == 0:
        if snapshot is not None:
            task = build_task(trainer.config, dataclasses.replace(setting, rank=0, world=1))
            trainer = Trainer(task, trainer.config, Group(alone=True))
            trainer.restore(snapshot, "the sharded run")
        with trainer.averaged(), new_folder(setting.out / MODEL) as folder:
            trainer.task.export(folder, torch.bfloat16 if trainer.config.export_dtype == "bf16" else torch.float32)
    setting.wait()


def require_same(config: RunConfig, snapshot: checkpoint.Snapshot, accept_changes: bool) -> None:
    """Raises UsageError `config_changed` with the keys that would make the run another one, unless they are accepted.

    Keys that change what is said or saved but not the weights are free. The number of steps is free as long as the learning
    rates up to here are the same.
    """
    if accept_changes:
        return
    before = validate(snapshot.state["config"], "checkpoint")
    old, new = before.model_dump(mode="json"), config.model_dump(mode="json")
    free = FREE - {"accumulate"} if config.data.mode == "bucket" else FREE               # there the micro-batches have shapes of their own
    changed = [f"{key} ({_short(a)} -> {_short(b)})" for key, a, b in _differences(old, new) if key.split(".")[0] not in free]
    if not changed and any(lr_factor(before.optimizer, step, before.steps) != lr_factor(config.optimizer, step, config.steps)
                           for step in range(snapshot.step)):
        changed = [f"steps ({before.steps} -> {config.steps}), which changes the learning rates of past steps"]
    if changed:
        raise UsageError("config_changed", f"the run was started with other settings: {'; '.join(changed[:5])}; "
                                           "undo them, go on all the same with --accept-changes, or choose another --out")


def require_same_data(task: Task, snapshot: checkpoint.Snapshot, out: Path, accept_changes: bool) -> None:
    """Raises UsageError `data_changed` when the batches are not those of the snapshot, unless that is accepted."""
    if snapshot.state["data"] != task.fingerprint and not accept_changes:
        raise UsageError("data_changed", f'the data are not those that "{out}" was trained on; '
                                         "give the same --data, --accept-changes, or another --out")


def _differences(old: Any, new: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
    elif old != new:
        yield prefix, old, new


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _sayer(rank: int, quiet: bool) -> Callable[[str], None]:
    def say(text: str) -> None:
        if rank == 0 and not quiet:
            print(text, file=sys.stderr, flush=True)  # noqa: T201

    return say


@contextmanager
def _locked(out: Path, group: Group) -> Iterator[None]:
    """The first process holds the lock for all; none goes on without. The system takes it from a process that was killed."""
    with ExitStack() as stack:
        free = True
        if group.rank == 0 and fcntl is not None:
            try:
                fcntl.flock(stack.enter_context((out / ".lock").open("ab")), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                free = False
        if group.mean(float(free)) < 1:
            raise BusyError("run_locked", f'another process is training into "{out}"; wait for it, stop it, or choose another --out')
        yield
