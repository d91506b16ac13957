"""Our own registry against exact answers: every kind of part, every claim about that kind."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from types import NoneType
from typing import Any

import torch

from inkwash._version import __version__
from inkwash.core.level import Gauge
from inkwash.errors import UsageError, expect
from inkwash.verify import parts
from inkwash.verify.claim import Check, Claim, Finding, Report
from inkwash.verify.convergence import COMPARISONS, FALSE_ALARM
from inkwash.verify.guidances import GUIDANCES
from inkwash.verify.predictions import GAUGES, PREDICTIONS
from inkwash.verify.samplers import SAMPLERS
from inkwash.verify.schedules import SCHEDULES, SPACINGS

Kind = tuple[str, Callable[[], Mapping[str, Any]], Sequence[Check[Any]]]

KINDS: tuple[Kind, ...] = (
    ("schedule", parts.schedules, SCHEDULES),
    ("spacing", parts.named_spacings, SPACINGS),
    ("prediction", parts.predictions, PREDICTIONS),
    ("gauge", lambda: {gauge.value: gauge for gauge in Gauge}, GAUGES),
    ("sampler", parts.samplers, SAMPLERS),
    ("guidance", parts.guidances, GUIDANCES),
)
"""Kind, its parts by name, and the claims about it."""


def conform(only: str | None = None, kinds: Sequence[Kind] = KINDS) -> Report:
    """Every claim on every part, narrowed to kinds, parts or claims that are called `only`. Raises UsageError `unknown_part`."""
    start = time.perf_counter()
    expect(only, (str, NoneType), "only", "unknown_part")
    tables = [(kind, dict(make()), checks) for kind, make, checks in kinds]
    if only is not None:
        tables = _narrow(tables, only)
    findings: list[Finding] = []
    claims: list[Claim] = []
    with torch.no_grad():
        for kind, values, checks in tables:
            for check in checks:
                findings += check.find(kind, values)
                claims.append(replace(check.claim, kind=kind))
    subjects = ", ".join(f"{len(values)} {kind}s" for kind, values, _ in tables if values)
    head = (("inkwash", __version__), ("torch", torch.__version__), ("python", platform.python_version()), ("parts", subjects),
            ("false alarms", f"{FALSE_ALARM:g} for all {COMPARISONS} comparisons of distributions together; the seed is fixed"))
    return Report("conformance of the registry", tuple(claims), tuple(findings), time.perf_counter() - start, head)


def answers(name: str, only: str) -> bool:
    """Whether `only` is the name, or one of its names joined by commas, or the class in it."""
    return only.lower() in {one.strip().lower() for one in [name, *name.split(","), name.split("(")[0]]}


def _narrow(tables: list[tuple[str, dict[str, Any], Sequence[Check[Any]]]], only: str) -> list[tuple[str, dict[str, Any], Sequence[Check[Any]]]]:
    found = []
    for kind, values, checks in tables:
        mine = values if answers(kind, only.removesuffix("s")) else \
            {name: value for name, value in values.items() if answers(name, only) or answers(type(value).__name__, only)}
        named = [check for check in checks if answers(check.claim.name, only)]
        if mine:
            found.append((kind, mine, checks))
        elif named:
            found.append((kind, values, named))
    if not found:
        known = sorted({name.strip() for kind, values, checks in tables
                        for name in [kind, *(one for text in values for one in text.split(",")), *(check.claim.name for check in checks)]})
        near = get_close_matches(only, known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "give a part, a kind such as samplers, or a claim such as order"
        raise UsageError("unknown_part", f"nothing to verify is called {only[:60]!r}; {hint}")
    return found
