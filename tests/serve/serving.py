"""A real server in a process of its own, on a free port."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

START_SEC = 900.0                                          # longer than any test may take: a busy machine is no failure
COMMAND = str(Path(sys.executable).with_name("inkwash"))


class Running:
    """`inkwash serve` with arguments; `url` once it listens. `log` are the lines of its log so far."""

    def __init__(self, work: Path, *words: str, key: str = "") -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.out = work / "out.log"
        self.err = work / "err.log"
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        with self.out.open("wb") as out, self.err.open("ab") as err:
            self.process = subprocess.Popen([COMMAND, "serve", *words, "--port", "0"], cwd=work, env=env, stdout=out, stderr=err)
        wait(lambda: self.out.stat().st_size or self.process.poll() is not None, START_SEC)
        assert self.process.poll() is None, self.err.read_text()
        self.url = self.out.read_text().split()[-1].replace("0.0.0.0", "127.0.0.1")
        self.headers = {"authorization": f"Bearer {key}"} if key else {}

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.err.read_text().splitlines() if line.startswith("{")]

    def ready(self) -> Running:
        def told() -> bool:
            ended = self.process.poll() is not None
            return ended or httpx2.get(f"{self.url}/readyz", headers=self.headers, timeout=60).status_code == 200

        wait(told, START_SEC)
        assert self.process.poll() is None, self.err.read_text()
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)


@contextmanager
def running(work: Path, *words: str, key: str = "") -> Iterator[Running]:
    """A server that is ready, and ended after the block."""
    server = Running(work, *words, key=key)
    try:
        yield server.ready()
    finally:
        server.stop(signal.SIGKILL)


def wait(true: Any, limit_sec: float) -> None:
    """Waits until `true()`; fails after `limit_sec`."""
    end = time.monotonic() + limit_sec
    while not true():
        assert time.monotonic() < end, f"nothing happened in {limit_sec} s"
        time.sleep(0.05)


def meter(url: str, name: str, **labels: str) -> float:
    """A value from /metrics, 0 where there is none yet."""
    for line in httpx2.get(f"{url}/metrics", timeout=60).text.splitlines():
        if line.startswith((f"{name} ", f"{name}{{")) and all(f'{key}="{value}"' in line for key, value in labels.items()):
            return float(line.split()[-1])
    return 0.0


def worker_of(server: Running) -> int:
    """The process id of the only worker."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            if parent == server.process.pid and "serve.http.worker" in (path.parent / "cmdline").read_text():
                return int(path.parent.name)
        except OSError:
            continue                                       # it ended while we looked
    raise AssertionError("there is no worker")
