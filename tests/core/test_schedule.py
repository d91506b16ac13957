"""Schedules: the numbers that papers and tutorials quote, and what must hold for every schedule in the registry."""

from __future__ import annotations

import math

import pytest
import torch

from inkwash.core.level import Gauge, Level, rescale
from inkwash.core.prediction import EDM, X0, Eps, Score, V, Velocity, require_solvable
from inkwash.core.schedule import (
    Cosine,
    DiscreteCosine,
    Exponential,
    Linear,
    ScaledLinear,
    Schedule,
    Shifted,
    Sigmoid,
    Straight,
    Tabulated,
    ZeroTerminal,
)
from inkwash.errors import UsageError
from inkwash.value import alias_table, parse, registry

EXAMPLES: dict[str, list[Schedule]] = {
    "Tabulated": [Tabulated((0.01, 0.3, 0.2, 0.9))],
    "Shifted": [Shifted(Straight()), Shifted(Linear(), 0.5), Shifted(Cosine(), 2.0)],
    "ZeroTerminal": [ZeroTerminal(ScaledLinear()), ZeroTerminal(Linear())],
}
SCHEDULES: list[Schedule] = [*alias_table(Schedule).values(), *(item for items in EXAMPLES.values() for item in items)]


def test_every_schedule_is_covered() -> None:
    assert {type(schedule).__name__ for schedule in SCHEDULES} == set(registry(Schedule))


def test_f5_linear() -> None:
    abar = Linear().abar()
    assert float(abar[499]) == pytest.approx(0.0786, abs=5e-5)
    assert float(abar[999]) == pytest.approx(4.04e-5, abs=5e-8)
    assert int((abar < 0.5).nonzero()[0]) + 1 == 260


@pytest.mark.parametrize(("floor", "half"), [(0.0, 0.4938), (1e-4, 0.4937)])
def test_f6_cosine_in_both_variants(floor: float, half: float) -> None:
    table = DiscreteCosine(floor=floor)
    assert float(table.abar()[499]) == pytest.approx(half, abs=5e-5)
    assert float(table.abar()[999]) == pytest.approx(2.43e-9, abs=5e-12)
    assert float(table.betas().max()) == 0.999


def test_f6_the_lower_clamp_alters_the_first_thirteen_betas() -> None:
    plain, clamped = DiscreteCosine().betas(), DiscreteCosine(floor=1e-4).betas()
    assert (plain != clamped).nonzero().flatten().tolist() == list(range(13))
    assert float(plain[0]) == pytest.approx(4.13e-5, abs=5e-8)


def test_f6_continuous_cosine_is_the_table_before_its_cap() -> None:
    k = torch.arange(1, 999, dtype=torch.float64)
    torch.testing.assert_close(Cosine()(k / 1000).alpha ** 2, DiscreteCosine().abar()[:998], rtol=1e-10, atol=0)


def test_f7_raw_sigmoid_is_refused_and_says_why() -> None:
    with pytest.raises(UsageError, match=r"0\.9975.*rescaled=True"):
        Sigmoid(rescaled=False)
    raw = torch.sigmoid(torch.linspace(-6, 6, 1000, dtype=torch.float64))
    abar = torch.log1p(-raw).cumsum(0).exp()
    assert float(abar[249]) == pytest.approx(0.02, abs=2e-3)
    assert float(abar[499]) == pytest.approx(1.5e-30, rel=0.1)


def test_f7_rescaled_sigmoid() -> None:
    assert float(Sigmoid().abar()[999]) == pytest.approx(3.93e-5, abs=5e-8)


def test_f7_sigmoid_with_both_ends_is_what_diffusers_has() -> None:
    betas = torch.sigmoid(torch.linspace(-6, 6, 1000, dtype=torch.float64)) * (0.02 - 1e-4) + 1e-4
    torch.testing.assert_close(Sigmoid(symmetric=True).betas(), betas, rtol=1e-13, atol=0)


def test_f2_closed_form_equals_the_product() -> None:
    for schedule in (Linear(), ScaledLinear(), Sigmoid(), DiscreteCosine()):
        product = torch.cumprod(1 - schedule.betas(), 0)
        torch.testing.assert_close(schedule.abar(), product, rtol=1e-12, atol=0)


def test_f4_two_steps_of_noise_are_one() -> None:
    a = 1 - Linear().betas()
    torch.testing.assert_close(a[1:] * (1 - a[:-1]) + (1 - a[1:]), 1 - a[1:] * a[:-1], rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("start", [0.5, -1.5])
def test_f1_the_chain_of_small_steps_has_the_closed_form(start: float) -> None:
    generator = torch.Generator().manual_seed(0)
    count = 20_000
    schedule = Linear()
    x0 = start + 0.3 * torch.randn(count, generator=generator, dtype=torch.float64)
    x = x0.clone()
    for k, beta in enumerate(schedule.betas().tolist(), start=1):
        x = math.sqrt(1 - beta) * x + math.sqrt(beta) * torch.randn(count, generator=generator, dtype=torch.float64)
        if k in (1, 10, 100, 500, 1000):
            level = schedule(k / 1000)
            mean, var = float(level.alpha) * start, float(level.alpha**2 * 0.09 + level.sigma**2)
            assert abs(float(x.mean()) - mean) < 4 * math.sqrt(var / count)
            assert abs(float(x.var()) - var) < 4 * var * math.sqrt(2 / count)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_f9_snr_decreases_and_time_inverts(schedule: Schedule) -> None:
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)
    lam = schedule.lam(t)
    assert bool((lam[1:] < lam[:-1]).all())
    assert not bool(lam.isnan().any())
    inner = t[1:-1]
    torch.testing.assert_close(schedule.time(schedule.lam(inner)), inner, rtol=0, atol=1e-9)
    torch.testing.assert_close(schedule.time(lam[[0, -1]]), t[[0, -1]], rtol=0, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_the_time_of_a_level_outside_the_schedule_is_its_nearer_end(schedule: Schedule) -> None:
    first, last = schedule.lam(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
    beyond = torch.tensor([first - 3, last + 3, -math.inf, math.inf], dtype=torch.float64)
    torch.testing.assert_close(schedule.time(beyond), torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_levels_are_finite_and_in_gauge_at_both_ends(schedule: Schedule) -> None:
    level = schedule(torch.tensor([0.0, 1e-6, 0.3, 1.0], dtype=torch.float64))
    unit = {Gauge.VP: level.alpha**2 + level.sigma**2, Gauge.VE: level.alpha, Gauge.FLOW: level.alpha + level.sigma}[schedule.gauge]
    torch.testing.assert_close(unit, torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-12)
    assert bool(level.sigma.isfinite().all())


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_f3_uniform_times_have_uniform_images(schedule: Schedule) -> None:
    lam = schedule.lam(torch.rand(100_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    counts = torch.histc(schedule.time(lam).float(), bins=50, min=0.0, max=1.0)
    chi_square = float(((counts - 2000) ** 2 / 2000).sum())
    assert chi_square < 86  # p = 1e-3 at 49 degrees of freedom


def test_f9_snr_table() -> None:
    abar = torch.tensor([0.9, 0.5, 0.001], dtype=torch.float64)
    level = Level(abar.sqrt(), (1 - abar).sqrt())
    assert [round(value, 3) for value in level.snr.tolist()] == [9.0, 1.0, 0.001]
    torch.testing.assert_close((2 * level.lam).exp(), abar / (1 - abar), rtol=1e-12, atol=0)


def test_f10_worked_pixel() -> None:
    abar = torch.tensor([0.9, 0.5, 0.001], dtype=torch.float64)
    x = Level(abar.sqrt(), (1 - abar).sqrt()).mix(torch.ones(3, dtype=torch.float64), torch.full((3,), -0.4, dtype=torch.float64))
    assert [round(value, 3) for value in x.tolist()] == [0.822, 0.424, -0.368]


def test_f10_half_the_power_is_not_half_the_amplitude() -> None:
    assert float(Gauge.VP.split(torch.tensor(0.0)).alpha) == pytest.approx(0.707, abs=5e-4)


def test_f11_scaled_linear_leaks() -> None:
    assert float(ScaledLinear().abar()[999]) == pytest.approx(4.66e-3, abs=5e-6)
    assert ScaledLinear().leak() == pytest.approx(0.068, abs=5e-4)
    assert ZeroTerminal(ScaledLinear()).leak() == 0.0


def test_f11_what_is_left_at_the_end_is_counted_in_amplitude_whatever_the_gauge() -> None:
    assert Exponential(0.002, 80.0).leak() == pytest.approx(1 / math.hypot(1, 80), rel=1e-12)
    assert Straight().leak() == 0.0


@pytest.mark.parametrize("steps", [1000, 40])
def test_f11_zero_terminal_is_the_published_table(steps: int) -> None:
    base = ScaledLinear(num_steps=steps)
    root = base.abar().sqrt()
    expected = (root - root[-1]) * root[0] / (root[0] - root[-1])
    level = ZeroTerminal(base)(torch.arange(1, steps + 1, dtype=torch.float64) / steps)
    torch.testing.assert_close(level.alpha, expected, rtol=1e-9, atol=1e-15)
    assert float(level.alpha[-1]) == 0.0
    assert float(level.sigma[-1]) == 1.0


@pytest.mark.parametrize("schedule", [ZeroTerminal(ScaledLinear()), Cosine(), Straight()], ids=repr)
@pytest.mark.parametrize("prediction", [Eps(), Score()], ids=repr)
def test_f11_noise_prediction_is_refused_without_terminal_signal(schedule: Schedule, prediction: Eps | Score) -> None:
    with pytest.raises(UsageError, match="zero signal-to-noise"):
        require_solvable(prediction, schedule)


@pytest.mark.parametrize("prediction", [V(), X0(), Velocity(), EDM()], ids=repr)
def test_f11_others_are_not_refused(prediction: V | X0 | Velocity | EDM) -> None:
    require_solvable(prediction, ZeroTerminal(ScaledLinear()))
    level = ZeroTerminal(ScaledLinear())(1.0)
    x0, eps = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(prediction.solve(level, level.mix(x0, eps), prediction.target(level, x0, eps)), x0, rtol=1e-12, atol=1e-12)


def test_f11_only_signal_that_leaks_is_solvable_by_eps() -> None:
    require_solvable(Eps(), ScaledLinear())
    require_solvable(Eps(), Linear())


def test_r4_shift_is_the_formula_of_the_flow_time() -> None:
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    for shift in (0.5, 1.0, 3.0, 6.0):
        level = Shifted(Straight(), shift)(t)
        torch.testing.assert_close(level.sigma, shift * t / (1 + (shift - 1) * t), rtol=1e-12, atol=1e-15)


def test_r4_shift_from_the_number_of_tokens() -> None:
    for tokens, mu in ((256, 0.5), (4096, 1.15), (1024, 0.5 + 0.65 * 768 / 3840)):
        assert Shifted.for_tokens(Straight(), tokens).shift == pytest.approx(math.exp(mu), rel=1e-12)


@pytest.mark.parametrize("shift", [0.25, 1.0, 3.0, 12.0])
def test_r4_one_step_has_both_ends(shift: float) -> None:
    level = Shifted(Straight(), shift)(torch.linspace(1, 0, 2, dtype=torch.float64))
    assert level.alpha.tolist() == [0.0, 1.0]
    assert level.sigma.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("shift", [0.0, -1.0, math.inf, math.nan])
def test_r4_impossible_shift_is_refused(shift: float) -> None:
    with pytest.raises(UsageError, match="shift"):
        Shifted(Straight(), shift)


@pytest.mark.parametrize("values", [(0.1, 0.0), (0.1, 1.0), (-0.1,), (0.1, 1.5)])
def test_tables_outside_the_open_unit_interval_are_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="beta"):
        Tabulated(values).abar()


@pytest.mark.parametrize("text", ["Linear(num_steps=0)", "ScaledLinear(num_steps=-1)", "Sigmoid(num_steps=0)", "DiscreteCosine(num_steps=-3)",
                                  "Linear(num_steps=2000000000000)", "ScaledLinear(beta_start=-0.1)", "ScaledLinear(beta_end=nan)", "Cosine(s=-1.0)",
                                  "Cosine(s=-0.008)", "Cosine(s=nan)", "Cosine(s=1e300)", "DiscreteCosine(s=-1)", "Exponential(sigma_max=inf)"])
def test_impossible_processes_are_refused_when_they_are_made(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text, Schedule)  # type: ignore[type-abstract]
    assert caught.value.code == "bad_schedule"


def test_f8_zero_terminal_needs_a_variance_preserving_process() -> None:
    with pytest.raises(UsageError, match="VP"):
        ZeroTerminal(Exponential())


@pytest.mark.parametrize("gauge", list(Gauge), ids=lambda gauge: gauge.value)
@pytest.mark.parametrize("other", list(Gauge), ids=lambda gauge: gauge.value)
def test_f8_gauges_round_trip(gauge: Gauge, other: Gauge) -> None:
    lam = torch.linspace(-9, 9, 181, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 181, 7, generator=generator, dtype=torch.float64)
    level = gauge.split(lam)
    x = level.mix(x0, eps)
    moved, there = rescale(x, level, other)
    torch.testing.assert_close(moved, other.split(lam).mix(x0, eps), rtol=1e-10, atol=1e-10)
    back, home = rescale(moved, there, gauge)
    torch.testing.assert_close(back, x, rtol=1e-10, atol=0)
    for got, expected in zip(home, level):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=0)


def test_f8_edm_sigma_and_flow_time() -> None:
    lam = torch.linspace(-9, 9, 181, dtype=torch.float64)
    vp, ve, flow = (gauge.split(lam) for gauge in (Gauge.VP, Gauge.VE, Gauge.FLOW))
    torch.testing.assert_close(ve.sigma, vp.sigma / vp.alpha, rtol=1e-12, atol=0)
    torch.testing.assert_close(flow.sigma, ve.sigma / (1 + ve.sigma), rtol=1e-12, atol=0)


@pytest.mark.parametrize("gauge", list(Gauge), ids=lambda gauge: gauge.value)
def test_gauges_are_exact_without_noise(gauge: Gauge) -> None:
    level = gauge.split(torch.tensor(math.inf))
    assert (float(level.alpha), float(level.sigma)) == (1.0, 0.0)


def test_gauges_are_exact_without_signal() -> None:
    for gauge in (Gauge.VP, Gauge.FLOW):
        level = gauge.split(torch.tensor(-math.inf))
        assert (float(level.alpha), float(level.sigma)) == (0.0, 1.0)
