"""Who goes first, and that nobody waits for ever: a tiny exact model, so that only the order is at stake."""

from __future__ import annotations

import math
import random

import pytest

from inkwash import Pipeline, Request
from inkwash.errors import UsageError
from inkwash.serve import EarliestDeadline, Engine, FairShare, FirstCome, Policy, Refused, ShortestRemaining, Ticket
from inkwash.serve.admission import Rate
from inkwash.value import parse, registry
from test_pipeline_exact import ask, exact


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return exact()


def job(steps: int, seed: int = 0) -> Request:
    """A request that costs `steps` network rows."""
    return ask("cat", steps=steps, seed=seed, guidance=1.0)


def order(engine: Engine) -> list[int]:
    """The numbers of the tickets as they end."""
    return [finished.ticket.number for finished in engine.run()]


@pytest.mark.parametrize(("policy", "expected"), [(FirstCome(), [0, 1, 2, 3]),
                                                 (ShortestRemaining(), [1, 3, 2, 0]), (EarliestDeadline(), [2, 0, 1, 3])])
def test_O15_each_policy_has_its_order(pipe: Pipeline, policy: Policy, expected: list[int]) -> None:
    engine = Engine(pipe, policy=policy, rows=1, patience=10**6, clock=Clock())
    for steps, deadline in ((5, 90.0), (1, None), (3, 50.0), (2, None)):
        engine.submit(job(steps), deadline_sec=deadline)
    assert order(engine) == expected


def test_priority_goes_before_rank_and_age_before_neither_but_in_its_own_ticks(pipe: Pipeline) -> None:
    engine = Engine(pipe, rows=1, patience=10**6)
    for steps, priority in ((1, 0), (4, 1), (2, 1), (9, 5)):
        engine.submit(job(steps), priority=priority)
    assert order(engine) == [3, 2, 1, 0]


def test_shortest_remaining_lets_a_short_one_pass_a_long_one_that_runs(pipe: Pipeline) -> None:
    engine = Engine(pipe, rows=1, patience=10**6)
    long = engine.submit(job(9))
    for _ in range(4):
        engine.tick()
    longer, shorter = engine.submit(job(6)), engine.submit(job(4))
    assert order(engine) == [shorter.number, long.number, longer.number]


def test_fair_share_gives_keys_equal_rows_however_much_they_ask(pipe: Pipeline) -> None:
    engine = Engine(pipe, policy=FairShare(), rows=2, patience=10**6)
    greedy = [engine.submit(job(10), key="greedy") for _ in range(8)]
    for _ in range(10):
        engine.tick()                                      # alone, it has everything
    assert sum(ticket.step for ticket in greedy) == 20
    modest = [engine.submit(job(10), key="modest") for _ in range(2)]
    for _ in range(10):
        engine.tick()
    assert (sum(ticket.step for ticket in greedy), sum(ticket.step for ticket in modest)) == (30, 10)          # a newcomer is owed no past
    for _ in range(10):
        engine.tick()
    assert [ticket.status for ticket in modest] == ["done", "done"]
    assert sum(ticket.step for ticket in greedy) == 40


def test_a_share_is_counted_in_network_rows_whichever_steps_are_guided(pipe: Pipeline) -> None:
    """In an interval in the middle a step costs two rows, outside one."""
    engine = Engine(pipe, policy=FairShare(), rows=1)
    ticket = engine.submit(ask("cat", steps=8, guidance="CFG(3.0, Interval(0.3, 3.0))"), key="one")
    assert set(ticket.job.rows) == {1, 2}
    while ticket.live:
        assert engine._served["one"] == ticket.job.nfe == engine.rows_done
        engine.tick()
    assert engine._served == {}


def test_a_tick_has_at_most_rows_network_rows_of_one_shape(pipe: Pipeline) -> None:
    engine = Engine(pipe, policy=FirstCome(), rows=5, patience=10**6)
    tickets = [engine.submit(ask("cat", steps=2, guidance=w)) for w in (3.0, 3.0, 3.0, 1.0)]
    engine.tick()
    assert [ticket.step for ticket in tickets] == [1, 1, 0, 1]
    assert (engine.rows_done, engine.ticks) == (5, 1)
    tight = Engine(pipe, rows=1)
    tight.submit(ask("cat", steps=1, guidance=3.0))
    assert len(tight.tick()) == 1                          # the first one goes, even if it alone is more


ADVERSARIES: dict[str, tuple[Policy, dict[str, object]]] = {
    "shortest": (ShortestRemaining(), {}), "deadline": (EarliestDeadline(), {"deadline_sec": 5.0}), "priority": (FirstCome(), {"priority": 1}),
    "fair": (FairShare(), {"key": "new"})}


@pytest.mark.parametrize("name", ADVERSARIES)
@pytest.mark.parametrize("patience", [4, 10**6])
def test_nobody_starves_against_an_adversary(pipe: Pipeline, name: str, patience: int) -> None:
    """Every tick brings two requests that the policy prefers, as many as a tick can serve. Only the ticks of age save the long one."""
    policy, settings = ADVERSARIES[name]
    clock = Clock()
    engine = Engine(pipe, policy=policy, rows=2, patience=patience, queue=64, clock=clock)
    victim = engine.submit(job(12))
    for tick in range(12 * 4):
        for _ in range(min(2, engine.queue - len(engine.live))):
            given = {**settings, **({"key": f"{tick}/{random.random()}"} if "key" in settings else {})}
            engine.submit(job(1), **given)  # type: ignore[arg-type]
        engine.tick()
        if not victim.live:
            break
    if patience == 4:
        assert victim.status == "done"
        assert engine.ticks <= 4 * 12
    elif name != "fair":                                   # a new key comes in at the least share, so fair share alone serves the victim too
        assert victim.step == 0


@pytest.mark.parametrize("policy", [cls() for cls in registry(Policy).values()], ids=repr)
def test_the_bound_holds_for_every_ticket_of_random_arrivals(pipe: Pipeline, policy: Policy) -> None:
    draw = random.Random(1)
    patience = 3
    engine = Engine(pipe, policy=policy, rows=3, patience=patience, queue=12)
    bound: dict[Ticket, int] = {}
    for tick in range(150):
        while len(engine.live) < engine.queue and tick < 120 and draw.random() < 0.7:
            older = sum(ticket.steps - ticket.step for ticket in engine.live)
            ticket = engine.submit(ask("cat", steps=draw.choice((1, 1, 2, 12)), guidance=draw.choice((1.0, 3.0))), key=draw.choice("ab"),
                                   priority=draw.choice((0, 3)))
            bound[ticket] = engine.ticks + patience * (older + ticket.steps)
        for finished in engine.tick():
            assert engine.ticks <= bound.pop(finished.ticket)
        assert all(engine.ticks <= last for last in bound.values())
    assert len(bound) < 12


def test_a_deadline_that_passes_ends_the_ticket_and_one_that_cannot_be_met_is_refused(pipe: Pipeline) -> None:
    clock = Clock()
    engine = Engine(pipe, rows=1, clock=clock)
    late, fine = engine.submit(job(9), deadline_sec=2.0), engine.submit(job(9))
    engine.tick()
    clock.now = 2.0
    [finished] = engine.tick()
    assert (finished.ticket, finished.status, finished.image, finished.seconds) == (late, "expired", None, 2.0)
    assert [ticket.number for ticket in engine.live] == [fine.number]
    engine.rate.value = 0.5                                # two seconds a row
    with pytest.raises(Refused, match="its deadline of 3 s") as failure:
        engine.submit(job(4), deadline_sec=3.0)
    assert failure.value.code == "deadline_unreachable"
    assert failure.value.retry_sec > 0
    assert engine.submit(job(4), deadline_sec=60.0).live
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError) as bad:
            engine.submit(job(1), deadline_sec=wrong)
        assert bad.value.code == "bad_deadline"


def test_what_has_ended_is_told_though_the_model_fails_in_that_tick(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("the model failed")

    clock = Clock()
    engine = Engine(pipe, clock=clock)
    late, fine = engine.submit(job(3), deadline_sec=2.0), engine.submit(job(3))
    clock.now = 2.0
    monkeypatch.setattr("inkwash.serve.engine.step", fail)
    with pytest.raises(RuntimeError, match="the model failed"):
        engine.tick()
    monkeypatch.undo()
    assert [(finished.ticket, finished.status) for finished in engine.tick()] == [(late, "expired")]
    assert [finished.ticket for finished in engine.run()] == [fine]


def test_the_queue_is_bounded_and_a_closed_engine_only_finishes(pipe: Pipeline) -> None:
    engine = Engine(pipe, queue=2)
    first, second = engine.submit(job(2)), engine.submit(job(2))
    with pytest.raises(Refused) as full:
        engine.submit(job(2))
    assert (full.value.code, full.value.exit_code) == ("queue_full", 5)
    assert engine.cancel(second)
    assert not engine.cancel(second)
    assert engine.submit(job(2)).live
    engine.close()
    with pytest.raises(Refused) as closed:
        engine.submit(job(2))
    assert closed.value.code == "engine_closed"
    assert sorted(finished.ticket.number for finished in engine.run()) == [0, 2]
    assert (first.status, second.status) == ("done", "cancelled")
    assert engine.tick() == []


def test_a_request_that_the_model_cannot_make_is_refused_at_once(pipe: Pipeline) -> None:
    engine = Engine(pipe)
    for wrong in (ask("cat", width=9), ask("cat", sampler="nonsense"), ask("cat", guidance="AutoGuidance()")):
        with pytest.raises(UsageError):
            engine.submit(wrong)
    assert engine.live == ()
    assert engine._served == {}


def test_a_wait_is_told_in_seconds_of_measured_speed(pipe: Pipeline) -> None:
    engine = Engine(pipe, rows=2)
    assert engine.wait_sec(10) == 0.0
    engine.submit(job(40))
    engine.submit(job(3))
    engine.rate.value = 10.0
    assert engine.wait_sec(5) == pytest.approx((5 + 3 + 2) / 10)  # itself, the shorter one, and a quarter of that for the oldest
    assert engine.wait_sec(3) == pytest.approx((3 + 3 + 1) / 10)  # of equals the one that came first goes first
    assert engine.wait_sec(100) == pytest.approx(14.3)
    assert engine.wait_sec(5, priority=1) == pytest.approx(0.6)


def test_a_wait_by_deadlines_counts_those_that_are_due_sooner_from_now(pipe: Pipeline) -> None:
    clock = Clock()
    engine = Engine(pipe, policy=EarliestDeadline(), rows=1, patience=10**6, clock=clock)
    clock.now = 100.0                                      # deadlines are told as seconds from now, whatever the clock says
    engine.submit(job(7), deadline_sec=20.0)
    engine.submit(job(4), deadline_sec=60.0)
    engine.rate.value = 10.0
    assert engine.wait_sec(2, deadline_sec=30.0) == pytest.approx(0.9)
    assert engine.wait_sec(2) == pytest.approx(1.3)


def test_a_wait_by_shares_gives_a_newcomer_the_least_share_of_those_that_wait(pipe: Pipeline) -> None:
    engine = Engine(pipe, policy=FairShare(), rows=1, patience=10**6)
    engine.submit(job(8), key="old")
    for _ in range(3):
        engine.tick()
    engine.rate.value = 1.0
    assert engine.wait_sec(2, key="new") == engine.wait_sec(2, key="old") == pytest.approx(7.0)


def test_a_full_queue_says_when_its_first_place_is_free(pipe: Pipeline) -> None:
    engine = Engine(pipe, queue=2)
    engine.submit(job(9))
    engine.submit(job(4))
    engine.rate.value = 2.0
    with pytest.raises(Refused) as full:
        engine.submit(job(1))
    assert full.value.retry_sec == pytest.approx(2.0)


def test_speed_is_measured_in_network_rows_and_fades_with_the_time_of_work(pipe: Pipeline) -> None:
    engine = Engine(pipe)
    assert engine.tick() == []
    assert (engine.ticks, engine.rate.tick) == (0, 0.0)
    engine.submit(ask("cat", steps=2, guidance=3.0))
    engine.tick()
    assert (engine.ticks, engine.rate.tick) == (1, 2.0)
    rate, faded = Rate(), math.exp(-2.5 / 5)
    rate.add(10, 0.5)
    rate.add(4, 2.5)
    rate.add(0, 9.0)                                       # nothing was done: nothing is learned
    assert (rate.value, rate.tick) == pytest.approx((20 * faded + 1.6 * (1 - faded), 10 * faded + 4 * (1 - faded)))
    assert rate.seconds(3) == pytest.approx(3 / rate.value)


def test_policies_are_values() -> None:
    assert {str(cls()) for cls in registry(Policy).values()} == {"first_come", "shortest", "deadline", "fair"}
    assert parse("shortest", Policy) == ShortestRemaining()  # type: ignore[type-abstract]
