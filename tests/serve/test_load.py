"""The load generator, against a server that is slow on purpose and against the real one; and the command that plans and proves."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from serving import Running

from inkwash.cli.main import run as command
from inkwash.errors import ResourceError, UsageError
from inkwash.pipeline import Pipeline
from inkwash.serve.load import Sent, Target, report, run, solo_over_http, wrong
from inkwash.serve.plan.answer import Row
from inkwash.serve.plan.curve import Curve, read_curve
from inkwash.serve.plan.measure import measure
from inkwash.serve.plan.prove import Meters, compare, meters, workers_of
from inkwash.serve.plan.traffic import Arrival, poisson

ASKED = {"prompt": "a red cube", "steps": 2, "guidance": 3.0, "sampler": "ddim", "spacing": "trailing", "size": "32x32"}
SLOW_SEC = 0.1


class Slow(BaseHTTPRequestHandler):
    """One request at a time; every fourth is refused."""

    count = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        time.sleep(SLOW_SEC)
        Slow.count += 1
        refused = Slow.count % 4 == 0
        body = {"error": {"code": "server_overloaded"}} if refused else {"data": [{"pixel_sha256": "x", "b64_json": ""}]}
        self.send_response(503 if refused else 200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *words: object) -> None:
        pass


@contextmanager
def slow() -> Iterator[str]:
    Slow.count = 0
    with HTTPServer(("127.0.0.1", 0), Slow) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def at(seconds: float) -> Arrival:
    return Arrival(seconds, 2, True, 30.0, ASKED)


def test_latency_counts_from_when_it_should_have_been_sent() -> None:
    """Twelve requests within a hundredth of a second to a server that takes a tenth for each: the last waits for all the others."""
    with slow() as url:
        sent = run(Target(url), [at(i / 1000) for i in range(12)], 0)
    assert sorted(one.status for one in sent) == [200] * 9 + [503] * 3
    times = sorted(one.seconds for one in sent)
    assert times[-1] > 12 * SLOW_SEC - 0.02
    assert all(a <= b for a, b in zip(sorted((i + 1) * SLOW_SEC - 0.02 for i in range(12)), times))
    found = report(sent)
    assert (found["requests"], found["done"], found["refused"], found["late"], found["errors"]) == (12, 9, 3, 0, 0)
    assert found["goodput"] == pytest.approx(9 / found["span_sec"], rel=0.02)


def test_what_does_not_answer_is_an_error() -> None:
    with slow() as url:
        pass
    assert report(run(Target(url), [at(0.0), at(0.0)], 0))["errors"] == 2
    with pytest.raises(ResourceError, match="start inkwash serve"):
        Target(url).read("/readyz")
    with pytest.raises(UsageError, match=r"127\.0\.0\.1:8000"):
        Target("localhost")


def test_an_answer_after_the_deadline_is_late() -> None:
    found = report([Sent(at(0.0)._replace(deadline_sec=1.0), 0.0, seconds, status) for seconds, status in ((0.5, 200), (1.5, 200), (1.0, 504))])
    assert (found["done"], found["late"], found["errors"]) == (1, 2, 0)


def test_pictures_are_compared_with_solo_runs(server: Running) -> None:
    target = Target(server.url)
    sent = run(target, poisson(20.0, 6, 1, [ASKED], 600.0), 3)
    assert [one.status for one in sent] == [200] * 6
    assert wrong(sent, solo_over_http(target)) == (0, 3)
    assert wrong(sent, lambda arrival: "another") == (3, 3)
    swapped = [one._replace(data=sent[0].data) for one in sent[2:3]]                    # the right hash beside another picture
    assert wrong(swapped, lambda arrival: swapped[0].told) == (1, 1)


def test_a_curve_is_measured(tiny_model: Path) -> None:
    pipe = Pipeline.from_pretrained(tiny_model)
    found = measure(pipe, (32, 32), 3)
    assert sorted(found.seconds) == list(range(1, 17))
    assert found.guided_rows == 2
    assert found.image_sec > 0
    assert found.encode_sec > 0
    assert found.size == "32x32"
    assert found.hash == pipe.hash
    assert found.peak_mib > found.weights_mib > 0.5


def test_the_command_plans_and_proves(server: Running, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    curve = tmp_path / "curve.json"
    asked = ["plan", "--rate", "600/min", "--count", "8", "--deadline", "600", "--model", str(tiny_model), "--steps", "2", "--price", "3"]
    assert command([*asked, "--save-curve", str(curve), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["rate"] == 10.0
    assert first["least"] >= 1
    assert Curve.model_validate_json(json.dumps(first["curve"])) == read_curve(curve)
    assert command([*asked, "--curve", str(curve), "--prove", server.url, "--json"]) == 0
    proof = json.loads(capsys.readouterr().out)["proof"]
    assert (proof["load"]["requests"], proof["load"]["done"], proof["load"]["errors"]) == (8, 8, 0)
    assert (proof["wrong"], proof["checked"]) == (0, 8)
    assert proof["tick"]["rows"] > 1
    assert proof["tick"]["measured"] > 0
    names = {one["name"] for one in proof["compared"]}
    assert {"p50", "p95", "p99", "kept", "busy", "image_cost"} <= names
    assert all(one["measured"] > 0 for one in proof["compared"] if one["name"] in ("p50", "p99", "busy", "image_cost"))


def test_replicas_of_ray_are_workers_and_tell_no_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    page = b'inkwash_engines{worker="tiny@ray"} 3.0\ninkwash_engines{worker="other@ray"} 5.0\ninkwash_rows_total{worker="tiny@ray"} 640.0\n'
    monkeypatch.setattr(Target, "read", lambda self, path: page)
    target = Target("http://127.0.0.1:1")
    assert workers_of(target, "tiny") == 3
    with pytest.raises(ResourceError, match="no ready worker of mini; it has tiny@ray, other@ray"):
        workers_of(target, "mini")
    row = Row(3, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.5, 8.0, 0.0)
    load = {"requests": 8, "done": 8, "refused": 0, "late": 0, "span_sec": 1.0, "p50": 1.0, "p95": 1.0, "p99": 1.0}
    assert "busy" not in {one.name for one in compare(load, meters(target), row, 0.0)}
    assert "busy" in {one.name for one in compare(load, Meters(2.0, 40.0, 640.0), row, 0.0)}


@pytest.mark.parametrize(("words", "code"), [
    (["--deadline", "5"], "bad_traffic"), (["--deadline", "5", "--rate", "1", "--traffic", "a"], "bad_traffic"),
    (["--deadline", "0", "--rate", "1"], "bad_number"), (["--deadline", "5", "--rate", "1/day"], "bad_number"),
    (["--deadline", "5", "--rate", "nan"], "bad_number"), (["--deadline", "5", "--rate", "1", "--price", "-1"], "bad_number"),
    (["--deadline", "5", "--rate", "1", "--curve", "none.json"], "file_not_found"), (["--deadline", "5", "--traffic", "none"], "file_not_found"),
    (["--deadline", "5", "--rate", "1", "--guidance", "CFG(scale=4.0)"], "bad_guidance"),
    (["--deadline", "5", "--rate", "1", "--workers", "0", "--curve", "none.json"], "bad_workers"),
    (["--deadline", "5", "--rate", "1", "--prove", "localhost"], "bad_url"),
    (["--deadline", "5", "--traffic", "a", "--seed", "1"], "inert_option"), (["--deadline", "5", "--traffic", "a", "--count", "1"], "inert_option"),
    (["--deadline", "5", "--rate", "1", "--curve", "a", "--device", "cpu"], "inert_option"),
    (["--deadline", "5", "--rate", "1", "--prove", "http://localhost", "--workers", "2"], "inert_option"),
])
def test_the_command_refuses_nonsense(words: list[str], code: str, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["plan", *words, "--model", str(tiny_model)]) in (2, 3)
    assert f"error[{code}]" in capsys.readouterr().err
