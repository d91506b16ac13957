"""Charts are right about where things are, and the page needs nothing but itself."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from inkwash.evaluate.report.charts import Line, Mark, Scale, chart
from inkwash.evaluate.report.table import pairs, table


def line(name: str = "a & b", shift: float = 0.0) -> Line:
    return Line(name, tuple(Mark(x, y + shift, y + shift - 0.5, y + shift + 0.5) for x, y in ((5, 4.0), (10, 2.0), (40, 1.0))))


def test_scales_are_affine_or_logarithmic() -> None:
    even, log = Scale(0, 10, 100, 200, False), Scale(1, 100, 0, 200, True)
    assert [even(v) for v in (0, 5, 10)] == [100, 150, 200]
    assert [log(v) for v in (1, 10, 100)] == pytest.approx([0, 100, 200])
    for scale in (even, log, Scale(0.013, 0.0171, 0, 1, False), Scale(3, 3, 0, 1, False)):
        ticks = scale.ticks()
        assert 2 <= len(ticks) <= 10
        assert all(scale.low * 0.998 - 1e-9 <= tick <= scale.high * 1.002 for tick in ticks)


@pytest.mark.parametrize("log", [False, True])
def test_a_chart_shows_every_point_with_its_interval(log: bool) -> None:
    text = chart([line(), line("c", 1.0)], "t < u", "x", "y", log_x=log, log_y=log, above=("w' = w - 1", lambda w: w - 1))
    root = ElementTree.fromstring(text)
    circles, squares = root.iter("circle"), root.iter("rect")
    at = [(float(mark.attrib["cx"]), float(mark.attrib["cy"])) for mark in circles][:3]
    assert at == sorted(at)
    assert len(list(squares)) == 4                         # three points and the key
    assert next(title.text for title in root.iter("title")) == "a & b: 5, 4 [3.5, 4.5]"
    assert {"9", "10"} <= {str(tick.text) for tick in root.iter("text")} or log


def test_what_is_not_finite_is_left_out() -> None:
    broken = Line("x", (Mark(1, math.nan, math.nan, math.nan), Mark(2, 1.0, math.nan, math.nan), Mark(3, 2.0, -math.inf, math.inf)))
    root = ElementTree.fromstring(chart([broken], "t", "x", "y"))
    assert len(list(root.iter("title"))) == 2
    numbers = " ".join(value for part in root.iter() for name, value in part.attrib.items() if name not in ("text-anchor", "fill", "stroke"))
    assert not re.search(r"\b(nan|inf)\b", numbers)
    assert "nothing" in chart([Line("x", ())], "t", "x", "y")


def test_texts_are_escaped() -> None:
    assert "<b>" not in table(("<b>",), [("<b>",)], caption="<b>") + pairs([("<b>", "<b>")])
    assert table(("a",), []) == ""
