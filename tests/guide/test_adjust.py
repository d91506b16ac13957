"""Thresholds and rescaling of the guided estimate."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inkwash.cond import Cond
from inkwash.core.level import Gauge
from inkwash.errors import UsageError
from inkwash.guide import CFG, Adjustment, DynamicThreshold, Guidance, NoGuidance, Rescale, StaticThreshold, evaluate
from inkwash.guide.adjust import _quantile

UNIT = (-1.0, 1.0)


def pictures(scale: float = 2.0) -> Tensor:
    return scale * torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_g11_static_is_a_clip() -> None:
    x0 = pictures()
    assert torch.equal(StaticThreshold(UNIT)(x0, x0 / 2), x0.clamp(-1, 1))


def test_g11_dynamic_divides_by_its_percentile() -> None:
    x0 = pictures()
    s = torch.quantile(x0.abs().flatten(1), 0.9, dim=1).reshape(5, 1, 1, 1)
    assert float(s.min()) > 1
    got = DynamicThreshold(0.9, UNIT)(x0, x0 / 2)
    torch.testing.assert_close(got, torch.minimum(torch.maximum(x0, -s), s) / s, rtol=1e-12, atol=1e-12)
    assert float((got.abs() == 1).double().mean()) == pytest.approx(0.1, abs=0.01)


def test_g11_dynamic_leaves_what_is_in_range() -> None:
    x0 = pictures(0.2)
    assert float(x0.abs().max()) < 1
    torch.testing.assert_close(DynamicThreshold(0.995, UNIT)(x0, x0 / 2), x0, rtol=1e-15, atol=1e-15)


def test_g11_static_and_dynamic_differ_on_saturated_pixels() -> None:
    x0 = pictures()
    inner = x0.abs() < 0.5
    assert torch.equal(StaticThreshold(UNIT)(x0, x0 / 2)[inner], x0[inner])
    assert bool((DynamicThreshold(0.9, UNIT)(x0, x0 / 2)[inner].abs() < x0[inner].abs()).all())


def test_g11_other_bounds_are_a_change_of_units() -> None:
    x0 = pictures()
    for threshold in (StaticThreshold, DynamicThreshold):
        moved = threshold(bounds=(-0.5, 3.5))(x0 * 2 + 1.5, x0 / 2)
        torch.testing.assert_close((moved - 1.5) / 2, threshold(bounds=UNIT)(x0, x0 / 2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("q", [0.001, 0.5, 0.9, 0.995, 1.0])
@pytest.mark.parametrize("count", [1, 2, 7, 192])
def test_quantile_is_the_one_of_torch(q: float, count: int) -> None:
    values = torch.rand(4, count, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(_quantile(values, q), torch.quantile(values, q, dim=1), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("threshold", [StaticThreshold(), DynamicThreshold()], ids=repr)
def test_g11_latents_of_unknown_range_are_refused(threshold: StaticThreshold | DynamicThreshold) -> None:
    guidance = CFG(5.0, then=(Rescale(0.7), threshold))
    with pytest.raises(UsageError, match="latents"):
        guidance.bind(None)
    with pytest.raises(UsageError, match="latents"):
        run(guidance)  # nobody bound it
    assert guidance.bind(UNIT).then[1] == type(threshold)(bounds=UNIT)
    vouched = CFG(5.0, then=(type(threshold)(bounds=(-4.0, 4.0)),))
    assert vouched.bind(None) == vouched == vouched.bind(UNIT)


def test_g11_what_needs_no_range_binds_anywhere() -> None:
    for guidance in (NoGuidance(), CFG(5.0, then=(Rescale(0.7),))):
        assert guidance.bind(None) == guidance == guidance.bind(UNIT)


def run(guidance: Guidance) -> Tensor:
    x = pictures()
    level = Gauge.VP.split(torch.zeros(5))
    conds = {"cond": Cond({"f": torch.linspace(0.5, 1, 5)}), "null": Cond({"f": torch.linspace(0.3, 0.1, 5)})}
    return evaluate({"main": lambda x, level, cond: x * cond["f"].to(x)[:, None, None, None]}, x, level, [guidance] * 5, conds)[0]


def test_rescale_zero_is_the_identity_to_the_bit() -> None:
    assert torch.equal(run(CFG(7.5, then=(Rescale(0.0),))), run(CFG(7.5)))
    assert not torch.equal(run(CFG(7.5, then=(Rescale(0.7),))), run(CFG(7.5)))


def test_rescale_one_has_the_deviation_of_the_conditional() -> None:
    axes = (1, 2, 3)
    torch.testing.assert_close(run(CFG(7.5, then=(Rescale(1.0),))).std(axes), run(NoGuidance()).std(axes), rtol=1e-6, atol=0)


def test_rescale_mixes_plain_and_full() -> None:
    plain, full = run(CFG(7.5)), run(CFG(7.5, then=(Rescale(1.0),)))
    torch.testing.assert_close(run(CFG(7.5, then=(Rescale(0.7),))), 0.7 * full + 0.3 * plain, rtol=1e-10, atol=1e-12)


def test_rescale_without_guidance_changes_nothing() -> None:
    assert torch.equal(run(CFG(1.0, then=(Rescale(0.7),))), run(NoGuidance()))


def test_rescale_of_a_flat_estimate_is_finite() -> None:
    flat = torch.ones(1, 3, 4, 4)
    assert torch.equal(Rescale(1.0)(flat, pictures()[:1].float()), flat)


def test_adjustments_run_in_order() -> None:
    steps: tuple[Adjustment, ...] = (StaticThreshold(UNIT), Rescale(1.0))
    assert float(run(CFG(7.5, then=steps[::-1])).abs().max()) == 1.0
    assert float(run(CFG(7.5, then=steps)).abs().max()) > 1.0


@pytest.mark.parametrize("make", [lambda: Rescale(-0.1), lambda: Rescale(1.1), lambda: DynamicThreshold(0.0), lambda: DynamicThreshold(99.5),
                                  lambda: DynamicThreshold(0.9, (1.0, -1.0)), lambda: DynamicThreshold(0.9, (-torch.inf, 1.0)),
                                  lambda: StaticThreshold((1.0, 1.0)), lambda: StaticThreshold(1.0)],
                         ids=range(8))
def test_impossible_settings_are_refused(make: type[Adjustment]) -> None:
    with pytest.raises(UsageError, match="expected"):
        make()
