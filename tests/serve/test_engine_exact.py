"""The engine gives every request the bytes that it has alone, whatever arrives, leaves, waits or moves meanwhile."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from inkwash import Pipeline, Request
from inkwash.errors import CheckpointError, UsageError
from inkwash.picture import Picture
from inkwash.serve import EarliestDeadline, Engine, FairShare, Finished, FirstCome, Policy, ShortestRemaining

if TYPE_CHECKING:
    from collections.abc import Iterator

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from engine_mix import mixed, pixel_hash

from test_pipeline_exact import ask, exact

SIZES = [(32, 32), (48, 32), (16, 16)]
ASK = Request("a small red cube", "two cones", seed=7, steps=6, sampler="dpmpp_2m_sde", guidance=3.0, width=32, height=32)


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> Pipeline:
    return Pipeline.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def alone(tiny_model: Path) -> Iterator[dict[Request, tuple[str, int]]]:
    """Pixel hash and nfe of a request that another pipeline makes alone, with two rows to a network call and nothing shared."""
    other = Pipeline.from_pretrained(tiny_model)

    class Alone(dict[Request, tuple[str, int]]):
        def __missing__(self, request: Request) -> tuple[str, int]:
            [image] = other.generate([request])
            self[request] = pixel_hash(image), image.nfe
            return self[request]

    yield Alone()
    assert not other._calls, "the reference tested sizes of calls, so it is not the plain loop"


def drive(engine: Engine, requests: list[Request], draw: random.Random) -> tuple[list[Finished], int]:
    """Feeds the engine some requests before each tick; cancels, suspends and resumes at random. Returns what ended, and how many were cancelled."""
    waiting, ended, cancelled = list(requests), [], 0
    while waiting or engine.pending:
        for _ in range(min(draw.choice((0, 1, 4)), engine.queue - len(engine.live))):
            if waiting:
                engine.submit(waiting.pop(), key=draw.choice("abc"), priority=draw.choice((0, 0, 1)))
        ended += engine.tick()
        if engine.live and draw.random() < 0.05:
            engine.resume(engine.suspend(draw.choice(engine.live)), key="moved")
        if engine.live and draw.random() < 0.03:
            cancelled += engine.cancel(draw.choice(engine.live))
    return ended, cancelled


@pytest.mark.parametrize(("policy", "rows"), [(ShortestRemaining(), 16), (FirstCome(), 7), (EarliestDeadline(), 2), (FairShare(), 5)], ids=str)
def test_O4_unlike_requests_that_come_and_go_have_the_bytes_of_their_solo_runs(pipe: Pipeline, alone: dict[Request, tuple[str, int]], policy: Policy,
                                                                               rows: int) -> None:
    stream = mixed(pipe, seed=rows, sizes=SIZES, most_steps=10)
    requests = [next(stream) for _ in range(30)]
    engine = Engine(pipe, policy=policy, rows=rows, queue=24)
    ended, cancelled = drive(engine, requests, random.Random(rows))
    assert len(ended) + cancelled == len(requests)
    assert len(ended) > 12
    for finished in ended:
        assert finished.image is not None
        assert (pixel_hash(finished.image), finished.image.nfe) == alone[finished.ticket.request], finished.ticket.request
    assert (engine.live, engine.backlog, engine.pending) == ((), 0, False)


def test_an_autocast_of_the_caller_changes_no_bit(pipe: Pipeline, alone: dict[Request, tuple[str, int]]) -> None:
    engine = Engine(pipe)
    picture = dataclasses.replace(ASK, image=Picture(32, 32, bytes(range(256)) * 12), strength=0.6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tickets = [engine.submit(request) for request in (ASK, picture)]
        engine.tick()
        seen = engine.preview(tickets[0])
        made = engine.run()
    assert seen is not None
    assert {(one.ticket.request, pixel_hash(one.image), one.image.nfe) for one in made if one.image} == {(one, *alone[one]) for one in (ASK, picture)}


def test_fifty_steps_in_company(pipe: Pipeline, alone: dict[Request, tuple[str, int]]) -> None:
    engine = Engine(pipe)
    requests = [Request("two green cones", seed=i, steps=steps, sampler=name, guidance=w, width=32, height=32)
                for i, (steps, name, w) in enumerate([(50, "ddim", 3.0), (50, "heun", 1.0), (1, "euler_a", 5.0), (33, "unipc", 2.0)])]
    for request in requests:
        engine.submit(request)
    assert {(finished.ticket.request, pixel_hash(finished.image), finished.image.nfe) for finished in engine.run() if finished.image} == {
        (request, *alone[request]) for request in requests}


def test_S15_the_cost_at_admission_is_what_the_network_then_does(pipe: Pipeline) -> None:
    stream = mixed(pipe, seed=3, sizes=[(16, 16)], most_steps=9)
    engine = Engine(pipe)
    requests = [next(stream) for _ in range(20)]
    costs = [engine.cost(request) for request in requests]
    tickets = [engine.submit(request) for request in requests]
    assert [ticket.cost for ticket in tickets] == costs
    assert engine.backlog == sum(costs)
    for finished in engine.run():
        assert finished.image is not None
        assert finished.image.nfe == finished.ticket.cost
    assert engine.rows_done == sum(costs)
    plain = Request("a cube", steps=5, sampler="ddim", guidance="CFG(scale=4.0, interval=Interval(1e6, 2e6))", width=32, height=32)
    assert (engine.cost(ASK), engine.cost(plain)) == (12, 5)


def test_pictures_and_masks_take_part(pipe: Pipeline, alone: dict[Request, tuple[str, int]]) -> None:
    picture = Picture(32, 32, bytes(range(256)) * 12)
    mask = Picture(32, 32, bytes([255] * 1536 + [0] * 1536))
    engine = Engine(pipe)
    edits = [Request("a cube", seed=1, steps=6, sampler="ddim", width=32, height=32, image=picture, strength=0.6),
             Request("a cube", seed=1, steps=6, sampler="euler_a", width=32, height=32, image=picture, mask=mask, strength=0.8)]
    tickets = [engine.submit(request) for request in (*edits, ASK)]
    assert tickets[0].steps < 6
    engine.tick()
    assert engine.preview(tickets[1]) is not None
    tickets[1] = engine.resume(engine.suspend(tickets[1]))
    found = {finished.ticket.request: finished.image for finished in engine.run()}
    for request in (*edits, ASK):
        image = found[request]
        assert image is not None
        assert (pixel_hash(image), image.nfe) == alone[request]


def test_a_preview_is_the_clean_image_as_the_last_row_saw_it_and_costs_no_row(pipe: Pipeline) -> None:
    engine = Engine(pipe)
    ticket = engine.submit(ASK)
    assert engine.preview(ticket) is None
    engine.tick()
    seen = engine.preview(ticket)
    assert seen is not None
    assert (seen.shape, seen.dtype) == (torch.Size([3, 32, 32]), torch.uint8)
    assert engine.rows_done == 2
    steps: list[torch.Tensor] = []
    pipe.generate([ASK], lambda progress: steps.append(progress.x0[0]))
    assert ticket.job.x0 is not None
    assert torch.equal(ticket.job.x0, steps[0])


RESUME = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(2)
sys.path.insert(0, sys.argv[3])
from engine_mix import pixel_hash
from inkwash import Pipeline, Request
from inkwash.serve import Engine
engine = Engine(Pipeline.from_pretrained(sys.argv[1]), rows=5)
engine.submit(Request("somebody else", seed=99, steps=9, sampler="ddim", width=32, height=32))
ticket = engine.resume(Path(sys.argv[2]).read_bytes())
print([(ticket.step, pixel_hash(end.image), end.image.nfe) for end in engine.run() if end.ticket is ticket])
"""


def test_a_request_moves_to_another_process_in_mid_image(pipe: Pipeline, alone: dict[Request, tuple[str, int]], tiny_model: Path,
                                                         tmp_path: Path) -> None:
    engine = Engine(pipe)
    ticket = engine.submit(ASK)
    for _ in range(3):
        engine.tick()
    stored = tmp_path / "request.safetensors"
    stored.write_bytes(engine.suspend(ticket))
    assert (ticket.status, ticket.step, engine.live) == ("cancelled", 3, ())
    done = subprocess.run([sys.executable, "-c", RESUME, str(tiny_model), str(stored), str(Path(__file__).parents[2] / "benchmarks")],
                          capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.strip() == repr([(ASK.steps, *alone[ASK])])


def test_what_is_taken_up_again_is_all_that_was_put_aside(pipe: Pipeline) -> None:
    """Saved once more it has the same facts and the same hash, with or without a row done, a picture, a mask and slopes to remember."""
    def told(data: bytes) -> dict[str, str]:
        return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]

    picture = Picture(32, 32, bytes(range(256)) * 12)
    edit = dataclasses.replace(ASK, sampler="dpmpp_3m", image=picture, mask=Picture(32, 32, bytes([255] * 1536 + [0] * 1536)))
    for request, ticks in ((ASK, 0), (edit, 2)):
        engine = Engine(pipe)
        ticket = engine.submit(request)
        for _ in range(ticks):
            engine.tick()
        again = engine.resume(engine.save(ticket))
        assert told(engine.save(again)) == told(engine.save(ticket))
        assert again.request == request
        old, new = engine.preview(ticket), engine.preview(again)
        assert (old is None and new is None) if ticks == 0 else (old is not None and new is not None and torch.equal(old, new))


def test_what_was_suspended_is_checked(pipe: Pipeline, stranger_model: Path) -> None:
    engine = Engine(pipe)
    ticket = engine.submit(ASK)
    data = engine.suspend(ticket)
    for broken in (b"", data[:100], data[:-1], data[:-5] + bytes([data[-5] ^ 1]) + data[-4:], b"\xff" * 64):
        with pytest.raises(CheckpointError) as failure:
            engine.resume(broken)
        assert failure.value.code == "suspended_damaged"
    with pytest.raises(CheckpointError, match="its own model"):
        Engine(Pipeline.from_pretrained(stranger_model)).resume(data)
    with pytest.raises(CheckpointError, match="another request"):
        engine.resume(data, of=dataclasses.replace(ASK, seed=99))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inkwash.serve.suspend.__version__", "0.0.0")
        with pytest.raises(CheckpointError, match="bits may differ"):
            engine.resume(data)
        patch.undo()
        patch.setattr("inkwash.serve.suspend.FORMAT", 2)
        with pytest.raises(CheckpointError) as failure:
            engine.resume(data)
        assert failure.value.code == "suspended_damaged"
    with pytest.raises(UsageError, match="is cancelled"):
        engine.suspend(ticket)
    assert engine.live == ()


def test_an_error_of_the_model_leaves_every_ticket_as_it_was(tiny_model: Path, alone: dict[Request, tuple[str, int]]) -> None:
    pipe = Pipeline.from_pretrained(tiny_model)
    engine = Engine(pipe)
    ticket = engine.submit(ASK)
    engine.tick()
    trouble = RuntimeError("out of memory")

    def fail(module: object, given: object) -> None:
        raise trouble

    hook = pipe.denoiser.network.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.tick()
    assert (ticket.step, ticket.status, ticket.job.nfe) == (1, "running", 2)
    hook.remove()
    [finished] = engine.run()
    assert finished.image is not None
    assert (pixel_hash(finished.image), finished.image.nfe) == alone[ASK]


def test_a_picture_whose_decoding_failed_is_decoded_at_the_next_tick() -> None:
    pipe = exact()
    engine, restore = Engine(pipe), pipe.codec.restore
    engine.submit(ask("cat", steps=1, guidance=1.0))

    def fail(clean: object) -> None:
        raise RuntimeError("out of memory")

    pipe.codec.restore = fail  # type: ignore[method-assign, assignment]
    for _ in range(2):
        with pytest.raises(RuntimeError, match="out of memory"):
            engine.tick()
    later = engine.submit(ask("cat", steps=2, guidance=1.0))
    pipe.codec.restore = restore  # type: ignore[method-assign]
    first, second = engine.run()
    assert (first.image is not None, second.ticket is later) == (True, True)
    assert engine.rows_done == 3
