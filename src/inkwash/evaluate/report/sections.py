"""Parts of the page that are text, tables and curves."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from html import escape

from inkwash.evaluate.curves import Point, by_cost, by_guidance
from inkwash.evaluate.measure import METRICS
from inkwash.evaluate.metrics.slices import Slice
from inkwash.evaluate.report.charts import Line, Mark, chart
from inkwash.evaluate.report.table import table
from inkwash.evaluate.run import Evaluation

ROWS = 12                                                  # of a table of slices, at each end


def likelihood(found: Evaluation) -> str:
    """Bits per dimension, and the samples without a condition."""
    text = ""
    if found.bits is not None:
        b = found.bits
        text += ("<h2>Likelihood of real pictures</h2>" + table(("", b.unit, "interval", "N", "to know"), [
            (name, f"{e.value:.4g}", f"{e.low:.4g} to {e.high:.4g}", str(e.num), e.note)
            for name, e in ((f"by the flow, {b.flow_steps} steps, {b.probes} probe", b.flow),
                            (f"variational bound, {b.bound_steps} levels", b.bound))], words=(4,)))
    if found.unconditional is not None:
        text += "<h2>Without a caption</h2><p>Samples of the branch that guidance compares with: the null condition alone.</p>" + table(
            ("", "value", "interval", "N"), [(METRICS[name].title, f"{e.value:.4g}", f"{e.low:.4g} to {e.high:.4g}", str(e.num))
                                             for name, e in found.unconditional.items()])
    return text


def slices(found: Evaluation) -> str:
    """Tables by word."""
    if not any(found.slices.values()):
        return ""
    text = ("<h2>By word of the caption</h2><p>Each row is all samples whose caption has the word; the difference is from all other samples. "
            "p is adjusted for the number of rows.</p>")
    for name, rows in found.slices.items():
        text += _slices(rows, METRICS[name].title)
    return text


def _slices(rows: Sequence[Slice], title: str) -> str:
    shown = list(rows) if len(rows) <= 2 * ROWS else [*rows[:ROWS], *rows[-ROWS:]]
    caption = title if len(shown) == len(rows) else f"{title}: the lowest and the highest {ROWS} of {len(rows)} words"
    return table(("word", "mean", "interval", "N", "difference", "p", ""),
                 [(row.name, f"{row.mean.value:.4g}", f"{row.mean.low:.4g} to {row.mean.high:.4g}", str(row.mean.num), f"{row.difference.value:+.4g}",
                   f"{row.p_table:.2g}", "notable" if row.notable else "") for row in shown], caption=caption)


def curves(found: Evaluation) -> str:
    """Quality against cost and against guidance."""
    if not found.curves:
        return ""
    return _cost_curves(found) + _guidance_curves(found)


def _seen(found: Evaluation, names: Sequence[str]) -> list[str]:
    """Those of `names` that were measured at the points of the curves."""
    return [name for name in names if any(name in point.metrics for point in found.curves)]


def _distance(points: Sequence[Point]) -> str:
    """The Fréchet distance that can be shown: at this N where one of the points has too few samples for the extrapolation."""
    return "fd_at_n" if any(point.metrics["fd"].note for point in points) else "fd"


def _better(name: str) -> str:
    return METRICS[name].title + ("" if name == "saturation" else ", lower is better" if METRICS[name].smaller_is_better else ", higher is better")


def _cost_curves(found: Evaluation) -> str:
    costs = by_cost(found.curves, found.request)
    if not costs:
        return ""
    every = [point for points in costs.values() for point in points]
    text = (f"<h2>Quality against cost</h2><p>{every[0].num} samples at every point, the same captions and seeds everywhere; bars are intervals. "
            f"All samplers visit the levels of {escape(found.request.spacing or 'their own spacing')}.</p>")
    ticks = sorted({point.nfe for point in every})
    for name in _seen(found, (_distance(every), "kid", "coverage", "precision", "adherence", "clip")):
        lines = [_line(sampler, points, name, lambda point: point.nfe) for sampler, points in costs.items()]
        text += chart(lines, _better(name), "network evaluations per picture (NFE)", METRICS[name].short, log_x=True,
                      log_y=name in ("fd", "fd_at_n") and _positive(lines), x_ticks=ticks)
    return text + _points(every, "Every point of these curves")


def _guidance_curves(found: Evaluation) -> str:
    text, guided = "", by_guidance(found.curves, found.request)
    if len(guided) > 1:
        text += (f"<h2>Quality against guidance</h2><p>{guided[0].num} samples at every point. Two conventions: below w, where 1 is no guidance; "
                 "above w′ = w − 1, where 0 is none.</p>")
        for name in _seen(found, (_distance(guided), "kid", "precision", "recall", "coverage", "adherence", "clip", "saturation")):
            text += chart([_line(found.request.sampler, guided, name, lambda point: point.guidance or 0.0)], _better(name), "guidance w",
                          METRICS[name].short, above=("w′ = w − 1", lambda w: w - 1), x_ticks=[point.guidance or 0.0 for point in guided])
        text += _points(guided, "Every point of these curves")
    return text


def _line(name: str, points: Sequence[Point], metric: str, x: Callable[[Point], float]) -> Line:
    marks = []
    for point in points:
        e = point.metrics.get(metric)
        if e is not None:
            marks.append(Mark(x(point), e.value, e.low, e.high, f"{name}, {point.setting.steps} steps, {point.nfe:g} evaluations, "
                                                               f"guidance {point.setting.guidance}: {e.value:.4g} [{e.low:.4g}, {e.high:.4g}]"))
    return Line(name, tuple(marks))


def _positive(lines: Sequence[Line]) -> bool:
    return all(mark.y > 0 for line in lines for mark in line.marks)


def _points(points: Sequence[Point], title: str) -> str:
    names = [name for name in METRICS if any(name in point.metrics for point in points)]
    rows = [(point.setting.sampler, str(point.setting.steps), f"{point.nfe:g}", str(point.setting.guidance),
             "" if point.guidance is None else f"{point.guidance - 1:g}", f"{point.seconds / point.num:.3f}",
             *(f"{point.metrics[name].value:.4g} ± {(point.metrics[name].high - point.metrics[name].low) / 2:.2g}" if name in point.metrics else ""
               for name in names)) for point in points]
    head = ("sampler", "steps", "NFE", "w", "w′ = w − 1", "s a picture", *names)
    return f"<details><summary>{escape(title)}</summary>{table(head, rows)}</details>"


def against(found: Evaluation) -> str:
    """The comparison with another model, in pairs."""
    if not found.comparison or found.about["other"] is None:
        return ""
    verdict = {"a": "A is better", "b": "B is better", "undecided": "undecided"}
    rows = [(METRICS[name].title, f"{row.difference.value:+.4g}", f"{row.difference.low:+.4g} to {row.difference.high:+.4g}", f"{row.p:.2g}",
             verdict[row.better], "—" if row.num_to_decide is None else str(row.num_to_decide)) for name, row in found.comparison.items()]
    a, b = found.about["model"], found.about["other"]
    text = (f"<h2>Against {escape(b['name'])}</h2><p>A is {escape(a['name'])} ({a['hash'][:10]}), B is {escape(b['name'])} ({b['hash'][:10]}). "
            "Both made the same captions from the same seeds, so differences are taken in pairs. The last column is how many samples of each would "
            f"find a difference of this size in 8 of 10 repetitions.</p>{table(('', 'A − B', 'interval', 'p', '', 'samples to decide'), rows)}")
    for name, table_rows in found.compared_slices.items():
        text += _slices(table_rows, f"{METRICS[name].title}, A − B by word")
    return text


def settings(found: Evaluation) -> list[tuple[str, str]]:
    """Everything that the numbers depend on, flat."""
    rows: list[tuple[str, str]] = []

    def add(name: str, value: object) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                add(f"{name} {key}".strip().replace("_", " "), item)
        elif value is not None and value != {}:
            rows.append((name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))

    add("", found.about)
    return rows
