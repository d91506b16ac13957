"""Mistakes about guidance and thresholds."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from errata.entry import Check, Erratum, near, require
from inkwash.guide.adjust import DynamicThreshold
from inkwash.guide.guidance import CFG


def weights(guidance: CFG) -> dict[str, float]:
    """Weight of each condition."""
    return {branch.cond: branch.weight for branch in guidance.branches(0.0)}


def names_w_zero(name: str) -> None:
    """(1 + w) c - w u at w = 0."""
    found = weights(CFG.from_extra(0.0))
    require(found == {"cond": 1.0}, str(found))
    require(name == "conditional", f"at w = 0 the weights are {found}: that is the conditional estimate")


def is_the_usual_scale(extra: float) -> None:
    """The usual 7.5 of u + 7.5 (c - u), as w in (1 + w) c - w u."""
    found, usual = weights(CFG.from_extra(extra)), weights(CFG(7.5))
    require(found == usual, f"w = {extra:g} there is a scale of {found['cond']:g}, not {usual['cond']:g}")


def is_the_weight_of_u(value: float) -> None:
    near(value, weights(CFG(3.0))["null"], 1e-12)


def is_dynamic(threshold: Callable[[Tensor], Tensor]) -> None:
    """Where many values are out of range, all are divided by the percentile; a clip leaves the inner values as they are and flattens the rest."""
    x0 = torch.linspace(-3, 3, 401).reshape(1, 1, 1, 401)
    found = threshold(x0)
    inside = x0.abs() < 0.9
    require(float(found.abs().max()) <= 1 + 1e-6, "values out of range")
    require(float((found[inside] / x0[inside]).nan_to_num(0).max()) < 0.5, "the inner values were not scaled: this is static thresholding")
    require(int((found.abs() > 0.999).sum()) < 10, "the outer values became one flat value")


def static(x0: Tensor) -> Tensor:
    return x0.clamp(-1, 1)


def dynamic(x0: Tensor) -> Tensor:
    return DynamicThreshold(bounds=(-1.0, 1.0))(x0, x0)


def matters(scale: float) -> None:
    found = weights(CFG(scale, against="negative")).get("negative", 0.0)
    require(found, f"at w = {scale:g} the negative prompt has weight {found:g} and is never evaluated")


ERRATA = (
    Erratum(
        1, "A", "guidance of zero",
        "A table calls w = 0 unconditional.",
        "Its own formula (1 + w) c - w u gives c at w = 0, the conditional estimate. Unconditional is w = -1 there, and w = 0 "
        "in the form u + w (c - u).",
        "Name the convention: `CFG.from_extra(w)` for this one, `CFG(w)` for the other.",
        "Ho & Salimans 2022, arXiv 2207.12598, equation 6",
        (Check(names_w_zero, "unconditional", "conditional"),)),
    Erratum(
        2, "A", "default guidance",
        "7 to 8 is given as the usual w of that formula.",
        "7.5 is the usual scale of u + w (c - u), as in Stable Diffusion. In the formula printed it is 6.5.",
        "scale = 1 + w.",
        "Ho & Salimans 2022, arXiv 2207.12598; Rombach et al. 2021, arXiv 2112.10752",
        (Check(is_the_usual_scale, 7.5, 6.5),)),
    Erratum(
        10, "A", "dynamic thresholding",
        "Clipping x0 to [-1, 1] is called dynamic thresholding.",
        "That is static thresholding. The dynamic one takes a percentile s of |x0|, at least 1, clips to [-s, s] and divides by"
        " s.",
        "`DynamicThreshold`, for pixels only.",
        "Saharia et al. 2022, arXiv 2205.11487, section 2.3",
        (Check(is_dynamic, static, dynamic),)),
    Erratum(
        11, "A", "weight of the unconditional estimate",
        "At w = 3 the unconditional mode keeps a significant share.",
        "Its weight is 1 - w = -2: it is subtracted. For w above 1 guidance extrapolates, and is no mixture.",
        "weights w and 1 - w.",
        "Ho & Salimans 2022, arXiv 2207.12598",
        (Check(is_the_weight_of_u, 0.25, -2.0),)),
    Erratum(
        30, "D", "negative prompts",
        "Negative prompts improve images at no cost.",
        "They replace the empty prompt in guidance. At w = 1 there is no such branch and they do nothing; making one costs a "
        "second evaluation per step. A model with guidance distilled into it ignores them.",
        "Inert arguments are reported.",
        "Ho & Salimans 2022, arXiv 2207.12598",
        (Check(matters, 1.0, 4.0),)),
)
