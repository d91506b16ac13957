"""Checkpoints of a run: folders that appear whole or not at all.

    checkpoint-00000500/  weights.safetensors  ema.safetensors  optimizer.safetensors  state.json  manifest.json

Tensors are named `role/name`. A folder is filled under a temporary name, every file synced, and renamed. Resuming takes the newest
checkpoint that passes every check and says which ones it passed over and why; a checkpoint named explicitly is taken or refused.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from inkwash.errors import CheckpointError
from inkwash.io.durable import new_folder, remove_partials, sync_folder, write_text
from inkwash.io.tensors import Entry, load_tensors, read_manifest, save_tensors, write_manifest

FORMAT = 1
STATE = "state.json"
GROUPS = ("weights", "ema", "optimizer")
_NAME = re.compile(r"checkpoint-(\d{8})")


class Snapshot(NamedTuple):
    """`step` optimizer steps are done. `tensors[group]["role/name"]` for the groups weights, ema, optimizer; `state` is JSON."""

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: dict[str, Any]


def path_of(run: Path, step: int) -> Path:
    return run / f"checkpoint-{step:08d}"


def steps_in(run: Path) -> list[int]:
    """Steps of the checkpoint folders in a run, oldest first; whether they are good is not looked at."""
    found = [_NAME.fullmatch(path.name) for path in run.glob("checkpoint-*") if path.is_dir()]
    return sorted(int(match[1]) for match in found if match)


def intact(run: Path) -> str:
    """What of a run is not lost, for an error's end."""
    steps = steps_in(run)
    return f"last good checkpoint step {steps[-1]} is intact" if steps else "no checkpoint was written yet"


def save(path: Path, snapshot: Snapshot, kept: str = "") -> None:
    """Writes a checkpoint folder. Raises ResourceError `disk_full`, after which no part of it is left."""
    size = sum(tensor.nbytes for group in snapshot.tensors.values() for tensor in group.values())
    with new_folder(path, size, kept) as folder:
        entries: dict[str, Entry] = {}
        for group in GROUPS:
            name = f"{group}.safetensors"
            entries[name] = save_tensors(folder / name, snapshot.tensors[group])
        text = json.dumps({"format": FORMAT, "step": snapshot.step, **snapshot.state}, indent=1) + "\n"
        write_text(folder / STATE, text)
        entries[STATE] = {"bytes": len(text.encode()), "sha256": hashlib.sha256(text.encode()).hexdigest()}
        write_manifest(folder, entries)


def prune(run: Path, keep: int) -> None:
    """Deletes all but the newest `keep` checkpoints."""
    for step in steps_in(run)[:-keep]:
        shutil.rmtree(path_of(run, step))


def load(path: Path) -> Snapshot:
    """Reads and checks one checkpoint. Raises CheckpointError: `no_checkpoint`, `ckpt_corrupt`, `ckpt_too_new`, `unsafe_format`."""
    if path.is_file():
        load_tensors(path)
        raise CheckpointError("no_checkpoint", f'"{path}" is a file, a checkpoint is a folder such as {path_of(Path("DIR"), 500)}; name the folder')
    if not path.is_dir():
        raise CheckpointError("no_checkpoint", f'there is no checkpoint "{path}"; name an existing one, or leave --resume out '
                                               "to start or go on in --out")
    manifest = read_manifest(path)
    missing = [name for name in (STATE, *(f"{group}.safetensors" for group in GROUPS)) if name not in manifest]
    if missing:
        raise CheckpointError("ckpt_corrupt", f'"{path}": its manifest does not list {missing[0]}; use another checkpoint')
    state = _state(path, manifest[STATE])
    tensors = {group: load_tensors(path / f"{group}.safetensors", manifest[f"{group}.safetensors"]) for group in GROUPS}
    return Snapshot(state.pop("step"), tensors, state)


def _state(path: Path, entry: Entry) -> dict[str, Any]:
    try:
        data = (path / STATE).read_bytes()
    except OSError as error:
        raise CheckpointError("ckpt_corrupt", f'cannot read "{path / STATE}": {error.strerror}; use another checkpoint') from None
    try:
        state = json.loads(data)
        version = int(state["format"])
        step = state["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError("ckpt_corrupt", f'"{path / STATE}" is not readable as a training state; use another checkpoint') from None
    if version > FORMAT:
        raise CheckpointError("ckpt_too_new", f'"{path}" has format {version}, this version reads up to {FORMAT}; update inkwash')
    if hashlib.sha256(data).hexdigest() != entry.get("sha256") or not isinstance(step, int):
        raise CheckpointError("ckpt_corrupt", f'"{path / STATE}": sha256 mismatch; use another checkpoint')
    del state["format"]
    return dict(state)


def latest(run: Path, say: Callable[[str], None]) -> Snapshot | None:
    """The newest good checkpoint of a run, None when it has none. `say` gets one line for each that is passed over.

    Raises CheckpointError `no_good_checkpoint` when there are some and all are bad: a fresh start would hide that work was lost.
    """
    steps = steps_in(run)
    for step in reversed(steps):
        try:
            return load(path_of(run, step))
        except CheckpointError as error:
            say(f"skipped {path_of(run, step).name}: {error.message}")
    for partial in sorted(run.glob(".partial-*checkpoint-*")):
        say(f"skipped {partial.name}: it was being written when the run stopped")
    if steps:
        raise CheckpointError("no_good_checkpoint", f'all {len(steps)} checkpoints in "{run}" are damaged; '
                                                    "restore one, or choose another --out to start again")
    return None


def clean(run: Path, say: Callable[[str], None]) -> None:
    """Removes half-written checkpoints, saying so."""
    for partial in sorted(run.glob(".partial-*checkpoint-*")):
        say(f"removed {partial.name}: it was being written when the run stopped")
    remove_partials(run)


def set_aside(run: Path, step: int, say: Callable[[str], None]) -> None:
    """Renames the checkpoints after `step`: the run goes on from there, and they are damaged or of the way that it leaves."""
    for later in [found for found in steps_in(run) if found > step]:
        path = path_of(run, later)
        goal = next(to for number in itertools.count() if not (to := run / f"aside{number or ''}-{path.name}").exists())
        path.rename(goal)
        sync_folder(run)
        say(f"{path.name} is now {goal.name}: the run goes on from step {step}; delete it when you do not need it")


def require_fit(path: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError `arch_mismatch` listing the first 5 differences of names and shapes."""
    problems = []
    for name in sorted({*found, *expected}):
        if name not in found:
            problems.append(f"{name}: missing in the checkpoint")
        elif name not in expected:
            problems.append(f"{name}: not in this network")
        elif found[name].shape != expected[name].shape:
            problems.append(f"{name}: {tuple(found[name].shape)} in the checkpoint, {tuple(expected[name].shape)} here")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError("arch_mismatch", f"{path} is of another architecture: {'; '.join(problems[:5])}{more}; use the recipe it was made with")
