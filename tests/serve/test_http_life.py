"""A server under load, through the loss of its worker, and at its end: what was accepted is answered, what cannot be is refused at once."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from serving import Running, meter, running, wait, worker_of

LONG = 200


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    config = tmp_path_factory.mktemp("config") / "serve.yaml"
    config.write_text("queue: 3\nqueue_per_key: 1\ndrain_sec: 240\n")         # without keys all callers may fill the queue
    with running(tmp_path_factory.mktemp("serve"), str(tiny_model), "--config", str(config)) as found:
        yield found


class Asked:
    """A request in a thread of its own."""

    def __init__(self, server: Running, **body: Any) -> None:
        self.found: httpx2.Response | None = None
        self.thread = threading.Thread(target=self._run, args=(server.url, {"prompt": "a cone", "seed": 1, "deadline_ms": 3_600_000, **body}))
        self.thread.start()

    def _run(self, url: str, body: dict[str, Any]) -> None:
        self.found = httpx2.post(f"{url}/v1/images/generations", json=body, timeout=250)

    def answer(self) -> httpx2.Response:
        self.thread.join()
        assert self.found is not None
        return self.found


def live(server: Running, number: int) -> None:
    wait(lambda: meter(server.url, "inkwash_live_images") == number, 60)


def test_a_full_queue_refuses_at_once(server: Running) -> None:
    url, keyed = f"{server.url}/v1/images/generations", {"prompt": "a cone", "steps": 1}
    header = {"idempotency-key": "before"}
    before = httpx2.post(url, json=keyed, headers=header, timeout=250)
    asked = [Asked(server, steps=LONG) for _ in range(3)]
    live(server, 3)
    unread = httpx2.post(url, content=b"{", timeout=250)
    assert (unread.status_code, unread.json()["error"]["code"]) == (503, "server_overloaded"), "nothing of it is parsed"
    large = httpx2.post(f"{server.url}/v1/images/edits", content=b"x" * (1 << 20), timeout=250)
    assert (large.status_code, large.json()["error"]["code"]) == (503, "server_overloaded")
    with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])), timeout=60) as sock:
        sock.sendall(b"POST /v1/images/edits HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1048576\r\n\r\n")
        assert sock.recv(1 << 16).startswith(b"HTTP/1.1 503")
        for _ in range(16):                                # who is refused early may go on sending, and ask again on the same connection
            sock.sendall(b"x" * (1 << 16))
            time.sleep(0.01)
        sock.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        rest = b""
        while data := sock.recv(1 << 16):
            rest += data
        assert b"HTTP/1.1 200" in rest
        assert b"HTTP/1.1 400" not in rest
    again = httpx2.post(url, json=keyed, headers=header, timeout=250)
    assert (before.status_code, again.content, again.headers["idempotent-replayed"]) == (200, before.content, "true")
    refused = [Asked(server, steps=1).answer() for _ in range(5)]
    for found in refused:
        assert (found.status_code, found.json()["error"]["code"]) == (503, "server_overloaded")
        assert int(found.headers["retry-after"]) >= 1
    ids = {found.headers["x-request-id"] for found in refused}
    assert min(line["ms"] for line in server.log if line.get("id") in ids) <= 100
    assert [one.answer().status_code for one in asked] == [200] * 3
    too_many = Asked(server, n=4).answer()
    assert (too_many.status_code, too_many.json()["error"]["code"], too_many.headers["x-should-retry"]) == (400, "too_many_images", "false")


def test_a_deadline_that_cannot_be_met_is_refused_with_the_wait(server: Running) -> None:
    asked = Asked(server, steps=2 * LONG)
    live(server, 1)
    found = Asked(server, steps=20, deadline_ms=300).answer()
    assert (found.status_code, found.json()["error"]["code"]) in [(503, "deadline_unreachable"), (400, "deadline_impossible")]
    assert asked.answer().status_code == 200


def test_meters_tell_what_happened(server: Running) -> None:
    assert meter(server.url, "inkwash_ready") == 1
    assert meter(server.url, "inkwash_images_total", end="made") >= 4
    assert meter(server.url, "inkwash_rows_total") >= 2 * (3 * LONG + 2 * LONG)
    assert meter(server.url, "inkwash_rows_per_second") > 0
    assert meter(server.url, "inkwash_refused_total", code="server_overloaded") == 8
    assert meter(server.url, "inkwash_http_requests_total", route="/v1/images/generations", status="200") == 6
    assert meter(server.url, "inkwash_http_requests_total", route="/v1/images/generations", status="503") >= 6


def test_a_lost_worker_is_replaced(server: Running) -> None:
    before = Asked(server, steps=3).answer().json()["data"][0]
    asked = Asked(server, steps=2 * LONG)
    live(server, 1)
    os.kill(worker_of(server), signal.SIGKILL)
    found = asked.answer()
    assert (found.status_code, found.json()["error"]["code"]) == (503, "engine_restarted")
    assert int(found.headers["retry-after"]) >= 1
    refused = Asked(server, steps=3).answer()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_loading")
    assert httpx2.get(f"{server.url}/readyz", timeout=250).status_code == 503
    server.ready()
    assert Asked(server, steps=3).answer().json()["data"][0] == before
    assert meter(server.url, "inkwash_worker_restarts_total") == 1


def test_sigterm_finishes_what_was_accepted(server: Running) -> None:
    worker = worker_of(server)
    asked = Asked(server, steps=LONG)
    live(server, 1)
    server.process.send_signal(signal.SIGTERM)
    wait(lambda: httpx2.get(f"{server.url}/readyz", timeout=250).status_code == 503, 20)
    refused = Asked(server, steps=1).answer()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    assert httpx2.get(f"{server.url}/livez", timeout=250).status_code == 200
    assert asked.answer().status_code == 200
    assert server.process.wait(60) == 0
    wait(lambda: not Path(f"/proc/{worker}").exists(), 20)
    assert not [line for line in server.log if line["level"] == "error" and line["message"] != "a worker died"]
