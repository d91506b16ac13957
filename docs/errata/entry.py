"""What an erratum is: what an article says, why that is wrong, what holds, and checks on which the wrong form fails and the right one passes.

One list of these makes the page "What the articles get wrong" and its tests, so that the page cannot say what was not checked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ARTICLES = {"A": "a guide to interviews on diffusion systems", "B": "an overview of diffusion models for interviews", "C": "an outline of a course",
            "D": "a practical guide to image generation", "E": "a chapter on diffusion with worked numbers"}


@dataclass(frozen=True)
class Check:
    """`test(form)` raises AssertionError for a wrong form. A form is a number, a name, a value of the package or a function."""

    test: Callable[[Any], None]
    wrong: Any
    right: Any


@dataclass(frozen=True)
class Erratum:
    """One mistake. `source` is where it can be read up; `kind` is "code" where the check computes, "fact" where it compares with
    a cited fact that was looked up on 2026-11-21, in the paper or in accounts of it, "unread" where only accounts at second hand were found."""

    number: int
    article: str
    topic: str
    says: str
    why: str
    instead: str
    source: str
    checks: tuple[Check, ...]
    kind: str = "code"

    @property
    def id(self) -> str:
        """A name for tests."""
        return f"{self.number:02d}-{self.topic.replace(' ', '-')}"


def require(condition: object, message: str) -> None:
    """Raises AssertionError, also under python -O."""
    if not condition:
        raise AssertionError(message)


def near(found: float, expected: float, tolerance: float = 0.02) -> None:
    """Raises AssertionError unless `found` is within a share `tolerance` of `expected`."""
    require(abs(found - expected) <= tolerance * abs(expected), f"{found:g} is not {expected:g}")
