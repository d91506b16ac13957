"""Two processes do what one does: the same losses on the same global batch, with DDP and with FSDP2."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_runs import run, toy

from inkwash.train import checkpoint
from inkwash.train.config import read_recipe
from inkwash.train.contrastive import info_nce
from inkwash.train.distributed import Group
from inkwash.train.log import read_log
from inkwash.train.run import train

SETTINGS = {"steps": 4, "checkpoint_every": 2, "validate_every": 4}


def losses(out: Path) -> list[float]:
    return [event["loss"] for event in read_log(out) if event["event"] == "train"]


def torchrun(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]


@pytest.fixture(scope="module")
def one(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    out = tmp_path_factory.mktemp("one") / "run"
    train(read_recipe("toy", [f"{key}={value}" for key, value in SETTINGS.items()]), [data], out, quiet=True)
    return out


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_train_as_one_and_one_goes_on(one: Path, tmp_path: Path, command: Callable[..., list[str]], data: Path, parallel: str) -> None:
    out = tmp_path / "two"
    found = run(torchrun(command(out, parallel=parallel, **SETTINGS)))
    assert found.returncode == 0, found.stderr
    assert losses(out) == pytest.approx(losses(one), rel=1e-4)
    arrays, same = ({path.relative_to(folder): path.read_bytes() for path in folder.glob("cache/*/rows.npy")} for folder in (one, out))
    assert arrays == same, "the caches have the same names and bytes, however many processes computed them"
    assert len(arrays) == 3, "pixels and latents for training, pixels of what is held out"
    mine, theirs = (checkpoint.load(checkpoint.path_of(folder, 4)) for folder in (one, out))
    for group in ("weights", "ema", "optimizer"):
        assert mine.tensors[group].keys() == theirs.tensors[group].keys()
    for name, tensor in mine.tensors["weights"].items():
        torch.testing.assert_close(theirs.tensors["weights"][name], tensor, rtol=1e-3, atol=1e-4)
    assert (out / "model" / "inkwash.json").is_file()
    assert train(read_recipe("toy", ["steps=5"]), [data], out, quiet=True).step == 5
    assert len(losses(out)) == 5


def test_a_contrastive_loss_split_in_two_is_the_whole_one() -> None:
    torch.manual_seed(0)
    image, text = torch.nn.functional.normalize(torch.randn(2, 6, 4), dim=-1)
    ids = torch.tensor([[1], [2], [3], [1], [5], [6]])
    scale = torch.tensor(5.0)
    whole = info_nce(image, text, scale, ids, image, text, ids, 0)
    parts = [info_nce(image[i : i + 3], text[i : i + 3], scale, ids[i : i + 3], image, text, ids, i) for i in (0, 3)]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_equal_captions_are_no_negatives() -> None:
    image, text = torch.eye(4)[:3], torch.eye(4)[[0, 1, 0]]
    scale = torch.tensor(3.0)
    same = info_nce(image, text, scale, torch.tensor([[1], [2], [1]]), image, text, torch.tensor([[1], [2], [1]]), 0)
    different = info_nce(image, text, scale, torch.tensor([[1], [2], [3]]), image, text, torch.tensor([[1], [2], [3]]), 0)
    exact = 0.5 * (2 * torch.logsumexp(torch.tensor([3.0, 0.0]), 0) - 6)
    torch.testing.assert_close(same[0], exact)
    assert different[0] > same[0]


def test_batch_that_does_not_divide(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from inkwash.errors import UsageError
    from inkwash.train.distributed import Group

    monkeypatch.setattr(Group, "__init__", lambda self: self.__dict__.update(world=3, rank=0, device=torch.device("cpu"), sharded=False))
    monkeypatch.setattr(Group, "close", lambda self: None)
    monkeypatch.setattr(Group, "mean", lambda self, value: value)
    with pytest.raises(UsageError, match="multiple of accumulate x processes = 3"):
        train(toy(batch=4), [data], tmp_path / "run", quiet=True)


def test_processes_agree_by_mean_and_by_the_largest_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, of which the other one holds threes: it was told to stop, and this one was not."""
    import torch.distributed as dist

    joined = {dist.ReduceOp.SUM: torch.add, dist.ReduceOp.MAX: torch.maximum, dist.ReduceOp.MIN: torch.minimum}

    def all_reduce(tensor: torch.Tensor, op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> None:
        tensor.copy_(joined[op](tensor, torch.full_like(tensor, 3)))

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    group = Group(alone=True)
    group.world = 2
    assert (group.agree(0), group.agree(15)) == (3, 15)
    assert group.mean(2.0) == 2.5
    parameters = [torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(())), torch.nn.Parameter(torch.zeros(2))]
    parameters[0].grad, parameters[1].grad = torch.arange(6.0).view(3, 2).T, torch.tensor(5.0)
    group.average_gradients(parameters)
    assert parameters[0].grad.tolist() == [[1.5, 2.5, 3.5], [2.0, 3.0, 4.0]]
    assert parameters[1].grad.item() == 4.0
    assert parameters[2].grad is None
