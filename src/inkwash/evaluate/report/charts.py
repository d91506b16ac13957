"""Curves as SVG inside the page: lines with intervals, on linear or logarithmic axes.

A chart is text made from numbers alone; no script draws it, so it looks the same in any browser, on paper and without a network. Lines differ
in colour and in the shape of their marks, so that they can be told apart without colour. A second scale may stand above the first one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

WIDE, HIGH = 680, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 44, 48
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#7b4ab5", "#555555")
MARKS = ("circle", "square", "diamond", "triangle")
SOFT = 'fill="currentColor" fill-opacity="0.65" font-size="11"'
AXIS = 'stroke="currentColor" stroke-opacity="0.55"'
GRID = 'stroke="currentColor" stroke-opacity="0.14"'


class Mark(NamedTuple):
    """One measured point; low and high are the ends of its interval."""

    x: float
    y: float
    low: float
    high: float
    label: str = ""                                        # shown while the pointer rests on it


class Line(NamedTuple):
    name: str
    marks: tuple[Mark, ...]


class Scale:
    """Numbers to positions: [low, high] to [start, end] in pixels, evenly or by logarithms."""

    def __init__(self, low: float, high: float, start: float, end: float, log: bool) -> None:
        self.log = log and low > 0
        if high <= low:
            low, high = (low / 2, low * 2) if self.log else (low - 1, low + 1)
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value: float) -> float:
        low, high, at = (math.log(x) if self.log else x for x in (self.low, self.high, max(value, self.low * 1e-9) if self.log else value))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round numbers in the range, about six."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [m * 10.0**p for p in powers for m in (1, 2, 5) if self.low * 0.999 <= m * 10.0**p <= self.high * 1.001]
            return found if len(found) <= 9 else [x for x in found if str(x).lstrip("0.").startswith("1")]
        step = 10.0 ** math.floor(math.log10((self.high - self.low) / 5))
        step *= min((1, 2, 5, 10), key=lambda m: abs((self.high - self.low) / (step * m) - 5))
        first = math.ceil(self.low / step - 1e-9)
        return [round(k * step, 12) for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def chart(lines: Sequence[Line], title: str, x_name: str, y_name: str, *, log_x: bool = False, log_y: bool = False,
          above: tuple[str, Callable[[float], float]] | None = None, x_ticks: Sequence[float] | None = None) -> str:
    """An <svg> of lines with intervals. `above` names a second scale over the chart, with the function from x to its numbers."""
    marks = [mark for line in lines for mark in line.marks if math.isfinite(mark.y)]
    if not marks:
        return f"<p>{escape(title)}: nothing was measured.</p>"
    x = Scale(min(m.x for m in marks), max(m.x for m in marks), LEFT + 12, WIDE - RIGHT - 12, log_x)
    ends = [v for m in marks for v in (m.y, m.low, m.high) if math.isfinite(v)]
    low, high = min(ends), max(ends)
    if log_y:
        low = max(low, min(m.y for m in marks if m.y > 0) / 2) if any(m.y > 0 for m in marks) else low
        y = Scale(low, high, HIGH - BOTTOM - 4, TOP + 4, True)
    else:
        pad = (high - low or 1) * 0.05
        y = Scale(low - pad if low < 0 or low > pad else 0.0, high + pad, HIGH - BOTTOM, TOP, False)
    parts = [f'<svg viewBox="0 0 {WIDE} {HIGH}" role="img" aria-label="{escape(title)}" class="chart" '
             'font-family="system-ui, sans-serif" font-size="12">',
             f'<text x="{LEFT}" y="14" fill="currentColor" font-size="13" font-weight="600">{escape(title)}</text>']
    for tick in y.ticks():
        at = y(tick)
        parts += [f'<line x1="{LEFT}" x2="{WIDE - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" {GRID}/>',
                  f'<text x="{LEFT - 6}" y="{at + 4:.1f}" {SOFT} text-anchor="end">{_short(tick)}</text>']
    for tick in x_ticks if x_ticks is not None else x.ticks():
        at = x(tick)
        parts += [f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{HIGH - BOTTOM}" y2="{HIGH - BOTTOM + 5}" {AXIS}/>',
                  f'<text x="{at:.1f}" y="{HIGH - BOTTOM + 18}" {SOFT} text-anchor="middle">{_short(tick)}</text>']
        if above is not None:
            parts.append(f'<text x="{at:.1f}" y="{TOP - 6}" {SOFT} text-anchor="middle">{_short(above[1](tick))}</text>')
    if above is not None:
        parts.append(f'<text x="{WIDE - RIGHT + 8}" y="{TOP - 6}" {SOFT}>{escape(above[0])}</text>')
    parts += [f'<line x1="{LEFT}" x2="{WIDE - RIGHT}" y1="{HIGH - BOTTOM}" y2="{HIGH - BOTTOM}" {AXIS}/>',
              f'<text x="{(LEFT + WIDE - RIGHT) / 2}" y="{HIGH - 8}" fill="currentColor" text-anchor="middle">{escape(x_name)}</text>',
              f'<text transform="translate(14 {(TOP + HIGH - BOTTOM) / 2}) rotate(-90)" fill="currentColor" '
              f'text-anchor="middle">{escape(y_name)}</text>']
    for number, line in enumerate(lines):
        parts += _line(line, number, x, y)
    return "".join([*parts, "</svg>"])


def _line(line: Line, number: int, x: Scale, y: Scale) -> list[str]:
    colour, shape = COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]
    dash = ' stroke-dasharray="5 3"' if number >= len(COLOURS) else ""
    marks = sorted((mark for mark in line.marks if math.isfinite(mark.y)), key=lambda mark: mark.x)
    route = " ".join(f"{x(m.x):.1f},{y(m.y):.1f}" for m in marks)
    parts = [f'<g stroke="{colour}" fill="{colour}"><polyline points="{route}" fill="none" stroke-width="1.8"{dash}/>']
    for m in marks:
        at_x, at_y = x(m.x), y(m.y)
        ends = [min(max(y(v), TOP), HIGH - BOTTOM) for v in (m.low, m.high)] if math.isfinite(m.low) and math.isfinite(m.high) else []
        if ends:
            parts.append(f'<line x1="{at_x:.1f}" x2="{at_x:.1f}" y1="{ends[0]:.1f}" y2="{ends[1]:.1f}" stroke-width="1.2" opacity="0.7"/>')
        tip = m.label or f"{line.name}: {_short(m.x)}, {m.y:.4g} [{m.low:.4g}, {m.high:.4g}]"
        parts.append(_mark(shape, at_x, at_y).replace("/>", f"><title>{escape(tip)}</title>", 1) + f"</{_tag(shape)}>")
    row = TOP + 14 + 18 * number
    left = WIDE - RIGHT + 12
    name = escape(line.name if len(line.name) <= 20 else line.name[:19] + "…")
    parts += [f'<line x1="{left}" x2="{left + 20}" y1="{row}" y2="{row}" stroke-width="1.8"{dash}/>', _mark(shape, left + 10, row), "</g>",
              f'<text x="{left + 26}" y="{row + 4}" {SOFT}>{name}</text>']
    return parts


def _tag(shape: str) -> str:
    return {"circle": "circle", "square": "rect"}.get(shape, "polygon")


def _mark(shape: str, x: float, y: float) -> str:
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.6"/>'
    if shape == "square":
        return f'<rect x="{x - 3.3:.1f}" y="{y - 3.3:.1f}" width="6.6" height="6.6"/>'
    corners = {"diamond": ((0, -4.8), (4.8, 0), (0, 4.8), (-4.8, 0)), "triangle": ((0, -4.6), (4.4, 3.6), (-4.4, 3.6))}[shape]
    return '<polygon points="{}"/>'.format(" ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in corners))


def _short(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e5 else f"{value:.1e}"
