"""The plan of a service: simulations against formulas of queues and against the engine itself, and the arithmetic of the articles."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import pytest

from inkwash.errors import DataError, UsageError
from inkwash.serve.plan.answer import Row, divide, plan, row_of
from inkwash.serve.plan.curve import Curve, read_curve, write_curve
from inkwash.serve.plan.simulate import Server, percentile, simulate
from inkwash.serve.plan.traffic import Arrival, poisson, rate_of, read_traffic
from inkwash.serve.policy import FirstCome, Policy, ShortestRemaining

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import engine_load

sys.path.pop(0)

EVER = 1e9
USUAL = {"steps": 20, "guidance": 4.0, "sampler": "ddim"}
ONE_ROW = {"steps": 1, "guidance": 1.0}
PER_MINUTE = 1000 / 60
PATIENT = Server(FirstCome(), queue=10**9, queue_per_key=10**9)
BATCHING = Curve(seconds={1: 0.023, 2: 0.03, 4: 0.04, 8: 0.053, 16: 0.09}, image_sec=0.015)


def waits(arrivals: list[Arrival], curve: Curve, server: Server = PATIENT) -> list[float]:
    """Seconds from coming to going, less the time of the request alone."""
    outcomes = simulate(arrivals, curve, 1, server).outcomes
    assert {outcome.end for outcome in outcomes} == {"done"}
    return [outcome.seconds - arrival.steps * curve.tick(1, 1) for outcome, arrival in zip(outcomes, arrivals, strict=True)]


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_row_at_a_time_is_the_queue_m_d_1(load: float) -> None:
    found = waits(poisson(load / 2.0, 15_000, 1, [ONE_ROW], EVER), Curve(seconds={1: 2.0}))
    assert sum(found) / len(found) == pytest.approx(2.0 * load / (2 * (1 - load)), rel=0.08)


def test_mixed_lengths_are_the_queue_m_g_1() -> None:
    """Pollaczek and Khinchine: the mean wait is rate E[S^2] / (2 (1 - load))."""
    lengths, load = (1, 2, 9), 0.6
    mean, square = sum(lengths) / 3, sum(length**2 for length in lengths) / 3
    arrivals = poisson(load / mean, 15_000, 2, [{"steps": length, "guidance": 1.0} for length in lengths], EVER)
    found = waits(arrivals, Curve(seconds={1: 1.0}))
    assert sum(found) / len(found) == pytest.approx(load / mean * square / (2 * (1 - load)), rel=0.08)


@pytest.mark.parametrize("load", [0.5, 0.9, 2.0])
def test_the_simulation_is_the_engine(load: float) -> None:
    """The real engine, on a network that lets a clock go on: every request takes the same time to the last digit that counts."""
    asked = engine_load.traffic("users", load, 80, BATCHING.seconds, BATCHING.image_sec, seed=3)
    real = engine_load.engine_times(asked, BATCHING.seconds, BATCHING.image_sec)
    arrivals = [Arrival(one.at, one.request.steps, one.request.guidance != 1.0, EVER, {"prompt": ""}) for one in asked]
    ours = simulate(arrivals, BATCHING, 1, PATIENT._replace(policy=ShortestRemaining())).outcomes
    assert [outcome.seconds for outcome in ours] == pytest.approx(real, rel=1e-9)


def test_nothing_is_lost_and_work_is_counted_once() -> None:
    arrivals = poisson(3.0, 300, 4, [{"steps": 3, "guidance": 2.0}, ONE_ROW], EVER)
    curve = Curve(seconds={1: 0.1, 2: 0.2}, ticket_sec=0.01, image_sec=0.02)            # batching gains nothing: work is the same in any order
    for workers in (1, 2, 5):
        seen = simulate(arrivals, curve, workers, PATIENT)
        work = sum(a.steps * ((0.2 if a.guided else 0.1) + 0.01) + 0.02 for a in arrivals)
        assert seen.busy_sec == pytest.approx(work)
        assert [outcome.end for outcome in seen.outcomes] == ["done"] * 300


def test_a_prompt_is_encoded_once_on_a_worker() -> None:
    curve = Curve(seconds={1: 1.0}, encode_sec=0.25)
    arrivals = [Arrival(0.0, 1, False, EVER, {"prompt": text}) for text in ("a", "a", "b")]
    assert simulate(arrivals, curve, 1, PATIENT).busy_sec == pytest.approx(3.5)


def seen_with(rate: float, workers: int, policy: Policy | None = None, deadline: float = 4.0) -> Row:
    arrivals = poisson(rate, 1500, 5, [{"steps": 10, "guidance": 3.0}, {"steps": 4, "guidance": 1.0}], deadline)
    server = Server(queue=32) if policy is None else PATIENT._replace(policy=policy)
    return row_of(simulate(arrivals, BATCHING, workers, server), workers, 3.0)


def test_more_traffic_is_slower_and_more_workers_are_quicker() -> None:
    by_rate = [seen_with(rate, 1, FirstCome(), EVER) for rate in (1.0, 4.0, 8.0, 12.0)]
    assert all(a.p50 < b.p50 and a.p99 < b.p99 and a.busy < b.busy for a, b in pairwise(by_rate))
    by_workers = [seen_with(30.0, workers) for workers in (1, 2, 3, 5)]
    assert all(a.kept < b.kept or a.kept == 1.0 for a, b in pairwise(by_workers))
    assert by_workers[0].kept < 0.6
    assert by_workers[-1].kept == 1.0


def test_short_jobs_first_lowers_the_mean() -> None:
    arrivals = poisson(8.0, 500, 6, [{"steps": 40, "guidance": 3.0}, {"steps": 4, "guidance": 1.0}], EVER)
    means = {policy: sum(o.seconds for o in simulate(arrivals, BATCHING, 1, PATIENT._replace(policy=policy)).outcomes)
             for policy in (FirstCome(), ShortestRemaining())}
    assert means[ShortestRemaining()] < 0.7 * means[FirstCome()]


@pytest.mark.parametrize(("deadline", "server"), [(5.0, Server(queue=32)), (5.0, Server(queue=1000, queue_per_key=1000)),
                                                  (10.0, Server(queue=1000, queue_per_key=1000))], ids=("full", "late", "later"))
def test_overload_is_refused_and_the_rest_is_in_time(deadline: float, server: Server) -> None:
    """Ten times the capacity, refused for the queue or for the deadline: goodput stays at nine tenths of what full batches do."""
    capacity = divide(1.0, 10 * 2 * BATCHING.row_sec() + BATCHING.image_sec, 0.0).images_per_sec
    arrivals = poisson(10 * capacity, 4000, 7, [{"steps": 10, "guidance": 3.0}], deadline)
    row = row_of(simulate(arrivals, BATCHING, 1, server), 1, 0.0)
    assert row.refused > 0.85
    assert row.late < 0.001
    assert row.images_per_sec > 0.9 * capacity


def test_the_queue_is_bounded() -> None:
    at_once = [Arrival(0.0, 5, False, EVER, {}) for _ in range(100)]
    for server, taken in ((Server(queue=20, queue_per_key=64), 20), (Server(queue=64, queue_per_key=32), 32)):
        ends = [outcome.end for outcome in simulate(at_once, BATCHING, 1, server).outcomes]
        assert ends == ["done"] * taken + ["refused"] * (100 - taken)


def test_the_articles_arithmetic() -> None:
    """1000 requests a minute: 13 GPUs and 16 with a spare; $3 an hour at half an image a second: 0.167 cents. And what that leaves out."""
    arrivals = poisson(PER_MINUTE, 2000, 0, [ONE_ROW], 10.0)
    free = plan(arrivals, PER_MINUTE, Curve(seconds={1: 3.0, 4: 3.0}), Server(), 3.0)
    assert (free.division.workers, free.division.spare) == (13, 16)
    assert free.division.images_per_sec == pytest.approx(4 / 3)
    assert free.division.busy == pytest.approx(12.5 / 13)
    assert any("no gain from batching it is 50 workers, with a gain of 1.5 it is 34" in note for note in free.notes)
    assert free.least is not None
    assert 16 <= free.least <= 20, "a server that is 96% busy cannot promise 10 s when a tick takes 3"
    roomy = plan(arrivals, PER_MINUTE, Curve(seconds={1: 3.0, 4: 3.0}), Server(), 3.0, 13)
    assert roomy.rows[0].kept > 0.98
    assert any(note.startswith("the workers are 96% busy; with a fifth more traffic") for note in roomy.notes)
    slow = plan(arrivals, PER_MINUTE, Curve(seconds={1: 2.0}), Server(), 3.0)
    assert slow.division.workers == 34
    assert 100 * slow.division.image_cost == pytest.approx(1 / 6)                       # cents
    hours = 1000 / slow.division.images_per_sec / 3600
    assert (round(60 * hours, 1), round(hours, 3), round(3.0 * hours, 2)) == (33.3, 0.556, 1.67)
    some = plan(arrivals, PER_MINUTE, Curve(seconds={1: 3.0, 4: 8.0}), Server(), 3.0)
    assert some.division.workers == 34
    assert some.least is not None
    assert some.least > 40
    assert any(note.startswith("nobody waits in a division") for note in some.notes)


def test_the_least_number_is_enough_and_one_less_is_not() -> None:
    arrivals = poisson(30.0, 1500, 8, [{"steps": 10, "guidance": 3.0}], 2.0)
    found = plan(arrivals, 30.0, BATCHING, Server(), 0.0).least
    assert found is not None
    kept = [row_of(simulate(arrivals, BATCHING, workers, Server()), workers, 0.0).kept for workers in (found - 1, found)]
    assert kept[0] < 0.99 <= kept[1]


def test_what_no_worker_can_do_is_said() -> None:
    with pytest.raises(UsageError, match="no number of workers helps") as error:
        plan(poisson(1.0, 10, 0, [{"steps": 100, "guidance": 3.0}], 1.0), 1.0, BATCHING, Server(), 0.0)
    assert error.value.code == "deadline_impossible"


def test_percentiles_are_values() -> None:
    assert [percentile([3.0, 1.0, 2.0, 4.0], share) for share in (0.25, 0.5, 0.99)] == [1.0, 2.0, 4.0]


def test_curves_come_back(tmp_path: Path) -> None:
    write_curve(BATCHING, tmp_path / "a.json")
    assert read_curve(tmp_path / "a.json") == BATCHING
    assert BATCHING.tick(6, 3) == pytest.approx(BATCHING.seconds[8])                    # filled up: two calls would take longer


@pytest.mark.parametrize("text", ["", "[]", '{"seconds": {}}', '{"seconds": {"0": 1}}', '{"seconds": {"1": -1}}',
                                  '{"seconds": {"1": 1}, "speed": 2}'])
def test_bad_curves_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError) as error:
        read_curve(tmp_path / "a.json")
    assert error.value.code == "bad_curve"


def test_traffic_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text('{"at": 2, "steps": 5, "guidance": 1, "prompt": "a cat"}\n\n{"at": 0.5, "deadline_ms": 1500}\n')
    first, second = read_traffic(file, USUAL, 10.0)
    assert (first.at, first.steps, first.guided, first.deadline_sec) == (0.5, 20, True, 1.5)
    assert (second.at, second.steps, second.guided, second.deadline_sec) == (2.0, 5, False, 10.0)
    assert (second.body["prompt"], second.body["steps"], second.body["sampler"]) == ("a cat", 5, "ddim")


def test_requests_that_come_at_once_have_a_rate() -> None:
    assert rate_of([Arrival(0.0, 20, True, 4.0, {}), Arrival(0.0, 20, True, 2.0, {})]) == 0.5
    assert rate_of([Arrival(0.0, 20, True, 4.0, {}), Arrival(5.0, 20, True, 2.0, {})]) == 0.4


@pytest.mark.parametrize("line", ["{", "[1]", "{}", '{"at": -1}', '{"at": true}', '{"at": 1, "step": 4}', '{"at": 1, "steps": 0}', '{"at": 1e999}',
                                  '{"at": 1, "guidance": "CFG(scale=4.0)"}', '{"at": 1, "deadline_ms": 0}',
                                  f'{{"at": 1{"0" * 400}}}', f'{{"at": 1, "prompt": {"[" * 100_000}'], ids=lambda line: line[:30])
def test_bad_traffic_is_refused_with_its_line(line: str, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(f'{{"at": 0}}\n{line}\n')
    with pytest.raises(DataError, match="line 2") as error:
        read_traffic(tmp_path / "t.jsonl", USUAL, 10.0)
    assert error.value.code == "bad_traffic"
