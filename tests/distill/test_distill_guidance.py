"""A student that is told w does what its teacher does with two evaluations, and the rest of the package treats it as one branch."""

from __future__ import annotations

import math

import pytest
import torch
from distill_toy import MIXTURE, Draws, Plane, exact, null
from scipy import stats
from torch import Tensor

from inkwash.cond import Cond
from inkwash.core.level import Gauge, Level
from inkwash.core.prediction import V
from inkwash.core.schedule import Cosine
from inkwash.core.spacing import Uniform
from inkwash.denoiser import Denoiser
from inkwash.distill.guidance import Examples, GuidanceTask, Guided, relative_error, student_of, tell
from inkwash.errors import UsageError
from inkwash.guide import CFG, Distilled, NoGuidance, effective, evaluate
from inkwash.nn.config import NetworkConfig
from inkwash.nn.dit import DiTConfig
from inkwash.nn.unet import UNetConfig
from inkwash.nn.unet2d import UNet2D, UNet2DConfig
from inkwash.sample import Program, prior, run
from inkwash.sample.multistep import DPMSolverPP
from inkwash.train.config import OptimizerConfig, RunConfig
from inkwash.train.distributed import Group
from inkwash.train.loop import Trainer
from inkwash.train.task import Draw
from inkwash.train.weighting import MinSNRWeight, SimpleWeight, Weighting

STEPS, BATCH = 1200, 384
SCALES = (1.0, 2.0, 4.0, 6.0, 8.0)


@pytest.fixture(scope="module")
def task() -> GuidanceTask:
    """A trained student, with its averaged weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = GuidanceTask(Denoiser(Plane(), V()), Guided(exact, null), Cosine(), Draws(BATCH))
        config = RunConfig(task="guidance", steps=STEPS, batch=BATCH, precision="float32", ema_half_life=20_000,
                           optimizer=OptimizerConfig(lr=4e-3, warmup=50, schedule="cosine", clip=None))
        trainer = Trainer(found, config, Group(alone=True))
        for _ in range(STEPS):
            trainer.run_step()
        for name, tensor in trainer.emas["student"].tensors.items():
            found.student.network.state_dict()[name].copy_(tensor)
    return found


def test_g13_the_student_matches_its_teacher_at_every_scale(task: GuidanceTask) -> None:
    held_out = Examples(*task.data.held_out(0))
    assert task.validate()["relative_l2"] < 0.05
    for w in SCALES:
        assert relative_error(task.student, task.teacher, task.process, held_out, (w, w)) < 0.05, w
    unguided = relative_error(lambda x, level, cond: exact(x, level, cond), task.teacher, task.process, held_out, (4.0, 4.0))
    assert unguided > 0.15, "the scale would not matter"


@pytest.mark.parametrize("weighting", [SimpleWeight(), MinSNRWeight()], ids=repr)
def test_g13_the_loss_is_its_formula(weighting: Weighting) -> None:
    """A new network says 0, so the loss is w |v_w|^2 of the teacher's x0_w, in the units of data of deviation 0.5."""
    found = GuidanceTask(Denoiser(Plane(), V(), sigma_data=0.5), Guided(exact, null), Cosine(), Draws(16), weighting=weighting)
    told: list[tuple[Tensor, ...]] = []
    error = found.error
    found.error = lambda *given: told.append(given) or error(*given)  # type: ignore[method-assign, func-returns-value]
    (loss,) = found.losses(found.batch(0), Draw(0, 1, 16))
    ((x0, t, eps, cond, w),) = told
    level = Cosine()(t)
    x = level.mix(x0, eps)
    u = exact(x, level, null(16))
    goal = u + w[:, None] * (exact(x, level, cond) - u)
    lam = level.lam + math.log(0.5)
    alpha, sigma = torch.sigmoid(2 * lam).sqrt()[:, None], torch.sigmoid(-2 * lam).sqrt()[:, None]
    noise = (x.double() - level.alpha[:, None] * goal) / level.sigma[:, None]           # the same number in any units
    value = (alpha * noise - sigma * goal / 0.5).square().mean(1)
    weight = torch.exp(2 * lam).clamp(max=5) * sigma[:, 0] ** 2 if weighting == MinSNRWeight() else torch.ones(16)
    torch.testing.assert_close(loss.logs["mse"].double(), value, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(loss.value.double(), weight * value, rtol=1e-3, atol=1e-5)


def test_g13_scales_are_even_in_their_logarithm_whatever_the_level() -> None:
    found = GuidanceTask(Denoiser(Plane(), V()), Guided(exact, null), Cosine(), Draws(4000))
    told: list[tuple[Tensor, ...]] = []
    found.error = lambda x0, t, eps, cond, w: told.append((t, w)) or (w, w)  # type: ignore[method-assign, func-returns-value]
    next(found.losses(found.batch(0), Draw(0, 0, 4000)))
    ((t, w),) = told
    share = w.double().log() / math.log(8)
    assert stats.kstest(share.numpy(), "uniform").pvalue > 1e-3
    assert abs(float(torch.corrcoef(torch.stack([t, share]))[0, 1])) < 4 / 4000**0.5


def test_g13_the_relative_error_is_that_of_a_student_whose_error_is_known() -> None:
    teacher, examples = Guided(exact, null), Examples(*Draws(64).batch(0))

    def off(x: Tensor, level: Level, cond: Cond) -> Tensor:
        return 1.1 * teacher(x, level, Cond({"label": cond["label"]}), cond["guidance"])

    assert relative_error(off, teacher, Cosine(), examples, (1.0, 8.0)) == pytest.approx(0.1, rel=1e-4)


def test_g13_half_the_evaluations_and_the_same_samples(task: GuidanceTask) -> None:
    plan = DPMSolverPP(2).plan(Uniform().levels(Cosine(), 20))
    count = 200
    label = torch.arange(count) % 3
    programs = [Program(plan, seed, 0, prior(plan, (2,), seed, 0)) for seed in range(count)]
    spent, ends = {}, {}
    for guidance, model in ((CFG(4.0), exact), (Distilled(4.0), task.student), (NoGuidance(), exact)):
        nfe = torch.zeros(count, dtype=torch.long)

        def denoise(x, level, index, guidance=guidance, model=model, nfe=nfe):  # type: ignore[no-untyped-def]
            conds = {"cond": Cond({"label": label[index]}), "null": null(len(index))}
            x0, calls = evaluate({"main": model}, x, level, [guidance] * len(index), conds)
            nfe[index] += calls
            return x0

        with torch.no_grad():
            ends[guidance] = torch.stack([result.clean.x for result in run(denoise, programs)])
        spent[guidance] = int(nfe.unique())
    assert spent == {CFG(4.0): 40, Distilled(4.0): 20, NoGuidance(): 20}
    size = ends[CFG(4.0)].norm()
    assert float((ends[Distilled(4.0)] - ends[CFG(4.0)]).norm() / size) < 0.05
    assert float((ends[NoGuidance()] - ends[CFG(4.0)]).norm() / size) > 0.1


@pytest.mark.parametrize("config", [UNetConfig(in_channels=2, out_channels=2, widths=(16,), attention=(False,), cross=(False,), num_classes=3),
                                    DiTConfig(in_channels=2, out_channels=2, width=16, depth=1, heads=2, num_classes=3),
                                    UNet2DConfig(2, 2, (16,), 1, ("pixels",), ("none",), "none", (1,), (1,), 0, num_classes=3, groups=8)],
                         ids=["unet", "dit", "unet2d"])
def test_a_student_starts_as_its_teacher_and_reads_the_scale(config: NetworkConfig) -> None:
    torch.manual_seed(1)
    teacher = config.build()
    for parameter in teacher.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.1)
    student = student_of(teacher)
    reader = student.time_embedding.cond_proj if isinstance(student, UNet2D) else student.embed.guidance.out  # type: ignore[union-attr]
    wanted = ({"time_embedding.cond_proj.weight"} if isinstance(student, UNet2D) else
              {f"embed.guidance.{name}" for name in ("hidden.weight", "hidden.bias", "out.weight", "out.bias")})
    assert set(student.state_dict()) - set(teacher.state_dict()) == wanted
    x, noise, cond = torch.randn(3, 2, 8, 8), torch.tensor([10.0, 500.0, 990.0]), Cond({"label": torch.arange(3)})
    w = torch.tensor([1.0, 4.0, 8.0])
    assert torch.equal(student(x, noise, tell(cond, w)), teacher(x, noise, cond))
    torch.nn.init.normal_(reader.weight)  # type: ignore[union-attr, arg-type]
    assert not torch.allclose(student(x, noise, tell(cond, w)), student(x, noise, tell(cond, w + 1)))
    with pytest.raises(UsageError, match="guidance"):
        student(x, noise, cond)
    with pytest.raises(UsageError, match="cannot be told"):
        student_of(student)


@pytest.mark.parametrize("config", [UNetConfig(widths=(16,), attention=(False,), cross=(False,)), DiTConfig(width=16, depth=1, heads=2),
                                    UNet2DConfig(widths=(16,), blocks=1, down=("text",), up=("none",), heads=(1,), depth=(1,), groups=8)],
                         ids=["unet", "dit", "unet2d"])
def test_networks_without_the_flag_are_as_before(config: NetworkConfig) -> None:
    assert "guidance" not in repr(config)
    torch.manual_seed(0)
    network = config.build()
    assert not any("guidance" in name or "cond_proj" in name for name in network.state_dict())


def test_g12_a_negative_prompt_is_inert_on_a_student() -> None:
    effect = effective(Distilled(4.0), [-1.0, 0.0, 1.0], given=("negative",))
    assert effect.evaluations == 3
    assert effect.notes == ("the negative prompt is inert: guidance is distilled into the model",)


def test_a_batch_carries_a_scale_per_sample() -> None:
    heard = []

    def model(x, level, cond):  # type: ignore[no-untyped-def]
        heard.append(cond.get("guidance"))
        return x

    level = Gauge.VP.split(torch.zeros(3, dtype=torch.float64))
    cond = {"cond": Cond({"label": torch.arange(3)}), "null": null(3)}
    _, calls = evaluate({"main": model}, torch.zeros(3, 2), level, [Distilled(2.0), Distilled(7.5), Distilled(1.0)], cond, micro_batch=2)
    assert calls.tolist() == [1, 1, 1]
    assert torch.cat(heard).tolist() == [2.0, 7.5, 1.0, 1.0]


def test_what_is_not_exportable_says_so(task: GuidanceTask, tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match="writer"):
        task.export(tmp_path, torch.float32)
    with pytest.raises(UsageError, match="scales"):
        GuidanceTask(task.student, task.teacher, Cosine(), Draws(4), scales=(8.0, 1.0))


def test_the_teacher_is_classifier_free_guidance() -> None:
    x0, cond, _ = Draws(4).batch(0)
    level = Level(torch.full((4,), 0.6, dtype=torch.float64), torch.full((4,), 0.8, dtype=torch.float64))
    w = torch.tensor([1.0, 2.0, 4.0, 8.0])
    expected, _ = evaluate({"main": exact}, x0, level, [CFG(float(scale)) for scale in w], {"cond": cond, "null": null(4)})
    assert torch.allclose(Guided(exact, null)(x0, level, cond, w), expected, atol=1e-6)
    assert MIXTURE.weights.sum() == 1
