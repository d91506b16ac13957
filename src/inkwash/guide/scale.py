"""Guidance scales at the boundary: two conventions are in use, and a number alone does not say which.

w multiplies c - u and 1 means no guidance (Stable Diffusion, this package); w' = w - 1 multiplies in (1 + w') c - w' u and 0 means no
guidance (Ho, Salimans 2022). 7.5 and 6.5 are the same. Inside, only w exists; a file has to say what it means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from inkwash.errors import UsageError

SCALE_NAMES = ("guidance_scale", "cfg_scale")
EXTRA_NAMES = ("guidance_extra",)
BARE_NAMES = ("w", "guidance", "guidance_weight")
CONVENTIONS = ("scale", "extra")


def parse_scale(value: object, name: str = "guidance scale") -> float:
    """A finite number, or its text. A percentage is refused: a scale extrapolates and is no probability."""
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, int | float | str) else float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError("bad_scale", f"{name} is {value!r:.60}; expected a number such as 7.5, where 1 means no guidance; it is no percentage")
    return number


def read_scale(record: Mapping[str, object]) -> float | None:
    """w from a file's record, None where it names no scale.

    `guidance_scale` and `cfg_scale` are w, `guidance_extra` is w'. A bare `w`, `guidance` or `guidance_weight` needs `convention`
    ("scale" or "extra") beside it. Raises UsageError `ambiguous_scale`, or `bad_scale`.
    """
    found = [name for name in (*SCALE_NAMES, *EXTRA_NAMES, *BARE_NAMES) if name in record]
    if not found:
        return None
    if len(found) > 1:
        raise UsageError("ambiguous_scale", f"{' and '.join(found)} are both given; keep one")
    name = found[0]
    convention = record.get("convention")
    if name in BARE_NAMES and convention not in CONVENTIONS:
        raise UsageError("ambiguous_scale", f"{name!r} does not say its convention; write guidance_scale (1 = none) or guidance_extra (0 = none), "
                                            'or add convention: "scale" or "extra"')
    extra = name in EXTRA_NAMES or (name in BARE_NAMES and convention == "extra")
    return parse_scale(record[name], name) + (1.0 if extra else 0.0)
