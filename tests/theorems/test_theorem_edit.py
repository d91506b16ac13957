"""Starting from an image, and painting a part of it: what holds for every sampler, on data whose denoiser is known."""

from __future__ import annotations

import math

import pytest
import torch
from theorem_tools import ODES, SAMPLERS
from torch import Tensor

from inkwash.core import noise
from inkwash.core.analytic import Mixture, gaussian
from inkwash.core.level import Level
from inkwash.core.schedule import Cosine
from inkwash.core.spacing import Path, Trailing
from inkwash.sample import Known, Plan, Program, Sampler, begin, run, start, tick
from inkwash.value import parse
from inkwash.verify.oracle import F64

PATH = Trailing().levels(Cosine(), 40)
COUNT = 4000
MEAN, VARIANCE = 0.5, 0.3
DATA = gaussian(torch.full((COUNT,), MEAN, dtype=F64), torch.full((COUNT,), VARIANCE, dtype=F64))
CLEAN = MEAN + math.sqrt(VARIANCE) * noise.normal((COUNT,), 3, 0, 0, "test data").double()


def denoise(x: Tensor, level: Level, index: Tensor) -> Tensor:
    return DATA.denoise(x, level)


def program(sampler: Sampler, path: Path, seed: int = 1, paint: Tensor | None = None) -> Program:
    plan = sampler.plan(path)
    return Program(plan, seed, 0, start(plan, CLEAN, seed, 0), None if paint is None else Known(CLEAN, paint))


@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if s.order], ids=repr)
def test_K2_what_starts_from_data_ends_as_data(sampler: Sampler) -> None:
    """Noisy data at a level are distributed as that level's marginal, so the end of any path leads them back: mean and variance stay."""
    one = program(sampler, Trailing().levels(Cosine(), 120).cut(0.57))
    [made] = run(denoise, [one])
    x = made.clean.x
    assert float(x.mean()) == pytest.approx(MEAN, abs=4 * math.sqrt(VARIANCE / COUNT) + 0.01)
    assert float(x.var()) == pytest.approx(VARIANCE, rel=4 * math.sqrt(2 / COUNT) + 0.05)   # + the order's error


@pytest.mark.parametrize("sampler", ODES, ids=repr)
def test_K2_an_ode_keeps_what_its_start_level_keeps(sampler: Sampler) -> None:
    """The flow of a Gaussian is linear: the correlation with the image is that of x and x0 at the level of the start."""
    for strength in (0.2, 0.5, 0.8):
        path = PATH.cut(strength)
        alpha, sigma = path.points[0]
        [made] = run(denoise, [program(sampler, path)])
        kept = float(torch.corrcoef(torch.stack([made.clean.x, CLEAN]))[0, 1])
        assert kept == pytest.approx(alpha * math.sqrt(VARIANCE / (alpha**2 * VARIANCE + sigma**2)), abs=0.05)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_K3_what_is_kept_is_at_its_level_after_every_row_and_exact_at_the_end(sampler: Sampler) -> None:
    paint = torch.arange(COUNT) % 3 == 0
    one = program(sampler, PATH.cut(0.3), paint=paint)
    plan, state = one.plan, begin([one])
    for row in range(plan.rows):
        state, _, _ = tick(denoise, [one], state)
        z = noise.normal((COUNT,), one.seed, one.image, row, "known").double()
        wanted = float(plan.alpha[row + 1]) * CLEAN + float(plan.sigma[row + 1]) * z
        assert torch.equal(state.x[0][~paint], wanted[~paint])
        assert not torch.equal(state.x[0][paint], wanted[paint])
    assert torch.equal(state.x[0][~paint], CLEAN[~paint])


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_K3_a_white_mask_changes_no_bit_and_nobody_changes_a_neighbour(sampler: Sampler) -> None:
    path = PATH.cut(0.2)
    everywhere, nowhere = torch.ones(COUNT, dtype=torch.bool), torch.zeros(COUNT, dtype=torch.bool)
    programs = [program(sampler, path), program(sampler, path, paint=everywhere), program(sampler, path, 5, nowhere),
                program(sampler, PATH.cut(0.31), 7)]
    together = run(denoise, programs)
    assert torch.equal(together[0].x, together[1].x)
    assert torch.equal(together[2].x, CLEAN)
    for alone, result in zip(programs, together, strict=True):
        assert torch.equal(run(denoise, [alone])[0].x, result.x)


@pytest.mark.parametrize("text", ["ddim", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "heun"])
def test_K3_what_is_painted_fits_what_is_kept(text: str) -> None:
    """Data are (1, 1) or (-1, -1): where the first number is kept at 1 the second becomes 1.

    Without the mask it does half the time, and less often than it should where the kept part bears one noise at all rows.
    """
    both = Mixture(torch.tensor([0.5, 0.5], dtype=F64), torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=F64), torch.zeros(2, 2, dtype=F64))
    plan: Plan = parse(text, Sampler).plan(PATH)  # type: ignore[type-abstract]
    image, paint = torch.tensor([1.0, 0.0], dtype=F64), torch.tensor([False, True])
    starts = [start(plan, image, seed, 0) for seed in range(100)]
    known = Known(image, paint)
    one_noise = torch.stack([noise.normal((2,), seed, 0, 0, "start").double() for seed in range(100)])

    def share(known: Known | None, fixed: Known | None = None) -> float:
        programs = [Program(plan, seed, 0, x, known) for seed, x in enumerate(starts)]
        state = begin(programs)
        for row in range(plan.rows):
            state, _, _ = tick(lambda x, level, index: both.denoise(x, level), programs, state)
            if fixed is not None:
                state = state._replace(x=fixed.impose(state.x, float(plan.alpha[row + 1]), float(plan.sigma[row + 1]), one_noise))
        return float((state.x[:, 1] > 0).double().mean())

    fresh = share(known)
    assert 0.3 < share(None) < 0.7
    assert fresh > 0.94
    assert share(None, known) < fresh - 0.02
