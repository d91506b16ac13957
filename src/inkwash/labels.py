"""The labels by which other programs name samplers, such as "DPM++ 2M Karras": read at the surface, written into image metadata.

A label is a sampler and, at its end, an optional spacing. Inside this package only the texts of Values are used. Imports no torch, so that
a wrong label is an error before anything is loaded.
"""

from __future__ import annotations

LABELS = {"Euler": "euler", "Euler a": "euler_a", "Heun": "heun", "LMS": "lms", "DPM2": "dpm_2", "DPM2 a": "dpm_2_a", "DDIM": "ddim", "DDPM": "ddpm",
          "DPM++ 2M": "dpmpp_2m", "DPM++ 3M": "dpmpp_3m", "DPM++ 2M SDE": "dpmpp_2m_sde", "DPM++ 3M SDE": "dpmpp_3m_sde", "DPM++ 2S": "dpmpp_2s",
          "DPM++ 2S a": "dpmpp_2s_a", "DPM++ SDE": "dpmpp_sde", "UniPC": "unipc", "DEIS": "deis", "LCM": "lcm"}
"""Label -> short name of a Sampler, as AUTOMATIC1111's web interface spells them."""

ENDINGS = {"Karras": "karras", "Exponential": "exponential_sigmas", "Beta": "beta", "Trailing": "trailing", "Uniform": "uniform"}
"""Label ending -> short name of a Spacing."""


def read_label(text: str) -> tuple[str, str | None]:
    """(sampler, spacing) as texts of Values; spacing is None unless the label ends in one. What is no label is returned as it stands."""
    words = " ".join(text.split())
    table = {label.lower(): name for label, name in LABELS.items()}
    endings = {ending.lower(): name for ending, name in ENDINGS.items()}
    if words.lower() in table:
        return table[words.lower()], None
    stem, _, ending = words.rpartition(" ")
    if ending.lower() in endings and stem.lower() in table:
        return table[stem.lower()], endings[ending.lower()]
    return words, None


def write_label(name: str, table: dict[str, str]) -> str:
    """The label in `table` (LABELS or ENDINGS) of a Value's short name, else the name itself."""
    return next((label for label, short in table.items() if short == name), name)
