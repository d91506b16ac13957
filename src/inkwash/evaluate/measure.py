"""All numbers of one set of samples: how far it is from real pictures, what it covers, how well it follows its captions.

`METRICS` is the table of what each number is called, which way is better, and how few samples it can be made of. Every number is an
Estimate, so none stands without its interval and the number of samples behind it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from inkwash.errors import UsageError
from inkwash.evaluate.metrics.clipscore import clip_statistic
from inkwash.evaluate.metrics.cmmd import cmmd_statistic
from inkwash.evaluate.metrics.compare import Comparison, compare_statistics
from inkwash.evaluate.metrics.frechet import frechet_distance, frechet_statistic, frechet_unbiased, too_few
from inkwash.evaluate.metrics.interval import LEVEL, Estimate, Statistic, score_interval
from inkwash.evaluate.metrics.kernel import kernel_statistic
from inkwash.evaluate.metrics.neighbours import estimates, neighbour_statistics

K = 5


class Metric(NamedTuple):
    """What a number is: its name for people, whether smaller is better, the least number of samples and of real pictures."""

    title: str
    smaller_is_better: bool
    least: int

    @property
    def short(self) -> str:
        """The title without what qualifies it."""
        return self.title.split(",")[0].split(" above")[0].split(" at this")[0]


METRICS: dict[str, Metric] = {
    "fd": Metric("Fréchet distance, extrapolated to N = ∞", True, 8),
    "fd_at_n": Metric("Fréchet distance at this N", True, 8),
    "kid": Metric("kernel distance (KID)", True, 2),
    "cmmd": Metric("CMMD", True, 2),
    "precision": Metric("precision", False, 2 * (K + 1)),
    "recall": Metric("recall", False, 2 * (K + 1)),
    "density": Metric("density", False, 2 * (K + 1)),
    "coverage": Metric("coverage", False, 2 * (K + 1)),
    "clip": Metric("CLIP score above wrong pairs", False, 2),
    "adherence": Metric("adherence to the caption", False, 2),
    "saturation": Metric("mean saturation of colours", False, 2),
}
COMPARED = ("fd", "fd_at_n", "kid", "cmmd", "precision", "recall", "density", "coverage", "clip", "adherence")


class Views(NamedTuple):
    """One set of images as numbers, rows in one order: features (N, D); CLIP embeddings (N, E) and those of the captions, where there is a CLIP;
    adherence (N,) in 0..1, NaN where the caption asks nothing that can be judged; saturation (N,)."""

    features: Tensor
    clip: Tensor | None = None
    text: Tensor | None = None
    adherence: Tensor | None = None
    saturation: Tensor | None = None


def require_enough(num: int, num_real: int, names: tuple[str, ...] = ("fd", "kid", "precision")) -> None:
    """Raises UsageError `too_few`, naming the metric that cannot be made of so few."""
    for count, what, fix in ((num, "samples", "raise --num"), (num_real, "real pictures", "give more --data, or --reference all")):
        for name in names:
            if count < METRICS[name].least:
                raise UsageError("too_few", f"{count} {what} are too few: {name} needs at least {METRICS[name].least}; {fix}")


def statistics(real: Views, fake: Views) -> dict[str, Statistic]:
    """The numbers that are compared between models, with influences, for as many views as both sets have. The Frechet distance is that at this N
    where there are too few samples for the extrapolation."""
    if too_few(real.features, fake.features):
        return {"fd_at_n": frechet_statistic(real.features, fake.features), **_others(real, fake)}
    return {"fd": frechet_unbiased(real.features, fake.features)[0], **_others(real, fake)}


def _others(real: Views, fake: Views) -> dict[str, Statistic]:
    """All but the Frechet distance, which is the slow one."""
    found = {"kid": kernel_statistic(real.features, fake.features)}
    found |= neighbour_statistics(real.features, fake.features, K)
    found["cmmd"] = cmmd_statistic(*(_unit(views) for views in (real, fake)))
    if fake.clip is not None and fake.text is not None:
        found["clip"] = clip_statistic(fake.clip, fake.text)
    if fake.adherence is not None and int(fake.adherence.isfinite().sum()) > 1:
        found["adherence"] = _mean(fake.adherence)
    return found


def measure(real: Views, fake: Views, *, level: float = LEVEL) -> dict[str, Estimate]:
    """All numbers of `fake` against `real`."""
    frechet, at = frechet_distance(real.features, fake.features, level=level), _others(real, fake)
    found = {"fd": frechet.unbiased, "fd_at_n": frechet.plain, "kid": at["kid"].estimate(level),
             "cmmd": at["cmmd"].estimate(level, "" if real.clip is not None else "on features of the extractor, divided by their length")}
    found |= estimates(at, K, level)
    if "clip" in at:
        found["clip"] = at["clip"].estimate(level, "cosine x 100, above the mean of wrong pairs")
    if fake.adherence is not None and "adherence" in at:
        judged = fake.adherence[fake.adherence.isfinite()]
        real_ones = real.adherence[real.adherence.isfinite()] if real.adherence is not None else judged[:0]
        found["adherence"] = score_interval(judged, level, f"{len(judged)} of {len(fake.adherence)} captions ask for something that can be judged"
                                           + (f"; real pictures have {float(real_ones.mean()):.3f}" if len(real_ones) else ""))
    if fake.saturation is not None:
        found["saturation"] = score_interval(fake.saturation, level, f"real pictures have {float(real.saturation.mean()):.3f}"
                                             if real.saturation is not None else "")
    return found


def distances(real: Tensor, fake: Tensor, *, paired: bool = False, level: float = LEVEL) -> dict[str, Estimate]:
    """The distances alone, of features; `paired` where row i of both is of one image, as of a picture and its reconstruction."""
    frechet = frechet_distance(real, fake, paired=paired, level=level)
    return {"fd": frechet.unbiased, "fd_at_n": frechet.plain, "kid": kernel_statistic(real, fake, paired=paired).estimate(level)}


def compare_all(a: Views, b: Views, real: Views, *, level: float = LEVEL) -> dict[str, Comparison]:
    """A against B, in pairs: sample j of both has the same caption and seed."""
    of_a, of_b = statistics(real, a), statistics(real, b)
    if a.adherence is not None and b.adherence is not None and "adherence" in of_a:
        both = a.adherence.isfinite() & b.adherence.isfinite()
        if int(both.sum()) > 1:
            of_a["adherence"], of_b["adherence"] = _mean(a.adherence[both]), _mean(b.adherence[both])
        else:
            of_a.pop("adherence")
    return {name: compare_statistics(of_a[name], of_b[name], smaller_is_better=METRICS[name].smaller_is_better, level=level)
            for name in COMPARED if name in of_a and name in of_b}


def saturation(images: Tensor) -> Tensor:
    """Mean saturation (B,) of colours, uint8 (B, 3, H, W): (max - min) / max over the channels of a pixel, 0 for black."""
    high, low = images.double().amax(1), images.double().amin(1)
    return ((high - low) / high.clamp(min=1)).flatten(1).mean(1)


def _unit(views: Views) -> Tensor:
    return F.normalize(views.features, dim=1) if views.clip is None else views.clip


def _mean(values: Tensor) -> Statistic:
    known = values[values.isfinite()].double()
    return Statistic(float(known.mean()), known - known.mean(), torch.empty(0, dtype=torch.float64))
