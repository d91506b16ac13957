"""The parts of serving on Ray that need no cluster: the command, the file, the policy, a replica alone, and what is made again."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from serving import wait

from inkwash.cli.serve import serve as command
from inkwash.errors import CheckpointError, UsageError
from inkwash.serve.http.channel import LARGE, Frame
from inkwash.serve.http.settings import Settings
from inkwash.serve.ray.scale import WAIT, ByWait

DOCS = Path(__file__).parents[2] / "docs"
REASON = 'Ray is not installed: pip install -e ".[ray]"'
BODY = {"prompt": "a cone", "negative": "", "seed": 1, "steps": 1000, "width": 32, "height": 32}
SUBMIT = {"do": "submit", "id": 7, "request": BODY, "key": "", "deadline_sec": None, "priority": 0, "format": "png", "compression": 100,
          "previews": (), "start": None, "state": 0}


def test_without_ray_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None if name == "ray" else found(name, package))
    with pytest.raises(UsageError, match=r'pip install -e "\.\[serve,ray\]"') as caught:
        command(ray=True)
    assert caught.value.code == "not_installed"


@pytest.mark.parametrize(("waits", "expected"), [({}, 3), ({"a": 0.0, "b": 0.0}, 1), ({"a": 4.0, "b": 5.9}, 2), ({"a": 10.0, "b": 0.1}, 3),
                                                 ({"a": 52.0}, 11)])
def test_replicas_are_as_many_as_the_predicted_wait_needs(waits: dict[str, float], expected: int) -> None:
    context: Any = SimpleNamespace(aggregated_metrics={WAIT: waits} if waits else {}, target_num_replicas=3)
    assert ByWait(target_sec=5.0)(context) == (expected, {})


def test_a_policy_needs_a_wait_above_nothing() -> None:
    with pytest.raises(ValueError, match="target_sec"):
        ByWait(target_sec=0.0)


def test_the_file_is_one_that_ray_takes_and_the_guide_shows() -> None:
    schema = pytest.importorskip("ray.serve.schema", reason=REASON)
    from inkwash.serve.ray import replica
    from inkwash.serve.ray.cluster import TEMPLATE, app_of

    text = TEMPLATE.read_text("utf-8")
    found = schema.ServeDeploySchema.model_validate(yaml.safe_load(text))
    app = found.applications[0]
    assert app.name == app_of("mini")
    assert app.import_path == f"{replica.build.__module__}:{replica.build.__name__}"
    assert replica.Args(**app.args) == replica.Args()
    assert app.deployments[0].name == replica.deployment.name
    options = yaml.safe_load(text)["applications"][0]["deployments"][0]
    assert replica.deployment.options(**options).max_ongoing_requests == options["max_ongoing_requests"]
    policy = options["autoscaling_config"]["policy"]
    assert policy["policy_function"] == f"{ByWait.__module__}:{ByWait.__name__}"
    assert ByWait(**policy["policy_kwargs"]).target_sec > 0
    assert text in (DOCS / "guides" / "serve.md").read_text("utf-8")


def test_several_devices_are_refused() -> None:
    pytest.importorskip("ray", reason=REASON)
    from inkwash.serve.ray.cluster import joined

    with pytest.raises(UsageError, match="name one"), joined(Settings(ray=True, device="cpu,cuda:0")):
        pass


def test_a_replica_drops_the_work_of_a_process_that_is_gone(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason=REASON)
    from inkwash.serve.ray import replica

    monkeypatch.setattr(replica, "LEASE_SEC", 0.3)
    one = replica.Replica(replica.Args(model=str(tiny_model), device="cpu"))

    async def heads() -> list[str]:
        return [frame.head["is"] async for frames in one.ask(Frame({**SUBMIT, "link": "gone"})) for frame in frames]

    found = asyncio.run(heads())
    assert found[0] == "accepted"
    assert found.count("step") < BODY["steps"]
    assert set(found) <= {"accepted", "step"}
    wait(lambda: one._owed == 0, 30)


def test_a_state_that_one_replica_tells_is_where_another_goes_on(tiny_model: Path) -> None:
    pytest.importorskip("ray", reason=REASON)
    from inkwash.serve.ray import replica

    first, second = (replica.Replica(replica.Args(model=str(tiny_model), device="cpu")) for _ in range(2))

    async def saved() -> Frame:
        async for frames in first.ask(Frame({**SUBMIT, "link": "here"})):
            for frame in frames:
                if frame.head["is"] == "saved":
                    return frame
                if frame.head["is"] == "step" and frame.head["done"] >= 3:
                    await first.tell(Frame({"do": "save", "id": 7}))
        raise AssertionError("nothing was saved")

    async def accepted(state: bytes) -> dict[str, Any]:
        async for frames in second.ask(Frame({**SUBMIT, "link": "there", "state": len(state)}, state)):
            return frames[0].head
        raise AssertionError("nothing was told")

    state = asyncio.run(saved())
    assert state.head["done"] >= 3
    found = asyncio.run(accepted(state.body))
    assert (found["is"], found["done"], found["unused"]) == ("accepted", state.head["done"], "")


def test_a_replica_without_its_model_does_not_start(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason=REASON)
    from inkwash.serve.ray import replica

    with pytest.raises(CheckpointError):
        replica.Replica(replica.Args(model=str(tmp_path)))


class Dying:
    """A handle whose replicas die after two steps, `lives` times; then one makes the image."""

    def __init__(self, lives: int) -> None:
        self.lives = lives
        self.asked: list[dict[str, Any]] = []
        self.sent: list[tuple[bytes, list[Any]]] = []

    def options(self, method_name: str, stream: bool) -> Dying:
        assert (method_name, stream) == ("ask", True)
        return self

    async def remote(self, frame: Frame, shared: list[Any]) -> AsyncIterator[list[Frame]]:
        from ray.exceptions import ActorDiedError

        self.asked.append(frame.head)
        self.sent.append((frame.body, shared))
        yield [Frame({"is": "accepted", "id": frame.head["id"]})]
        yield [Frame({"is": "step", "id": frame.head["id"], "done": done}) for done in (1, 2)]
        yield [Frame({"is": "preview", "id": frame.head["id"], "step": 2}, b"seen")]
        if len(self.asked) <= self.lives:
            raise ActorDiedError
        yield [Frame({"is": "made", "id": frame.head["id"], "facts": {}}, b"picture")]


@pytest.mark.parametrize("lives", [0, 2, 3])
def test_an_order_is_made_again_and_not_for_ever(lives: int) -> None:
    pytest.importorskip("ray", reason=REASON)
    from inkwash.serve.ray.link import ATTEMPTS, Replicas

    told: list[Frame] = []
    link, handle = Replicas("tiny"), Dying(lives)
    link._take = told.append
    asyncio.run(link._call(handle, Frame({**SUBMIT, "deadline_sec": 60.0})))  # type: ignore[arg-type]
    assert len(handle.asked) == min(lives + 1, ATTEMPTS)
    assert len({head["id"] for head in handle.asked}) == len(handle.asked)
    assert [head["deadline_sec"] <= 60.0 for head in handle.asked] == [True] * len(handle.asked)
    assert all(frame.head["id"] == 7 for frame in told)
    assert [frame.body for frame in told if frame.head["is"] == "preview"] == [b"seen"]
    assert [frame.head["is"] for frame in told].count("accepted") == 1
    last = told[-1].head
    if lives < ATTEMPTS:
        assert (last["is"], told[-1].body) == ("made", b"picture")
    else:
        assert (last["is"], last["code"], last["retry_sec"]) == ("failed", "engine_restarted", 5.0)


def test_large_pixels_are_stored_once_for_all_images_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason=REASON)
    from inkwash.serve.ray.link import Replicas

    stored: list[bytes] = []

    def put(body: bytes) -> str:
        stored.append(body)
        return f"reference {len(stored)}"

    monkeypatch.setattr(ray, "put", put)
    large, other = b"x" * LARGE, b"y" * LARGE

    async def send() -> Dying:
        link, handle = Replicas("tiny"), Dying(1)
        link._handle = handle  # type: ignore[assignment]
        for bodies in ([large, large, large], [other, b"small"], [large]):
            for body in bodies:
                link.send(Frame({**SUBMIT, "id": len(link._calls)}, body))
            await asyncio.gather(*link._calls.values())
        return handle

    handle = asyncio.run(send())
    assert stored == [large, other, large], "once for each request"
    assert sorted(str(shared) for _, shared in handle.sent) == [
        *["['reference 1']"] * 4, "['reference 2']", "['reference 3']", "[]"], "the one that died is asked again with the same reference"
    assert all(body == (b"" if shared else b"small") for body, shared in handle.sent)


def test_a_full_object_store_refuses_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason=REASON)
    from inkwash.serve.ray.link import Replicas

    def full(body: bytes) -> None:
        raise ray.exceptions.ObjectStoreFullError

    monkeypatch.setattr(ray, "put", full)
    told: list[Frame] = []

    async def send() -> None:
        link = Replicas("tiny")
        link._handle, link._take = Dying(0), told.append  # type: ignore[assignment]
        for number in (1, 2):
            link.send(Frame({**SUBMIT, "id": number}, b"x" * LARGE))
        await asyncio.gather(*link._calls.values())

    asyncio.run(send())
    assert [(frame.head["id"], frame.head["code"], frame.head["retry_sec"]) for frame in told] == [
        (1, "server_overloaded", 5.0), (2, "server_overloaded", 5.0)]


def test_a_replica_fetches_what_is_stored_once(tiny_model: Path) -> None:
    pytest.importorskip("ray", reason=REASON)
    from inkwash.serve.ray import replica

    one = replica.Replica(replica.Args(model=str(tiny_model), device="cpu"))
    fetched = 0

    class Reference:
        def __await__(self) -> Generator[Any, None, bytes]:
            nonlocal fetched
            fetched += 1
            yield from asyncio.sleep(0.01).__await__()
            return bytes(3 * 40 * 40)

    start = {"strength": 1.0, "white_paints": False, "image": ["RGB", 40, 40], "mask": None}

    async def made(number: int, reference: Reference) -> bool:
        body = {**BODY, "steps": 2, "seed": number}
        frame = Frame({**SUBMIT, "id": number, "link": "here", "request": body, "start": start})
        return any([part.head["is"] == "made" async for parts in one.ask(frame, [reference]) for part in parts])

    async def both() -> list[bool]:
        reference = Reference()
        return await asyncio.gather(made(1, reference), made(2, reference))

    assert asyncio.run(both()) == [True, True]
    assert fetched == 1
    assert not one._fetches, "nothing of it is kept"
