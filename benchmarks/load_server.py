"""A server of its own for a load: started, watched and stopped by the benchmark; and what it can do when it is never without work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from inkwash.serve.load import Target
from inkwash.serve.plan.traffic import PROMPTS, Arrival

START_SEC = 600.0


class Served:
    """`inkwash serve` on a free port, for the time of a with block, in the folder `work`; `memory()` is MiB of all its processes."""

    def __init__(self, model: str, work: Path, *words: str) -> None:
        self.work = work
        self.command = [str(Path(sys.executable).with_name("inkwash")), "serve", model, "--port", "0", *words]

    def __enter__(self) -> Served:
        self.out = self.work / "out.log"
        with self.out.open("wb") as out, (self.work / "err.log").open("wb") as err:
            self.process = subprocess.Popen(self.command, cwd=self.work, stdout=out, stderr=err)
        end = time.monotonic() + START_SEC
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                raise SystemExit(f"the server did not start: {(self.work / 'err.log').read_text()[-2000:]}")
            time.sleep(0.2)
        return self

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.wait(60)

    def _ready(self) -> bool:
        found = re.findall(r" on (http://\S+)", self.out.read_text())
        if not found:
            return False
        self.target = Target(found[-1])
        return self.target.ask("GET", "/readyz")[0] == 200

    def memory(self) -> float:
        """MiB that the web process and its workers hold; 0 where the system does not say."""
        return sum(_resident(number) for number in [self.process.pid, *_children(self.process.pid)])

    def cpu(self) -> dict[str, float]:
        """Processor seconds so far: of the web process, of its workers, and of this process, which makes the load."""
        workers = sum(_spent(number) for number in _children(self.process.pid))
        return {"web": _spent(self.process.pid), "workers": workers, "generator": time.process_time()}

    def worker_memory(self) -> float:
        """MiB that the largest worker holds."""
        return max((_resident(number) for number in _children(self.process.pid)), default=0.0)


def _children(number: int) -> list[int]:
    tasks = Path(f"/proc/{number}/task")
    return [int(child) for task in tasks.glob("*/children") for child in task.read_text().split()] if tasks.exists() else []


def _resident(number: int) -> float:
    status = Path(f"/proc/{number}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def _spent(number: int) -> float:
    stat = Path(f"/proc/{number}/stat")
    fields = stat.read_text().rpartition(")")[2].split() if stat.exists() else []
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def meter(target: Target, name: str) -> float:
    """The sum of a meter over its labels."""
    text = target.read("/metrics").decode()
    return sum(float(value) for value in re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE))


def capacity(target: Target, body: dict[str, Any], cost: int, clients: int, seconds: float) -> float:
    """Images a second while `clients` callers ask again as soon as they are answered: network rows by the server's meter, by `cost` of an image."""
    over, refused = threading.Event(), set[str]()

    def ask(first: int) -> None:
        number = first
        while not over.is_set():
            arrival = Arrival(0.0, body["steps"], True, 600.0, {"prompt": PROMPTS[number % len(PROMPTS)], **body, "seed": number})
            refused.update({target.image(arrival, time.perf_counter(), False).code} - {""})
            number += clients

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(min(5.0, seconds / 2))                      # until the batches are full
    rows, began = meter(target, "inkwash_rows_total"), time.perf_counter()
    time.sleep(seconds)
    found = (meter(target, "inkwash_rows_total") - rows) / (time.perf_counter() - began)
    over.set()
    for thread in threads:
        thread.join()
    if refused or not found:
        raise SystemExit(f"the capacity cannot be measured: {', '.join(refused) or 'nothing was made'}")
    return found / cost
