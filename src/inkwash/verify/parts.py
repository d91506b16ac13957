"""What there is to check: every part of the registry, each Value once, under all of its names."""

from __future__ import annotations

from typing import TypeVar

from inkwash.core.prediction import Prediction
from inkwash.core.schedule import Cosine, Exponential, Linear, ScaledLinear, Schedule, Shifted, Straight, Tabulated, ZeroTerminal
from inkwash.core.spacing import Spacing
from inkwash.guide import Guidance
from inkwash.sample import Sampler
from inkwash.sample.onestep import DDIM
from inkwash.value import Value, alias_table, registry

V = TypeVar("V", bound=Value)

PROCESSES: tuple[Schedule, ...] = (Linear(), Cosine(), ZeroTerminal(ScaledLinear()), Straight(), Shifted(Straight(), 3.0), Exponential())
"""One process of each kind: a table, continuous, without terminal signal, straight, shifted, exploding."""

WITH_FIELDS: tuple[Schedule, ...] = (Tabulated((0.01, 0.3, 0.2, 0.9)), Shifted(Straight(), 3.0), Shifted(Linear(), 0.5), Shifted(Cosine(), 2.0),
                                     ZeroTerminal(ScaledLinear()), ZeroTerminal(Linear()))
"""Schedules that need settings and so have no short name."""


def named(base: type[V], more: tuple[V, ...] = ()) -> dict[str, V]:
    """Names (joined by commas) -> Value: every alias, classes without one at their defaults where these suffice, and `more`."""
    names: dict[str, list[str]] = {}
    values: dict[str, V] = {}
    for name, value in alias_table(base).items():
        names.setdefault(repr(value), []).append(name)
        values[repr(value)] = value
    known = {type(value) for value in [*values.values(), *more]}
    for name, cls in registry(base).items():
        if cls not in known:
            value = cls()
            names[repr(value)], values[repr(value)] = [name], value
    for value in more:
        names.setdefault(repr(value), [repr(value)])
        values[repr(value)] = value
    return {", ".join(names[text]): values[text] for text in sorted(values, key=lambda text: names[text])}


def samplers() -> dict[str, Sampler]:
    """Every sampler, and DDIM half way between none and all of the posterior's noise."""
    return named(Sampler, (DDIM(0.5),))  # type: ignore[type-abstract]


def named_spacings() -> dict[str, Spacing]:
    """Every spacing."""
    return named(Spacing)  # type: ignore[type-abstract]


def spacings() -> tuple[Spacing, ...]:
    """Every spacing, without names."""
    return tuple(named_spacings().values())


def schedules() -> dict[str, Schedule]:
    """Every schedule, those that need settings with some."""
    return named(Schedule, WITH_FIELDS)  # type: ignore[type-abstract]


def predictions() -> dict[str, Prediction]:
    """Every prediction."""
    return named(Prediction)  # type: ignore[type-abstract]


def guidances() -> dict[str, Guidance]:
    """Every guidance at its default scale."""
    return named(Guidance)  # type: ignore[type-abstract]
