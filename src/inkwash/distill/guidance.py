"""Guidance distillation: one network that is told w does what its teacher does with two evaluations (Meng et al. 2022, arXiv 2210.03142).

The teacher's guided estimate is x0_w = u + w (c - u), c told the condition and u the null condition. The student's network sees the same x and
condition, and w beside them, and is trained in its own prediction,

    L = weight(level) |network(x_t, level, cond, w) - (a x0_w + b eps_w)|^2,   eps_w = (x_t - alpha x0_w) / sigma,   log w uniform,

on noisy data (section 3.1 there, with w uniform: but x0_w grows with w, so that small scales would be learned last). The student starts as a
copy of the teacher: the embedding of w begins as nothing. `relative_error` measures |student - teacher| / |teacher| in x0, over levels and scales.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from inkwash.cond import Cond
from inkwash.core import noise
from inkwash.core.level import Level, broadcast
from inkwash.core.schedule import Schedule
from inkwash.denoiser import Denoiser
from inkwash.errors import UsageError
from inkwash.guide.evaluate import Denoise
from inkwash.train.levels import Levels, UniformLevels
from inkwash.train.task import Draw, Loss
from inkwash.train.weighting import SimpleWeight, Weighting

ROLE = "student"
SCALES = (1.0, 8.0)
READERS = {"guidance", "cond_proj"}  # the modules that read w


class Examples(NamedTuple):
    """Clean samples x0 (B, ...) in model space, what the networks are told of them, and their places in the data (B,)."""

    x0: Tensor
    cond: Cond
    place: Tensor


class Data(Protocol):
    """Where examples come from. `batch` is a pure function of its number; `held_out` is a fixed set that training never sees, or None."""

    fingerprint: str

    def batch(self, micro_step: int) -> tuple[Tensor, Cond, Tensor]: ...

    def held_out(self, limit: int) -> tuple[Tensor, Cond, Tensor] | None: ...

    def key(self, index: int) -> str: ...

    def summary(self) -> str: ...

    def close(self) -> None: ...


class Guided:
    """The teacher at any scale: x0_w = u + w (c - u). Two evaluations; nothing of it is trained."""

    evaluations = 2

    def __init__(self, teacher: Denoise, null: Callable[[int], Cond]) -> None:
        self.teacher, self.null = teacher, null

    @torch.no_grad()
    def __call__(self, x: Tensor, level: Level, cond: Cond, w: Tensor) -> Tensor:
        """x0_w (B, ...) for scales w (B,)."""
        c = self.teacher(x, level, cond)
        u = self.teacher(x, level, self.null(cond.batch).to(x.device))
        return u + broadcast(w, x) * (c - u)


def tell(cond: Cond, w: Tensor) -> Cond:
    """The condition with the scales w (B,) beside it, as a student reads it."""
    return Cond({**cond, "guidance": w.float()}, cond.batch)


def student_of(network: nn.Module) -> nn.Module:
    """A network that is told w, with the weights of `network`, whose outputs it has at first. Raises UsageError `bad_network`."""
    config = getattr(network, "config", None)
    if config is None or not hasattr(config, "guidance") or config.guidance:
        raise UsageError("bad_network", f"{type(network).__name__} cannot be told a guidance scale; the teacher must be a U-Net or a DiT "
                                        "whose guidance is not yet distilled")
    student: nn.Module = dataclasses.replace(config, guidance=True).build()
    missing, unexpected = student.load_state_dict(network.state_dict(), strict=False)
    assert not unexpected, "a student lacks a tensor of its teacher"
    assert all(READERS & set(name.split(".")) for name in missing), "a student has other tensors than its teacher"
    return student


class GuidanceTask:
    """Trains `student` to be `teacher` at every scale in `scales`, for the loop of `train`.

    `write(folder, dtype)` makes the model folder of the finished student, `draw(path)` a sample sheet.
    """

    def __init__(self, student: Denoiser, teacher: Guided, process: Schedule, data: Data, *, scales: tuple[float, float] = SCALES,
                 levels: Levels | None = None, weighting: Weighting | None = None,
                 write: Callable[[Path, torch.dtype], None] | None = None, draw: Callable[[Path], bool] | None = None) -> None:
        low, high = scales
        if not 0 < low < high <= 100:
            raise UsageError("bad_value", f"scales are {scales!r}; expected (low, high) with 0 < low < high <= 100")
        self.student, self.teacher, self.process, self.data, self.scales = student, teacher, process, data, scales
        self.levels, self.weighting = levels or UniformLevels(), weighting or SimpleWeight()
        self.roles: dict[str, nn.Module] = {ROLE: student.network}
        self.fingerprint = data.fingerprint
        self.write, self.draw = write, draw

    def batch(self, micro_step: int) -> Examples:
        return Examples(*self.data.batch(micro_step))

    def keys(self, batch: Examples) -> list[str]:
        return [self.data.key(int(i)) for i in batch.place]

    def losses(self, batch: Examples, draw: Draw) -> Iterator[Loss]:
        low, high = self.scales
        t = self.levels.times(draw.uniform((), "level"), draw.position, draw.total)     # (B,)
        w = (low * (high / low) ** draw.uniform((), "guidance")).to(batch.x0)           # (B,)
        eps = draw.normal(tuple(batch.x0.shape[1:]), "noise").to(batch.x0)
        value, weight = self.error(batch.x0, t, eps, batch.cond, w)
        yield Loss(ROLE, weight * value, {"mse": value})

    def error(self, x0: Tensor, t: Tensor, eps: Tensor, cond: Cond, w: Tensor) -> tuple[Tensor, Tensor]:
        """(mean |y - y_w|^2, weight), (B,) each, at times t (B,) and scales w (B,)."""
        level = self.process(t)
        x = level.mix(x0, eps)
        goal = self.teacher(x, level, cond, w) / self.student.sigma_data                # in the network's units
        out = self.student.output(x, level, tell(cond, w))
        target = self.student.prediction.target(out.level, goal, out.level.eps(out.x, goal))
        value = (out.y.float() - target).square().flatten(1).mean(1)
        return value, self.weighting(out.level, self.student.prediction).to(value)

    def compile(self) -> None:
        self.student.network.compile()

    def validate(self) -> dict[str, float]:
        """`relative_l2` on held-out samples at fixed noise, over all scales and at the ends and the middle of them."""
        held_out = self.data.held_out(64)
        if held_out is None:
            return {}
        examples, (low, high) = Examples(*held_out), self.scales
        shown = {f"relative_l2_w{w:g}": relative_error(self.student, self.teacher, self.process, examples, (w, w))
                 for w in (low, (low + high) / 2, high)}
        return {"relative_l2": relative_error(self.student, self.teacher, self.process, examples, self.scales), **shown}

    def sample(self, path: Path) -> bool:
        return self.draw is not None and self.draw(path)

    def export(self, folder: Path, dtype: torch.dtype) -> None:
        """Raises UsageError `not_exportable` for a task that was made without `write`."""
        if self.write is None:
            raise UsageError("not_exportable", "this task was made without a writer; give GuidanceTask(write=...) to get a model folder")
        self.write(folder, dtype)

    def summary(self) -> str:
        return self.data.summary()

    def close(self) -> None:
        self.data.close()


@torch.no_grad()
def relative_error(student: Denoise, teacher: Guided, process: Schedule, examples: Examples, scales: tuple[float, float], repeats: int = 4) -> float:
    """|student - teacher| / |teacher|, both x0 and both norms root mean square over samples, levels even in t and scales even in `scales`."""
    wrong, size = 0.0, 0.0
    count = len(examples.x0)
    for k in range(repeats):
        share = (torch.arange(count, dtype=torch.float64) + (k + 0.5) / repeats) / count
        t, order = share, torch.randperm(count, generator=noise.generator(0, 0, k, "scales"))
        w = (scales[0] + (scales[1] - scales[0]) * share[order]).to(examples.x0)
        level = process(t)
        eps = noise.normal(examples.x0.shape, 0, 0, k, "validation").to(examples.x0)
        x = level.mix(examples.x0, eps)
        goal = teacher(x, level, examples.cond, w)
        wrong += float((student(x, level, tell(examples.cond, w)) - goal).double().square().sum())
        size += float(goal.double().square().sum())
    return (wrong / size) ** 0.5
