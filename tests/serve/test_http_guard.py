"""Who may ask, by what name, how much and how fast: checked before anything else, on every method and path."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import math
import os
import re
import socket
import stat
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
import yaml
from serving import COMMAND, Running, running, wait
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from inkwash.errors import UsageError
from inkwash.serve.http import server as http_server
from inkwash.serve.http.errors import ApiError
from inkwash.serve.http.guard import Guard
from inkwash.serve.http.keys import Keys, new_key, presented
from inkwash.serve.http.metrics import Metrics
from inkwash.serve.http.server import HEAD_SEC, listen
from inkwash.serve.http.settings import Settings, is_loopback, load_settings
from inkwash.serve.http.strict import read_object

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
PATHS = ("/v1/models", "/v1/images/generations", "/livez", "/readyz", "/metrics", "/openapi.json", "/nothing", "/", "//",
         "/v1/images/../../etc/passwd")


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("keys") / "keys.txt"
    return path, new_key(path, "alice")


@pytest.fixture(scope="module")
def server(tiny_model: Path, key: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """With keys, on all addresses; asked by its loopback address."""
    with running(tmp_path_factory.mktemp("serve"), str(tiny_model), "--host", "0.0.0.0", "--keys", str(key[0]), "--allow-origin",
                 "https://studio.example.org", "--allow-host", "images.example.org", key=key[1]) as found:
        yield found


def ask(server: Running, key: str | None, method: str = "GET", path: str = "/v1/models", **headers: str) -> httpx2.Response:
    known = {"authorization": f"Bearer {key}"} if key else {}
    asked = {**known, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return httpx2.request(method, f"{server.url}{path}", headers=asked, timeout=250)


@pytest.mark.parametrize("path", PATHS)
def test_no_path_answers_without_a_key(server: Running, path: str) -> None:
    for method in METHODS:
        found = ask(server, None, method, path)
        assert found.status_code == 401
        assert method == "HEAD" or found.json()["error"]["code"] == "invalid_api_key"


def test_all_that_is_wrong_about_a_key_looks_the_same(server: Running, key: tuple[Path, str]) -> None:
    wrong = [{}, {"authorization": "Bearer ink-wrong"}, {"authorization": f"Bearer {key[1]}x"}, {"authorization": key[1]},
             {"authorization": "Basic !!"}, {"authorization": "Bearer"}, {"x-api-key": key[1]}]
    answers = [httpx2.get(f"{server.url}/v1/models", headers=headers, timeout=250) for headers in wrong]
    answers += [httpx2.get(f"{server.url}/v1/models?api_key={key[1]}&key={key[1]}", timeout=250)]
    assert {found.status_code for found in answers} == {401}
    assert len({found.content for found in answers}) == 1


def test_a_key_opens_as_bearer_and_as_password(server: Running, key: tuple[Path, str]) -> None:
    assert ask(server, key[1]).status_code == 200
    basic = base64.b64encode(f"user:{key[1]}".encode()).decode()
    assert ask(server, None, authorization=f"Basic {basic}").status_code == 200


def test_a_revoked_key_is_refused_at_once(server: Running, key: tuple[Path, str]) -> None:
    second = new_key(key[0], "bob")
    assert ask(server, second).status_code == 200
    key[0].write_text("".join(line for line in key[0].read_text().splitlines(keepends=True) if not line.startswith("bob ")))
    assert ask(server, second).status_code == 401
    assert ask(server, key[1]).status_code == 200


def test_keys_are_not_on_disk_and_not_in_the_log(server: Running, key: tuple[Path, str]) -> None:
    assert key[1] not in key[0].read_text()
    assert stat.S_IMODE(key[0].stat().st_mode) == 0o600
    ask(server, key[1], path=f"/v1/models?key={key[1]}")
    assert key[1] not in server.err.read_text()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("headers", "status"), [
    ({"host": "evil.example"}, 403), ({"host": "127.0.0.1.evil.example"}, 403), ({"host": "images.example.org"}, 200), ({"host": "10.1.2.3:80"}, 200),
    ({"host": "["}, 403), ({"origin": "https://evil.example"}, 403), ({"origin": "null"}, 403), ({"origin": "https://studio.example.org"}, 200),
    ({"origin": "https://studio.example.org.evil.example"}, 403), ({"sec_fetch_site": "cross-site"}, 403), ({"sec_fetch_site": "same-site"}, 403),
    ({"sec_fetch_site": "same-origin"}, 200), ({"sec_fetch_site": "none"}, 200),
], ids=str)
def test_host_origin_and_sec_fetch(server: Running, key: tuple[Path, str], method: str, headers: dict[str, str], status: int) -> None:
    found = ask(server, key[1], method, **headers)
    assert (found.status_code == 403) == (status == 403)
    if status == 403 and method != "HEAD":
        assert found.json()["error"]["code"] == ("host_not_allowed" if "host" in headers else "origin_not_allowed")


def test_a_page_of_an_allowed_origin_can_ask_and_read(server: Running, key: tuple[Path, str]) -> None:
    origin = "https://studio.example.org"
    found = ask(server, None, "OPTIONS", origin=origin, access_control_request_method="POST", access_control_request_headers="authorization")
    assert (found.status_code, found.headers["access-control-allow-origin"]) == (204, origin)
    assert "authorization" in found.headers["access-control-allow-headers"]
    assert ask(server, key[1], origin=origin).headers["access-control-allow-origin"] == origin
    assert "access-control-allow-origin" not in ask(server, key[1]).headers
    assert ask(server, None, "OPTIONS", access_control_request_method="POST").status_code == 401


def test_a_websocket_is_not_opened(server: Running) -> None:
    found = ask(server, None, connection="Upgrade", upgrade="websocket", sec_websocket_key="AAAAAAAAAAAAAAAAAAAAAA==", sec_websocket_version="13")
    assert found.status_code == 401


def raw(server: Running, head: str, body: bytes = b"", pause_sec: float = 0.0) -> bytes:
    """What comes back to bytes on a socket."""
    port = int(server.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        try:
            sock.sendall(head.replace("\n", "\r\n").encode() + body)
            time.sleep(pause_sec)
        except OSError:
            pass                                           # it hung up before we were done: what it said is still to be read
        found = b""
        try:
            while data := sock.recv(1 << 16):
                found += data
        except ConnectionError:
            pass
        return found


def rss_mib(server: Running) -> float:
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


@pytest.mark.parametrize("size", ["Content-Length: 1073741824", "Transfer-Encoding: chunked"])
def test_a_huge_body_is_refused_before_it_is_read(server: Running, key: tuple[Path, str], size: str) -> None:
    before = rss_mib(server)
    head = f"POST /v1/images/generations HTTP/1.1\nHost: 127.0.0.1\nAuthorization: Bearer {key[1]}\nContent-Type: application/json\n{size}\n\n"
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    found = raw(server, head, chunk * 200)
    assert b" 413 " in found.splitlines()[0]
    assert b"connection: close" in found.lower()
    assert rss_mib(server) < before + 16


def test_broken_http_is_refused(server: Running, key: tuple[Path, str]) -> None:
    assert b" 400 " in raw(server, "NONSENSE\n\n").splitlines()[0]
    assert b" 400 " in raw(server, f"GET / HTTP/1.1\nHost: 127.0.0.1\nX: {'a' * 1_000_000}\n\n").splitlines()[0]
    twice = f"GET /v1/models HTTP/1.1\nHost: 127.0.0.1\nHost: evil.example\nAuthorization: Bearer {key[1]}\nConnection: close\n\n"
    assert raw(server, twice).splitlines()[0].split()[1] in (b"400", b"403")
    assert ask(server, key[1]).status_code == 200


@pytest.mark.parametrize("lines", ["X: a\n" * 8000, "X: " + "a" * 40_000 + "\n"], ids=["many", "long"])
def test_a_head_of_more_than_32_kib_is_refused_however_it_comes(server: Running, key: tuple[Path, str], lines: str) -> None:
    """Whole at once, where the parser has it all before anybody counts, and without an end, where it waits for more."""
    begin = f"GET /v1/models HTTP/1.1\nHost: 127.0.0.1\nAuthorization: Bearer {key[1]}\n"
    for head in (f"{begin}{lines}\n", f"{begin}{lines}", f"{begin}{lines[:-1]}"):
        found = raw(server, head)
        assert b" 400 " in found.splitlines()[0]
        assert b"connection: close" in found.lower()
    assert b" 200 " in raw(server, f"{begin}Connection: close\n{lines[:20_000]}\n\n").splitlines()[0]


def test_a_client_that_never_finishes_its_headers_is_left(server: Running) -> None:
    began = time.monotonic()
    one = "GET /nothing HTTP/1.1\nHost: 127.0.0.1\n\n"
    with ThreadPoolExecutor() as pool:
        first = pool.submit(raw, server, "GET /livez HTTP/1.1\nHost: 127.0.0.1\n")
        second = pool.submit(raw, server, one, b"GET /live", 0.5)
        third = pool.submit(raw, server, one, b"\r\n" * 9, 0.5)
        assert first.result() == b""
        for late in (second, third):
            assert late.result().startswith(b"HTTP/1.1 401")
    assert HEAD_SEC - 1 < time.monotonic() - began < HEAD_SEC + 10


def test_head_is_get_without_a_body(server: Running, key: tuple[Path, str]) -> None:
    with httpx2.Client(base_url=server.url, headers={"authorization": f"Bearer {key[1]}"}, timeout=60) as client:    # one kept connection
        for path in ("/v1/models", "/livez", "/readyz", "/v1/jobs", "/nothing", "/openapi.json", "/sdapi/v1/samplers"):
            full, head = client.get(path), client.head(path)
            assert (head.status_code, head.content) == (full.status_code, b""), path
            names = ("content-type", "content-length", "cache-control")
            assert [head.headers.get(name) for name in names] == [full.headers.get(name) for name in names]
        assert client.head("/v1/images/generations").status_code == 405
    wait(lambda: any(line.get("method") == "HEAD" and line.get("route") == "/v1/models" for line in server.log), 10)


def test_what_stands_in_the_query_is_known_or_refused(server: Running, key: tuple[Path, str]) -> None:
    for path, code, param, said in (("/v1/jobs?limitt=3", "unknown_parameter", "limitt", "did you mean 'limit'"),
                                    ("/v1/jobs?limit=3&limit=4", "invalid_value", "limit", "twice"),
                                    ("/v1/models?page=2", "unknown_parameter", "page", "known: none"),
                                    ("/sdapi/v1/progress?skip=1", "unknown_parameter", "skip", "skip_current_image")):
        answer = ask(server, key[1], path=path)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
        assert said in error["message"]
    for path in ("/v1/jobs?limit=3&status=done", "/sdapi/v1/progress?skip_current_image=true", "/livez?probe=1"):
        assert ask(server, key[1], path=path).status_code == 200


@pytest.mark.parametrize("pause", [0.1, math.inf])
def test_a_client_that_reads_nothing_of_its_answer_is_left(pause: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that reads slowly is not."""
    monkeypatch.setattr(http_server, "READ_SEC", 0.5)
    size = 24 << 20                                        # more than the kernel buffers for a connection
    gone: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(size).encode())]})
        await send({"type": "http.response.body", "body": bytes(size), "more_body": True})
        await send({"type": "http.response.body"})         # when the client has taken nearly all
        gone.append((await receive())["type"] == "http.disconnect")

    def read(address: tuple[str, int]) -> int:
        """Bytes that came."""
        found = 0
        with socket.create_connection(address, timeout=60) as client, contextlib.suppress(ConnectionError):
            client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            if pause == math.inf:
                wait(lambda: gone, 60)
            while part := client.recv(1 << 16):
                if found >> 20 < found + len(part) >> 20 and not gone:
                    time.sleep(pause)
                found += len(part)
        return found

    async def talk() -> int:
        with listen("127.0.0.1", 0) as sock:
            web = uvicorn.Server(uvicorn.Config(app, http=http_server.Impatient, lifespan="off", log_config=None))
            serving = asyncio.create_task(web.serve([sock]))
            found = await asyncio.to_thread(read, sock.getsockname()[:2])
            web.should_exit = True
            await serving
        return found

    found = asyncio.run(talk())
    assert gone == [True]
    assert (found > size) is (pause < math.inf)


def test_logs_have_ids_and_no_prompts(server: Running, key: tuple[Path, str]) -> None:
    found = httpx2.post(f"{server.url}/v1/images/generations", json={"prompt": "a secret wish", "steps": 1},
                        headers={"authorization": f"Bearer {key[1]}"}, timeout=250)
    assert found.status_code == 200
    wait(lambda: found.headers["x-request-id"] in server.err.read_text(), 60)           # the line follows the answer
    [line] = [line for line in server.log if line.get("id") == found.headers["x-request-id"]]
    assert (line["route"], line["status"], line["owner"]) == ("/v1/images/generations", 200, "alice")
    assert "secret wish" not in server.err.read_text()


@pytest.mark.parametrize(("words", "code", "text"), [
    (["--host", "0.0.0.0"], 2, "error[open_bind]: refusing to listen on 0.0.0.0 without API keys; use --keys FILE or --host 127.0.0.1"),
    (["--host", "::"], 2, "error[open_bind]"), (["--keys", "nothing.txt"], 2, "error[bad_keys]"), (["nothing"], 4, "error[model_not_found]"),
    (["--new-key", "a"], 2, "error[bad_keys]"), (["--port", "99999"], 2, "error[bad_config]: settings: port"),
], ids=str)
def test_what_cannot_start_says_why(tmp_path: Path, words: list[str], code: int, text: str) -> None:
    found = subprocess.run([COMMAND, "serve", *words], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert found.returncode == code
    assert text in found.stderr
    assert len(found.stderr.splitlines()) == 1


def test_two_servers_do_not_share_a_port(server: Running, tiny_model: Path, tmp_path: Path) -> None:
    port = server.url.rsplit(":", 1)[1]
    words = [COMMAND, "serve", str(tiny_model), "--port", port]
    found = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert (found.returncode, "error[port_in_use]" in found.stderr) == (9, True)


def test_loopback_is_known() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.3.2.1", "::1", "localhost"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.evil.example", "example.org"))


@pytest.mark.parametrize("host", ["a..b", "x" * 70 + ".example.org"])
def test_a_name_that_no_machine_has_is_told(host: str) -> None:
    with pytest.raises(UsageError, match="cannot listen on"):
        listen(host, 0)


def test_settings_of_a_file_are_overridden_by_flags(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("port: 9000\nqueue: 5\n")
    found = load_settings(file, {"port": 9001, "queue": None})
    assert (found.port, found.queue) == (9001, 5)
    for text, what in (("prot: 1", "did you mean port"), ("port: x", "port"), ("- 1", "keys and values"), ("a: [", "YAML"),
                       ("1: 2", "1: Keys should be strings"), ("device: ','", "device: .*names no device")):
        file.write_text(text)
        with pytest.raises(UsageError, match=what):
            load_settings(file, {})


def test_a_folder_is_no_file_of_settings(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder; give a YAML file") as caught:
        load_settings(tmp_path, {})
    assert caught.value.code == "bad_config"


def test_the_guide_has_the_defaults_of_all_settings() -> None:
    page = (Path(__file__).parents[2] / "docs" / "guides" / "serve.md").read_text("utf-8")
    [block] = re.findall(r"These are the defaults:\n\n```yaml\n(.*?)```", page, re.S)
    assert yaml.safe_load(block) == Settings().model_dump(mode="json")


def test_key_files(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    one, two = new_key(path, "a"), new_key(path, "b")
    keys = Keys(path)
    assert [keys.name_of(text) for text in (one, two, "", one[:-1])] == ["a", "b", None, None]
    with pytest.raises(UsageError, match="has a key named"):
        new_key(path, "a")
    with pytest.raises(UsageError, match=r"1\.\.64"):
        new_key(path, "a b")
    path.rename(tmp_path / "away")
    assert keys.name_of(one) is None
    (tmp_path / "away").rename(path)                       # the same file, with the same times
    assert keys.name_of(one) == "a"
    path.write_text(f"a {one}\n")
    with pytest.raises(UsageError, match="line 1"):
        Keys(path)
    assert presented("Bearer  k") == "k"
    assert presented("Digest k") is None
    assert presented("Basic \xe9") is None                   # header bytes that are not ASCII


def test_a_new_key_leaves_the_rest_of_its_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    one = new_key(path, "a")
    path.write_text("# of the shop\n" + path.read_text().rstrip())
    path.chmod(0o640)
    if os.geteuid() == 0:                                  # the administrator adds a key, and the server is another user
        os.chown(path, 65534, 65534)
    before = path.stat()
    two = new_key(path, "b")
    after = path.stat()
    assert [getattr(after, name) for name in ("st_mode", "st_uid", "st_gid")] == [getattr(before, name) for name in ("st_mode", "st_uid", "st_gid")]
    assert path.read_text().startswith("# of the shop\na ")
    assert [Keys(path).name_of(key) for key in (one, two)] == ["a", "b"]


def test_json_that_is_fine_is_read() -> None:
    text = {"prompt": 'a "quoted" [bracket] {brace} \\ é', "n": -3, "x": 0.5, "deep": [[[{}]]], "none": None}
    assert read_object(json.dumps(text).encode()) == text
    assert read_object(json.dumps({"prompt": "[" * 4000}).encode()) == {"prompt": "[" * 4000}
    began = time.process_time()
    for body in (b'"' + b'\\"' * 500_000, b'{"a":"' + b"\\" * 999_999, b'"' * 1_000_001):
        with pytest.raises(ApiError):
            read_object(body)
    assert time.process_time() - began < 5, "the depth check is linear"


@pytest.mark.parametrize("part", [b"1,", b'"",', b"{},", b'"" ', b"[]"])
def test_millions_of_tiny_values_are_refused_unread(part: bytes) -> None:
    body = b'{"init_images": [' + part * 1_000_000 + b"1]}"
    began = time.process_time()
    with pytest.raises(ApiError, match="parts"):
        read_object(body)
    assert time.process_time() - began < 1


def test_a_full_server_still_tells_that_it_lives(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    guard = Guard(app, Settings(connections=1), None, Metrics(), lambda path: 10, frozenset(), lambda owner: None)
    guard.active = 1

    async def status(path: str) -> int:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(guard), base_url="http://127.0.0.1") as client:
            return (await client.get(path)).status_code

    assert [asyncio.run(status(path)) for path in ("/livez", "/readyz", "/metrics", "/v1/models")] == [200, 200, 200, 503]


def test_a_broken_file_of_keys_lets_nobody_in_and_is_no_bug(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys.txt"
    key = new_key(file, "alice")
    guard = Guard(Response(status_code=204), Settings(keys=file), Keys(file), Metrics(), lambda path: 10, frozenset(), lambda owner: None)

    async def ask(path: str = "/v1/models") -> httpx2.Response:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(guard), base_url="http://127.0.0.1") as client:
            return await client.get(path, headers={"authorization": f"Bearer {key}"})

    assert asyncio.run(ask()).status_code == 204
    good = file.read_text()
    file.write_text(good + "bob\n")
    found = asyncio.run(ask())
    assert (found.status_code, found.json()["error"]["code"]) == (503, "keys_unreadable")
    [told] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "line 2" in told.fields["error"]                # type: ignore[attr-defined]
    assert [asyncio.run(ask(path)).status_code for path in ("/livez", "/readyz", "/metrics")] == [204, 503, 503], "a restart would not mend it"
    file.write_text(good)
    assert asyncio.run(ask()).status_code == 204


def test_who_waits_when_the_server_ends_at_once_is_told() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    guard = Guard(app, Settings(), None, Metrics(), lambda path: 10, frozenset(), lambda owner: None)

    async def ask() -> httpx2.Response:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(guard), base_url="http://127.0.0.1") as client:
            asked = asyncio.create_task(client.get("/v1/models"))
            while not guard.mine:
                await asyncio.sleep(0.01)
            asked.cancel()                                 # as uvicorn does, and asyncio at its end
            return await asked

    found = asyncio.run(ask())
    assert (found.status_code, found.json()["error"]["code"], found.headers["retry-after"]) == (503, "draining", "5")


def test_a_key_may_have_so_many_requests_in_progress(tmp_path: Path) -> None:
    release, file = asyncio.Event(), tmp_path / "keys.txt"
    alice, bob = (new_key(file, name) for name in ("alice", "bob"))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await release.wait()
        await Response(status_code=204)(scope, receive, send)

    guard = Guard(app, Settings(keys=file, connections_per_key=2), Keys(file), Metrics(), lambda path: 1024, frozenset(), lambda owner: None)

    async def ask() -> list[int]:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(guard), base_url="http://127.0.0.1") as client:
            def get(key: str, path: str = "/v1/jobs/x/events") -> asyncio.Task[httpx2.Response]:
                return asyncio.create_task(client.get(path, headers={"authorization": f"Bearer {key}"}))

            first = [get(alice), get(alice)]
            while guard.mine["alice"] < 2:
                await asyncio.sleep(0.01)
            refused = await get(alice)
            assert (refused.status_code, refused.json()["error"]["code"], refused.headers["retry-after"]) == (429, "too_many_connections", "1")
            assert refused.json()["error"]["type"] == "rate_limit_error"
            others = [get(bob), get(alice, "/livez")]      # another key, and whoever watches the server
            while guard.active < 4:
                await asyncio.sleep(0.01)
            release.set()
            return [(await one).status_code for one in (*first, *others, get(alice))]

    assert asyncio.run(ask()) == [204] * 5
    assert (guard.active, guard.mine) == (0, Counter())
