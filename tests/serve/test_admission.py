"""Who is let in: room, deadlines by the measured rate, and the margin of predictions."""

from __future__ import annotations

import math
import random

import pytest

from inkwash.serve.admission import Rate
from inkwash.serve.http.admission import Due, Margin, require_in_time, require_room
from inkwash.serve.http.errors import ApiError


def test_admission_counts_rows() -> None:
    rate, margin, least = Rate(), Margin(), Margin.LEAST
    require_in_time(rate, margin, 10**6, 10**6, 10**6, 0.001)      # nothing is known yet, so nothing is refused
    rate.add(100, 1.0)
    assert require_in_time(rate, margin, 100, 100, 1, 2.0 * least) == Due(2.0 * least, 2.0 * least, 2.0)
    assert require_in_time(rate, margin, 0, 300, 100, 2.0) == Due(None, 2.0)       # an idle engine may try, or one bad measure would refuse for ever
    for backlog, cost, status in ((101, 100, 503), (0, 3000, 400)):
        with pytest.raises(ApiError) as found:
            require_in_time(rate, margin, backlog, cost, 1, 2.0 * least)
        assert (found.value.status, found.value.retry_sec is not None) == (status, status == 503)
    assert rate.tick == 100
    for steps, later in ((1, 0), (2, 50), (1000, 100)):    # half of what others have of the ticks that it takes part in comes before it
        assert require_in_time(rate, margin, 100, 100, steps, (2.0 + later / 100) * least).predicted_sec == 2.0 + later / 100
        with pytest.raises(ApiError, match="deadline"):
            require_in_time(rate, margin, 100, 100, steps, (1.99 + later / 100) * least)
    margin.value = 1.5
    with pytest.raises(ApiError, match="after 2 to 3 s"):
        require_in_time(rate, margin, 100, 100, 1, 2.9)
    require_room(3, 1, 1, 4, 2, 0.0)
    for live, mine, asked, status in ((4, 0, 1, 503), (2, 2, 1, 429), (0, 0, 3, 400)):
        with pytest.raises(ApiError) as found:
            require_room(live, mine, asked, 4, 2, 0.0)
        assert found.value.status == status
    assert found.value.headers()["x-should-retry"] == "false"


def test_one_tick_of_a_stopped_process_refuses_nothing() -> None:
    rate = Rate()
    for _ in range(20):
        rate.add(16, 0.2)
    rate.add(16, 3600.0)
    assert rate.value > 40
    require_in_time(rate, Margin(), 0, 16, 8, 1.0)         # 3600 s alone, said a mean over seconds: "deadline_impossible", for ever
    require_in_time(rate, Margin(), 32, 16, 8, 3.0)
    for _ in range(12):
        rate.add(16, 2.0)                                  # it has become slow for good
    assert rate.value == pytest.approx(8, rel=0.05)


def test_the_margin_is_what_all_but_one_in_twenty_stay_within() -> None:
    """Of a machine whose speed others change, and of one that keeps its speed; a prediction far from its deadline teaches nothing."""
    margin, draw, over = Margin(), random.Random(0), []
    for number in range(20_000):
        took = draw.lognormvariate(0.0, 0.15)
        if number >= 2000:
            over.append(took > margin.value)
        margin.learn(Due(10.0, 1.2, 1.0), took)
    assert 0.04 < sum(over) / len(over) < 0.06
    assert margin.value == pytest.approx(math.exp(0.15 * 1.645), abs=0.15)         # the 95 % quantile of that distribution
    for took in (9.0,) * 100:
        margin.learn(Due(10.0, 20.0, 1.0), took)
        margin.learn(Due(10.0, math.inf, 0.0), took)
    assert margin.value < 1.5
    for took in (9.0,) * 100:
        margin.learn(Due(10.0, 1.2, 1.0), took)
    assert margin.value == Margin.MOST
    for _ in range(1000):
        margin.learn(Due(10.0, 1.2, 1.0), 1.0)
    assert margin.value == Margin.LEAST
