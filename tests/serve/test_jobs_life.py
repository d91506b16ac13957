"""A job that was acknowledged is made, whatever dies meanwhile, and ends once."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import pytest
from serving import COMMAND, Running, meter, running, wait, worker_of

from inkwash import Pipeline, Request
from inkwash.io.png import pixel_sha256
from inkwash.output import to_pil

PROMPT = "a small red cube"


def submit(server: Running, **body: Any) -> dict[str, Any]:
    found = httpx2.post(f"{server.url}/v1/jobs", json={"prompt": PROMPT, **body}, timeout=250)
    assert found.status_code == 202, found.text
    assert found.headers["location"] == f"/v1/jobs/{found.json()['id']}"
    return found.json()


def look(server: Running, job: str) -> dict[str, Any]:
    return httpx2.get(f"{server.url}/v1/jobs/{job}", timeout=250).json()


def ended(server: Running, job: str) -> dict[str, Any]:
    wait(lambda: look(server, job)["status"] not in ("queued", "running"), 250)
    return look(server, job)


def solo(model: Path, seed: int, steps: int) -> str:
    pixels = Pipeline.from_pretrained(model).generate([Request(PROMPT, "", seed, steps, "ddim", "trailing", 3.0, 32, 32)])[0].pixels
    assert pixels is not None
    return pixel_sha256(to_pil(pixels))


def test_a_job_survives_the_death_of_its_server(tiny_model: Path, tmp_path: Path) -> None:
    with running(tmp_path, str(tiny_model)) as server:
        jobs = [submit(server, seed=seed, steps=400, n=2) for seed in (5, 50)] + [submit(server, steps=3) for _ in range(12)]
        wait(lambda: look(server, jobs[0]["id"])["done"] > 0, 240)
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait(60)
    with running(tmp_path, str(tiny_model)) as server:
        found = [ended(server, job["id"]) for job in jobs]
        assert [one["status"] for one in found] == ["done"] * len(jobs)
        assert [one["seed"] for one in found] == [job["seed"] for job in jobs], "a random seed is settled when the job is taken in"
        result = httpx2.get(f"{server.url}/v1/jobs/{jobs[0]['id']}/result", timeout=250).json()
        assert [one["pixel_sha256"] for one in result["data"]] == [solo(tiny_model, 5, 400), solo(tiny_model, 6, 400)]
    rows = sqlite3.connect(tmp_path / "inkwash-serve" / "jobs.db").execute("SELECT job, COUNT(*) FROM images GROUP BY job").fetchall()
    assert dict(rows) == {job["id"]: job["n"] for job in jobs}, "each picture is there once"
    attempts = sqlite3.connect(tmp_path / "inkwash-serve" / "jobs.db").execute("SELECT attempts FROM jobs ORDER BY number").fetchall()
    assert attempts[0] == (2,)


def test_sigterm_keeps_jobs(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "serve.yaml").write_text("drain_sec: 0.2\njobs_in_work: 1\n")
    with running(tmp_path, str(tiny_model), "--config", "serve.yaml") as server:
        jobs = [submit(server, seed=5, steps=steps) for steps in (1000, 2)]
        wait(lambda: look(server, jobs[0]["id"])["done"] > 0, 240)
        assert server.stop() == 0
    with sqlite3.connect(tmp_path / "inkwash-serve" / "jobs.db") as connection:
        assert connection.execute("SELECT status, attempts, holder FROM jobs").fetchall() == [("queued", 0, "")] * 2, "nobody is blamed"


@pytest.mark.slow
def test_a_job_goes_on_where_it_was(tiny_model: Path, tmp_path: Path) -> None:
    """Through a server that drained and one that was killed, with the bytes of a job that was never interrupted."""
    (tmp_path / "serve.yaml").write_text("drain_sec: 0\njobs_save_sec: 0.1\n")
    files, body = tmp_path / "inkwash-serve" / "files" / "jobs", {"seed": 5, "steps": 600, "sampler": "dpmpp_2m_sde"}
    with running(tmp_path, str(tiny_model), "--config", "serve.yaml") as server:
        job = submit(server, **body)["id"]
        wait(lambda: look(server, job)["done"] > 0, 240)
        assert server.stop() == 0
    state = files / job / "0.state"
    before = state.stat().st_mtime_ns
    with running(tmp_path, str(tiny_model), "--config", "serve.yaml") as server:
        wait(lambda: state.stat().st_mtime_ns != before, 240)
        server.stop(signal.SIGKILL)
    with running(tmp_path, str(tiny_model), "--config", "serve.yaml") as server:
        assert ended(server, job)["status"] == "done"
        assert meter(server.url, "inkwash_rows_total") < 2 * 600, "it did not begin again"
        fresh = submit(server, **body)["id"]
        assert ended(server, fresh)["status"] == "done"
        assert (files / job / "0.png").read_bytes() == (files / fresh / "0.png").read_bytes()
        assert not [line for line in server.log if line["message"] == "a saved state was not used"]
    assert not [*files.glob("*/*.state")]


def test_a_second_server_in_the_same_folder_is_refused(server: Running, tiny_model: Path) -> None:
    again = subprocess.run([COMMAND, "serve", str(tiny_model), "--port", "0"], cwd=server.out.parent, capture_output=True, text=True, check=False)
    assert again.returncode == 9
    assert again.stderr.startswith("inkwash: error[store_in_use]: another server uses ")
    assert len(again.stderr.splitlines()) == 1


def test_a_lost_worker_costs_a_job_nothing_but_time(server: Running, tiny_model: Path) -> None:
    job = submit(server, seed=5, steps=400)
    wait(lambda: look(server, job["id"])["done"] > 0, 240)
    os.kill(worker_of(server), signal.SIGKILL)
    assert ended(server, job["id"])["status"] == "done"
    found = httpx2.get(f"{server.url}/v1/jobs/{job['id']}/result", timeout=250).json()["data"][0]
    assert found["pixel_sha256"] == solo(tiny_model, 5, 400)
    with sqlite3.connect(server.out.parent / "inkwash-serve" / "jobs.db") as connection:
        assert connection.execute("SELECT status, attempts FROM jobs").fetchall() == [("done", 2)]
