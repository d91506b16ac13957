"""A load over real HTTP, open loop: every request is sent when its time has come, whatever became of the ones before it.

Latency counts from the intended start, so a server that stalls is charged for the requests that it kept from being sent on time; to time from
the actual sending is the mistake called coordinated omission. Each request under way has a thread and a connection of its own, which the next one
takes over. `lag` says how far the generator itself was behind: where it is not small, the generator and not the server was measured.

An image depends on its request alone, so an answer is proved right by asking again when nobody else asks: the pixels must be the same.
"""

from __future__ import annotations

import base64
import io
import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from PIL import Image

from inkwash.errors import ResourceError, UsageError
from inkwash.io.png import pixel_sha256
from inkwash.serve.plan.simulate import percentile
from inkwash.serve.plan.traffic import Arrival

REFUSALS = (429, 503)
LATE = 504
IDLE_SEC = 2.0                                             # after which a connection is not used again, for a server may close it meanwhile
GRACE_SEC = 30.0                                           # beyond a deadline, after which no answer is expected any more


class Sent(NamedTuple):
    """What became of a request. `status` 0: no answer. `seconds` from the intended start to the last byte."""

    arrival: Arrival
    lag: float                                             # seconds from the intended start to the sending
    seconds: float
    status: int
    code: str = ""
    told: str = ""                                         # the hash of the pixels by the server's word
    data: bytes = b""                                      # the picture file, of the sample only


class Target:
    """A server. Raises UsageError `bad_url`."""

    def __init__(self, url: str, key: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError("bad_url", f"give the address of a server, such as http://127.0.0.1:8000, got {url[:80]!r}")
        self.connect = HTTPConnection if parts.scheme == "http" else HTTPSConnection
        self.host, self.port = parts.hostname, parts.port
        self.headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        self._idle: deque[tuple[HTTPConnection, float]] = deque()   # and since when

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None, timeout_sec: float = 60.0) -> tuple[int, bytes]:
        """Status and body of an answer, on a connection that was just idle or a new one. Raises OSError, HTTPException."""
        link = self._link(timeout_sec)
        try:
            link.request(method, path, None if body is None else json.dumps(body).encode(), self.headers)
            answer = link.getresponse()
            found = answer.status, answer.read()
        except BaseException:
            link.close()
            raise
        if link.sock is not None:                          # None: the server wants no more on this one
            self._idle.append((link, time.monotonic()))
        return found

    def close(self) -> None:
        """Ends the idle connections."""
        while self._idle:
            self._idle.pop()[0].close()

    def _link(self, timeout_sec: float) -> HTTPConnection:
        while True:
            try:
                link, since = self._idle.pop()
            except IndexError:
                return self.connect(self.host, self.port, timeout=timeout_sec)
            if time.monotonic() - since < IDLE_SEC:
                link.sock.settimeout(timeout_sec)
                return link
            link.close()

    def read(self, path: str) -> bytes:
        """The body of a GET. Raises ResourceError `server_unreachable`."""
        try:
            status, found = self.ask("GET", path)
        except (OSError, HTTPException) as error:
            raise ResourceError("server_unreachable", f"no answer from {self.host}: {error}; start inkwash serve, or give its address") from None
        if status != 200:
            raise ResourceError("server_unreachable", f"{self.host} answers {path} with {status}; is it inkwash serve, ready, and the key right?")
        return found

    def image(self, arrival: Arrival, start: float, keep: bool) -> Sent:
        """Asks for the image of an arrival whose intended start is `start` on the clock of time.perf_counter."""
        lag = time.perf_counter() - start
        body = {**arrival.body, "deadline_ms": max(1, round(1000 * arrival.deadline_sec))}
        try:
            status, found = self.ask("POST", "/v1/images/generations", body, arrival.deadline_sec + GRACE_SEC)
        except (OSError, HTTPException) as error:
            return Sent(arrival, lag, time.perf_counter() - start, 0, type(error).__name__)
        seconds, answer = time.perf_counter() - start, json.loads(found)
        if status != 200:
            return Sent(arrival, lag, seconds, status, str(answer["error"]["code"]))
        [picture] = answer["data"]
        return Sent(arrival, lag, seconds, status, "", picture["pixel_sha256"], base64.b64decode(picture["b64_json"]) if keep else b"")


def run(target: Target, arrivals: Sequence[Arrival], sample: int) -> list[Sent]:
    """Sends the arrivals at their times and returns what became of each, in order; the pictures of about `sample` of them are kept."""
    every = max(1, len(arrivals) // max(1, sample))
    start = time.perf_counter() + 0.1
    calls = []
    with ThreadPoolExecutor(max(1, len(arrivals))) as threads:                          # a free thread takes the next call, else a new one
        for number, arrival in enumerate(arrivals):
            time.sleep(max(0.0, start + arrival.at - time.perf_counter()))
            calls.append(threads.submit(target.image, arrival, start + arrival.at, sample > 0 and number % every == 0))
    target.close()
    try:
        return [call.result() for call in calls]
    except (ValueError, KeyError, TypeError) as error:
        raise ResourceError("load_failed", f"an answer could not be read ({type(error).__name__}: {error}); is it inkwash serve?") from None


def wrong(sent: Sequence[Sent], solo: Callable[[Arrival], str]) -> tuple[int, int]:
    """(wrong, checked): of the kept pictures, how many have pixels other than the server said, or than the image of `solo` has."""
    kept = [one for one in sent if one.data]
    bad = sum(not pixel_sha256(Image.open(io.BytesIO(one.data))) == one.told == solo(one.arrival) for one in kept)
    return bad, len(kept)


def solo_over_http(target: Target) -> Callable[[Arrival], str]:
    """The hash of the pixels that the same server makes when asked again; to be called when nobody else asks."""
    def hash_of(arrival: Arrival) -> str:
        again = target.image(arrival._replace(deadline_sec=600.0), time.perf_counter(), False)
        return again.told or f"status {again.status}"

    return hash_of


def report(sent: Sequence[Sent]) -> dict[str, float]:
    """The load in numbers; goodput is images in time, a second, from the first intended start to the last answer."""
    done = [one.seconds for one in sent if one.status == 200 and one.seconds <= one.arrival.deadline_sec]
    refused = [one.seconds for one in sent if one.status in REFUSALS]
    late = [one for one in sent if one.status == LATE or (one.status == 200 and one.seconds > one.arrival.deadline_sec)]
    span = max(one.arrival.at + one.seconds for one in sent)
    times = {f"{name}{round(100 * share)}": percentile(values, share) for name, values in (("p", done), ("refused_p", refused))
             for share in (0.5, 0.95, 0.99) if values}
    errors = len(sent) - len(done) - len(refused) - len(late)
    return {"requests": len(sent), "done": len(done), "refused": len(refused), "late": len(late), "errors": errors,
            **{name: round(value, 4) for name, value in times.items()}, "goodput": round(len(done) / span, 4), "span_sec": round(span, 2),
            "lag_p99": round(percentile([one.lag for one in sent], 0.99), 4)}
