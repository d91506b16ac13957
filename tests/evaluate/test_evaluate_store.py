"""Pieces of work are made once, found again, made anew when damaged, and shared by several processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from inkwash.errors import ResourceError, UsageError
from inkwash.evaluate.store import Job, Store, Team, Worker, key_of


def jobs(made: list[int], count: int = 5) -> list[Job]:
    def job(i: int) -> Job:
        def make() -> dict[str, Tensor]:
            made.append(i)
            return {"value": torch.full((2,), float(i))}

        return Job(key_of("test", i), make, 2)

    return [job(i) for i in range(count)]


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_piece_is_made_once(on_disk: bool, tmp_path: Path) -> None:
    made: list[int] = []
    worker = Worker(Store(tmp_path if on_disk else None))
    found = worker.do(jobs(made), "x")
    assert [float(part["value"][0]) for part in found] == [0, 1, 2, 3, 4]
    assert worker.missing(jobs(made)) == 0
    again = (Worker(Store(tmp_path)) if on_disk else worker).do(jobs(made, 6), "x")
    assert made == [0, 1, 2, 3, 4, 5]
    assert all(torch.equal(a["value"], b["value"]) for a, b in zip(found, again[:5], strict=True))


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    made: list[int] = []
    some = jobs(made)

    def stop(done: int, total: int, what: str) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Worker(Store(tmp_path), progress=stop).do(some, "x")
    assert made == [0, 1]
    Worker(Store(tmp_path)).do(some, "x")
    assert made == [0, 1, 2, 3, 4]


def test_a_damaged_piece_is_made_again(tmp_path: Path) -> None:
    made: list[int] = []
    Worker(Store(tmp_path)).do(jobs(made), "x")
    path = tmp_path / f"{key_of('test', 3)}.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1                                          # inside the numbers, which safetensors does not check
    path.write_bytes(data)
    found = Worker(Store(tmp_path)).do(jobs(made), "x")
    assert made == [0, 1, 2, 3, 4, 3]
    assert float(found[3]["value"][1]) == 3


def team(rank: int, world: int) -> Team:
    """One of several processes that need not wait."""
    one = Team()
    one.rank, one.world = rank, world
    one.wait = lambda: None  # type: ignore[method-assign]
    return one


def test_processes_share_the_pieces(tmp_path: Path) -> None:
    first: list[int] = []
    second: list[int] = []
    with pytest.raises(ResourceError, match="pieces of 'x' are missing"):
        Worker(Store(tmp_path), team(0, 2)).do(jobs(first), "x")
    found = Worker(Store(tmp_path), team(1, 2)).do(jobs(second), "x")
    assert (first, second) == ([0, 2, 4], [1, 3])
    assert [float(part["value"][0]) for part in found] == [0, 1, 2, 3, 4]


def test_processes_need_a_folder() -> None:
    with pytest.raises(UsageError, match="--report"):
        Worker(Store(None), team(0, 2))


def test_names_depend_on_everything() -> None:
    assert len({key_of("a", [1]), key_of("a", [2]), key_of("b", [1]), key_of("a", [[1]])}) == 4
    assert key_of("a", {"x": 1, "y": 2}) == key_of("a", {"y": 2, "x": 1})
