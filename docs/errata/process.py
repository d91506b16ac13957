"""Mistakes about noise, steps and samplers."""

from __future__ import annotations

import math
import symtable
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from errata.entry import Check, Erratum, near, require
from inkwash.core.level import Level
from inkwash.core.prediction import Eps, Prediction, V
from inkwash.core.schedule import Cosine, DiscreteCosine, Linear, ScaledLinear, Schedule, Sigmoid, Tabulated
from inkwash.core.spacing import Trailing
from inkwash.errors import UsageError
from inkwash.sample.onestep import DDIM
from inkwash.value import alias_table

ABAR = Linear().abar()                                     # (1000,)
BETA = Linear().betas()


def strided(total: int, steps: int) -> list[int]:
    """The list of the article: every (T // n)-th index, backwards."""
    return list(range(0, total, total // steps))[::-1]


def trailing(total: int, steps: int) -> list[int]:
    """The list of `Trailing`, as indices 0..T-1."""
    path = Trailing().levels(Linear(num_steps=total), steps)
    return [round(float(time) * total) - 1 for time in Linear(num_steps=total).time(path.levels.lam[:-1])]


def starts_at_the_end(steps: Callable[[int, int], Sequence[int]]) -> None:
    for n in (20, 50):
        require(steps(1000, n)[0] == 999, f"{n} steps start at index {steps(1000, n)[0]}, where x is not pure noise")


def has_as_many_as_asked(steps: Callable[[int, int], Sequence[int]]) -> None:
    for n in (30, 600, 1001):
        try:
            found = len(steps(1000, n))
        except UsageError:
            continue                                       # refused in words is an answer; a crash is none
        except ValueError as error:
            raise AssertionError(f"{n} steps crash: {error}") from error
        require(found == n, f"{n} steps asked, {found} made")


def knows_its_names(source: str) -> None:
    function = symtable.symtable(source, "step", "exec").get_children()[0]
    unknown = [name.get_name() for name in function.get_symbols() if name.is_global() and name.get_name() not in ("sqrt",)]
    require(not unknown, f"the function uses {unknown}, which nobody gave it")


def is_the_noise_of_eta_one(variance: Callable[[int, int], float]) -> None:
    """variance(t, s) for a step from t to s, 1..T, s = 0 clean; compared with DDIM at eta = 1 over all steps and over every tenth."""
    for kept in (range(1000, -1, -1), range(1000, -1, -10)):
        for t, s in pairwise(kept):
            now, after = float(ABAR[t - 1]), float(ABAR[s - 1]) if s else 1.0
            ddim = (1 - after) / (1 - now) * (1 - now / after)
            require(math.isclose(variance(t, s), ddim, rel_tol=1e-9, abs_tol=1e-12), f"from {t} to {s}: {variance(t, s):.3g}, DDIM has {ddim:.3g}")


def posterior_variance(t: int, s: int) -> float:
    """(1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s), which is beta tilde for s = t - 1."""
    now, after = float(ABAR[t - 1]), float(ABAR[s - 1]) if s else 1.0
    return (1 - after) / (1 - now) * (1 - now / after)


def lands_on_the_image(scale: Callable[[int], float]) -> None:
    """The last step of DDPM with the exact noise, from x_1 of a known image; scale(1) is the factor of the fresh z."""
    x0, eps, z = torch.tensor([0.3, -1.2, 0.8]).double(), torch.tensor([1.0, -0.5, 0.2]).double(), torch.tensor([0.7, -1.1, 1.5]).double()
    x_1 = ABAR[0].sqrt() * x0 + (1 - ABAR[0]).sqrt() * eps
    out = (x_1 - BETA[0] / (1 - ABAR[0]).sqrt() * eps) / (1 - BETA[0]).sqrt() + scale(1) * z
    require(torch.allclose(out, x0, atol=1e-12), f"the image comes out with an error of {float((out - x0).abs().max()):.3g}")


def keeps_a_signal(schedule: Schedule) -> None:
    level = schedule(0.5)
    require(float(level.alpha) ** 2 > 0.01, f"half way abar is {float(level.alpha) ** 2:.2g}: nothing is left to learn from the second half")


def is_the_papers_cosine(floor: float) -> None:
    def f(t: float) -> float:
        return math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    near(float(DiscreteCosine(floor=floor).betas()[0]), 1 - f(1) / f(0), 1e-6)


def is_well_conditioned(prediction: Prediction) -> None:
    gain = max(abs(float(prediction.gain(Linear()(t)))) for t in (0.1, 0.5, 0.9, 1.0))
    require(gain <= 1.0 + 1e-9, f"an error of the network is multiplied by {gain:.3g} in x0")


def stays_exact_on_a_point(before: Callable[[int, int], int]) -> None:
    """DDIM over every 100th index on data that is one point: x must hold exactly alpha_s x0 + sigma_s eps. before(t, kept) names abar's index."""
    x0, eps = 0.7, -1.3
    for t in range(1000, 100, -100):
        s = before(t, t - 100)
        x = math.sqrt(float(ABAR[s - 1])) * x0 + math.sqrt(1 - float(ABAR[s - 1])) * eps
        kept = float(ABAR[t - 101])
        near(x, math.sqrt(kept) * x0 + math.sqrt(1 - kept) * eps, 1e-9)
    plan = DDIM().plan(Trailing().levels(Linear(), 10))
    require(not bool(plan.weights[..., 3:-1].any()), "DDIM remembers earlier steps")


def belongs_to_a_schedule(pair: tuple[float, float]) -> None:
    found = {}
    for name, schedule in alias_table(Schedule).items():  # type: ignore[type-abstract]
        half, end = (float((level := schedule(t)).alpha ** 2 / (level.alpha**2 + level.sigma**2)) for t in (0.5, 1.0))
        found[name] = (half, end)
        if math.isclose(half, pair[0], rel_tol=0.05) and math.isclose(end, pair[1], rel_tol=0.05):
            return
    raise AssertionError(f"no schedule has abar_500 = {pair[0]:g} and abar_1000 = {pair[1]:g}: {found}")


def keeps_the_variance(noise: float) -> None:
    """A chain over all steps on data N(0, 1) with the exact denoiser; `noise` is the factor of the fresh noise. Followed as a variance."""
    variance = 1.0
    for t in range(1000, 0, -1):
        now, after = float(ABAR[t - 1]), float(ABAR[t - 2]) if t > 1 else 1.0
        beta = 1 - now / after
        factor = (1 - beta) ** -0.5 * (1 - beta / math.sqrt(1 - now) * math.sqrt(1 - now))
        variance = factor**2 * variance + (noise * beta if t > 1 else 0.0)
    near(variance, 1.0, 0.05)


def raw_sigmoid() -> Tabulated:
    """beta_t = sigmoid(-6..6), as the formula stands there."""
    return Tabulated(tuple(torch.sigmoid(-6 + 0.012 * torch.arange(1, 1001, dtype=torch.float64)).tolist()))


def concatenated(image: Tensor, noise: Tensor, level: Level) -> Tensor:
    return torch.cat([noise, image], 1)


def noised(image: Tensor, noise: Tensor, level: Level) -> Tensor:
    return level.mix(image, noise)


def starts_from_the_image(start: Callable[[Tensor, Tensor, Level], Tensor]) -> None:
    image, noise = torch.full((1, 4, 2, 2), 0.5), torch.ones(1, 4, 2, 2)
    for t in (0.0, 0.6, 1.0):
        level = Cosine()(t)
        found = start(image, noise, level)
        require(found.shape == image.shape, f"the network takes {image.shape[1]} channels and is given {found.shape[1]}")
        require(torch.allclose(found, level.mix(image, noise)), "at strength 0 the image must come back, at strength 1 nothing of it")


ERRATA = (
    Erratum(
        3, "A", "first step of DDIM",
        "The list of a DDIM sampler starts at T - 1.",
        "The list is every (T // n)-th index backwards: 50 steps start at 980, 20 at 950. Sampling starts with pure noise where"
        " the network expects some signal.",
        "The first step is at the terminal level, whatever the spacing: `Trailing`.",
        "Lin et al. 2023, arXiv 2305.08891, table 2",
        (Check(starts_at_the_end, strided, trailing),)),
    Erratum(
        4, "A", "number of DDIM steps",
        "That list has n entries.",
        "30 steps become 31, every n from 501 to 999 becomes 1000, and n above T divides by zero.",
        "Steps asked are steps made; more than the table has is refused in words.",
        "arithmetic",
        (Check(has_as_many_as_asked, strided, trailing),)),
    Erratum(
        5, "A", "alpha_bar in the DDIM function",
        "The function can be run as printed.",
        "It reads alpha_bar, which is neither a parameter nor defined.",
        "A sampler gets its levels as an argument.",
        "the listing itself",
        (Check(knows_its_names, "def step(x, eps, t, s):\n return sqrt(alpha_bar[s]) * x\n",
               "def step(x, eps, alpha_bar, t, s):\n return sqrt(alpha_bar[s]) * x\n"),)),
    Erratum(
        6, "A", "DDIM with eta 1",
        "DDIM with eta = 1 is DDPM.",
        "Its noise is beta tilde, and over a subset of steps that of the kept steps. The article's DDPM has sqrt(beta).",
        "They are equal with the posterior variance of the kept steps.",
        "Song et al. 2020, arXiv 2010.02502, section 4.1",
        (Check(is_the_noise_of_eta_one, lambda t, s: float(BETA[t - 1]), posterior_variance),)),
    Erratum(
        7, "A", "noise at the last step",
        "Every DDPM step adds sqrt(beta) z.",
        "At t = 1 the mean is the image; noise on top stays in it.",
        "z = 0 at the last step.",
        "Ho et al. 2020, arXiv 2006.11239, algorithm 2",
        (Check(lands_on_the_image, lambda t: float(BETA[t - 1]) ** 0.5, lambda t: float(BETA[t - 1]) ** 0.5 if t > 1 else 0.0),)),
    Erratum(
        8, "A", "sigmoid schedule",
        "beta_t is the sigmoid between two end points.",
        "With -6 and 6 as end points beta ends at 0.9975, and the image is gone half way: abar_500 = 1.5e-30.",
        "The sigmoid has to be scaled to [beta_1, beta_T]: `Sigmoid`.",
        "Xu et al. 2022, arXiv 2203.02923",
        (Check(keeps_a_signal, raw_sigmoid(), Sigmoid()),)),
    Erratum(
        9, "A", "lower clamp of the cosine schedule",
        "The betas of the cosine schedule are clipped to [1e-4, 0.999].",
        "The paper clips from above only. The lower clip changes the first 13 betas; beta_1 is 4.1e-5.",
        "`DiscreteCosine()`; the variant has a name of its own, cosine_floor.",
        "Nichol & Dhariwal 2021, arXiv 2102.09672, section 3.2",
        (Check(is_the_papers_cosine, 1e-4, 0.0),)),
    Erratum(
        25, "B", "eps as the best target",
        "Predicting eps is well conditioned at every t.",
        "x0 from eps multiplies the error by sigma / alpha: 157 at the end of the linear schedule, without limit at zero "
        "terminal SNR.",
        "v never exceeds 1; that is why v, EDM and velocity exist.",
        "Salimans & Ho 2022, arXiv 2202.00512",
        (Check(is_well_conditioned, Eps(), V()),)),
    Erratum(
        26, "B", "image to image",
        "The image is concatenated to the noise.",
        "That is how inpainting and super-resolution networks are built, with more input channels. Image to image of an "
        "ordinary network starts from the image with noise of the chosen strength.",
        "x = alpha x0 + sigma eps at the level of the strength, then the rest of the steps.",
        "Meng et al. 2021 (SDEdit), arXiv 2108.01073",
        (Check(starts_from_the_image, concatenated, noised),)),
    Erratum(
        37, "E", "what DDIM looks at",
        "A DDIM step may look back further than one step.",
        "It depends on x_t and the x0 found there. What changes is that abar belongs to the previous kept step, not to t - 1.",
        "No memory; abar of the next kept level.",
        "Song et al. 2020, arXiv 2010.02502, equation 12",
        (Check(stays_exact_on_a_point, lambda t, kept: t - 1, lambda t, kept: kept),)),
    Erratum(
        38, "E", "a pair of numbers",
        "abar_500 = 0.5 and abar_1000 = 0.001 are used as one schedule; and guidance is said to interpolate.",
        f"No schedule has both: linear has {float(ABAR[499]):.3f} and {float(ABAR[999]):.1e}, cosine 0.494 and 0, the one "
        f"of Stable Diffusion {float(ScaledLinear().abar()[499]):.3f} and {float(ScaledLinear().abar()[999]):.1e}. For w "
        "above 1 guidance extrapolates (see 11).",
        "Take both numbers from one schedule.",
        "the registry of schedules",
        (Check(belongs_to_a_schedule, (0.5, 0.001), (0.0786, 4.04e-5)),)),
)
MEAN_ONLY = Check(keeps_the_variance, 0.0, 1.0)
