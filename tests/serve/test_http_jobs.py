"""Jobs and Idempotency-Key over a real server: two keys, one of which sees nothing of the other."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import PIL.Image
import pytest
from serving import Running, running, wait

from inkwash.serve.http.keys import new_key

openai = pytest.importorskip("openai")

PROMPT = "a small red cube"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path = tmp_path_factory.mktemp("keys") / "keys.txt"
    return {"file": str(path), "alice": new_key(path, "alice"), "bob": new_key(path, "bob")}


@pytest.fixture(scope="module")
def server(tiny_model: Path, keys: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("serve")
    (folder / "serve.yaml").write_text("jobs_per_key: 20\njobs_in_work: 2\n")
    with running(folder, str(tiny_model), "--keys", keys["file"], "--config", "serve.yaml", key=keys["alice"]) as found:
        yield found


class Client:
    """Requests with one key."""

    def __init__(self, server: Running, key: str) -> None:
        self.http = httpx2.Client(base_url=server.url, headers={"authorization": f"Bearer {key}"}, timeout=250)

    def post(self, path: str, body: Any = None, key: str | None = None) -> httpx2.Response:
        return self.http.post(path, json=body, headers={} if key is None else {"idempotency-key": key})

    def submit(self, key: str | None = None, **body: Any) -> dict[str, Any]:
        found = self.post("/v1/jobs", {"prompt": PROMPT, "steps": 3, "seed": 5, **body}, key)
        assert found.status_code == 202, found.text
        return found.json()

    def look(self, job: str) -> dict[str, Any]:
        return self.http.get(f"/v1/jobs/{job}").json()

    def ended(self, job: str) -> dict[str, Any]:
        wait(lambda: self.look(job)["status"] not in ("queued", "running"), 240)
        return self.look(job)

    def events(self, job: str) -> list[tuple[str, dict[str, Any]]]:
        text = self.http.get(f"/v1/jobs/{job}/events").text
        parts = [dict(line.split(": ", 1) for line in part.splitlines()) for part in text.strip().split("\n\n") if not part.startswith(":")]
        return [(part["event"], json.loads(part["data"])) for part in parts]


@pytest.fixture(scope="module")
def alice(server: Running, keys: dict[str, str]) -> Client:
    return Client(server, keys["alice"])


@pytest.fixture(scope="module")
def bob(server: Running, keys: dict[str, str]) -> Client:
    return Client(server, keys["bob"])


def error(found: httpx2.Response) -> tuple[int, str]:
    return found.status_code, found.json()["error"]["code"]


def test_the_result_of_a_job_is_the_answer_of_generations(alice: Client) -> None:
    job = alice.submit(n=2, output_format="webp")
    assert (job["object"], job["n"], job["seed"], job["steps"], job["total"]) == ("job", 2, 5, 3, 6)
    done = alice.ended(job["id"])
    assert (done["status"], done["done"]) == ("done", 6)
    found = alice.http.get(f"/v1/jobs/{job['id']}/result").json()
    asked = alice.post("/v1/images/generations", {"prompt": PROMPT, "steps": 3, "seed": 5, "n": 2, "output_format": "webp"}).json()
    assert {**found, "created": 0} == {**asked, "created": 0}
    assert alice.http.get(f"/v1/jobs/{job['id']}/result").json() == found, "whenever it is asked"
    file = alice.http.get(f"/v1/jobs/{job['id']}/images/1")
    assert file.headers["content-type"] == "image/webp"
    assert file.content == base64.b64decode(found["data"][1]["b64_json"])
    assert error(alice.http.get(f"/v1/jobs/{job['id']}/images/2")) == (404, "not_found")


def test_a_job_from_a_picture(alice: Client) -> None:
    buffer = io.BytesIO()
    PIL.Image.linear_gradient("L").resize((32, 32)).convert("RGB").save(buffer, "PNG")
    mask = io.BytesIO()
    PIL.Image.new("RGBA", (32, 32), (0, 0, 0, 0)).save(mask, "PNG")
    files = {"image": ("upload", buffer.getvalue()), "mask": ("upload", mask.getvalue())}
    fields = {"prompt": PROMPT, "steps": "4", "seed": "5", "strength": "0.5"}
    job = alice.http.post("/v1/jobs", files=files, data=fields).json()
    assert job["total"] == 2, "strength says how many of the steps are made"
    assert alice.ended(job["id"])["status"] == "done"
    found = alice.http.get(f"/v1/jobs/{job['id']}/result").json()
    assert found["data"] == alice.http.post("/v1/images/edits", files=files, data=fields).json()["data"]
    assert error(alice.http.post("/v1/jobs", files={"image": ("upload", b"<svg/>")}, data=fields)) == (415, "image_format")


def test_events(alice: Client) -> None:
    first = alice.submit(steps=60)
    job = alice.submit(steps=12, partial_images=2, stream=True)
    assert "stream is inert: every job has events" in job["warnings"]
    found = alice.events(job["id"])
    names = [name for name, _ in found]
    assert names[0] in ("job.queued", "job.running")
    assert names[-1] == "job.done"
    assert names.count("job.partial_image") == 2
    steps = [data["done"] for name, data in found if name == "job.step"]
    assert steps == sorted(set(steps))
    assert set(steps) <= set(range(1, 13))
    assert len(steps) >= 6, "all since this came"
    assert found[-1][1]["job"]["done"] == 12
    previews = [data for name, data in found if name == "job.partial_image"]
    assert PIL.Image.open(io.BytesIO(base64.b64decode(previews[0]["b64_json"]))).size == (32, 32)
    assert [name for name, _ in alice.events(job["id"])] == ["job.done"], "who comes late learns how it ended"
    assert alice.ended(first["id"])["status"] == "done"


def test_the_line_and_cancelling(alice: Client, bob: Client) -> None:
    long = [alice.submit(steps=1000, n=2) for _ in range(3)]
    other = bob.submit(steps=1000)
    wait(lambda: alice.look(long[0]["id"])["status"] == "running", 240)
    assert [alice.look(job["id"])["position"] for job in long[1:]] == [1, 2], "the first job of another key comes before the second of one"
    assert bob.look(other["id"])["position"] == 0
    assert alice.look(long[2]["id"])["estimate_sec"] > alice.look(long[1]["id"])["estimate_sec"] > 0
    assert error(alice.http.get(f"/v1/jobs/{long[0]['id']}/result")) == (409, "job_not_done")
    assert alice.submit(deadline_ms=3_600_000)["position"] == 3
    late = alice.post("/v1/jobs", {"prompt": PROMPT, "steps": 1000, "deadline_ms": 1})
    assert error(late) == (503, "deadline_unreachable")
    assert int(late.headers["retry-after"]) >= 1
    for job in long:
        assert alice.post(f"/v1/jobs/{job['id']}/cancel").json()["status"] == "cancelled"
        assert alice.post(f"/v1/jobs/{job['id']}/cancel").json()["status"] == "cancelled", "twice is once"
        assert error(alice.http.get(f"/v1/jobs/{job['id']}/result")) == (409, "cancelled")
        assert [name for name, _ in alice.events(job["id"])] == ["job.cancelled"]
    assert bob.post(f"/v1/jobs/{other['id']}/cancel").json()["status"] == "cancelled"


def test_interactive_requests_do_not_wait_for_jobs(alice: Client, server: Running) -> None:
    jobs = [alice.submit(steps=1000) for _ in range(2)]
    wait(lambda: all(alice.look(job["id"])["done"] > 0 for job in jobs), 240)
    assert alice.post("/v1/images/generations", {"prompt": PROMPT, "steps": 3}).status_code == 200
    found = [alice.look(job["id"]) for job in jobs]
    assert [job["status"] for job in found] == ["running"] * 2
    for job in jobs:
        alice.post(f"/v1/jobs/{job['id']}/cancel")


def test_a_key_sees_its_own_jobs_only(alice: Client, bob: Client) -> None:
    job = alice.submit()["id"]
    alice.ended(job)
    for path in ("", "/result", "/events", "/images/0"):
        assert error(bob.http.get(f"/v1/jobs/{job}{path}")) == (404, "job_not_found")
        assert error(alice.http.get(f"/v1/jobs/job_0{path}")) == (404, "job_not_found")
    assert error(bob.post(f"/v1/jobs/{job}/cancel")) == (404, "job_not_found")
    assert job not in [one["id"] for one in bob.http.get("/v1/jobs?limit=100").json()["data"]]
    found: list[str] = []
    after = ""
    while True:
        page = alice.http.get(f"/v1/jobs?limit=3{after}").json()
        found += [one["id"] for one in page["data"]]
        if not page["has_more"]:
            break
        after = f"&after={found[-1]}"
    assert found[0] == job
    assert len(set(found)) == len(found) == len(alice.http.get("/v1/jobs?limit=100").json()["data"])
    assert {one["status"] for one in alice.http.get("/v1/jobs?status=cancelled").json()["data"]} == {"cancelled"}


@pytest.mark.parametrize(("body", "status", "code"), [
    ({"prompt": ""}, 400, "empty_prompt"), ({"prompt": "x", "stepz": 1}, 400, "unknown_parameter"),
    ({"prompt": "x", "sampler": "nothing"}, 400, "unknown_name"), ({"prompt": "x", "model": "other"}, 404, "model_not_found"),
    ({"prompt": "x", "steps": 0}, 400, "bad_steps")])
def test_what_is_wrong_is_told_at_once(alice: Client, body: dict[str, Any], status: int, code: str) -> None:
    assert error(alice.post("/v1/jobs", body)) == (status, code)


def test_limits(alice: Client, bob: Client) -> None:
    bob.submit()
    jobs = [alice.submit(steps=1000) for _ in range(20)]
    refused = alice.post("/v1/jobs", {"prompt": PROMPT})
    assert error(refused) == (429, "too_many_jobs")
    assert "retry-after" in refused.headers
    for job in jobs:
        alice.post(f"/v1/jobs/{job['id']}/cancel")
    assert error(alice.http.post("/v1/jobs", content=b'{"prompt": "' + b"x" * 300_000 + b'"}',
                                 headers={"content-type": "application/json"})) == (413, "body_too_large")
    assert error(alice.http.get("/v1/jobs?limit=0")) == (400, "invalid_value")


def test_no_more_jobs_of_a_key_than_allowed_when_they_come_at_once(alice: Client, server: Running) -> None:
    wait(lambda: not alice.http.get("/v1/jobs?status=running").json()["data"] + alice.http.get("/v1/jobs?status=queued").json()["data"], 240)
    first = [alice.submit(steps=1000)["id"] for _ in range(19)]
    together = threading.Barrier(8)

    def submit(_: int) -> httpx2.Response:
        together.wait()
        return alice.post("/v1/jobs", {"prompt": PROMPT, "steps": 1000})

    with ThreadPoolExecutor(8) as callers:
        found = list(callers.map(submit, range(8)))
    taken = [one.json()["id"] for one in found if one.status_code == 202]
    for job in first + taken:
        alice.post(f"/v1/jobs/{job}/cancel")
    assert {error(one) for one in found if one.status_code != 202} == {(429, "too_many_jobs")}
    assert len(taken) == 1


def test_the_same_key_is_served_once(alice: Client, bob: Client, server: Running) -> None:
    def made() -> float:
        return meter_of(alice, "inkwash_images_total")

    body = {"prompt": PROMPT, "steps": 3}                  # its seed is random
    before = made()
    first = alice.post("/v1/images/generations", body, "one")
    again = alice.post("/v1/images/generations", body, "one")
    assert first.status_code == again.status_code == 200
    assert first.content == again.content
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert made() == before + 1
    assert not [text for text in first.json()["warnings"] if "Idempotency" in text]
    other = alice.post("/v1/images/generations", {**body, "steps": 4}, "one")
    assert error(other) == (409, "idempotency_key_reused")
    assert other.headers["x-should-retry"] == "false"
    assert bob.post("/v1/images/generations", body, "one").json()["data"] != first.json()["data"], "a key is its owner's"
    assert alice.post("/v1/images/generations", body, "two").json()["data"] != first.json()["data"]
    assert error(alice.post("/v1/jobs", body, "one")) == (409, "idempotency_key_reused")
    assert error(alice.post("/v1/images/generations", body, "a b")) == (400, "invalid_idempotency_key")


def meter_of(client: Client, name: str) -> float:
    return sum(float(line.split()[-1]) for line in client.http.get("/metrics").text.splitlines() if line.startswith(name) and 'end="made"' in line)


def test_streams_edits_and_txt2img_have_keys_too(alice: Client) -> None:
    body = {"prompt": PROMPT, "steps": 6, "stream": True, "partial_images": 1}
    first, again = (alice.post("/v1/images/generations", body, "stream") for _ in range(2))
    assert first.headers["content-type"] == again.headers["content-type"]
    assert first.content == again.content
    assert b"event: image_generation.completed" in again.content
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (32, 32), "red").save(buffer, "PNG")

    def edit(data: bytes) -> httpx2.Response:
        return alice.http.post("/v1/images/edits", files={"image": ("upload", data)}, data={"prompt": PROMPT, "steps": "4"},
                               headers={"idempotency-key": "edit"})

    assert edit(buffer.getvalue()).content == edit(buffer.getvalue()).content
    PIL.Image.new("RGB", (32, 32), "blue").save(other := io.BytesIO(), "PNG")
    assert error(edit(other.getvalue())) == (409, "idempotency_key_reused")
    first, again = (alice.post("/sdapi/v1/txt2img", {"prompt": PROMPT, "steps": 2}, "txt") for _ in range(2))
    assert first.content == again.content


def test_a_refusal_frees_its_key(alice: Client) -> None:
    assert error(alice.post("/v1/images/generations", {"prompt": PROMPT, "sampler": "nothing"}, "free")) == (400, "unknown_name")
    assert alice.post("/v1/images/generations", {"prompt": PROMPT, "steps": 2}, "free").status_code == 200
    assert error(alice.post("/v1/jobs", {"prompt": PROMPT, "sampler": "nothing"}, "free job")) == (400, "invalid_idempotency_key")
    assert error(alice.post("/v1/jobs", {"prompt": PROMPT, "sampler": "nothing"}, "free-job")) == (400, "unknown_name")
    assert alice.post("/v1/jobs", {"prompt": PROMPT, "steps": 2}, "free-job").status_code == 202


def test_the_second_is_told_to_come_again_while_the_first_is_in_work(alice: Client) -> None:
    body = {"prompt": PROMPT, "steps": 300, "deadline_ms": 3_600_000}
    found: list[httpx2.Response] = []
    first = threading.Thread(target=lambda: found.append(alice.post("/v1/images/generations", body, "slow")))
    first.start()
    wait(lambda: 'inkwash_live_images{worker="tiny@auto"} 1.0' in alice.http.get("/metrics").text, 240)
    second = alice.post("/v1/images/generations", body, "slow")
    assert error(second) == (409, "idempotency_in_progress")
    assert second.headers["retry-after"] == "1"
    assert "x-should-retry" not in second.headers
    first.join()
    assert alice.post("/v1/images/generations", body, "slow").content == found[0].content


def test_a_job_with_a_key_is_one_job(alice: Client) -> None:
    body = {"prompt": PROMPT, "steps": 3}
    first, again = (alice.post("/v1/jobs", body, "job") for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.headers["location"] == again.headers["location"] == f"/v1/jobs/{first.json()['id']}"
    assert first.content == again.content
    assert error(alice.post("/v1/jobs", {**body, "n": 2}, "job")) == (409, "idempotency_key_reused")


def test_a_picture_that_was_changed_is_not_given_out(alice: Client, server: Running) -> None:
    job = alice.submit()["id"]
    alice.ended(job)
    path = server.out.parent / "inkwash-serve" / "files" / "jobs" / job / "0.png"
    with sqlite3.connect(server.out.parent / "inkwash-serve" / "jobs.db") as connection:
        assert connection.execute("SELECT sha256 FROM images WHERE job = ?", (job,)).fetchone()[0] == hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert error(alice.http.get(f"/v1/jobs/{job}/result")) == (410, "picture_gone")
    path.unlink()
    assert error(alice.http.get(f"/v1/jobs/{job}/images/0")) == (410, "picture_gone")


def test_nothing_went_wrong_inside(server: Running) -> None:
    assert not [line for line in server.log if line["level"] == "error"]
    assert [line for line in server.log if line["message"] == "job" and line["end"] == "done"]
    assert PROMPT not in server.err.read_text(), "prompts are not logged"
