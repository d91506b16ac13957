"""What `choices.py` found, as a page of tables and as curves."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from choices_axes import recipes

from inkwash.evaluate.report.charts import HIGH, WIDE, Line, Mark, chart

VALUES = {"mini-denoiser": "x0 error", "mini-autoencoder": "PSNR, dB"}
Found = dict[str, Any]


def axes_of(found: Found) -> Iterator[tuple[str, str, dict[str, Found]]]:
    """(recipe, axis, what was found of each way), for axes of which more than the base is known."""
    for recipe, axes in recipes(found["about"]["narrow"]).items():
        for name, ways in axes.items():
            keys = {way: f"{recipe}: {name}: {way}" if settings else f"{recipe}: base" for way, settings in ways.items()}
            known = {way: found["ways"][key] for way, key in keys.items() if key in found["ways"]}
            if len(known) > 1:
                yield recipe, name, known


def title(recipe: str, name: str) -> str:
    return f"{recipe.removeprefix('mini-').capitalize()}: {name}"


def page(found: Found, picture: str) -> str:
    """Tables, one for each axis, and the curves of the file `picture`."""
    about = found["about"]
    parts = ["# Choices for the embedded model, at equal compute", "",
             f"{about['date']}, {about['machine']['processor']}, commit {about['commit']}; every way {about['seconds']:g} processor-seconds, seed 0, "
             f"widths divided by {about['narrow']}; `{about['command']}`.", "",
             "Each way was trained once. What a picture costs was timed by turns with the base; how far the base's own cost is from 1 is what that "
             "errs by. `at equal time`: the curve of the way, after as many "
             "pictures as it could have seen in the time of the base. How far ways differ by chance is what the axis `seed` shows.", "",
             f"![The curves of all axes]({picture})", ""]
    for recipe, name, known in axes_of(found):
        parts += [f"## {title(recipe, name)}", "", *_table(recipe, known, found["ways"].get(f"{recipe}: base")), ""]
    return "\n".join(parts)


def _table(recipe: str, known: dict[str, Found], base: Found | None) -> list[str]:
    autoencoder = recipe == "mini-autoencoder"
    shares = [point["seconds"] for point in next(iter(known.values()))["points"]]
    heads = ["way", *(f"{VALUES[recipe]} after {seconds:.0f} s" for seconds in shares), "pictures seen", "cost of a picture", "at equal time",
             "less the base", "weights", *(["perceptual distance"] if autoencoder else ["garment", "colour"])]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for way, one in known.items():
        digits = 2 if autoencoder else 4
        cells = [f"{point['value']:.{digits}f}" for point in one["points"]]
        cells += [one.get("failed", "-")] * (len(shares) - len(cells))
        fair = [f"{one['cost']:.2f}" if "cost" in one else "-", "-", "-"]
        if base and "cost" in one and "failed" not in one:
            value, of_base = at(one["points"], base["points"][-1]["samples"] / one["cost"]), base["points"][-1]["value"]
            fair[1:] = [f"{value:.{digits}f}", f"{value - of_base:+.{digits}f}" if one is not base else "-"]
        judged = [f"{100 * one['judged'][kind]['value']:.0f} %" if "judged" in one else "-" for kind in ("garment", "colour")]
        seen, weights = f"{one['points'][-1]['samples']:,}" if one["points"] else "0", f"{one['parameters']:,}" if "parameters" in one else "-"
        last = [f"{one['perceived']:.3f}" if "perceived" in one else "-"] if autoencoder else judged
        lines.append(f"| {' | '.join([way, *cells, seen, *fair, weights, *last])} |")
    return lines


def at(points: Sequence[Mapping[str, float]], samples: float) -> float:
    """The value of a curve after so many pictures, on straight lines over the logarithm of pictures, the last one also beyond its end."""
    ends = sorted(points, key=lambda point: point["samples"])
    right = max(1, min(len(ends) - 1, bisect.bisect_left([point["samples"] for point in ends], samples)))
    (x_0, y_0), (x_1, y_1) = ((math.log(point["samples"]), point["value"]) for point in ends[right - 1 : right + 1])
    return y_0 + (y_1 - y_0) * (math.log(samples) - x_0) / (x_1 - x_0)


def curves(found: Found) -> str:
    """One chart for each axis, two beside each other, as an SVG file."""
    charts = []
    for recipe, name, known in axes_of(found):
        lines = [Line(way, tuple(Mark(point["samples"] * one.get("cost", 1.0), point["value"], math.nan, math.nan) for point in one["points"]))
                 for way, one in known.items()]
        values = [mark.y for line in lines for mark in line.marks]
        charts.append(chart(lines, title(recipe, name), "time of training, in pictures of the base", VALUES[recipe], log_x=True,
                            log_y=max(values) > 3 * min(values)))
    parts = []
    for number, one in enumerate(charts):
        place = f'<svg x="{WIDE * (number % 2)}" y="{HIGH * (number // 2)}" width="{WIDE}" height="{HIGH}" '
        parts.append(place + one.removeprefix("<svg "))
    width, height = 2 * WIDE, HIGH * math.ceil(len(charts) / 2)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" color="#222">'
            f'<rect width="{width}" height="{height}" fill="#fff"/>{"".join(parts)}</svg>\n')
