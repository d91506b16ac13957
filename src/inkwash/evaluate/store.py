"""Pieces of work that are done once: kept by what they depend on, shared out over processes, read back in order.

A piece is named by the text of everything that decides its numbers: the model's hash, the requests, the extractor's hash. Asking again for
the same text reads the file, so a run that was stopped goes on, a larger one keeps what a smaller one made, and a changed model never
reads old pictures. Process r of W does the pieces r, r + W, ...; all read the pieces back in one order, so what is computed from
them has the same bits however many processes there were.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from inkwash.errors import CheckpointError, ResourceError, UsageError
from inkwash.io.tensors import describe, load_tensors, save_tensors

Progress = Callable[[int, int, str], None]                                              # done, total, what
SUM = "sha256"


def silent(done: int, total: int, what: str) -> None:
    """A Progress that shows nothing."""


def key_of(kind: str, parts: object) -> str:
    """The name of a piece: 32 hexadecimal digits of SHA-256 over `parts` as JSON."""
    return f"{kind}-{hashlib.sha256(json.dumps([kind, parts], sort_keys=True).encode()).hexdigest()[:32]}"


class Team:
    """This process among those of torchrun; alone without them. Close it at the end."""

    def __init__(self) -> None:
        self.world, self.rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
        self._opened = self.world > 1 and not dist.is_initialized()
        if self._opened:
            dist.init_process_group("gloo")

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            dist.barrier()

    def any(self, flag: bool) -> bool:
        """Whether `flag` holds in any process, the same answer in all."""
        if self.world == 1:
            return flag
        count = torch.tensor(int(flag))
        dist.all_reduce(count)
        return bool(count)

    def close(self) -> None:
        if self._opened:
            dist.destroy_process_group()


class Store:
    """Named sets of tensors in a folder, or in memory when `folder` is None."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._memory: dict[str, dict[str, Tensor]] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors under `key`; None when there are none, or when the file is damaged and must be made again."""
        if self.folder is None:
            return self._memory.get(key)
        path = self._path(key)
        if not path.is_file():
            return None
        try:
            found = load_tensors(path)
        except CheckpointError:
            return None
        return found if _sum(found) == bytes(found.pop(SUM, torch.zeros(0, dtype=torch.uint8)).tolist()) else None

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keeps the tensors, durably. Raises ResourceError `disk_full`."""
        if self.folder is None:
            self._memory[key] = dict(tensors)
        else:
            save_tensors(self._path(key), {**tensors, SUM: torch.tensor(list(_sum(tensors)), dtype=torch.uint8)})

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{key}.safetensors"


def _sum(tensors: Mapping[str, Tensor]) -> bytes:
    described = describe({name: tensor for name, tensor in tensors.items() if name != SUM})
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).digest()


class Job(NamedTuple):
    """One piece: its name, how it is made, and how many images it counts for."""

    key: str
    make: Callable[[], dict[str, Tensor]]
    images: int


class Worker:
    """Does jobs with a store and a team, and says how far it is."""

    def __init__(self, store: Store, team: Team | None = None, progress: Progress = silent) -> None:
        self.store, self.team, self.progress = store, team or Team(), progress
        if self.team.world > 1 and store.folder is None:
            raise UsageError("report_needed", "several processes share their work through a folder; name one by --report DIR")

    def do(self, jobs: Sequence[Job], what: str) -> list[dict[str, Tensor]]:
        """The results of all jobs, in order. Raises ResourceError `worker_lost` when another process did not leave its share."""
        total, done = sum(job.images for job in jobs), 0
        rank, world = self.team.rank, self.team.world
        for number, job in enumerate(jobs):
            if number % world == rank and self.store.get(job.key) is None:
                self.store.put(job.key, job.make())
            done += job.images
            self.progress(done, total, what)
        self.team.wait()
        found = [self.store.get(job.key) for job in jobs]
        missing = sum(result is None for result in found)
        if missing:
            raise ResourceError("worker_lost", f"{missing} of {len(jobs)} pieces of {what!r} are missing in \"{self.store.folder}\"; "
                                               "all processes must see the same folder; run the same command again")
        return [result for result in found if result is not None]

    def missing(self, jobs: Sequence[Job]) -> int:
        """How many images of `jobs` are still to be made."""
        return sum(job.images for job in jobs if self.store.get(job.key) is None)
