"""A run that is stopped in any way and goes on ends with the bits of one that was not."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_runs import environment, make_data, run, toy

from inkwash.errors import BusyError, CheckpointError, ResourceError, UsageError
from inkwash.io import durable
from inkwash.train import checkpoint
from inkwash.train.log import read_log
from inkwash.train.loop import Result
from inkwash.train.run import train


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """The uninterrupted run."""
    out = tmp_path_factory.mktemp("straight") / "run"
    return train(toy(), [data], out, quiet=True), out


@pytest.fixture
def stopped(data: Path, tmp_path: Path) -> Path:
    """A run with the checkpoints of steps 2 and 4, of 6."""
    out = tmp_path / "stopped"
    train(toy(steps=4), [data], out, quiet=True)
    assert checkpoint.steps_in(out) == [2, 4]
    return out


def test_resume_equals_straight(straight: tuple[Result, Path], stopped: Path, data: Path) -> None:
    assert train(toy(), [data], stopped, quiet=True) == straight[0]
    assert [event["step"] for event in read_log(stopped) if event["event"] == "train"] == [1, 2, 3, 4, 5, 6]


def test_kill_9_then_the_same_command_gives_the_same_hash(tmp_path: Path, command: Callable[..., list[str]]) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(command(whole)).returncode == 0
    process = subprocess.Popen(command(killed), env=environment(), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not any(event.get("step", 0) >= 5 for event in read_log(killed)):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert run(command(killed)).returncode == 0
    assert read_log(killed)[-1]["event"] == read_log(whole)[-1]["event"] == "end"
    for key in ("sha256", "ema_sha256"):
        assert read_log(killed)[-1][key] == read_log(whole)[-1][key]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_finish_the_step_and_save(tmp_path: Path, command: Callable[..., list[str]], number: int, code: int) -> None:
    process = subprocess.Popen(command(tmp_path / "run", steps=100_000, checkpoint_every=100_000, validate_every=0), env=environment(),
                               stderr=subprocess.PIPE, text=True)
    while not any(event.get("step", 0) >= 2 for event in read_log(tmp_path / "run")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == code
    assert "go on with: inkwash train" in errors
    saved = checkpoint.steps_in(tmp_path / "run")
    assert len(saved) == 1
    assert checkpoint.load(checkpoint.path_of(tmp_path / "run", saved[0])).step == saved[0]


def test_t23_a_damaged_checkpoint_is_passed_over_with_its_name_and_reason(
    straight: tuple[Result, Path], stopped: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkpoint.path_of(stopped, 4) / "manifest.json").unlink()
    half = stopped / f"{durable.PARTIAL}123-checkpoint-00000006"
    half.mkdir()
    (half / "weights.safetensors").write_bytes(b"half")
    assert train(toy(), [data], stopped) == straight[0]
    said = capsys.readouterr().err
    assert "skipped checkpoint-00000004" in said
    assert "has no manifest.json" in said
    assert "checkpoint-00000006: it was being written" in said
    assert "resumed from step 2 of 6" in said
    assert not half.exists()


def test_t23_all_damaged_is_an_error_not_a_fresh_start(stopped: Path, data: Path) -> None:
    for step in (2, 4):
        (checkpoint.path_of(stopped, step) / "state.json").unlink()
    with pytest.raises(CheckpointError, match="all 2 checkpoints"):
        train(toy(), [data], stopped, quiet=True)


def test_t24_disk_full(stopped: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in stopped.glob("checkpoint-*/*")}

    def full(path: Path, data: bytes, intact: str = "") -> None:
        with durable.space_for(path.parent, len(data), intact):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("inkwash.io.tensors.write_bytes", full)
    with pytest.raises(ResourceError) as caught:
        train(toy(), [data], stopped, quiet=True)
    assert caught.value.code == "disk_full"
    assert caught.value.exit_code == 5
    assert f'cannot write to "{stopped}"' in caught.value.message
    assert "MiB free" in caught.value.message
    assert "last good checkpoint step 4 is intact" in caught.value.message
    assert {path: path.read_bytes() for path in stopped.glob("checkpoint-*/*")} == before
    assert not list(stopped.glob(f"{durable.PARTIAL}*"))


def test_t25_a_flipped_bit_is_refused_by_name(stopped: Path, data: Path) -> None:
    path = checkpoint.path_of(stopped, 4) / "weights.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"tensor denoiser/network\.\S+: sha256 mismatch") as caught:
        train(toy(), [data], stopped, resume=path.parent, quiet=True)
    assert caught.value.code == "ckpt_corrupt"


def test_t26_an_explicit_path_that_is_not_there(tmp_path: Path, data: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint") as caught:
        train(toy(), [data], tmp_path / "run", resume=tmp_path / "nothing", quiet=True)
    assert caught.value.exit_code == 4
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_t28_another_architecture_and_a_newer_format(stopped: Path, data: Path) -> None:
    wide = toy(network=repr(toy().network).replace("(8,)", "(16,)"))
    with pytest.raises(CheckpointError) as caught:
        train(wide, [data], stopped, resume=checkpoint.path_of(stopped, 4), accept_changes=True, quiet=True)
    assert caught.value.code == "arch_mismatch"
    assert caught.value.message.count(" in the checkpoint, ") == 5
    path = checkpoint.path_of(stopped, 4) / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(CheckpointError, match="format 99, this version reads up to 1"):
        train(toy(), [data], stopped, resume=path.parent, quiet=True)


def test_changed_settings_are_refused_by_key_and_can_be_accepted(stopped: Path, data: Path) -> None:
    with pytest.raises(UsageError, match=r"optimizer\.lr \(0\.01 -> 0\.02\)"):
        train(toy(optimizer={"lr": 0.02}), [data], stopped, quiet=True)
    _rewritten(stopped, schedule="wsd", cooldown=2)
    with pytest.raises(UsageError, match="learning rates of past steps"):
        train(toy(steps=4, optimizer={"schedule": "wsd", "cooldown": 2}).model_copy(update={"steps": 3}), [data], stopped, quiet=True)
    assert train(toy(steps=7, optimizer={"lr": 0.02}), [data], stopped, accept_changes=True, quiet=True).step == 7


def _rewritten(run_folder: Path, **optimizer: object) -> Path:
    """The run as if it had been made with other optimizer settings."""
    path = checkpoint.path_of(run_folder, 4)
    snapshot = checkpoint.load(path)
    config = snapshot.state["config"]
    shutil.rmtree(path)
    checkpoint.save(path, snapshot._replace(state={**snapshot.state, "config": {**config, "optimizer": {**config["optimizer"], **optimizer}}}))
    return run_folder


def test_other_data_are_refused(stopped: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not those that"):
        train(toy(), [make_data(tmp_path / "other", count=30)], stopped, quiet=True)


def test_only_the_last_n_are_kept(straight: tuple[Result, Path]) -> None:
    assert checkpoint.steps_in(straight[1]) == [4, 6]


def test_two_runs_cannot_share_a_folder(stopped: Path, data: Path) -> None:
    import fcntl

    (stopped / f"{durable.PARTIAL}123-checkpoint-00000006").mkdir()                     # what the other is writing
    before = {path: path.stat().st_mtime_ns for path in stopped.rglob("*")}
    with (stopped / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="wait for it, stop it, or choose another --out") as caught:
            train(toy(), [data], stopped, quiet=True)
    assert caught.value.exit_code == 9
    assert {path: path.stat().st_mtime_ns for path in stopped.rglob("*")} == before
