"""What another library must offer to be put to the same tests: one file with a `Library`.

A library lists its candidates, which are schedulers with settings. A candidate prepares a `Ride`: a run of a number of steps in which the
caller plays the network. Between calls a ride tells at which level x = alpha x0 + sigma eps its x stands; a step takes x, the network's x0
there and a noise to use if it draws any. Whatever the library wants from its network (eps, v, a scaled input) the ride makes from x0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from inkwash.core.level import Gauge
from inkwash.core.spacing import Point


class Ride(Protocol):
    """One run of a candidate."""

    @property
    def calls(self) -> int:
        """How often the network will be called."""

    @property
    def level(self) -> Point:
        """Where x stands before the next call, as the library says."""

    @property
    def end(self) -> Point:
        """Where x stands after the last call, as the library says."""

    @property
    def outer(self) -> bool:
        """Whether x stands between two whole steps, and not inside one of several calls."""

    def step(self, x: Tensor, x0: Tensor, z: Tensor) -> Tensor:
        """x after the next call, whose answer was x0; z is the noise to use where noise is drawn."""


@dataclass(frozen=True)
class Facts:
    """What a library says of one of its candidates, and what we know to compare it with."""

    name: str                                              # the scheduler with its settings
    gauge: Gauge                                           # of its x
    order: int | None = None                               # of convergence as documented; None: none is stated; 0: it has none
    stochastic: bool = False
    calls_a_step: int = 1
    fewer: int = 0                                         # calls that the documentation says are saved, or with a minus added, per run
    ours: str | None = None                                # the same sampler here, as text
    note: str = ""


class Candidate(Protocol):
    """A scheduler with settings."""

    @property
    def facts(self) -> Facts:
        """What is said of it."""

    @property
    def terminal(self) -> Point:
        """The noisiest level that its process has: where sampling should start."""

    def ride(self, steps: int) -> Ride:
        """A run of `steps` steps on the process that people use."""

    def even_ride(self, steps: int) -> Ride:
        """A run of `steps` intervals between noisy levels, as even in lam as the library allows: for orders. It may be one step more."""


class Library(Protocol):
    """A library of schedulers."""

    @property
    def name(self) -> str:
        """As it is imported."""

    @property
    def version(self) -> str:
        """Of what is installed."""

    def candidates(self) -> Sequence[Candidate]:
        """Everything to test."""
