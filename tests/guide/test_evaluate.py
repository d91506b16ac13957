"""One evaluation of unlike requests: bits do not depend on neighbours, and every evaluation is counted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from inkwash.cond import Cond
from inkwash.core.level import Gauge, Level
from inkwash.core.prediction import V
from inkwash.denoiser import Denoiser
from inkwash.errors import UsageError
from inkwash.guide import (
    APG,
    CFG,
    AutoGuidance,
    ClassifierGuidance,
    ClassifierShift,
    CosineStrength,
    DynamicThreshold,
    Guidance,
    Interval,
    NoGuidance,
    Rescale,
    effective,
    evaluate,
)
from inkwash.value import registry

CLASSES = 5


class Network(nn.Module):
    """Convolutions, a linear map of the noise level and the label, and attention over pixels: all that has other bits in other shapes."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.label = nn.Embedding(CLASSES + 1, 32)
            self.noise = nn.Linear(32, 32)
            self.enter, self.leave = nn.Conv2d(4, 32, 3, padding=1), nn.Conv2d(32, 4, 3, padding=1)
        self.rows = 0

    def forward(self, x: Tensor, noise: Tensor, cond: Cond) -> Tensor:
        self.rows += len(x)
        told = self.noise((noise[:, None] / 300 * torch.arange(1, 33)).sin()) + self.label(cond["label"])  # (B, 32)
        h = nn.functional.silu(self.enter(x) + told[:, :, None, None])
        flat = h.flatten(2).transpose(1, 2)  # (B, H W, 32)
        h = h + nn.functional.scaled_dot_product_attention(flat, flat, flat).transpose(1, 2).reshape(h.shape)
        return self.leave(h)


@pytest.fixture
def networks() -> dict[str, Network]:
    return {"main": Network(0), "weak": Network(1)}


@pytest.fixture
def models(networks: dict[str, Network]) -> dict[str, Denoiser | ClassifierShift]:
    classifier = Network(2)

    def log_prob(x: Tensor, level: Level, cond: Cond) -> Tensor:
        logits = classifier(x, level.sigma.to(x) * 1000, Cond({"label": torch.zeros_like(cond["label"])})).mean((2, 3))  # (B, 4)
        return logits.log_softmax(1).gather(1, cond["label"][:, None] % 4)[:, 0]

    return {**{name: Denoiser(network, V()) for name, network in networks.items()}, "classifier": ClassifierShift(log_prob)}


def requests(count: int) -> tuple[Tensor, Level, dict[str, Cond]]:
    generator = torch.Generator().manual_seed(count)
    x = torch.randn(count, 4, 8, 8, generator=generator)
    level = Gauge.VP.split(torch.linspace(-3, 3, count, dtype=torch.float64))
    label = torch.randint(0, CLASSES, (count,), generator=generator)
    return x, level, {"cond": Cond({"label": label}), "label": Cond({"label": label}), "null": Cond({"label": torch.full_like(label, CLASSES)}),
                      "negative": Cond({"label": (label + 1) % CLASSES})}


def only(i: int, x: Tensor, level: Level, conds: dict[str, Cond]) -> tuple[Tensor, Level, dict[str, Cond]]:
    return x[i : i + 1], level.take(torch.tensor([i])), {name: cond.take([i]) for name, cond in conds.items()}


MIXED: list[Guidance] = [
    *(cls() for cls in registry(Guidance).values()), CFG(1.0), CFG(0.0), CFG(4.0, against="negative"), CFG(7.5, Interval(0.3, 3.0)),
    CFG(5.0, strength=CosineStrength(), then=(Rescale(0.7), DynamicThreshold(0.9, (-1.0, 1.0)))), APG(3.0, threshold=1.0), AutoGuidance(1.5),
]


@torch.no_grad()
def test_g8_unlike_requests_together_have_the_bits_of_each_alone(models: dict[str, Denoiser | ClassifierShift]) -> None:
    batch = requests(len(MIXED))
    together, calls = evaluate(models, *batch[:2], MIXED, batch[2], micro_batch=16)
    assert len({int(n) for n in calls}) > 1
    for i, guidance in enumerate(MIXED):
        x, level, conds = only(i, *batch)
        alone, cost = evaluate(models, x, level, [guidance], conds, micro_batch=16)
        assert torch.equal(alone[0], together[i]), repr(guidance)
        assert int(cost) == int(calls[i])


@torch.no_grad()
def test_g8_order_and_neighbours_do_not_matter(models: dict[str, Denoiser | ClassifierShift]) -> None:
    x, level, conds = requests(len(MIXED))
    expected, _ = evaluate(models, x, level, MIXED, conds, micro_batch=16)
    for seed in range(4):
        order = torch.randperm(len(MIXED), generator=torch.Generator().manual_seed(seed))[: 3 + 2 * seed]
        chosen = {name: cond.take(order) for name, cond in conds.items()}
        got, _ = evaluate(models, x[order], level.take(order), [MIXED[i] for i in order], chosen, 16)
        assert torch.equal(got, expected[order])


@torch.no_grad()
@pytest.mark.parametrize("micro_batch", [4, 16])
def test_g8_fused_is_two_passes_to_the_bit(models: dict[str, Denoiser | ClassifierShift], micro_batch: int) -> None:
    x, level, conds = requests(7)
    fused, calls = evaluate(models, x, level, [CFG(7.5)] * 7, conds, micro_batch)
    c, u = (evaluate(models, x, level, [NoGuidance(name)] * 7, conds, micro_batch)[0] for name in ("cond", "null"))
    assert torch.equal(fused, c * 7.5 + u * -6.5)
    assert calls.tolist() == [2] * 7


@torch.no_grad()
@pytest.mark.parametrize("guidance", MIXED, ids=repr)
@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 5, 7)])
def test_g8_samples_that_share_a_guidance_are_summed_as_one_to_the_bit(models: dict[str, Denoiser | ClassifierShift], guidance: Guidance,
                                                                       shape: tuple[int, ...]) -> None:
    """At one level and at several, beside neighbours of another kind: each has the bits of the weighted sum of its own branches, written out."""
    x, level, conds = requests(7)
    x = torch.randn(7, *shape, generator=torch.Generator().manual_seed(1))
    level = level.take(torch.tensor([3, 3, 3, 0, 1, 3, 3]))
    guidances: list[Guidance] = [*[guidance] * 5, CFG(2.5), guidance]
    together, _ = evaluate(models, x, level, guidances, conds, micro_batch=16)
    for i, each in enumerate(guidances):
        mine = only(i, x, level, conds)
        plan, parts = each.branches(float(mine[1].lam)), []
        for branch in plan:
            rows = {"cond": mine[2][branch.cond].pad(16)}
            if branch.told is not None:
                rows["cond"] = Cond({**rows["cond"], "guidance": torch.full((16,), branch.told)})
            parts.append(models[branch.model](mine[0].expand(16, *shape).contiguous(), mine[1].take(torch.zeros(16, dtype=torch.long)),
                                              rows["cond"])[:1])
        total = parts[0] * plan[0].weight
        for branch, part in zip(plan[1:], parts[1:], strict=True):
            total = total + part * branch.weight
        wanted = each.adjust(parts[0] if len(plan) == 1 and plan[0].weight == 1 else total, tuple(parts), mine[0], mine[1])
        assert torch.equal(together[i].view(torch.int32), wanted[0].view(torch.int32))


def test_what_may_adjust_says_so() -> None:
    """`evaluate` leaves `adjust` out where `adjusts` is False, so a class that overrides the one must not inherit the other."""
    class Own(CFG):
        def adjust(self, x0: Tensor, parts: tuple[Tensor, ...], x: Tensor, level: Level) -> Tensor:
            return x0 + 1

    assert not any(guidance.adjusts for guidance in (NoGuidance(), CFG(3.0), AutoGuidance(2.0), ClassifierGuidance()))
    assert all(guidance.adjusts for guidance in (Own(3.0), APG(3.0), CFG(3.0, then=(Rescale(0.7),))))
    x, level, conds = requests(3)
    double = {"main": lambda x, level, cond: 2 * x}
    assert torch.equal(evaluate(double, x, level, [Own(3.0)] * 3, conds)[0], 2 * x * 3.0 + 2 * x * -2.0 + 1)


@torch.no_grad()
def test_g8_without_padding_it_is_the_same_up_to_rounding(models: dict[str, Denoiser | ClassifierShift]) -> None:
    x, level, conds = requests(len(MIXED))
    free, calls = evaluate(models, x, level, MIXED, conds)
    padded, same = evaluate(models, x, level, MIXED, conds, 16)
    torch.testing.assert_close(free, padded, rtol=1e-3, atol=1e-3)
    assert torch.equal(calls, same)


@torch.no_grad()
def test_s15_evaluations_are_what_the_networks_saw(models: dict[str, Denoiser | ClassifierShift], networks: dict[str, Network]) -> None:
    guidances = [guidance for guidance in MIXED if not isinstance(guidance, ClassifierGuidance)]
    x, level, conds = requests(len(guidances))
    _, calls = evaluate(models, x, level, guidances, conds)
    assert int(calls.sum()) == sum(network.rows for network in networks.values())
    assert calls.tolist() == [len(guidance.branches(lam)) for guidance, lam in zip(guidances, level.lam.tolist())]


@torch.no_grad()
def test_each_model_is_called_once_and_padded_calls_have_one_size() -> None:
    sizes: dict[str, list[int]] = {"main": [], "weak": []}

    def spy(name: str) -> Denoiser:
        def denoise(x: Tensor, level: Level, cond: Cond) -> Tensor:
            assert len(x) == len(level.alpha) == len(level.sigma) == cond.batch
            sizes[name].append(len(x))
            return x
        return denoise  # type: ignore[return-value]

    x, level, conds = requests(5)
    guidances = [CFG(2.0), CFG(2.0), NoGuidance(), AutoGuidance(2.0), CFG(3.0, against="negative")]
    both = {"main": spy("main"), "weak": spy("weak")}
    evaluate(both, x, level, guidances, conds)
    assert sizes == {"main": [8], "weak": [1]}
    evaluate(both, x, level, guidances, conds, micro_batch=3)
    assert sizes == {"main": [8, 3, 3, 3], "weak": [1, 3]}


def test_gradients_pass_through(models: dict[str, Denoiser | ClassifierShift]) -> None:
    x, level, conds = requests(3)
    x.requires_grad_()
    x0, _ = evaluate(models, x, level, [CFG(3.0), NoGuidance(), APG(2.0)], conds, 4)
    (gradient,) = torch.autograd.grad(x0.square().sum(), x)
    assert bool((gradient.flatten(1).norm(dim=1) > 0).all())


def test_nothing_is_evaluated_for_nobody(models: dict[str, Denoiser | ClassifierShift], networks: dict[str, Network]) -> None:
    x, level, conds = requests(3)
    empty = torch.zeros(0, dtype=torch.long)
    got, calls = evaluate(models, x[:0], level.take(empty), [], {name: cond.take(empty) for name, cond in conds.items()}, 4)
    assert got.shape == (0, 4, 8, 8)
    assert calls.shape == (0,)
    assert networks["main"].rows == 0


def test_what_is_missing_is_named(models: dict[str, Denoiser | ClassifierShift]) -> None:
    x, level, conds = requests(2)
    with pytest.raises(UsageError, match=r"condition 'absent'.*cond, label, null, negative"):
        evaluate(models, x, level, [CFG(2.0, against="absent")] * 2, conds)
    with pytest.raises(UsageError, match=r"model 'absent'.*main, weak, classifier"):
        evaluate(models, x, level, [AutoGuidance(weak="absent")] * 2, conds)
    with pytest.raises(ValueError, match="guidances"):
        evaluate(models, x, level, [CFG(2.0)], conds)
    with pytest.raises(ValueError, match=r"conds\['null'\]"):
        evaluate(models, x, level, [CFG(2.0)] * 2, {**conds, "null": conds["null"].take([0])})
    with pytest.raises(ValueError, match="micro_batch"):
        evaluate(models, x, level, [CFG(2.0)] * 2, conds, 0)


def test_g12_a_negative_prompt_is_reported_when_inert() -> None:
    lams = [-3.0, 0.0, 3.0]
    unguided = "the negative prompt is inert: without guidance nothing reads it; a scale above 1 does"
    assert effective(CFG(7.5, against="negative"), lams, ["cond", "negative"]).notes == ()
    assert effective(CFG(1.0, against="negative"), lams, ["negative"]).notes == (unguided,)
    assert effective(NoGuidance(), lams, ["negative"]).notes == (unguided,)
    (note,) = effective(CFG(7.5), lams, ["negative"]).notes
    assert note == "the negative prompt is inert: cfg does not read it; a scale above 1 does"
    assert effective(AutoGuidance(), lams, ["weak"]).notes == ()
    assert effective(CFG(7.5), lams, ["weak", "classifier"]).notes == (
        "the classifier is inert: cfg does not read it; ClassifierGuidance(scale=2) does",
        "the weaker model is inert: cfg does not read it; AutoGuidance(scale=2) does")


def test_g12_other_inert_settings() -> None:
    lams = [-3.0, 0.0, 3.0]
    effect = effective(CFG(7.5, Interval(5.0, 6.0, "lam"), then=(Rescale(0.5),)), lams)
    assert effect.evaluations == 3
    assert effective(CFG(7.5, Interval(-1.0, 1.0, "lam")), lams).notes == effective(CFG(1.0, Interval(5.0, 6.0, "lam")), lams).notes == ()
    assert effect.notes == ("scale is inert: no level of this run lies in Interval(low=5.0, high=6.0, unit='lam')", "Rescale(phi=0.5) is inert: w=1")


def test_g10_evaluations_are_known_beforehand(models: dict[str, Denoiser | ClassifierShift]) -> None:
    guidance = CFG(7.5, Interval(0.3, 3.0))
    x, level, conds = requests(9)
    _, calls = evaluate(models, x, level, [guidance] * 9, conds, 4)
    assert effective(guidance, level.lam.tolist()).evaluations == int(calls.sum()) < 18
