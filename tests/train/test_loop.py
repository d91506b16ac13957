"""The loop: averages, skipped steps, accumulation, positional randomness."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_runs import toy
from torch import nn

from inkwash.data.heldout import hold_out
from inkwash.errors import DivergedError
from inkwash.train.config import OptimizerConfig, RunConfig
from inkwash.train.diffusion import DenoiserTask
from inkwash.train.distributed import Group
from inkwash.train.ema import Ema
from inkwash.train.log import read_log
from inkwash.train.optim import Optimizers, lr_factor, split
from inkwash.train.run import replay, train
from inkwash.train.task import Draw, Loss
from inkwash.train.trainer import Trainer


def test_ema_forgets_half_after_its_half_life_whatever_the_batch() -> None:
    for batch in (1, 8, 32):
        module = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(module.weight)
        ema = Ema(module, half_life=64, ramp=0)
        nn.init.ones_(module.weight)
        for step in range(64 // batch):
            ema.update(module, batch, (step + 1) * batch)
        assert ema.tensors["weight"].item() == pytest.approx(0.5, abs=1e-5)


def test_ema_forgets_the_initial_weights_during_the_ramp() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 100.0)
    ema = Ema(module, half_life=10_000, ramp=0.1)
    nn.init.zeros_(module.weight)
    for step in range(50):
        ema.update(module, 10, (step + 1) * 10)
    assert abs(ema.tensors["weight"].item()) < 1e-6


def test_ema_is_applied_only_inside_the_block() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    ema = Ema(module, 1)
    nn.init.ones_(module.weight)
    with ema.applied(module):
        assert module.weight.item() == 0
    assert module.weight.item() == 1


def test_what_is_no_number_to_average_is_copied() -> None:
    module = nn.BatchNorm1d(3)
    ema = Ema(module, half_life=1e9, ramp=0)
    module(torch.randn(4, 3) + 5)
    ema.update(module, 4, 4)
    assert ema.tensors["num_batches_tracked"].item() == 1
    assert ema.tensors["running_mean"].abs().max() < 1e-6


@pytest.mark.parametrize(("kind", "step", "expected"), [("constant", 0, 0.25), ("constant", 1, 0.5), ("constant", 3, 1.0), ("constant", 50, 1.0),
                                                        ("cosine", 4, 1.0), ("cosine", 52, 0.55), ("cosine", 100, 0.1), ("wsd", 0, 0.25),
                                                        ("wsd", 79, 1.0), ("wsd", 90, 0.55), ("wsd", 100, 0.1)])
def test_learning_rate(kind: str, step: int, expected: float) -> None:
    settings = {"wsd": {"cooldown": 20, "final": 0.1}, "cosine": {"final": 0.1}, "constant": {}}[kind]
    config = OptimizerConfig(schedule=kind, warmup=4, **settings)  # type: ignore[arg-type]
    assert lr_factor(config, step, 100) == pytest.approx(expected, abs=1e-12)


def test_muon_takes_hidden_matrices_only() -> None:
    module = nn.ModuleDict({"conv": nn.Conv2d(2, 4, 3), "embed": nn.Embedding(5, 4), "hidden": nn.Linear(4, 6), "norm": nn.LayerNorm(4),
                            "one": nn.Linear(4, 1)})
    hidden, rest = split(module)
    assert set(hidden) == {"hidden.weight"}
    assert set(rest) == {"conv.weight", "conv.bias", "embed.weight", "hidden.bias", "norm.weight", "norm.bias", "one.weight", "one.bias"}
    optimizers = Optimizers(module, OptimizerConfig(kind="muon"))
    before = module["hidden"].weight.detach().clone()
    module["hidden"](torch.randn(8, 4)).square().sum().backward()
    optimizers.step(1.0)
    update = (before - module["hidden"].weight).detach()
    singular = torch.linalg.svdvals(update)
    assert singular.max() / singular.min() < 3


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_optimizers_take_up_their_state_by_name(kind: str) -> None:
    """Also where one name begins as another does."""
    def made() -> tuple[nn.ModuleDict, Optimizers]:
        module = nn.ModuleDict({"a": nn.Linear(3, 4), "aa": nn.Linear(4, 3)})
        module["a"].register_parameter("weight_scale", nn.Parameter(torch.ones(4, 3)))
        return module, Optimizers(module, OptimizerConfig(kind=kind))  # type: ignore[arg-type]

    module, optimizers = made()
    for parameter in module.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizers.step(1.0)
    state, (_, fresh) = optimizers.state(), made()
    fresh.load(state, lambda tensor, parameter: tensor)
    assert fresh.state().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in fresh.state().items())


def test_draws_depend_on_the_position_alone() -> None:
    whole = Draw(7, 3, 8)
    for first, count in ((0, 8), (0, 2), (2, 2), (6, 2), (4, 4)):
        part = Draw(7, 3, 8, first, count)
        assert torch.equal(part.normal((2, 3), "noise"), whole.normal((2, 3), "noise")[first : first + count])
        assert torch.equal(part.uniform((), "level"), whole.uniform((), "level")[first : first + count])
    assert not torch.equal(whole.normal((2,), "noise"), Draw(7, 4, 8).normal((2,), "noise"))
    assert not torch.equal(whole.normal((2,), "noise"), whole.normal((2,), "other"))


class Push(nn.Module):
    """One weight w, pushed down by losses k w whose factor k grows a hundredfold a step; the task is a stub of `Task`."""

    fingerprint = "push"

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))

    @property
    def roles(self) -> dict[str, nn.Module]:
        return {"one": self}

    def batch(self, micro_step: int) -> int:
        return micro_step

    def keys(self, batch: int) -> list[str]:
        return []

    def losses(self, batch: int, draw: Draw) -> Iterator[Loss]:
        yield Loss("one", self.w * 100.0**draw.step * torch.ones(8), {})


def test_a_step_is_clipped_and_follows_the_rates_and_the_average_counts_samples() -> None:
    """AdamW moves by its rate where every gradient is the same, which clipping to norm 1 makes of these."""
    steps, task = 5, Push()
    config = RunConfig(task="push", steps=steps, batch=8, precision="float32", ema_half_life=16, ema_ramp=0.5,
                       optimizer=OptimizerConfig(lr=0.1, warmup=2, schedule="cosine", clip=1.0))
    trainer, w, average = Trainer(task, config, Group(alone=True)), 0.0, 0.0  # type: ignore[arg-type]
    for step in range(steps):
        assert trainer.run_step()["grad_norm"] == pytest.approx(100.0**step)
        w -= 0.1 * lr_factor(config.optimizer, step, steps)
        average += (w - average) * (1 - 0.5 ** (8 / min(16, 0.5 * 8 * (step + 1))))
        assert task.w.item() == pytest.approx(w, rel=1e-5)
        assert trainer.emas["one"].tensors["w"].item() == pytest.approx(average, rel=1e-5)
    with trainer.averaged():
        assert (task.training, task.w.item()) == (False, pytest.approx(average, rel=1e-5))
    assert (task.training, task.w.item()) == (True, pytest.approx(w, rel=1e-5))


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_rate_of_its_own_scales_the_move_of_the_parameters_that_it_names(kind: str) -> None:
    torch.manual_seed(0)
    module = nn.ModuleDict({"text": nn.Linear(3, 3), "body": nn.Linear(3, 3)})
    module["text"].load_state_dict(module["body"].state_dict())
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    optimizers = Optimizers(module, OptimizerConfig(kind=kind, lr=0.1, muon_lr=0.1, scale={"^text": 0.25}))  # type: ignore[arg-type]
    x = torch.randn(5, 3)
    sum(layer(x).square().sum() for layer in module.values()).backward()  # type: ignore[union-attr]
    optimizers.step(0.5)
    moved = {name: parameter.detach() - before[name] for name, parameter in module.named_parameters()}
    for name in ("weight", "bias"):
        torch.testing.assert_close(moved[f"text.{name}"], 0.25 * moved[f"body.{name}"], rtol=1e-4, atol=1e-7)
    assert moved["body.bias"].abs().mean().item() == pytest.approx(0.05, rel=1e-4)                             # AdamW's first move is its rate


def test_optimizers_have_the_settings_of_their_config() -> None:
    config = OptimizerConfig(lr=0.3, betas=(0.5, 0.75), eps=0.125, weight_decay=0.25)
    ((_, optimizer, lr),) = Optimizers(nn.Linear(2, 2), config).parts
    group = optimizer.param_groups[0]
    assert (lr, group["betas"], group["eps"], group["weight_decay"]) == (0.3, (0.5, 0.75), 0.125, 0.25)
    _, (_, muon, lr) = Optimizers(nn.Linear(2, 2), config.model_copy(update={"kind": "muon", "muon_lr": 0.125})).parts
    assert (lr, muon.param_groups[0]["weight_decay"]) == (0.125, 0.25)


def test_accumulation_changes_nothing_but_rounding(data: Path, tmp_path: Path) -> None:
    losses = []
    for accumulate in (1, 2, 4):
        out = tmp_path / str(accumulate)
        train(toy(accumulate=accumulate, steps=3), [data], out, quiet=True)
        losses.append([event["loss"] for event in read_log(out) if event["event"] == "train"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] == pytest.approx(losses[0], rel=1e-5)


def test_muon_run_learns_and_resumes(data: Path, tmp_path: Path) -> None:
    network = "DiTConfig(in_channels=3, out_channels=3, patch=2, width=16, depth=1, heads=2)"
    straight = train(toy(network=network, optimizer={"kind": "muon"}), [data], tmp_path / "a", quiet=True)
    train(toy(network=network, optimizer={"kind": "muon"}, steps=4), [data], tmp_path / "b", quiet=True)
    assert train(toy(network=network, optimizer={"kind": "muon"}), [data], tmp_path / "b", quiet=True) == straight


class Poison:
    """Makes the losses of some steps NaN."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
        original = DenoiserTask.losses

        def losses(task: DenoiserTask, batch, draw: Draw):
            for loss in original(task, batch, draw):
                yield loss._replace(value=loss.value * torch.nan) if draw.step in steps else loss

        monkeypatch.setattr(DenoiserTask, "losses", losses)


def test_t29_one_bad_step_is_skipped_and_changes_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Poison(monkeypatch, 3)
    short = train(toy(steps=3, keep=9), [data], tmp_path / "short", quiet=True)
    long = train(toy(steps=4, keep=9), [data], tmp_path / "long", quiet=True)
    assert long.step == 4
    assert (long.sha256, long.ema_sha256) == (short.sha256, short.ema_sha256)
    skipped = [event for event in read_log(tmp_path / "long") if event["event"] == "skipped"]
    assert [event["step"] for event in skipped] == [3]
    assert len(skipped[0]["keys"]) == 4


def test_t29_three_bad_steps_end_the_run_with_step_samples_and_a_replay_command(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        Poison(patch, 1, 2, 3)
        with pytest.raises(DivergedError) as caught:
            train(toy(), [data], tmp_path / "run", command=["inkwash", "train", "toy"], quiet=True)
    assert caught.value.exit_code == 6
    assert "step 3" in caught.value.message
    keys = [event for event in read_log(tmp_path / "run") if event["event"] == "skipped"][-1]["keys"]
    assert keys[0] in caught.value.message
    folder = tmp_path / "run" / "diverged-00000003"
    assert f"inkwash train toy --replay {folder}" in caught.value.message
    found = replay(toy(), [data], tmp_path / "run", folder)
    assert [key for key, _ in found] == keys
    assert all(0 < loss < 10 for _, loss in found)


def test_lost_weights_are_told_apart(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"not finite any more; there is no earlier checkpoint"):
        train(toy(optimizer={"lr": 1e38, "clip": None}), [data], tmp_path / "run", quiet=True)


def test_held_out_items_are_never_trained_on(data: Path) -> None:
    from inkwash.data.source import open_source

    training, validation = hold_out(open_source([f"{data}*3"]), 2)
    assert validation is not None
    apart = {validation.key(i) for i in range(len(validation))}
    assert len(apart) == 2
    assert len(training) == 3 * 22
    assert not apart & {training.key(i) for i in range(len(training))}
