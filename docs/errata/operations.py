"""Mistakes about serving, safety, cost and reproducibility."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from errata.entry import Check, Erratum, require
from errata.process import MEAN_ONLY
from inkwash.core import noise

RATE = 1000 / 60                                           # requests a second


def gpus(batch_sec: Mapping[int, float], batch: int = 4) -> int:
    """The least number that keeps up, from the measured seconds of a batch."""
    return math.ceil(RATE * batch_sec[batch] / batch - 1e-9)


def gpus_if_free(batch_sec: Mapping[int, float], batch: int = 4) -> int:
    """The article's: a batch of four takes as long as one image."""
    return math.ceil(RATE * batch_sec[1] / batch - 1e-9)


def keeps_up(plan: Callable[[Mapping[int, float]], int]) -> None:
    for gain in (1.0, 1.5, 4.0):
        measured = {1: 3.0, 4: 12.0 / gain}
        need = RATE * measured[4] / 4
        require(plan(measured) >= need - 1e-9, f"with a gain of {gain:g} from batching {need:.1f} GPUs are busy all the time, "
                                               f"the plan has {plan(measured)}")


def late(servers: int, offered: float, service_sec: float, slack_sec: float) -> float:
    """The share that waits longer than `slack_sec`: Erlang's C times exp(-(c - a) t / s) for c servers and a load of `offered`."""
    if servers <= offered:
        return 1.0
    below = sum(offered**k / math.factorial(k) for k in range(servers))
    top = offered**servers / math.factorial(servers) * servers / (servers - offered)
    return top / (below + top) * math.exp(-(servers - offered) * slack_sec / service_sec)


def is_enough(servers: int) -> None:
    """Batches of four arrive at random, 3 s each, and at most 1 in 100 may need more than 10 s."""
    share = late(servers, RATE / 4 * 3.0, 3.0, 7.0)
    require(share <= 0.01, f"with {servers} GPUs, {RATE / 4 * 3 / servers:.0%} busy, {share:.0%} of the batches take more than 10 s")


def cost_ignoring(images: int, steps: int, side: int) -> float:
    return images / 0.5 / 3600 * 3.0


def cost_of_work(images: int, steps: int, side: int) -> float:
    """$3 an hour; 0.115 + 0.0687 n seconds at 512, a fit of the article's own table, and in proportion to the area."""
    return images * (0.115 + 0.0687 * steps) * (side / 512) ** 2 / 3600 * 3.0


def grows_with_work(cost: Callable[[int, int, int], float]) -> None:
    require(cost(1000, 50, 512) > cost(1000, 20, 512), "50 steps cost what 20 cost")
    require(cost(1000, 30, 1024) > cost(1000, 30, 512), "1024 x 1024 costs what 512 x 512 costs")
    require(cost(0, 30, 512) == 0, "no images cost something")


def open_check(scores: Mapping[str, float]) -> bool:
    return scores.get("nsfw", 0.0) > 0.5


def closed_check(scores: Mapping[str, float]) -> bool:
    return not scores.get("nsfw", math.nan) <= 0.5


def fails_closed(blocks: Callable[[Mapping[str, float]], bool]) -> None:
    require(blocks({"nsfw": 0.9}) and not blocks({"nsfw": 0.1}), "it does not do what it is for")
    require(blocks({}), "a classifier that names the label otherwise lets everything pass")
    require(blocks({"nsfw": math.nan}), "a score of NaN lets the picture pass")


def batch_unseeded(prompts: list[str], seeds: list[int]) -> list[Tensor]:
    return list(torch.randn(len(prompts), 4, 2, 2))


def batch_seeded(prompts: list[str], seeds: list[int]) -> list[Tensor]:
    return [noise.normal((4, 2, 2), seed, 0, 0, "start") for seed in seeds]


def can_be_repeated(batch: Callable[[list[str], list[int]], list[Tensor]]) -> None:
    first, again = batch(["a", "b"], [1, 2]), batch(["a", "b"], [1, 2])
    require(all(map(torch.equal, first, again)), "the same call gives other pictures")
    require(torch.equal(batch(["b"], [2])[0], first[1]), "a picture depends on its neighbours")


Gate = Callable[[Mapping[str, bool | None], bool], tuple[str, bool]]


def trusting_gate(said: Mapping[str, bool | None], detected_logo: bool) -> tuple[str, bool]:
    """The article's: the caller says what is in the picture; only previews are labelled."""
    if said.get("claims_real_sku") or said.get("contains_logo"):
        return "human_review", False
    return "synthetic_labeled_preview", True


def closed_gate(said: Mapping[str, bool | None], detected_logo: bool) -> tuple[str, bool]:
    """What is found counts as well as what is said, what is unknown goes to review, and all that leaves is labelled."""
    unsure = any(said.get(name) is None for name in ("claims_real_sku", "contains_logo"))
    if unsure or detected_logo or said["claims_real_sku"] or said["contains_logo"]:
        return "human_review", True
    return "synthetic_labeled_preview", True


def guards(gate: Gate) -> None:
    clean = {"claims_real_sku": False, "contains_logo": False}
    require(gate(clean, False) == ("synthetic_labeled_preview", True), "harmless pictures do not pass")
    require(gate({**clean, "claims_real_sku": True}, False)[0] == "human_review", "real products are not reviewed")
    require(gate(clean, True)[0] == "human_review", "a logo passes when the caller says that there is none")
    require(gate({}, False)[0] == "human_review", "a picture of which nothing is said passes")
    require(gate({**clean, "contains_logo": True}, False)[1], "what goes to review carries no label")


ERRATA = (
    Erratum(
        12, "A", "throughput of a batch",
        "A batch of four takes 3 s, as one image does; so 13 GPUs serve 1000 requests a minute.",
        "Four images are four times the work. With no gain from batching it takes 50 GPUs, with a gain of 1.5 it takes 34.",
        "Plan with the measured time of a batch.",
        "arithmetic",
        (Check(keeps_up, gpus_if_free, gpus),)),
    Erratum(
        13, "A", "queueing",
        "13 GPUs, the quotient rounded up, are enough.",
        "They would be 96 % busy. With random arrivals about one batch in four takes more than 10 s, even if batching were "
        "free.",
        "16 under the same assumptions; the share that is late decides.",
        "Erlang's formula for waiting",
        (Check(is_enough, 13, 16),)),
    Erratum(
        31, "D", "cost of images",
        "A function estimates cost from the number of images, the steps and the resolution.",
        "It ignores steps and resolution, and divides by zero for no images.",
        "Cost grows with both.",
        "the listing itself",
        (Check(grows_with_work, cost_ignoring, cost_of_work),)),
    Erratum(
        32, "D", "safety check",
        "A picture passes when the score of the label nsfw is at most 0.5; a missing label counts as 0.",
        "A missing label, or NaN, lets everything pass: it fails open. The classifier is called CLIP-based and is another "
        "model, and the pipeline of the article switches its own check off.",
        "Block unless a score is known and low.",
        "the listing itself",
        (Check(fails_closed, open_check, closed_check),)),
    Erratum(
        36, "D", "reproducible batches",
        "A function makes images in batches.",
        "It is given no generator: no picture can be made again, and a picture would depend on its place in the batch.",
        "A seed for each picture.",
        "the listing itself",
        (Check(can_be_repeated, batch_unseeded, batch_seeded),)),
    Erratum(
        39, "E", "sampling and release examples",
        "A reverse chain is shown that only takes means; and a gate sends some pictures to review and labels the others.",
        "Without fresh noise the chain collapses towards the mean: its variance shrinks. The gate believes what the caller says"
        " of the picture, and what goes to review carries no label.",
        "Noise at every step but the last; look at the picture, send the unknown to review, label everything.",
        "Ho et al. 2020, arXiv 2006.11239, algorithm 2",
        (MEAN_ONLY, Check(guards, trusting_gate, closed_gate))),
)
