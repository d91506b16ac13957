"""Who goes first. A policy ranks the tickets before every tick; the least rank goes first, and of equals the one that came first.

Nobody starves under any policy: in every `patience`-th tick of the engine age alone decides (engine.py gives the bound). So a policy need not
be fair, and is one line. Shortest remaining has the least mean time in system of all policies on one server (Schrage 1968, Operations Research
16:687-690); earliest deadline meets all deadlines that any policy can meet (Liu, Layland 1973, Journal of the ACM 20:46-61).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypeVar

from inkwash.value import Value

T = TypeVar("T")


class Standing(NamedTuple):
    """What a policy may know of a ticket."""

    left: int                                              # network rows still to come
    due_sec: float                                         # until its deadline, infinite without one
    served: int                                            # network rows that its key has had, among the keys that now wait


class Policy(Value, ABC):
    """A rule of order. Higher `priority` of a ticket goes before any rank."""

    @abstractmethod
    def rank(self, ticket: Standing) -> float:
        """The least goes first."""


@dataclass(frozen=True, repr=False)
class FirstCome(Policy):
    """In order of arrival."""

    aliases: ClassVar = {"first_come": {}}

    def rank(self, ticket: Standing) -> float:
        return 0.0


@dataclass(frozen=True, repr=False)
class ShortestRemaining(Policy):
    """The fewest network rows left first; what is nearly done is not set aside for what is just a little shorter."""

    aliases: ClassVar = {"shortest": {}}

    def rank(self, ticket: Standing) -> float:
        return float(ticket.left)


@dataclass(frozen=True, repr=False)
class EarliestDeadline(Policy):
    """The nearest deadline first; what has none comes last."""

    aliases: ClassVar = {"deadline": {}}

    def rank(self, ticket: Standing) -> float:
        return ticket.due_sec


@dataclass(frozen=True, repr=False)
class FairShare(Policy):
    """The key that has had the fewest network rows first: keys that wait get equal shares, however much each of them asks for."""

    aliases: ClassVar = {"fair": {}}

    def rank(self, ticket: Standing) -> float:
        return float(ticket.served)


def choose(live: Iterable[T], rank: Callable[[T], tuple[float, float]] | None, need: Callable[[T], int], shape: Callable[[T], Hashable],
           rows: int) -> list[T]:
    """Who takes part in a tick: by rank (None: by age, as they come), those of the first one's shape while what they need fits into `rows`.

    The first one always takes part.
    """
    chosen: list[T] = []
    for ticket in live if rank is None else sorted(live, key=rank):
        if not chosen or (need(ticket) <= rows and shape(ticket) == shape(chosen[0])):
            chosen.append(ticket)
            rows -= need(ticket)
        if rows <= 0:
            break
    return chosen
