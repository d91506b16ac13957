"""Two servers on one PostgreSQL share one line of jobs: when one is killed, the other makes what it held, once."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx2
import pytest
from databases import postgres
from serving import running, wait

psycopg = pytest.importorskip("psycopg")


@pytest.mark.slow
def test_a_server_takes_over_what_a_dead_one_held(tiny_model: Path, tmp_path: Path) -> None:
    with postgres() as url:
        words = (str(tiny_model), "--db", url, "--files", str(tmp_path / "files"))
        with running(tmp_path / "a", *words) as first, running(tmp_path / "b", *words) as second:
            body = {"prompt": "a small red cube", "steps": 400}
            jobs = [httpx2.post(f"{first.url}/v1/jobs", json=body, timeout=250).json()["id"] for _ in range(12)]

            def holders() -> set[str]:
                with psycopg.connect(url) as connection:
                    return {row[0] for row in connection.execute("SELECT DISTINCT holder FROM jobs WHERE status = 'running'").fetchall()}

            wait(lambda: len(holders()) == 2, 240)
            os.kill(first.process.pid, signal.SIGKILL)

            def look(job: str) -> dict[str, object]:
                return httpx2.get(f"{second.url}/v1/jobs/{job}", timeout=250).json()

            wait(lambda: {look(job)["status"] for job in jobs} == {"done"}, 280)
            found = [httpx2.get(f"{second.url}/v1/jobs/{job}/result", timeout=250).json()["data"] for job in jobs]
            assert [len(data) for data in found] == [1] * len(jobs)
        with psycopg.connect(url) as connection:
            assert sorted(connection.execute("SELECT job, place FROM images").fetchall()) == sorted((job, 0) for job in jobs)
            attempts = [row[0] for row in connection.execute("SELECT attempts FROM jobs").fetchall()]
    assert set(attempts) == {1, 2}, "what the dead one held was begun twice"
