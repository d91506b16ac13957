"""Spacings: exactly n steps, from the terminal level to clean, on the published grids."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from scipy import stats

from inkwash.core.level import Gauge
from inkwash.core.schedule import Cosine, Exponential, Linear, ScaledLinear, Schedule, Shifted, Straight, Tabulated, ZeroTerminal
from inkwash.core.spacing import Beta, Karras, Leading, Linspace, LogSNR, Path, Quadratic, Spacing, Trailing, Uniform, beta_quantile
from inkwash.errors import UsageError
from inkwash.sample.onestep import DDIM
from inkwash.sample.singlestep import Heun
from inkwash.value import alias_table, parse, registry

SPACINGS = sorted({repr(s): s for s in alias_table(Spacing).values()}.values(), key=repr)  # type: ignore[type-abstract]
SCHEDULES: list[Schedule] = [Linear(), Cosine(), ZeroTerminal(ScaledLinear()), Straight(), Shifted(Straight(), 3.0), Exponential(),
                             Tabulated((0.01, 0.1, 0.2, 0.4, 0.9))]
F64 = torch.float64


def test_every_spacing_is_covered_and_is_a_value() -> None:
    assert {type(s).__name__ for s in SPACINGS} == set(registry(Spacing))  # type: ignore[type-abstract]
    assert all(parse(repr(s), Spacing) == s for s in SPACINGS)  # type: ignore[type-abstract]


def check(schedule: Schedule, path: Path, steps: int) -> None:
    assert path.steps == steps
    assert len(path.points) == steps + 1
    assert path.gauge is schedule.gauge
    terminal = schedule(1.0)
    assert path.points[0] == (float(terminal.alpha), float(terminal.sigma))
    assert path.points[-1] == (1.0, 0.0)
    lam = path.levels.lam
    assert bool((lam[1:] > lam[:-1]).all())


@pytest.mark.parametrize("spacing", SPACINGS, ids=repr)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_s5_exactly_n_steps_from_terminal_to_clean(spacing: Spacing, schedule: Schedule) -> None:
    for steps in (1, 2, 3, 7, 30, 50, 600, 1000):
        check(schedule, spacing.levels(schedule, steps), steps)


@pytest.mark.parametrize("spacing", [Leading(), Trailing(), Linspace(), Uniform(), Karras()], ids=repr)
def test_s5_every_n_up_to_1000(spacing: Spacing) -> None:
    for steps in range(1, 1001, 7 if spacing == Karras() else 1):
        check(Linear(), spacing.levels(Linear(), steps), steps)


def index(path: Path) -> list[int]:
    """The 0-based table index of every level but the clean one."""
    time = Linear().time(path.levels.lam[:-1]) * 1000 - 1
    assert float((time - time.round()).abs().max()) < 1e-6
    return [int(i) for i in time.round()]


def test_s5_the_code_of_the_tutorial_is_wrong_and_ours_is_not() -> None:
    """range(0, T, T // n) reversed starts at 980 for n = 50 and at 950 for n = 20, and makes 31 and 1000 steps for n = 30 and 600."""
    def tutorial(n: int) -> list[int]:
        return list(range(0, 1000, 1000 // n))[::-1]

    assert (tutorial(50)[0], tutorial(20)[0], len(tutorial(30)), len(tutorial(600))) == (980, 950, 31, 1000)
    for n in (20, 30, 50, 600):
        ours = index(Leading().levels(Linear(), n))
        assert (len(ours), ours[0]) == (n, 999)
        if 1000 % n == 0:
            assert ours[1:] == tutorial(n)[1:]


def test_s5_published_grids() -> None:
    assert index(Trailing().levels(Linear(), 10)) == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    assert index(Trailing().levels(Linear(), 3)) == [999, 666, 332]
    assert index(Linspace().levels(Linear(), 5)) == [999, 749, 500, 250, 0]
    assert index(Leading().levels(Linear(), 4)) == [999, 500, 250, 0]
    assert all(index(s.levels(Linear(), 1)) == [999] for s in (Trailing(), Linspace(), Leading()))


def test_s5_a_short_table_is_divided_by_its_own_entries() -> None:
    schedule = Tabulated((0.01, 0.1, 0.2, 0.4, 0.9))
    entries = schedule.lam(torch.tensor([5, 4, 3, 2, 1], dtype=F64) / 5)
    for spacing in (Trailing(), Leading(), Linspace()):
        assert torch.equal(spacing.levels(schedule, 5).levels.lam[:-1], Path.of(Gauge.VP, entries).levels.lam)


@pytest.mark.parametrize("spacing", [Karras(cap=1e-5), LogSNR(cap=1e-5)], ids=repr)
def test_a_cap_below_the_clean_end_still_leaves_room_for_steps(spacing: Spacing) -> None:
    check(Straight(), spacing.levels(Straight(), 6), 6)


def test_s11_karras_grid_is_exact() -> None:
    schedule, n = Exponential(0.002, 80.0), 18
    sigma = Karras().levels(schedule, n).levels.sigma
    for i in range(n):
        expected = (80.0 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80.0 ** (1 / 7))) ** 7
        assert float(sigma[i]) == pytest.approx(expected, rel=1e-12)
    assert float(sigma[0]) == pytest.approx(80.0, rel=1e-14)
    assert float(sigma[-2]) == pytest.approx(0.002, rel=1e-12)


def test_quadratic_and_log_snr_divide_what_they_say() -> None:
    time = Linear().time(Quadratic().levels(Linear(), 9).levels.lam[:-1]).sqrt()
    assert float((time.diff().diff()).abs().max()) < 1e-9
    assert float(time[-1]) == pytest.approx(1000**-0.5, rel=1e-9)
    lam = LogSNR().levels(Linear(), 9).levels.lam[:-1]
    assert float((lam.diff().diff()).abs().max()) < 1e-10
    assert float(lam[-1]) == pytest.approx(float(Linear().lam(torch.tensor(1 / 1000, dtype=F64))), rel=1e-12)


def test_log_snr_goes_on_from_its_cap_where_the_terminal_level_is_infinite() -> None:
    lam = LogSNR(cap=50.0).levels(Straight(), 10).levels.lam[1:-1]
    low = math.log(1 / 999)                                # sigma / alpha at t = 1 / 1000
    expected = [-(math.log(50) + i / 9 * (low - math.log(50))) for i in range(1, 10)]
    assert lam.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("schedule", [Cosine(), Straight(), ZeroTerminal(ScaledLinear())], ids=repr)
def test_grids_in_sigma_go_on_from_the_cap_where_the_terminal_level_is_infinite(schedule: Schedule) -> None:
    path = Karras(cap=80.0).levels(schedule, 10)
    assert path.points[0].alpha == 0
    low = math.exp(-float(schedule.lam(torch.tensor(1 / 1000, dtype=F64))))
    assert math.exp(-path.points[1].lam) == pytest.approx((80 ** (1 / 7) + (low ** (1 / 7) - 80 ** (1 / 7)) / 9) ** 7, rel=1e-9)


@pytest.mark.parametrize(("a", "b"), [(0.6, 0.6), (1.0, 1.0), (0.5, 3.0), (5.0, 2.0), (0.1, 0.2)])
def test_beta_quantile_is_scipys(a: float, b: float) -> None:
    p = torch.linspace(0.001, 1, 200, dtype=F64)
    assert float((beta_quantile(p, a, b) - torch.from_numpy(stats.beta.ppf(p.numpy(), a, b))).abs().max()) < 1e-10


def test_beta_puts_its_steps_at_the_quantiles_of_its_two_parameters() -> None:
    time = Linear().time(Beta(2.0, 5.0).levels(Linear(), 8).levels.lam[1:-1])
    assert time.tolist() == pytest.approx(stats.beta.ppf([1 - i / 8 for i in range(1, 8)], 2, 5).tolist(), abs=1e-9)


def test_beta_of_one_is_uniform() -> None:
    assert torch.allclose(Beta(1.0, 1.0).levels(Linear(), 20).levels.sigma, Uniform().levels(Linear(), 20).levels.sigma, atol=1e-9)


def test_r4_one_step_of_a_shifted_flow_has_no_nan() -> None:
    for spacing in SPACINGS:
        path = spacing.levels(Shifted(Straight(), 3.0), 1)
        assert path.points == [(0.0, 1.0), (1.0, 0.0)]
        for sampler in (DDIM(), Heun()):
            plan = sampler.plan(path)
            assert plan.rows == 1
            assert torch.equal(plan.weights[0, 0, :3], torch.tensor([0.0, 0.0, 1.0], dtype=F64))


def test_wrong_counts_are_refused() -> None:
    for steps in (0, -3):
        with pytest.raises(UsageError, match="at least 1"):
            Uniform().levels(Linear(), steps)
    path = Uniform().levels(Linear(), 10)
    for strength in (0.0, 1.5, -1.0, math.nan):
        with pytest.raises(UsageError, match="strength"):
            path.cut(strength)
    with pytest.raises(UsageError, match=r"1\.\.10"):
        path.last(11)
    with pytest.raises(UsageError, match="alpha > 0"):
        Beta(0.0, 1.0)
    for rho in (0.0, 0.001, -7.0, 1e9, math.nan):
        with pytest.raises(UsageError, match=r"rho within 0\.1\.\.1000"):
            Karras(rho=rho)
    for cap in (0.0, -1.0, 1e300, math.inf, math.nan):
        for kind in (Karras, LogSNR):
            with pytest.raises(UsageError, match="cap within"):
                kind(cap=cap)


@pytest.mark.parametrize("gauge", list(Gauge))
def test_K2_the_start_is_a_continuous_function_of_strength(gauge: Gauge) -> None:
    """.834 and .835 differ, and no strength jumps, though the rows that run are whole numbers."""
    path = Trailing().levels(Linear(), 50).to(gauge)
    starts = []
    for thousandth in range(1, 1001):
        cut = path.cut(thousandth / 1000)
        assert cut.steps == max(1, round(thousandth / 20))
        assert bool((cut.levels.lam.diff() > 0).all())
        starts.append(math.atan2(cut.points[0].sigma, cut.points[0].alpha))
    steps = [b - a for a, b in pairwise(starts)]
    whole = [math.atan2(point.sigma, point.alpha) for point in path.points]
    assert 0 < min(steps) <= max(steps) < 1.01 / 20 * max(a - b for a, b in pairwise(whole))
    assert 0 < path.cut(1e-300).points[0].sigma < 1e-6
    assert starts[0] == pytest.approx(whole[-2] / 20)


def test_cut_keeps_the_end() -> None:
    path = Uniform().levels(Cosine(), 10)
    assert path.cut(1.0).points == path.points
    assert path.cut(0.5).points == path.points[5:]
    assert path.cut(0.001).points[1:] == path.points[10:]
    up = path.up()
    assert up.points == path.points[-2::-1]
    assert path.to(Gauge.FLOW).points[0] == (0.0, 1.0)
