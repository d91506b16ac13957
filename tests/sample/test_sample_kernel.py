"""One mix of a whole batch has the bits of the plain sum, sample by sample, for every sampler."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from inkwash.core.level import Level
from inkwash.core.schedule import Cosine
from inkwash.core.spacing import Trailing
from inkwash.sample import Program, Sampler, prior, run
from inkwash.sample.kernel import State, advance
from inkwash.sample.plan import COLUMNS
from inkwash.value import registry

SAMPLERS = [cls() for cls in registry(Sampler).values()]  # type: ignore[type-abstract]
SHAPE = (3, 5, 7)                                          # no multiple of what a processor adds at once


def plain(state: State, x0: Tensor, slope: Tensor, weights: Tensor, z: Tensor | None) -> State:
    """What `advance` says, as plainly as it can be written: one sample and one column after the other, from zero."""
    samples = []
    for i in range(len(state.row)):
        x, base, *h = (tensor[i] for tensor in (state.x, state.base, *state.h))
        s, w = (table[i if len(table) > 1 else 0].to(x) for table in (slope, weights))
        h = [torch.zeros_like(x) + s[0] * x + s[1] * x0[i], *h[:-1]]
        mixes = []
        for which in (0, 1):
            total = torch.zeros_like(x)
            for column, tensor in enumerate((x, base, *h, None if z is None else z[i])):
                if tensor is not None:
                    total = total + w[which, column] * tensor
            mixes.append(total)
        samples.append([*mixes, *h])
    x, base, *slopes = (torch.stack(tensors) for tensors in zip(*samples, strict=True))
    return State(x, base, tuple(slopes), state.row + 1)


def bits(x: Tensor) -> Tensor:
    return x.view({4: torch.int32, 8: torch.int64}[x.element_size()])


def same(a: State, b: State) -> bool:
    return all(torch.equal(bits(one), bits(two)) for one, two in zip((a.x, a.base, *a.h), (b.x, b.base, *b.h), strict=True))


def bumpy(x: Tensor, level: Level, index: Tensor) -> Tensor:
    """Smooth in places, and exactly 0 or -0 in others."""
    return torch.where(x.abs() < 0.3, 0.0 * x, torch.sin(3 * x))


def programs(sampler: Sampler, count: int = 3) -> list[Program]:
    plan = sampler.plan(Trailing().levels(Cosine(), 6))
    return [Program(plan, 7 + i, i, prior(plan, SHAPE, 7 + i, i)) for i in range(count)]


def results(given: list[Program]) -> list[Tensor]:
    return [bits(result.x) for result in run(bumpy, given)]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_samples_that_share_a_plan_have_the_bits_of_the_plain_sum(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    together = results(programs(sampler))
    alone = [results([program])[0] for program in programs(sampler)]
    monkeypatch.setattr(sys.modules["inkwash.sample.run"], "advance", plain)
    wanted = results(programs(sampler))
    assert all(torch.equal(a, b) for a, b in zip(together, wanted, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(alone, wanted, strict=True))


def test_all_samplers_in_one_batch_have_the_bits_of_the_plain_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [program for sampler in SAMPLERS for program in programs(sampler, 2)]
    together = results(given)
    monkeypatch.setattr(sys.modules["inkwash.sample.run"], "advance", plain)
    assert all(torch.equal(a, b) for a, b in zip(together, results(given), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shared", ["all", "some", "none"])
def test_a_coefficient_is_one_number_written_once_or_once_per_sample(shared: str, dtype: torch.dtype) -> None:
    """Random tables with zeros, over values with zeros of both signs."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        return torch.where(values.abs() < 0.5, 0.0 * values, values)

    x, base, x0, z, *h = (random(6, *SHAPE).to(dtype) for _ in range(8))
    slope, weights = random(6, 2), random(6, 2, COLUMNS)
    if shared != "none":
        slope, weights = (table[:1].expand_as(table).clone() for table in (slope, weights))
    if shared == "some":
        weights[3:, :, ::2] = random(3, 2, 4)
    state = State(x, base, tuple(h), torch.zeros(6, dtype=torch.long))
    wanted = plain(state, x0, slope, weights, z)
    assert same(advance(state, x0, slope, weights, z), wanted)
    for i in range(6):
        one = slice(i, i + 1)
        alone = advance(State(x[one], base[one], tuple(old[one] for old in h), state.row[one]), x0[one], slope[one], weights[one], z[one])
        assert same(alone, State(wanted.x[one], wanted.base[one], tuple(old[one] for old in wanted.h), wanted.row[one]))


def test_the_layout_of_the_networks_answer_does_not_reach_the_state() -> None:
    """Networks may answer channels-last; the next input must be laid out as the last one was, or convolutions choose other kernels."""
    plan = programs(SAMPLERS[0])[0].plan
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    seen: list[tuple[int, ...]] = []

    def answer(x: Tensor, level: Level, index: Tensor) -> Tensor:
        seen.append(x.stride())
        return (0.5 * x).contiguous(memory_format=torch.channels_last)

    made = run(answer, [Program(plan, 0, i, x[i]) for i in range(2)])
    assert set(seen) == {x.stride()}
    assert made[0].x.is_contiguous()


def test_gradients_pass_through_the_rows() -> None:
    plan = programs(SAMPLERS[0])[0].plan
    weight = torch.tensor(0.7, requires_grad=True)
    made = run(lambda x, level, index: weight * x, [Program(plan, 0, 0, torch.ones(3))])
    gradient, = torch.autograd.grad(made[0].x.sum(), weight)
    assert float(gradient) != 0
