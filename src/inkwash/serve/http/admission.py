"""Whether a request can be finished in time, told before it costs anything.

The engine refuses what would be late; here that is known without asking it, for it may be in the middle of a step. An engine does r network
rows a second, measured while it works, and owes B rows to the images that it has accepted. An image of c rows in k steps waits for those, then
takes part in k ticks of t rows; of these k t rows c are its own, and of the others about half belong to images that came later. So it is
finished after about (B + c + min(B, (k t - c) / 2)) / r seconds. A caller who cannot wait so long is told at once how long to stay away.

Under overload the line is always as long as it may be. Were it allowed to be as long as the deadline, every image would end about at its
deadline, many of them after it, and the work on these would be lost; so a prediction must leave a part of the deadline unused. How large a part
is learned from the images that come: on a machine whose speed others change it is larger. A line that is shorter for it costs nothing, as long
as there is one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from inkwash.serve.admission import Rate
from inkwash.serve.http.errors import ApiError

HOPELESS = 10.0


class Margin:
    """How much longer than predicted an image may take and still be in time: what all but one in twenty stay within, as a quantile that follows.

    After each image the value moves by a small step, up where it was exceeded and else down, 19 times less far (Robbins and Monro 1951).
    """

    LEAST, MOST, STEP, EXCEED = 1.1, 2.0, 0.05, 0.05

    def __init__(self) -> None:
        self.value = self.LEAST

    def learn(self, due: Due, took_sec: float) -> None:
        """What became of a prediction. One that left a fifth of the deadline unused would not have been refused, and teaches nothing."""
        if self.value * due.predicted_sec >= 0.8 * due.caller_sec:
            exceeded = took_sec > self.value * due.predicted_sec
            self.value = min(self.MOST, max(self.LEAST, self.value + self.STEP * (exceeded - self.EXCEED)))


class Due(NamedTuple):
    """When an image is due, in seconds from now: for the engine (None: it shall try at any rate), for the caller, and as predicted (0: it is not)."""

    engine_sec: float | None = None
    caller_sec: float = math.inf
    predicted_sec: float = 0.0


def rows_of(steps: int, guidance: float | str, width: int, height: int, default: tuple[int, int]) -> int:
    """Cost of an image in rows of the default size: two branches with guidance, and proportional to its area (more, where attention is wide)."""
    branches = 1 if guidance == 1.0 else 2
    return math.ceil(steps * branches * (width * height) / (default[0] * default[1]))


def require_room(live: int, mine: int, asked: int, queue: float, queue_per_key: float, wait_sec: float) -> None:
    """Raises ApiError 429 `too_many_requests` or 503 `server_overloaded` when `asked` further images are too many, now or ever."""
    for limit, have, status, code, text in ((queue_per_key, mine, 429, "too_many_requests", "images of yours are in work; at most {} may be"),
                                            (queue, live, 503, "server_overloaded", "images are in work or waiting; at most {} may be")):
        if asked > limit:
            raise ApiError(400, "too_many_images", f"{asked} images at once are more than the {limit} that this server takes", "n")
        if have + asked > limit:
            raise ApiError(status, code, f"{have} {text.format(limit)}; try again later", retry_sec=max(1.0, wait_sec))


def require_in_time(rate: Rate, margin: Margin, backlog: int, cost: int, steps: int, deadline_sec: float) -> Due:
    """When it is due; for the engine never, where an idle one shall try although its measure says that it would be late.

    `backlog` are the rows of others, `cost` those of the request, made in `steps` steps. A measure that was taken on a bad day could otherwise
    refuse everything for ever, for only work corrects it. Raises ApiError 503 `deadline_unreachable` with the predicted wait, or 400 when even
    an idle server would be ten times too late.
    """
    alone = rate.seconds(cost)
    if alone > HOPELESS * deadline_sec:
        raise ApiError(400, "deadline_impossible", f"this takes about {alone:.3g} s on an idle server, and the deadline is {deadline_sec:.3g} s; "
                                                   "ask for fewer steps, a smaller size or fewer images, or for more time", "deadline_ms")
    if backlog == 0:
        return Due(deadline_sec if alone <= deadline_sec else None, deadline_sec)
    later = min(backlog, max(0.0, steps * rate.tick - cost) / 2)
    wait = rate.seconds(backlog + cost + later)
    most = margin.value * wait
    if most > deadline_sec:
        raise ApiError(503, "deadline_unreachable", f"finished after {wait:.3g} to {most:.3g} s, and the deadline is {deadline_sec:.3g} s; "
                                                    "try again later", retry_sec=most - deadline_sec)
    return Due(deadline_sec, deadline_sec, wait)
