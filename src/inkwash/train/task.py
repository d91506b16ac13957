"""What is trained is a Task; the loop that trains it knows nothing else.

A task owns its networks ("roles"), its data and its losses. `losses` is a generator: after each Loss it yields, the loop has made one
optimizer step of that role, so that tasks which alternate between networks need no other loop. All randomness comes from a `Draw`,
a function of (seed, step, position in the global batch): how samples are spread over processes or micro-batches changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from inkwash.core.noise import generator, seed64


class Loss(NamedTuple):
    """The loss of each sample `value` (B,) for the optimizer of `role`, and named numbers to log, one per sample (B,) or () each."""

    role: str
    value: Tensor
    logs: Mapping[str, Tensor]


class Draw:
    """Random numbers of the samples `first` .. `first + count - 1` of the global batch of `total` samples at `step`.

    A draw makes the numbers of the whole global batch and keeps its own rows, so every split of the batch sees the same ones.
    """

    def __init__(self, seed: int, step: int, total: int, first: int = 0, count: int | None = None) -> None:
        self.seed, self.step, self.total = seed, step, total
        self.rows = slice(first, first + (total if count is None else count))
        assert 0 <= first <= self.rows.stop <= total

    def normal(self, shape: tuple[int, ...], purpose: str) -> Tensor:
        """N(0, 1) of (count, *shape) float32."""
        return torch.randn((self.total, *shape), generator=self._generator(purpose))[self.rows]

    def uniform(self, shape: tuple[int, ...], purpose: str) -> Tensor:
        """Uniform on [0, 1) of (count, *shape) float64."""
        return torch.rand((self.total, *shape), generator=self._generator(purpose), dtype=torch.float64)[self.rows]

    @property
    def position(self) -> Tensor:
        """Rows of the global batch (count,) long."""
        return torch.arange(self.rows.start, self.rows.stop)

    def _generator(self, purpose: str) -> torch.Generator:
        return generator(self.seed, 0, self.step, purpose)

    def number(self, purpose: str) -> int:
        """A 63-bit number for this step."""
        return seed64(self.seed, 0, self.step, purpose)


class Task(Protocol):
    """What the loop needs from anything that can be trained."""

    @property
    def roles(self) -> Mapping[str, nn.Module]:
        """The networks that are trained, one optimizer and average each."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identifies the sequence of batches."""
        ...

    def batch(self, micro_step: int) -> Any:
        """This process's part of the `micro_step`-th global micro-batch; a pure function of it."""
        ...

    def keys(self, batch: Any) -> list[str]:
        """The names of the samples in a batch, for error messages."""
        ...

    def losses(self, batch: Any, draw: Draw) -> Iterator[Loss]:
        """The losses of one batch, in the order in which the roles are to be stepped."""
        ...

    def compile(self) -> None:
        """Compiles the hot parts in place."""
        ...

    def validate(self) -> dict[str, float]:
        """Metrics on held-out data at fixed noise, of the weights now in the roles."""
        ...

    def sample(self, path: Path) -> bool:
        """Writes a picture of what the weights now in the roles can do to `path` (.png); False when there is nothing to show."""
        ...

    def export(self, folder: Path, dtype: torch.dtype) -> None:
        """Writes the finished part, from the weights now in the roles, as a model folder."""
        ...

    def summary(self) -> str:
        """What of the data was set aside, in one sentence; "" when nothing was."""
        ...

    def close(self) -> None:
        """Stops background work."""
        ...
