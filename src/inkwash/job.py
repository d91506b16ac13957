"""A request under way, and the one way it advances.

`prepare` checks a request and writes its table; `condition` says to it what the prompt says; `step` advances any jobs by one row each, with
one guided evaluation for all of one shape; `images` decodes those that are done. Between calls a Job is all there is: its State, and how many
network rows it has spent. `Pipeline.generate` steps its requests to the end; the engine (serve/engine.py) chooses anew before every step who
takes part. Both give the same bytes, for a row's bits do not depend on its company.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from inkwash.codec import to_uint8
from inkwash.companion import class_of
from inkwash.cond import Cond
from inkwash.core.level import Clean, Level
from inkwash.device import on_host, own_precision
from inkwash.edit import lay_over
from inkwash.errors import UsageError
from inkwash.guide import ClassifierGuidance, Guidance, effective, evaluate
from inkwash.output import Image, notes
from inkwash.request import Request
from inkwash.sample import Plan, Program, Result, begin, tick
from inkwash.sample.kernel import State

if TYPE_CHECKING:
    from inkwash.pipeline import Pipeline

Encode = Callable[[str | None], Cond]
"""A prompt, or None for the absence of one, to its Cond of one sample."""


@contextmanager
def undisturbed(pipe: Pipeline) -> Iterator[None]:
    """Without gradients, and out of reach of the caller's default device, autocast and float32 precision, which would give other bits.

    Not in inference mode: what is made here is the caller's, who may train on it or change it in place.
    """
    with torch.no_grad(), on_host(), torch.autocast(pipe.device.type, enabled=False), own_precision(pipe.device):
        yield


@dataclass
class Job:
    """One image in the making. `rows[k]` is the number of network rows that row k of its plan costs."""

    request: Request
    program: Program
    guidance: Guidance
    rows: tuple[int, ...]
    state: State                                           # of one sample
    conds: dict[str, Cond] | None = None                   # of one sample each
    nfe: int = 0
    seconds: float = 0.0                                   # this job's share of the time of its steps
    x0: Tensor | None = None                               # (C, h, w) the clean image as the last row saw it

    @property
    def row(self) -> int:
        """Rows of the plan that are done."""
        return int(self.state.row[0])

    @property
    def done(self) -> bool:
        return self.row >= len(self.rows)

    @property
    def left(self) -> int:
        """Network rows still to come."""
        return sum(self.rows[self.row :])


def survey(pipe: Pipeline, request: Request, plan: Plan) -> tuple[Guidance, tuple[int, ...]]:
    """The request's guidance, and the network rows that each row of its plan costs. Raises UsageError for what the model cannot do."""
    guidance, levels = pipe.guidance(request), Level(plan.alpha[:-1], plan.sigma[:-1])
    branches = [guidance.branches(lam) for lam in levels.lam.tolist()]
    conditions = ("cond", "negative", "null", *(("label",) if pipe.classifier is not None else ()))
    for branch in {branch for row in branches for branch in row}:
        for name, known, kind in ((branch.model, tuple(pipe.models), "model"), (branch.cond, conditions, "condition")):
            if name not in known:
                raise UsageError("unknown_branch", f"guidance {guidance!r} asks for the {kind} {name!r}; there are {', '.join(known)}; "
                                                   "a weaker model is named by weak=, a classifier by classifier=")
    judge = pipe.classifier
    if judge is not None and isinstance(guidance, ClassifierGuidance) and class_of(request.prompt, judge.classes) is None:
        raise UsageError("no_class", f"the prompt {request.prompt[:60]!r} must name exactly one class of the classifier: {', '.join(judge.classes)}")
    return guidance, tuple(map(len, branches))


def inert(pipe: Pipeline, request: Request, plan: Plan) -> tuple[str, ...]:
    """What was supplied and guidance makes no use of on the way of `plan`, one sentence each: a negative prompt, a companion, a scale."""
    given = [name for name in ("weak", "classifier") if name in pipe.models] + (["negative"] if request.negative else [])
    return effective(pipe.guidance(request), Level(plan.alpha[:-1], plan.sigma[:-1]).lam.tolist(), given).notes


def prepare(pipe: Pipeline, request: Request) -> Job:
    """The request's job before its first row. Raises UsageError for what the model cannot do. Only an image to start from is computed on."""
    with undisturbed(pipe):
        program = pipe.program(request)
        guidance, rows = survey(pipe, request, program.plan)
        return Job(request, program, guidance, rows, begin([program]))


def by_shape(jobs: Iterable[Job]) -> list[list[Job]]:
    """The jobs that can share network calls: those whose x have one shape, in order of their first."""
    groups: dict[tuple[int, ...], list[Job]] = {}
    for job in jobs:
        groups.setdefault(tuple(job.program.x.shape), []).append(job)
    return list(groups.values())


def condition(pipe: Pipeline, jobs: Sequence[Job], encode: Encode) -> None:
    """Gives each job its conditions: of the prompt, the negative prompt, no prompt, and the class if a classifier guides."""
    known: dict[str | None, Cond] = {}
    for job in jobs:
        texts: dict[str, str | None] = {"cond": job.request.prompt, "negative": job.request.negative, "null": None}
        for text in texts.values():
            if text not in known:
                known[text] = encode(text)
        job.conds = {name: known[text] for name, text in texts.items()}
        if pipe.classifier is not None:                    # 0 stands in where no guidance will read it: `prepare` sees to that
            label = class_of(job.request.prompt, pipe.classifier.classes) or 0
            job.conds["label"] = Cond({"label": torch.tensor([label], device=pipe.device)})


def step(pipe: Pipeline, jobs: Sequence[Job]) -> Tensor:
    """Advances each job by one row: one guided evaluation for all. Returns their x0 (n, C, h, w). They must be of one shape and not done.

    An error leaves every job as it was.
    """
    with undisturbed(pipe):
        began = time.perf_counter()
        conds = [job.conds or {} for job in jobs]
        known = {name: Cond.cat([cond[name] for cond in conds]) for name in conds[0]}
        calls = torch.zeros(len(jobs), dtype=torch.long)

        def denoise(x: Tensor, level: Level, index: Tensor) -> Tensor:
            x0, calls[:] = evaluate(pipe.models, x, level, [job.guidance for job in jobs], known, pipe.calls(tuple(x.shape[1:]), 2 * len(index)))
            return x0

        state, _, x0 = tick(denoise, [job.program for job in jobs], State.cat([job.state for job in jobs]))
        share = (time.perf_counter() - began) / len(jobs)
        for job, alone, clean, spent in zip(jobs, state.split(), x0, calls.tolist(), strict=True):
            job.state, job.x0 = alone, clean
            job.nfe += spent
            job.seconds += share
        return x0


def images(pipe: Pipeline, jobs: Sequence[Job], decode: bool = True) -> list[Image]:
    """The images of jobs that are done. `decode` False leaves their pixels out."""
    with undisturbed(pipe):
        made = []
        for job in jobs:
            began = time.perf_counter()
            clean = Result(job.state.x[0], job.program.plan.end, job.row).clean.x
            latent = clean.nan_to_num(0.0, 0.0, 0.0)
            pixels, finite = None, bool(clean.isfinite().all())
            if decode:
                restored = pipe.codec.restore(Clean(latent[None]))[0]                                             # (3, H, W)
                finite = finite and bool(restored.isfinite().all())
                pixels = lay_over(job.request, to_uint8(restored).cpu())
            warnings = notes(job.request, pipe.info, pipe.conditioner, finite, inert(pipe, job.request, job.program.plan))
            made.append(Image(job.request, pixels, latent, job.row, job.nfe, job.seconds + time.perf_counter() - began, warnings))
        return made


def preview(pipe: Pipeline, job: Job) -> Tensor | None:
    """The picture (3, H, W) uint8 as the last row saw it; None before the first. Costs a decoding and no network row."""
    with undisturbed(pipe):
        if job.x0 is None:
            return None
        return lay_over(job.request, pipe.codec.decode(Clean(job.x0.nan_to_num(0.0, 0.0, 0.0)[None]))[0].cpu())
