"""compile: true is a wish: where it cannot be granted the run goes on and says so once."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from tiny_runs import toy

from inkwash.errors import InkwashWarning
from inkwash.train import setting
from inkwash.train.diffusion import DenoiserTask
from inkwash.train.run import train


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU needs no C++ compiler")
def test_no_compiler_warns_once_and_trains(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = train(toy(steps=2), [data], tmp_path / "plain", quiet=True)
    monkeypatch.setattr(setting.shutil, "which", lambda name: None)
    with pytest.warns(InkwashWarning, match="no C\\+\\+ compiler was found; install g\\+\\+") as caught:
        found = train(toy(steps=2, compile=True), [data], tmp_path / "run", quiet=True)
    assert len(caught) == 1
    assert found == plain


def test_a_failed_compilation_falls_back_once(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.exc import TorchDynamoException

    plain = train(toy(steps=2), [data], tmp_path / "plain", quiet=True)
    original, calls = DenoiserTask.losses, []

    def losses(task, batch, draw):  # type: ignore[no-untyped-def]
        calls.append(draw.step)
        if len(calls) == 1:
            raise TorchDynamoException("a damaged cache")
        yield from original(task, batch, draw)

    monkeypatch.setattr(DenoiserTask, "losses", losses)
    monkeypatch.setattr(torch.compiler, "set_stance", lambda stance: nullcontext())
    with pytest.warns(InkwashWarning, match="compiling failed .a damaged cache."):
        found = train(toy(steps=2), [data], tmp_path / "run", quiet=True)
    assert calls == [0, 0, 1]
    assert found == plain
