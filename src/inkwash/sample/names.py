"""The labels by which other programs name samplers, such as "DPM++ 2M Karras": read at the surface, written into image metadata.

A label is a sampler and, at its end, an optional spacing. Inside this package only Values are used.
"""

# mypy: disable-error-code="type-abstract"
from __future__ import annotations

from inkwash.core.spacing import Beta, Karras, LogSNR, Spacing, Trailing, Uniform
from inkwash.sample.plan import Sampler
from inkwash.value import alias_table, parse

LABELS = {"Euler": "euler", "Euler a": "euler_a", "Heun": "heun", "LMS": "lms", "DPM2": "dpm_2", "DPM2 a": "dpm_2_a", "DDIM": "ddim", "DDPM": "ddpm",
          "DPM++ 2M": "dpmpp_2m", "DPM++ 3M": "dpmpp_3m", "DPM++ 2M SDE": "dpmpp_2m_sde", "DPM++ 3M SDE": "dpmpp_3m_sde", "DPM++ 2S": "dpmpp_2s",
          "DPM++ 2S a": "dpmpp_2s_a", "DPM++ SDE": "dpmpp_sde", "UniPC": "unipc", "DEIS": "deis", "LCM": "lcm"}
"""Label -> short name, as AUTOMATIC1111's web interface spells them."""

ENDINGS: dict[str, Spacing] = {"karras": Karras(), "exponential": LogSNR(), "beta": Beta(), "trailing": Trailing(), "uniform": Uniform()}
"""Label endings -> spacing."""


def read_label(text: str) -> tuple[Sampler, Spacing | None]:
    """The sampler that a label, a short name or a Value's text stands for, and the spacing if the label ends in one.

    Raises UsageError `unknown_name` or `bad_value` for anything else.
    """
    words = " ".join(text.split())
    table = {label.lower(): name for label, name in LABELS.items()}
    if words.lower() in table:
        return alias_table(Sampler)[table[words.lower()]], None
    stem, _, ending = words.rpartition(" ")
    if ending.lower() in ENDINGS and stem.lower() in table:
        return alias_table(Sampler)[table[stem.lower()]], ENDINGS[ending.lower()]
    plain = words.lower() if words.lower() in alias_table(Sampler) else words
    return parse(plain, Sampler), None


def write_label(sampler: Sampler) -> str:
    """The label of a sampler where it has one, else its text."""
    table = alias_table(Sampler)
    return next((label for label, name in LABELS.items() if table[name] == sampler), str(sampler))
