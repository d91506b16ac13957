"""Pictures of jobs in a bucket, on a real server of the S3 protocol: moto's, whose signatures, XML and errors are none of ours.

Its packages want other versions than ours, so it lives in an environment of its own, and the tests look for its program on PATH.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import httpx2
import pytest
from serving import running, wait

pytest.importorskip("obstore")

from inkwash.errors import ResourceError
from inkwash.serve.store.files import Files


def answers(url: str, method: str = "GET") -> bool:
    try:
        return urlopen(Request(url, method=method), timeout=10).status == 200
    except URLError:
        return False


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty bucket; what the store needs to reach it stands in the environment."""
    program = shutil.which("moto_server")
    if program is None:
        pytest.skip("no S3 server is installed here (moto_server of moto[server], in an environment of its own)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, env = f"http://127.0.0.1:{port}", {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with (tmp_path / "s3.log").open("wb") as log:
        process = subprocess.Popen([program, "-H", "127.0.0.1", "-p", str(port)], env=env, stdout=log, stderr=log)
    try:
        wait(lambda: answers(url), 120)
        assert answers(f"{url}/pictures", "PUT")
        for name, value in {"ACCESS_KEY_ID": "me", "SECRET_ACCESS_KEY": "secret", "REGION": "us-east-1", "ALLOW_HTTP": "true",
                            "ENDPOINT_URL": url}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        yield "s3://pictures/inkwash"
    finally:
        process.terminate()
        process.wait(60)


def test_files_come_and_go(bucket: str) -> None:
    files, data = Files(bucket), os.urandom(1 << 20)
    files.put("jobs/a/0.png", b"old")
    files.put("jobs/a/0.png", data)
    assert files.get("jobs/a/0.png") == data
    assert files.get("jobs/b/0.png") is None
    files.delete(["jobs/a/0.png", "jobs/b/0.png"])
    assert files.get("jobs/a/0.png") is None
    with pytest.raises(ResourceError) as caught:
        Files("s3://nowhere/inkwash").put("jobs/a/0.png", b"one")
    assert caught.value.code == "store_unavailable"
    assert "secret" not in caught.value.line()


@pytest.mark.slow
def test_a_server_keeps_the_pictures_of_jobs_in_a_bucket(tiny_model: Path, tmp_path: Path, bucket: str) -> None:
    with running(tmp_path, str(tiny_model), "--files", bucket) as server:
        job = httpx2.post(f"{server.url}/v1/jobs", json={"prompt": "a cone", "steps": 2, "n": 2}, timeout=250).json()["id"]
        wait(lambda: httpx2.get(f"{server.url}/v1/jobs/{job}", timeout=250).json()["status"] == "done", 240)
        paths, found = [f"jobs/{job}/{i}.png" for i in range(2)], Files(bucket)
        told = [httpx2.get(f"{server.url}/v1/jobs/{job}/images/{i}", timeout=250).content for i in range(2)]
        assert told == [found.get(path) for path in paths]
        assert all(data.startswith(b"\x89PNG") for data in told)
        found.put(paths[1], told[0])
        assert httpx2.get(f"{server.url}/v1/jobs/{job}/images/1", timeout=250).status_code == 410, "a picture that was changed is not given out"
        assert server.stop() == 0
    assert not (tmp_path / "inkwash-serve" / "files").exists()
    (tmp_path / "serve.yaml").write_text("keep_hours: 0.000001\n")
    with running(tmp_path, str(tiny_model), "--files", bucket, "--config", "serve.yaml"):
        wait(lambda: [found.get(path) for path in paths] == [None, None], 60)
