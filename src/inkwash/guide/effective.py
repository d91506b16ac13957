"""What a guidance does over a whole run, before it is run: evaluations, and settings that have no effect.

A negative prompt only takes the place of the null condition, so without extrapolation (w = 1, or a model whose guidance was distilled
into it) it changes nothing. Rescaling compares with the reference branch and is inert there too. A weaker model or a classifier is read by
the guidance that is made for it only.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from inkwash.guide.adjust import Rescale
from inkwash.guide.guidance import Contrast, Guidance

USES = {"weak": ("weaker model", "AutoGuidance(scale=2)"), "classifier": ("classifier", "ClassifierGuidance(scale=2)"),
        "negative": ("negative prompt", "a scale above 1")}
"""What somebody may supply, and the guidance that reads it."""


class Effect(NamedTuple):
    """Evaluations in all, the names of the conditions that are read, and one note for each setting that is inert."""

    evaluations: int
    conds: frozenset[str]
    notes: tuple[str, ...]


def effective(guidance: Guidance, lams: Sequence[float], given: Collection[str] = ()) -> Effect:
    """The effect at the levels `lams` of a run, one per network stage; `given` names conditions and models that somebody supplied."""
    plans = [guidance.branches(lam) for lam in lams]
    conds = frozenset(branch.cond for plan in plans for branch in plan)
    alone = all(len(plan) == 1 for plan in plans)
    told = any(branch.told is not None for plan in plans for branch in plan)
    reason = "without guidance nothing reads it" if alone and "cond" in conds else f"{guidance} does not read it"
    unread = sorted(set(given) - conds - {branch.model for plan in plans for branch in plan} - {"cond", "null"})
    notes = []
    for what, user in (USES.get(name, (name, "another guidance")) for name in unread):
        notes.append(f"the {what} is inert: " + ("guidance is distilled into the model" if told else f"{reason}; {user} does"))
    if isinstance(guidance, Contrast):
        outside = guidance.interval is not None and not any(lam in guidance.interval for lam in lams)
        if outside and guidance.scale != 1:
            notes.append(f"scale is inert: no level of this run lies in {guidance.interval!r}")
        if alone:
            notes += [f"{item!r} is inert: w=1" for item in guidance.then if isinstance(item, Rescale)]
    return Effect(sum(map(len, plans)), conds, tuple(notes))
