"""The kernel, the counting of evaluations, noise, labels, and what is refused."""

from __future__ import annotations

import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from inkwash.core import noise
from inkwash.core.analytic import Mixture, gaussian
from inkwash.core.level import Gauge, Level
from inkwash.core.schedule import Cosine, Linear
from inkwash.core.spacing import Karras, Leading, Linspace, LogSNR, Path, Point, Spacing, Trailing, Uniform
from inkwash.errors import UsageError
from inkwash.sample import Mix, Plan, Program, Progress, Sampler, Stage, prior, run
from inkwash.sample.kernel import State, advance
from inkwash.value import parse

F64 = torch.float64


def sampler(text: str) -> Sampler:
    return parse(text, Sampler)  # type: ignore[type-abstract]


def zeros(x: Tensor, level: Level, index: Tensor) -> Tensor:
    return torch.zeros_like(x)


@pytest.mark.parametrize(("text", "steps", "calls"), [
    ("ddim", 1000, 1000), ("ddim", 50, 50), ("ddim", 20, 20), ("ddim", 10, 10), ("dpmpp_2m", 50, 50), ("unipc", 50, 50), ("lms", 20, 20),
    ("heun", 50, 99), ("dpm_solver_2", 10, 19), ("dpm_solver_3", 10, 28), ("rk4", 10, 37), ("langevin", 10, 19),
    ("PredictorCorrector(corrections=3)", 10, 37), ("lcm", 4, 4), ("dpmpp_sde", 6, 11)])
def test_s4_s15_evaluations_are_counted_and_equal_a_counter(text: str, steps: int, calls: int) -> None:
    """DDIM at 50, 20 and 10 of 1000 steps makes 20, 50 and 100 times fewer calls; Heun costs two a step, one for the last."""
    plan = sampler(text).plan(Trailing().levels(Linear(), steps))
    count = Counter[int]()

    def counted(x: Tensor, level: Level, index: Tensor) -> Tensor:
        count.update(index.tolist())
        return torch.zeros_like(x)

    results = run(counted, [Program(plan, 0, i, torch.ones(1)) for i in range(2)])
    assert plan.rows == calls
    assert [result.stages for result in results] == [count[0], count[1]] == [calls, calls]


def test_s10_one_network_six_samplers_five_spacings() -> None:
    """Trained on 1000 levels, sampled on 40 others: every combination comes near the exact solution of the ODE."""
    data = gaussian(torch.tensor([0.5, -1.0], dtype=F64), torch.tensor([0.25, 0.5], dtype=F64))
    samplers = [sampler(text) for text in ("ddim", "heun", "dpm_solver_2", "dpmpp_2m", "unipc", "deis")]
    spacings: list[Spacing] = [Trailing(), Leading(), Linspace(), Karras(), LogSNR()]
    plans = [s.plan(spacing.levels(Linear(), 40)) for s in samplers for spacing in spacings]
    x = torch.tensor([0.4, -1.1], dtype=F64)
    results = run(lambda x, level, index: data.denoise(x, level), [Program(plan, 0, 0, x) for plan in plans])
    clean = Level(torch.tensor(1.0, dtype=F64), torch.tensor(0.0, dtype=F64))
    exact = data.flow(x[None], plans[0].start, clean)[0]
    assert max(float((result.clean.x - exact).abs().max()) for result in results) < 0.06


def test_advance_is_the_formula() -> None:
    x, base, x0, z = torch.randn(4, 3, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    h = tuple(torch.full((3, 2), float(i), dtype=F64) for i in range(4))
    mixes = [Mix(1.0, 2.0, (3.0, 4.0, 5.0, 6.0), 7.0), Mix(0.5, h=(-1.0,))]
    weights = torch.tensor([[mix.columns() for mix in mixes]] * 3, dtype=F64)
    after = advance(State(x, base, h, torch.zeros(3, dtype=torch.long)), x0, torch.tensor([[2.0, -1.0]] * 3, dtype=F64), weights, z)
    new = 2 * x - x0
    assert torch.allclose(after.x, x + 2 * base + 3 * new + 4 * h[0] + 5 * h[1] + 6 * h[2] + 7 * z)
    assert torch.allclose(after.base, 0.5 * x - new)
    assert torch.equal(after.h[0], new)
    assert all(torch.equal(a, b) for a, b in zip(after.h[1:], h[:-1], strict=True))
    assert after.row.tolist() == [1, 1, 1]


def test_a_sample_keeps_its_layout_of_memory_whatever_the_network_answers_in() -> None:
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([[Mix(x=0.5, h=(0.5,)).columns(), Mix(base=1.0).columns()]] * 2, dtype=F64)
    slope = torch.tensor([[0.0, 1.0]] * 2, dtype=F64)
    plain, other = (advance(State.begin(x), x0, slope, weights, None) for x0 in (x, x.to(memory_format=torch.channels_last)))
    for a, b in zip((plain.x, *plain.h), (other.x, *other.h), strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()


def test_advance_refuses_a_row_without_its_noise() -> None:
    weights = torch.tensor([[Mix(z=1.0).columns(), Mix(base=1.0).columns()]], dtype=F64)
    with pytest.raises(ValueError, match="asks for noise"):
        advance(State.begin(torch.ones(1, 2)), torch.ones(1, 2), torch.tensor([[0.0, 1.0]]), weights, None)


def test_mixes_add_and_scale() -> None:
    assert Mix(1.0, 2.0, (3.0,), 4.0) + 2 * Mix(x=1.0, h=(1.0, 5.0)) == Mix(3.0, 2.0, (5.0, 10.0), 4.0)


def test_a_noisy_result_cannot_be_decoded() -> None:
    plan = sampler("ddim").plan(Path.of(Gauge.VP, torch.tensor([-2.0, 0.0, 2.0], dtype=F64)))
    result = run(zeros, [Program(plan, 0, 0, torch.ones(2))])[0]
    with pytest.raises(UsageError, match="still has noise"):
        _ = result.clean
    whole = sampler("ddim").plan(Uniform().levels(Cosine(), 2))
    assert torch.equal(run(zeros, [Program(whole, 0, 0, torch.ones(2))])[0].clean.x, torch.zeros(2))


def test_plans_with_infinite_coefficients_are_bugs() -> None:
    with pytest.raises(AssertionError):
        Plan.compile(Gauge.VP, [Stage(Point(1.0, 1.0), Mix(x=float("inf")))], Point(1.0, 0.0))
    with pytest.raises(AssertionError):
        Mix(h=(1.0,) * 5).columns()


def test_progress_is_told() -> None:
    path = Uniform().levels(Cosine(), 5)
    plans = [sampler("ddim").plan(path), sampler("ddim").plan(path.last(2))]
    seen: list[Progress] = []
    run(zeros, [Program(plan, 0, 0, torch.ones(2)) for plan in plans], seen.append)
    assert [(p.done, p.total, p.which.tolist()) for p in seen] == [(1, 5, [0, 1]), (2, 5, [0, 1]), (3, 5, [0]), (4, 5, [0]), (5, 5, [0])]
    assert seen[0].x0.shape == (2, 2)


def test_wrong_denoisers_and_empty_batches_are_refused() -> None:
    plan = sampler("ddim").plan(Uniform().levels(Cosine(), 2))
    with pytest.raises(ValueError, match="returned"):
        run(lambda x, level, index: x[:, :1], [Program(plan, 0, 0, torch.ones(2))])
    with pytest.raises(ValueError, match="no programs"):
        run(zeros, [])


@pytest.mark.parametrize("text", ["DDIM(eta=2)", "EulerAncestral(eta=-1)", "DDPM(variance='large')", "EulerMaruyama(clock='t')", "DPMSolver(4)",
                                  "DPMSolver(3, data=True)", "DPMSolverPP(steps_back=4)", "DEIS(0)", "AdamsBashforth(5)", "UniPC(4)",
                                  "PredictorCorrector(corrections=0)", "PredictorCorrector(corrections=1000000000)"])
def test_impossible_samplers_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        sampler(text)
    assert "\n" not in caught.value.line()


@pytest.mark.parametrize("text", ["Heun(clock='x')", "Heun(eta=3)", "AdamsBashforth(clock='t')"])
def test_impossible_clocks_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        sampler(text).plan(Uniform().levels(Cosine(), 2))


def test_noise_is_a_function_of_its_four_names() -> None:
    a = noise.normal((3, 5), 1, 2, 3, "step")
    assert torch.equal(a, noise.normal((3, 5), 1, 2, 3, "step"))
    streams = ((2, 2, 3, "step"), (1, 3, 3, "step"), (1, 2, 4, "step"), (1, 2, 3, "start"), (12, 0, 3, "step"))
    others = [noise.normal((3, 5), *stream) for stream in streams]
    assert all(not torch.equal(a, other) for other in others)
    assert a.dtype == torch.float32
    assert noise.normal((), 1, 2, 3, "step").shape == ()
    assert noise.normal((0, 4), 1, 2, 3, "step").shape == (0, 4)


def test_noise_has_its_distribution() -> None:
    from scipy import stats
    assert stats.kstest(noise.normal((200_000,), 5, 0, 0, "test").double().numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(noise.uniform((200_000,), 5, 0, 0, "test").numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("byte", [b"\x00", b"\xff"])
def test_uniform_numbers_never_reach_the_ends(byte: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the smallest and the largest word; at 0 the normal numbers would be infinite."""
    monkeypatch.setattr(noise.hashlib, "shake_128", lambda key: SimpleNamespace(digest=lambda count: byte * count))
    assert 0 < float(noise.uniform((), 1, 2, 3, "step")) < 1
    assert math.isfinite(float(noise.normal((), 1, 2, 3, "step")))


def test_noise_never_changes() -> None:
    """These numbers are part of the format: a stored seed must make the same image in every later version."""
    assert noise.seed64(1, 2, 3, "step") == 5179952952127432850
    assert noise.normal((3,), 1, 2, 3, "step").tolist() == pytest.approx([-1.528253197669983, -0.11611323058605194, 0.585923433303833], abs=1e-6)


def test_streams_that_share_32_bits_still_differ() -> None:
    """torch's CPU generator would give images 2^32 seeds apart the same noise."""
    assert torch.equal(torch.randn(4, generator=torch.Generator().manual_seed(7)), torch.randn(4, generator=torch.Generator().manual_seed(7 + 2**32)))
    assert not torch.equal(noise.normal((4,), 7, 0, 0, "a"), noise.normal((4,), 7 + 2**32, 0, 0, "a"))
    assert all(0 <= noise.seed64(seed, 0, 0, "a") < 2**63 for seed in (0, -1, 2**80))
    assert noise.generator(1, 2, 3, "a").initial_seed() == noise.seed64(1, 2, 3, "a")


def test_analytic_score_and_classifier_are_gradients() -> None:
    data = Mixture(torch.tensor([0.3, 0.7], dtype=F64),
                   torch.tensor([[-1.0, 0.5], [0.8, 0.0]], dtype=F64), torch.tensor([[0.2, 0.3], [0.1, 0.4]], dtype=F64))
    x = torch.tensor([[0.1, 0.2], [-1.0, 0.7]], dtype=F64, requires_grad=True)
    level = Level(torch.tensor([0.8, 0.4], dtype=F64), torch.tensor([0.6, 0.9], dtype=F64))
    gradient, = torch.autograd.grad(data.log_prob(x, level).sum(), x)
    assert torch.allclose(data.score(x, level), gradient, atol=1e-12)
    for k in range(2):
        gradient, = torch.autograd.grad(data.posterior(x, level)[:, k].log().sum(), x)
        assert torch.allclose(data.classify(x, level)[:, k], gradient, atol=1e-12)
    own = sum(data.posterior(x, level)[:, k:k + 1] * data.component(k).denoise(x, level) for k in range(2))
    assert torch.allclose(own, data.denoise(x, level), atol=1e-12)


def test_prior_has_the_scale_of_the_first_level() -> None:
    plan = sampler("ddim").plan(Path.of(Gauge.VE, torch.tensor([-4.0, 4.0], dtype=F64)))
    assert float(prior(plan, (10_000,), 0, 0).std()) == pytest.approx(float(torch.tensor(4.0).exp()), rel=0.03)
