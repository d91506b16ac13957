"""Guidance against exact mixtures of Gaussians, whose conditional and unconditional denoisers are known."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from inkwash.cond import Cond
from inkwash.core.analytic import Mixture, gaussian
from inkwash.core.level import Gauge, Level, rescale
from inkwash.core.prediction import Prediction
from inkwash.core.schedule import Linear, Straight
from inkwash.errors import UsageError
from inkwash.guide import (
    APG,
    CFG,
    AngleAxis,
    AutoGuidance,
    Branch,
    ClassifierGuidance,
    ClassifierShift,
    ConstantStrength,
    CosineStrength,
    Denoise,
    Guidance,
    Interval,
    LamAxis,
    NoGuidance,
    RampStrength,
    Strength,
    TimeAxis,
    evaluate,
    parse_scale,
    read_scale,
)
from inkwash.value import parse, registry

D = 3
MIXTURE = Mixture(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
                  torch.tensor([[1.0, 0.2, -0.3], [-1.0, 0.5, 0.1], [0.3, -1.2, 0.8]], dtype=torch.float64),
                  torch.tensor([[0.10, 0.30, 0.20], [0.20, 0.10, 0.40], [0.05, 0.20, 0.30]], dtype=torch.float64))
BLURRED = Mixture(MIXTURE.weights, MIXTURE.means, MIXTURE.variances + 0.5)


def oracle(mixture: Mixture) -> Denoise:
    """E[x0 | x, label]; label -1 is no condition."""
    def denoise(x: Tensor, level: Level, cond: Cond) -> Tensor:
        x0 = mixture.denoise(x, level)
        for k in range(len(mixture.weights)):
            x0 = torch.where((cond["label"] == k)[:, None], mixture.component(k).denoise(x, level), x0)
        return x0
    return denoise


def log_posterior(x: Tensor, level: Level, cond: Cond) -> Tensor:
    return MIXTURE.posterior(x, level).log().gather(1, cond["label"][:, None])[:, 0]


MODELS = {"main": oracle(MIXTURE), "weak": oracle(BLURRED), "classifier": ClassifierShift(log_posterior)}


def labels(values: Tensor) -> Cond:
    return Cond({"label": values})


def sample(count: int = 41, gauge: Gauge = Gauge.VP) -> tuple[Tensor, Level, dict[str, Cond]]:
    generator = torch.Generator().manual_seed(0)
    level = gauge.split(torch.linspace(-4, 4, count, dtype=torch.float64))
    x0, label = MIXTURE.sample_labelled(count, generator)
    x = level.mix(x0, torch.randn(count, D, generator=generator, dtype=torch.float64))
    return x, level, {"cond": labels(label), "label": labels(label), "null": labels(torch.full_like(label, -1)), "negative": labels((label + 1) % 3)}


def guided(guidance: Guidance, x: Tensor, level: Level, conds: dict[str, Cond]) -> Tensor:
    return evaluate(MODELS, x, level, [guidance] * len(x), conds)[0]


EVERY = [cls() for cls in registry(Guidance).values()]


@pytest.mark.parametrize("guidance", EVERY, ids=repr)
def test_branches_are_a_table_without_zeros(guidance: Guidance) -> None:
    for lam in (-math.inf, -5.0, 0.0, 5.0, math.inf):
        branches = guidance.branches(lam)
        assert branches
        assert all(branch.weight != 0 and math.isfinite(branch.weight) for branch in branches)
        assert branches == guidance.branches(lam)


@pytest.mark.parametrize("guidance", EVERY, ids=repr)
@pytest.mark.parametrize("gauge", [Gauge.VE, Gauge.FLOW], ids=lambda gauge: gauge.value)
def test_guidance_is_the_same_in_every_gauge(guidance: Guidance, gauge: Gauge) -> None:
    x, level, conds = sample()
    moved, there = rescale(x, level, gauge)
    torch.testing.assert_close(guided(guidance, moved, there, conds), guided(guidance, x, level, conds), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("prediction", [cls() for cls in registry(Prediction).values()], ids=repr)
@pytest.mark.parametrize("guidance", [CFG(7.5), CFG(0.3), AutoGuidance(3.0)], ids=repr)
def test_guidance_is_the_same_for_every_prediction(guidance: Guidance, prediction: Prediction) -> None:
    """Branches added up as y and solved once give the x0 of branches solved one by one and added up."""
    x, level, conds = sample()
    total = torch.zeros_like(x)
    for branch in guidance.branches(0.0):
        x0 = MODELS[branch.model](x, level, conds[branch.cond])
        total += branch.weight * prediction.target(level, x0, level.eps(x, x0))
    torch.testing.assert_close(prediction.solve(level, x, total), guided(guidance, x, level, conds), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("gauge", list(Gauge), ids=lambda gauge: gauge.value)
def test_g1_classifier_with_exact_posteriors_is_the_exact_conditional(gauge: Gauge) -> None:
    x, level, conds = sample(gauge=gauge)
    exact = guided(NoGuidance(), x, level, conds)
    assert float((guided(ClassifierGuidance(1.0), x, level, conds) - exact).abs().max()) < 1e-9
    assert float((guided(NoGuidance("null"), x, level, conds) - exact).abs().max()) > 0.1
    assert float((guided(ClassifierGuidance(2.0), x, level, conds) - exact).abs().max()) > 0.1


def test_g1_formula_in_eps() -> None:
    """eps - sqrt(1 - abar) s grad log p(c | x)."""
    x, level, conds = sample()
    label = conds["cond"]["label"]
    gradient = MIXTURE.classify(x, level)[torch.arange(len(x)), label]
    unguided = level.eps(x, guided(NoGuidance("null"), x, level, conds))
    expected = unguided - level.sigma[:, None] * 1.7 * gradient
    torch.testing.assert_close(level.eps(x, guided(ClassifierGuidance(1.7), x, level, conds)), expected, rtol=1e-9, atol=1e-9)


def test_classifier_works_in_inference_mode_and_leaves_no_graph() -> None:
    x, level, conds = sample()
    expected = guided(ClassifierGuidance(2.0), x, level, conds)
    with torch.inference_mode():
        inside = guided(ClassifierGuidance(2.0), x.clone(), level, {name: cond.take(range(len(x))) for name, cond in conds.items()})
    assert torch.equal(inside, expected)
    assert not expected.requires_grad


def test_classifier_is_refused_without_signal_unless_the_interval_excludes_it() -> None:
    conds = {name: labels(torch.zeros(1, dtype=torch.long)) for name in ("cond", "label", "null")}
    level = Straight()(torch.tensor([1.0]))
    x = torch.ones(1, D, dtype=torch.float64)
    with pytest.raises(UsageError, match="Interval"):
        guided(ClassifierGuidance(1.0), x, level, conds)
    assert torch.equal(guided(ClassifierGuidance(1.0, Interval(0, 80)), x, level, conds), guided(NoGuidance(), x, level, conds))


def test_a_classifier_of_another_shape_is_told() -> None:
    x, level, conds = sample()
    with pytest.raises(ValueError, match="one number per sample"):
        ClassifierShift(lambda x, level, cond: x)(x, level, conds["cond"])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.floats(0.5, 1e6))
def test_g3_both_conventions_are_one_value(scale: float) -> None:
    assert CFG.from_extra(scale - 1) == CFG(scale)


def test_g3_both_conventions_to_the_last_bit() -> None:
    x, level, conds = sample()
    for scale in (0.0, 0.5, 1.0, 1.1, 3.0, 7.5, 15.0):
        assert torch.equal(guided(CFG.from_extra(scale - 1), x, level, conds), guided(CFG(scale), x, level, conds))


def test_g3_formulas() -> None:
    """On numbers of few bits, where float64 rounds nothing, u + w (c - u), (1 + w') c - w' u and ours are the same bits; else to 1e-14."""
    generator = torch.Generator().manual_seed(0)
    c, u = torch.randint(-512, 512, (2, 64, D), generator=generator).double() / 256
    for scale, exact in ((7.5, True), (3.0, True), (1.5, True), (7.3, False)):
        got = fixed(c, u, CFG(scale))
        for formula in (u + scale * (c - u), (1 + (scale - 1)) * c - (scale - 1) * u):
            assert torch.equal(got, formula) if exact else torch.allclose(got, formula, rtol=1e-13, atol=1e-13)


def fixed(c: Tensor, u: Tensor, guidance: Guidance, **others: Tensor) -> Tensor:
    """Guidance between two given estimates (N, ...)."""
    given = {"cond": c, "null": u, **others}
    level = Gauge.VP.split(torch.zeros(len(c)))
    return evaluate({"main": lambda x, level, cond: cond["x0"]}, c, level, [guidance] * len(c),
                    {name: Cond({"x0": value}) for name, value in given.items()})[0]


@pytest.mark.parametrize(("scale", "expected"), [(7.5, [-0.925, -1.975, 1.175]), (15.0, [-2.05, -3.85, 2.3])])
def test_g5_vectors(scale: float, expected: list[float]) -> None:
    u = torch.tensor([[0.2, -0.1, 0.05]], dtype=torch.float64)
    c = torch.tensor([[0.05, -0.35, 0.2]], dtype=torch.float64)
    torch.testing.assert_close(fixed(c, u, CFG(scale)), torch.tensor([expected], dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_g7_above_one_it_extrapolates() -> None:
    assert CFG(3.0).branches(0.0) == (Branch("main", "cond", 3.0), Branch("main", "null", -2.0))
    assert CFG(0.25).branches(0.0) == (Branch("main", "cond", 0.25), Branch("main", "null", 0.75))


def test_w_one_and_w_zero_cost_one_branch() -> None:
    assert CFG(1.0).branches(0.0) == (Branch("main", "cond", 1.0),) == NoGuidance().branches(0.0)
    assert CFG(0.0).branches(0.0) == (Branch("main", "null", 1.0),)
    x, level, conds = sample()
    assert torch.equal(guided(CFG(1.0), x, level, conds), guided(NoGuidance(), x, level, conds))
    assert torch.equal(guided(CFG(0.0), x, level, conds), guided(NoGuidance("null"), x, level, conds))


def test_g12_negative_takes_the_place_of_null() -> None:
    c, u, n = torch.randn(3, 4, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(fixed(c, u, CFG(5.0, against="negative"), negative=n), fixed(c, n, CFG(5.0)))
    assert not torch.equal(fixed(c, u, CFG(5.0, against="negative"), negative=n), fixed(c, u, CFG(5.0), negative=n))
    assert torch.equal(fixed(c, u, CFG(1.0, against="negative"), negative=n), c)
    assert CFG.from_extra(6.5, against="negative") == CFG(7.5, against="negative")


@pytest.mark.parametrize("text", [
    "CFG('50%')", "CFG(nan)", "CFG(inf)", "CFG(True)", "CFG(None)", "AutoGuidance(scale='2')", "ClassifierGuidance(inf)", "CFG(then=5)",
    "CFG(then=(5,))", "APG(threshold=inf)", "CFG(interval=5)",
    "CFG(strength=1)", "APG(0.5)", "APG(threshold=0)", "APG(eta=nan)", "CFG(interval=Interval(2, 1))",
    "CFG(interval=Interval(1, 2, 'time'))", "CFG(scale=5, against=3)", "Interval(1, 2)",
    "Distilled(-1)", "Distilled(101)",
])
def test_g9_a_scale_is_a_number_and_fields_have_their_kind(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text, Guidance)


@pytest.mark.parametrize("make", [lambda: CFG("50%"), lambda: CFG(True), lambda: CFG(5, interval=(1, 2)), lambda: CFG(5, then=[1]),
                                  lambda: CFG(10**400), lambda: CFG(10**5000)],
                         ids=["text", "bool", "interval", "list", "no float", "no text"])
def test_g9_also_without_parsing(make: Callable[[], Guidance]) -> None:
    with pytest.raises(UsageError, match="expected"):
        make()


@pytest.mark.parametrize("value", ["50%", "7,5", "", "nan", "inf", None, True, [7.5], "w=7.5"])
def test_g9_percentages_are_no_scales(value: object) -> None:
    with pytest.raises(UsageError, match="percentage"):
        parse_scale(value)


def test_g9_scales_beyond_one() -> None:
    assert [parse_scale(value) for value in (0, 1, 7.5, "7.5", " 20 ", "-1")] == [0.0, 1.0, 7.5, 7.5, 20.0, -1.0]


def test_g3_files_say_their_convention() -> None:
    assert read_scale({"guidance_scale": 7.5}) == read_scale({"cfg_scale": "7.5"}) == read_scale({"guidance_extra": 6.5}) == 7.5
    assert read_scale({"w": 6.5, "convention": "extra"}) == read_scale({"w": 7.5, "convention": "scale"}) == 7.5
    assert read_scale({"steps": 20}) is None
    for record in ({"w": 7.5}, {"guidance": 7.5}, {"guidance_weight": 1}, {"w": 7.5, "convention": "other"}):
        with pytest.raises(UsageError, match="convention"):
            read_scale(record)
    with pytest.raises(UsageError, match="both given"):
        read_scale({"guidance_scale": 7.5, "guidance_extra": 6.5})


def test_g10_cosine_is_high_early_and_low_late() -> None:
    strength = CosineStrength()
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    lam = torch.log(torch.cos(math.pi / 2 * t) / torch.sin(math.pi / 2 * t))
    got = [strength(float(value)) for value in lam]
    assert got == pytest.approx([(1 - math.cos(math.pi * float(value))) / 2 for value in t], abs=1e-12)
    assert all(a < b for a, b in pairwise(got))


@pytest.mark.parametrize("axis", [AngleAxis(), LamAxis(-3.0, 3.0), TimeAxis(Linear()), TimeAxis(Straight())], ids=repr)
@pytest.mark.parametrize("kind", [RampStrength, CosineStrength])
def test_g10_strengths_reach_their_ends_on_every_axis(kind: type[RampStrength | CosineStrength], axis: AngleAxis) -> None:
    strength = kind(0.25, 0.75, axis)
    assert strength(-math.inf) == pytest.approx(0.25, abs=1e-12)
    assert strength(math.inf) == pytest.approx(0.75, abs=1e-12)
    values = [strength(lam) for lam in torch.linspace(-4, 4, 33).tolist()]
    assert values == sorted(values)


def test_g10_ramp_is_straight_in_the_time_of_its_schedule() -> None:
    strength = RampStrength(1.0, 0.0, TimeAxis(Linear()))
    for t in (0.1, 0.5, 0.9):
        assert strength(float(Linear().lam(torch.tensor(t)))) == pytest.approx(t, abs=1e-6)


@pytest.mark.parametrize("strength", [cls() for cls in registry(Strength).values()], ids=repr)
def test_strength_scales_what_exceeds_one(strength: Strength) -> None:
    for lam in (-2.0, 0.0, 3.0):
        assert CFG(5.0, strength=strength).branches(lam)[0].weight == pytest.approx(1 + 4 * strength(lam))
        assert ClassifierGuidance(5.0, strength=strength).branches(lam)[1].weight == pytest.approx(5 * strength(lam))
    assert ConstantStrength()(0.0) == 1.0


@pytest.mark.parametrize("guidance", [CFG(5.0), AutoGuidance(5.0), APG(5.0)], ids=repr)
def test_a_strength_of_zero_and_a_level_outside_the_interval_leave_the_condition_alone(guidance: CFG | AutoGuidance | APG) -> None:
    for changed in (dataclasses.replace(guidance, strength=RampStrength(1.0, 0.0, LamAxis())),
                    dataclasses.replace(guidance, interval=Interval(-2.0, 2.0, "lam"))):
        assert len(changed.branches(0.0)) == 2
        assert changed.branches(6.0) == NoGuidance().branches(6.0)


def test_g10_interval_saves_evaluations() -> None:
    guidance = CFG(7.5, Interval(0.3, 5.0))
    lams = torch.linspace(-5, 5, 50, dtype=torch.float64)
    inside = int(((lams.neg().exp() >= 0.3) & (lams.neg().exp() <= 5.0)).sum())
    assert 0 < inside < 50
    assert sum(len(guidance.branches(lam)) for lam in lams.tolist()) == 50 + inside
    assert [Interval(0.3, 5.0, "lam").__contains__(lam) for lam in (0.29, 0.3, 5.0, 5.1)] == [False, True, True, False]


def test_a_contrast_with_itself_is_no_guidance() -> None:
    """c + (w - 1) (c - c), also where a call holds one sample's two equal branches."""
    x, level, conds = sample(4)
    found, calls = evaluate(MODELS, x, level, [CFG(6.0, against="cond")] * 4, conds, 4)
    torch.testing.assert_close(found, guided(NoGuidance(), x, level, conds), rtol=1e-12, atol=1e-12)
    assert calls.tolist() == [2] * 4


def test_apg_without_projection_is_cfg_to_the_bit() -> None:
    x, level, conds = sample()
    assert torch.equal(guided(APG(6.0, eta=1.0), x, level, conds), guided(CFG(6.0), x, level, conds))


def test_apg_moves_across_the_reference_only() -> None:
    c, u = torch.randn(2, 9, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    move = fixed(c, u, APG(6.0)) - c
    assert float((move * c).sum((1, 2, 3)).abs().max()) < 1e-9
    plain = 5.0 * (c - u)
    along = (plain * c).sum((1, 2, 3)) / (c * c).sum((1, 2, 3))
    torch.testing.assert_close(move, plain - along[:, None, None, None] * c, rtol=1e-10, atol=1e-10)
    half = fixed(c, u, APG(6.0, eta=0.5)) - c
    torch.testing.assert_close(half, (move + plain) / 2, rtol=1e-10, atol=1e-10)


def test_apg_threshold_bounds_the_move() -> None:
    c, u = torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    norms = (c - u).norm(dim=1)
    limit = float(norms.median())
    moves = (fixed(c, u, APG(3.0, eta=1.0, threshold=limit)) - c).norm(dim=1) / 2
    torch.testing.assert_close(moves, norms.clamp(max=limit), rtol=1e-10, atol=0)


def test_apg_of_a_black_reference_is_finite() -> None:
    c, u = torch.zeros(2, 4, dtype=torch.float64), torch.ones(2, 4, dtype=torch.float64)
    assert torch.equal(fixed(c, u, APG(3.0)), torch.full((2, 4), -2.0, dtype=torch.float64))


def test_autoguidance_is_exact_on_gaussians() -> None:
    """main N(m, v) and weak N(m, V): the guided score is -(x - alpha m) (w / s_v^2 + (1 - w) / s_V^2)."""
    m, v, wide, w = torch.tensor([0.4]), torch.tensor([0.2]), torch.tensor([0.9]), 2.5
    models = {name: oracle(gaussian(m.double(), var.double())) for name, var in (("main", v), ("weak", wide))}
    level = Gauge.VP.split(torch.linspace(-4, 4, 17, dtype=torch.float64))
    x = torch.linspace(-2, 2, 17, dtype=torch.float64)[:, None]
    x0, calls = evaluate(models, x, level, [AutoGuidance(w)] * 17, {"cond": labels(torch.zeros(17, dtype=torch.long))})
    spread = [level.alpha[:, None] ** 2 * var.double() + level.sigma[:, None] ** 2 for var in (v, wide)]
    score = -(x - level.alpha[:, None] * m.double()) * (w / spread[0] + (1 - w) / spread[1])
    expected = (x + level.sigma[:, None] ** 2 * score) / level.alpha[:, None]
    torch.testing.assert_close(x0, expected, rtol=1e-9, atol=1e-9)
    assert calls.tolist() == [2] * 17
    assert AutoGuidance(3.0, weak="small", against="null").branches(0.0) == (Branch("main", "cond", 3.0), Branch("small", "null", -2.0))


def flow(mixture: Mixture, scale: float, count: int = 4000, steps: int = 400) -> Tensor:
    """Class 0 of a mixture in one dimension by the guided ODE, from the quantiles of the noise: no Monte Carlo error. (count,) sorted."""
    levels = [Gauge.VP.split(lam) for lam in torch.linspace(-6, 6, steps, dtype=torch.float64)]
    quantiles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    x = torch.special.ndtri(quantiles)[:, None]
    model = oracle(mixture)
    conds = {"cond": labels(torch.zeros(count, dtype=torch.long)), "null": labels(torch.full((count,), -1))}
    weights = {branch.cond: branch.weight for branch in CFG(scale).branches(0.0)}
    for here, there in pairwise(levels):
        def slope(x: Tensor, level: Level) -> Tensor:
            return sum(weight * model(x, level, conds[name]) for name, weight in weights.items())  # type: ignore[return-value]
        x0 = slope(x, here)
        guess = there.mix(x0, here.eps(x, x0))
        x0 = (x0 + slope(guess, there)) / 2
        x = there.mix(x0, here.eps(x, x0))
    return x[:, 0].sort().values


def distance(samples: Tensor, log_density: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """Kolmogorov's distance between samples and a density known up to a factor, and the difference of the means."""
    grid = torch.linspace(-8, 8, 40_001, dtype=torch.float64)
    density = (log_density(grid) - log_density(grid).max()).exp()
    cdf = density.cumsum(0) / density.sum()
    empirical = torch.searchsorted(samples, grid) / len(samples)
    return float((cdf - empirical).abs().max()), float(samples.mean() - (grid * density).sum() / density.sum())


def test_g14_guidance_does_not_sample_the_sharpened_posterior() -> None:
    """Exact scores of two classes N(-1, 1/2), N(1, 1/2). w = 1 samples p(x | c); w = 4 does not sample p(x) p(c | x)^4: it overshoots."""
    mixture = Mixture(torch.tensor([0.5, 0.5], dtype=torch.float64), torch.tensor([[-1.0], [1.0]], dtype=torch.float64),
                      torch.full((2, 1), 0.5, dtype=torch.float64))
    clean = Gauge.VP.split(torch.tensor(math.inf))

    def sharpened(w: float) -> Callable[[Tensor], Tensor]:
        return lambda x: mixture.log_prob(x[:, None], clean) + w * mixture.posterior(x[:, None], clean)[:, 0].log()

    exact, _ = distance(flow(mixture, 1.0), sharpened(1.0))
    biased, shift = distance(flow(mixture, 4.0), sharpened(4.0))
    assert exact < 0.005
    assert biased > 0.1
    assert shift < -0.2


def test_g14_there_is_no_bias_between_gaussians_of_one_width() -> None:
    """For c ~ N(m, v) and u ~ N(0, v) guidance at w samples N(w m, v), which is p(x) p(c | x)^w."""
    m, v, w = 0.5, 0.3, 3.0
    conditional, unconditional = (gaussian(torch.tensor([mean], dtype=torch.float64), torch.tensor([v], dtype=torch.float64)) for mean in (m, 0.0))
    shifted = gaussian(torch.tensor([w * m], dtype=torch.float64), torch.tensor([v], dtype=torch.float64))
    level = Gauge.VP.split(torch.linspace(-4, 4, 17, dtype=torch.float64))
    x = torch.linspace(-2, 2, 17, dtype=torch.float64)[:, None]
    got = w * conditional.denoise(x, level) + (1 - w) * unconditional.denoise(x, level)
    torch.testing.assert_close(got, shifted.denoise(x, level), rtol=1e-10, atol=1e-10)
