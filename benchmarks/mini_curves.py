"""How good the pictures are at each setting, and the cheapest setting that is as good as the best.

Every point has the same captions and seeds: garments, emoji and scenes, judged as in their own parts, and captions of held-out pictures for the
distance. A point's quality is the share of all judged pictures that are as asked. The cheapest point within one interval of the best is the one
with the fewest network evaluations whose share is not below the lower end of the best point's interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mini_emoji
import mini_garments
import mini_scenes
from mini_bench import Bench
from mini_pictures import everything

from inkwash.data.item import Source
from inkwash.evaluate.curves import USUAL, Curves, curve_settings
from inkwash.evaluate.measure import Views, measure, require_enough
from inkwash.evaluate.metrics.interval import Estimate, proportion
from inkwash.request import Request

STEPS, GUIDANCE = (4, 8, 10, 20, 50), tuple(float(scale) for scale in range(1, 13))
METRICS = ("fd_at_n", "kid", "precision", "recall")


def cheapest(points: Sequence[tuple[float, Estimate]]) -> int:
    """Of (cost, quality) the number of the cheapest whose quality reaches the lower end of the best one's interval; of equal cost the better."""
    best = max(points, key=lambda point: (point[1].value, -point[0]))[1]
    near = [i for i, (_, quality) in enumerate(points) if quality.value >= best.low]
    return min(near, key=lambda i: (points[i][0], -points[i][1].value))


def settings(bench: Bench, num: int) -> list[Request]:
    """Samplers x steps at the model's guidance, then guidance at its sampler and steps; each setting once."""
    return list(dict.fromkeys(curve_settings(Curves(USUAL, STEPS, GUIDANCE, num), bench.template)))


def point(bench: Bench, setting: Request, num: int, scenes: Source | None, reference: Source) -> dict[str, Any]:
    """One setting, `num` pictures of each kind."""
    kinds = {"garments": mini_garments.judged(bench, num, setting), "emoji": mini_emoji.judged(bench, num, setting)}
    if scenes is not None:
        kinds["scenes"] = mini_scenes.judged(bench, num, setting, scenes)
    right = [one for found in kinds.values() for one in found.right]
    real = bench.features(bench.real(reference), "features of held-out pictures")
    made = bench.samples([reference.caption(i) for i in range(len(reference))], num, "samples of held-out captions", setting)
    found = measure(Views(real), Views(bench.features(made.pictures, "features of samples")))
    return {"sampler": setting.sampler, "spacing": setting.spacing, "steps": setting.steps, "guidance": setting.guidance,
            "nfe": float(made.nfe.double().mean()), "seconds_per_image": made.seconds / num, "right": proportion(sum(right), len(right))._asdict(),
            "kinds": {name: sum(one.right) / len(one.right) for name, one in kinds.items()},
            "metrics": {name: found[name]._asdict() for name in METRICS}}


def points(bench: Bench, num: int) -> tuple[list[dict[str, Any]], int, list[str]]:
    """All points, the number of the cheapest good one, and notes."""
    reference = everything(bench).reference("held-out")
    require_enough(num, len(reference))
    scenes = mini_scenes.fresh(bench, num) if bench.scenes else None
    found = [point(bench, setting, num, scenes, reference) for setting in settings(bench, num)]
    chosen = cheapest([(one["nfe"], Estimate(**one["right"])) for one in found])
    here = found[chosen]
    return found, chosen, [f"the cheapest point within one interval of the best, in bold: {here['sampler']}, {here['steps']} steps, "
                           f"guidance {here['guidance']:g}, {here['nfe']:g} evaluations",
                           f"{num} pictures of each kind at every point, spacing {bench.template.spacing}"]
