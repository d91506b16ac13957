"""Running programs: unlike requests in one batch, one network call per tick.

A Program is a plan, the start x, the two numbers (seed, image) that name its noise, and what of the sample is known, if anything is. `tick`
evaluates the network once for every program that is not done and advances each by its own row; nothing is remembered but the State, which
goes in and comes out. `run` ticks until all are done. Stopping between ticks, storing the State and going on gives the same bits, for noise
is drawn by (seed, image, row).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from inkwash.core import noise
from inkwash.core.level import Clean, Level
from inkwash.errors import UsageError
from inkwash.sample.kernel import State, advance
from inkwash.sample.known import Known
from inkwash.sample.plan import Plan

Denoise = Callable[[Tensor, Level, Tensor], Tensor]
"""(x (n, ...), level (n,), index (n,) long) -> E[x0 | x] (n, ...); index says which programs the samples belong to."""


class Program(NamedTuple):
    """One sample to make: its table, the names of its noise, and where it starts."""

    plan: Plan
    seed: int
    image: int
    x: Tensor                                              # (...) at the level plan.start
    known: Known | None = None                             # the part that is kept, if any


class Result(NamedTuple):
    """What became of a program."""

    x: Tensor                                              # (...) at the level plan.end
    level: Level                                           # ()
    stages: int                                            # network evaluations, counted while running

    @property
    def clean(self) -> Clean:
        """The sample, if its level says that it is clean. Raises UsageError `not_clean` otherwise."""
        if float(self.level.sigma) != 0:
            raise UsageError("not_clean", f"this sample still has noise (sigma = {float(self.level.sigma):.4g}) and cannot be decoded; "
                                          "run a plan that ends at sigma = 0")
        return Clean(self.x / self.level.alpha.to(self.x))


class Progress(NamedTuple):
    """What `on_step` is told after each network call."""

    done: int                                              # network calls made since the state began
    total: int                                             # network calls in all
    which: Tensor                                          # (n,) the programs that took part
    x0: Tensor                                             # (n, ...) their denoised images, for previews


def prior(plan: Plan, shape: Sequence[int], seed: int, image: int) -> Tensor:
    """The start x of `shape` from noise alone, float32: sigma * z at the plan's first level."""
    return noise.normal(shape, seed, image, 0, "start") * float(plan.sigma[0])


def start(plan: Plan, x0: Tensor, seed: int, image: int) -> Tensor:
    """The start x from a clean sample x0 (...): alpha * x0 + sigma * z at the plan's first level, with the z of `prior`."""
    z = noise.normal(x0.shape, seed, image, 0, "start").to(x0)
    return float(plan.alpha[0]) * x0 + float(plan.sigma[0]) * z


def begin(programs: Sequence[Program]) -> State:
    """The programs before their first row. Their x must agree in shape, dtype and device."""
    if not programs:
        raise ValueError("no programs to run")
    return State.begin(torch.stack([program.x for program in programs]))


def active(programs: Sequence[Program], state: State) -> Tensor:
    """The programs that are not done, (n,) long."""
    rows = enumerate(zip(programs, state.row.tolist(), strict=True))
    return torch.tensor([i for i, (program, row) in rows if row < program.plan.rows], dtype=torch.long)


def _rows(places: Sequence[tuple[Program, int]]) -> tuple[Level, Tensor, Tensor]:
    """Level (n,), slope (n, 2) and weights (n, 2, COLUMNS) of rows of plans; one lookup when all are of one plan."""
    plans, rows = [program.plan for program, _ in places], [row for _, row in places]
    if all(plan is plans[0] for plan in plans):
        index = torch.tensor(rows)
        alpha, sigma, slope, weights = (table[index] for table in plans[0][1:])
    else:
        alpha, sigma, slope, weights = (torch.stack([table[row] for table, row in zip(tables, rows, strict=True)])
                                        for tables in zip(*(plan[1:] for plan in plans), strict=True))
    return Level(alpha, sigma), slope, weights


def _noise(programs: Sequence[Program], rows: Sequence[int], weights: Tensor, like: Tensor) -> Tensor | None:
    """Fresh z (n, ...) where a row asks for it and zeros elsewhere; None, and nothing drawn, where none does."""
    asks = (weights[:, :, -1] != 0).any(dim=1).tolist()
    if not any(asks):
        return None
    z = torch.zeros_like(like)
    for i, (program, row) in enumerate(zip(programs, rows, strict=True)):
        if asks[i]:
            z[i] = noise.normal(like.shape[1:], program.seed, program.image, row, "step").to(like)
    return z


def _keep(places: Sequence[tuple[Program, int]], x: Tensor) -> Tensor:
    """x (n, ...) after a row, with what is known put back at the level that each program's row reached."""
    if all(program.known is None for program, _ in places):
        return x
    kept = []
    for (program, row), sample in zip(places, x, strict=True):
        if program.known is not None:
            z = noise.normal(sample.shape, program.seed, program.image, row, "known").to(sample)
            sample = program.known.impose(sample, float(program.plan.alpha[row + 1]), float(program.plan.sigma[row + 1]), z)
        kept.append(sample)
    return torch.stack(kept)


def tick(denoise: Denoise, programs: Sequence[Program], state: State) -> tuple[State, Tensor, Tensor]:
    """One network call: every program that is not done advances by one row. Returns (state, index (n,), x0 (n, ...))."""
    index = active(programs, state)
    part = state if len(index) == len(programs) else state.take(index)
    chosen, rows = [programs[i] for i in index.tolist()], part.row.tolist()
    places = list(zip(chosen, rows, strict=True))
    level, slope, weights = _rows(places)
    x0 = denoise(part.x, level, index)
    if x0.shape != part.x.shape:
        raise ValueError(f"the denoiser returned {tuple(x0.shape)} for x of {tuple(part.x.shape)}")
    part = advance(part, x0.to(part.x), slope, weights, _noise(chosen, rows, weights, part.x))
    part = part._replace(x=_keep(places, part.x))
    return (part if len(index) == len(programs) else state.put(index, part)), index, x0


def finish(programs: Sequence[Program], state: State) -> list[Result]:
    """The results of programs that are all done."""
    assert len(active(programs, state)) == 0, "a program is not done"
    return [Result(state.x[i], program.plan.end, int(state.row[i])) for i, program in enumerate(programs)]


def run(denoise: Denoise, programs: Sequence[Program], on_step: Callable[[Progress], None] | None = None, *,
        state: State | None = None) -> list[Result]:
    """Runs every program to its end, from `state` if one is given, and returns one Result per program, in order."""
    state = begin(programs) if state is None else state
    total = max(program.plan.rows for program in programs)
    left = max(program.plan.rows - row for program, row in zip(programs, state.row.tolist(), strict=True))
    for _ in range(left):
        state, index, x0 = tick(denoise, programs, state)
        if on_step is not None:
            on_step(Progress(int(state.row[index].max()), total, index, x0))
    return finish(programs, state)
