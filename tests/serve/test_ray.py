"""Two replicas of Ray Serve on this machine behind a real server: the same bytes as the library, through the loss of a replica, to the end.

The application starts with one replica; a line of work brings the second one, and then both stay.
"""

from __future__ import annotations

import base64
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import PIL.Image
import pytest
import yaml
from serving import Running, meter, wait

import inkwash.serve
from inkwash import Pipeline, Request
from inkwash.io.png import pixel_sha256
from inkwash.output import to_pil

ray = pytest.importorskip("ray", reason='Ray is not installed: pip install -e ".[ray]"')
serve = pytest.importorskip("ray.serve", reason='Ray is not installed: pip install -e ".[ray]"')
TEMPLATE = Path(inkwash.serve.__file__).parent / "ray" / "serve.yaml"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
CPUS, STORE_BYTES, CALLS = 0.4, 200 << 20, 12
SERVE = str(Path(sys.executable).with_name("serve"))


@pytest.fixture(scope="module")
def address(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster of this machine, on which `serve run serve.yaml` puts the tiny model."""
    found = yaml.safe_load(TEMPLATE.read_text("utf-8"))
    app = found["applications"][0]
    app["name"], app["args"]["model"] = "inkwash-tiny", str(tiny_model)
    deployment = app["deployments"][0]
    deployment["ray_actor_options"]["num_cpus"], deployment["max_ongoing_requests"] = CPUS, CALLS
    deployment["autoscaling_config"].update(min_replicas=1, max_replicas=2, upscale_delay_s=0, downscale_delay_s=3600)
    deployment["autoscaling_config"]["policy"]["policy_kwargs"]["target_sec"] = 0.5
    file = tmp_path_factory.mktemp("ray") / "serve.yaml"
    file.write_text(yaml.safe_dump(found))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1",
                            "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1"}.items():
            patch.setenv(name, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init("local", num_cpus=2, object_store_memory=STORE_BYTES, include_dashboard=False, log_to_driver=False, configure_logging=False)
        try:
            where = ray.get_runtime_context().gcs_address
            with file.with_suffix(".log").open("wb") as log, \
                    subprocess.Popen([SERVE, "run", "--address", where, str(file)], stdout=log, stderr=log) as deploy:
                try:
                    yield where
                finally:
                    deploy.kill()
        finally:
            ray.shutdown()


@pytest.fixture(scope="module")
def server(address: str, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that has joined the cluster, and has had so much to do that there are two replicas."""
    wait(lambda: "inkwash-tiny" in serve.status().applications, 250)
    found = joining(address, tiny_model, tmp_path_factory.mktemp("serve"))
    try:
        engines(found, 1)
        asked = [Asked(found, "/sdapi/v1/txt2img", steps=1000) for _ in range(4)]
        engines(found, 2)
        httpx2.post(f"{found.url}/sdapi/v1/interrupt", timeout=60)
        assert [one.answer().status_code for one in asked] == [200] * 4
        yield found
    finally:
        found.stop(signal.SIGKILL)


def joining(address: str, model: Path, work: Path) -> Running:
    """A server that joins the cluster and is ready."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", address)
        config = work / "server.yaml"
        config.write_text("drain_sec: 240\ndeadline_sec: 3600\n")
        return Running(work, str(model), "--ray", "--config", str(config)).ready()


@pytest.fixture(scope="module")
def pipeline(tiny_model: Path) -> Pipeline:
    return Pipeline.from_pretrained(tiny_model)


class Asked:
    """A request in a thread of its own."""

    def __init__(self, server: Running, path: str = "/v1/images/generations", **body: Any) -> None:
        self.found: httpx2.Response | None = None
        self.thread = threading.Thread(target=self._run, args=(f"{server.url}{path}", {"prompt": "a cone", **body}))
        self.thread.start()

    def _run(self, url: str, body: dict[str, Any]) -> None:
        self.found = httpx2.post(url, json=body, timeout=250)

    def answer(self) -> httpx2.Response:
        self.thread.join()
        assert self.found is not None
        return self.found


def engines(server: Running, number: int) -> None:
    wait(lambda: meter(server.url, "inkwash_engines") == number, 250)


def working(server: Running, number: int) -> None:
    """Waits until that many images are in work."""
    wait(lambda: meter(server.url, "inkwash_live_images") == number, 60)


def rows(name: str) -> list[int]:
    """Network rows of each replica that are "owed", or done: "rows"."""
    return [one[name] for one in serve.get_app_handle("inkwash-tiny").broadcast("facts", "test").results()]


def replicas(address: str) -> set[int]:
    """The processes of the cluster's replicas."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_text().startswith("ray::ServeReplica:inkwash-tiny"):
                parent = (path.parent / "stat").read_text().rpartition(")")[2].split()[1]
                if address in Path(f"/proc/{parent}/cmdline").read_text():
                    found.add(int(path.parent.name))
        except OSError:
            continue                                       # it ended while we looked
    return found


def pixels(found: httpx2.Response) -> str:
    assert found.status_code == 200, found.text
    data = base64.b64decode(found.json()["data"][0]["b64_json"])
    with PIL.Image.open(io.BytesIO(data)) as picture:
        return pixel_sha256(picture)


def alone(pipeline: Pipeline, **settings: Any) -> str:
    image = pipeline.generate([Request("a cone", "", **settings)])[0]
    assert image.pixels is not None
    return pixel_sha256(to_pil(image.pixels))


def test_unlike_requests_have_the_bytes_of_the_library(server: Running, pipeline: Pipeline) -> None:
    kinds = [("euler", 1.0), ("dpmpp_2m", 3.0), ("euler_a", 2.0), ("ddim", 4.5)] * 2
    settings: list[dict[str, Any]] = [{"seed": seed, "steps": 3 + seed % 4, "sampler": sampler, "guidance": guidance}
                                      for seed, (sampler, guidance) in enumerate(kinds)]
    asked = [Asked(server, **one) for one in settings]
    assert [pixels(one.answer()) for one in asked] == [alone(pipeline, **one, width=32, height=32) for one in settings]


def test_a_request_that_is_done_holds_no_call(server: Running) -> None:
    for seed in range(2 * CALLS + 6):
        assert Asked(server, seed=seed, steps=2).answer().status_code == 200


def test_the_contract_is_that_of_the_plain_server(server: Running) -> None:
    refused = Asked(server, sampler="eulr").answer()
    assert (refused.status_code, refused.json()["error"]["code"], refused.json()["error"]["param"]) == (400, "unknown_name", "sampler")
    model = httpx2.get(f"{server.url}/v1/models", timeout=60).json()["data"][0]
    assert (model["id"], model["ready"], model["determinism"]) == ("tiny", True, "exact")
    job = httpx2.post(f"{server.url}/v1/jobs", json={"prompt": "a cone", "seed": 1, "steps": 4}, timeout=60).json()["id"]
    wait(lambda: httpx2.get(f"{server.url}/v1/jobs/{job}", timeout=60).json()["status"] == "done", 60)


def test_a_client_that_leaves_ends_the_work(server: Running) -> None:
    before = sum(rows("rows"))
    with pytest.raises(httpx2.TimeoutException):
        httpx2.post(f"{server.url}/v1/images/generations", json={"prompt": "a cone", "steps": 1000, "deadline_ms": 3_600_000}, timeout=1.0)
    wait(lambda: rows("owed") == [0, 0], 30)
    assert sum(rows("rows")) - before < 2 * 1000


def test_a_preview_comes_from_the_replica_that_has_the_image(server: Running) -> None:
    asked = Asked(server, path="/sdapi/v1/txt2img", steps=600, width=32, height=32)
    wait(lambda: httpx2.get(f"{server.url}/sdapi/v1/progress", timeout=60).json()["current_image"] is not None, 60)
    httpx2.post(f"{server.url}/sdapi/v1/interrupt", timeout=60)
    assert asked.answer().status_code == 200


def test_a_lost_replica_loses_no_image(server: Running, address: str, pipeline: Pipeline) -> None:
    settings: list[dict[str, Any]] = [{"seed": seed, "steps": 60} for seed in range(6)]
    asked = [Asked(server, **one) for one in settings]
    wait(lambda: len([number for number in rows("owed") if number]) == 2, 60)
    first = replicas(address)
    assert len(first) == 2
    os.kill(min(first), signal.SIGKILL)
    expected = [alone(pipeline, **one, width=32, height=32, sampler=pipeline.info.defaults.sampler, guidance=pipeline.info.defaults.guidance)
                for one in settings]
    assert [pixels(one.answer()) for one in asked] == expected
    assert any(line["message"] == "a replica was lost" for line in server.log)
    engines(server, 2)
    assert min(first) not in replicas(address)


def test_sigterm_finishes_what_was_accepted_and_leaves_the_replicas(server: Running, address: str) -> None:
    there = replicas(address)
    asked = Asked(server, steps=100)
    working(server, 1)
    server.process.send_signal(signal.SIGTERM)
    wait(lambda: httpx2.get(f"{server.url}/readyz", timeout=60).status_code == 503, 20)
    assert asked.answer().status_code == 200
    assert server.process.wait(60) == 0
    assert replicas(address) == there
