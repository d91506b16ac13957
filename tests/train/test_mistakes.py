"""What people do to a run: go back, change a setting, name the wrong folder, have no captions, two folders with the same names."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import make_data, run, toy

from inkwash.cli.train import train as train_command
from inkwash.data.heldout import hold_out, rank
from inkwash.data.source import Source, open_source
from inkwash.errors import DataError, DivergedError, UsageError
from inkwash.tokenizer import Tokenizer
from inkwash.train import checkpoint
from inkwash.train.autoencoder import edge_loss
from inkwash.train.classifier import labelled
from inkwash.train.config import RunConfig, validate
from inkwash.train.log import read_log
from inkwash.train.run import replay, train
from inkwash.train.trainer import Trainer

ENCODER = "TextEncoderConfig(vocab=300, width=16, layers=1, heads=2, max_tokens=16)"


def pairs(**changes: Any) -> RunConfig:
    """A tiny text encoder's run."""
    network = f"ClipConfig(text={ENCODER}, image=ImageTowerConfig(widths=(8,), blocks=(1,), out_dim=16, patch=4), shared_dim=8)"
    return validate({"task": "contrastive", "network": network, "vocab": 300, "steps": 2, "batch": 4, "precision": "float32", "validate_every": 0,
                     "data": {"size": 16, "validation": 2}, **changes}, "pairs")


def test_a_run_that_goes_back_goes_on_from_there(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    train(toy(keep=9), [data], out, quiet=True)
    changed = {"steps": 3, "keep": 1, "optimizer": {"lr": 0.02}}
    back = train(toy(**changed), [data], out, resume=checkpoint.path_of(out, 2), accept_changes=True)
    assert "checkpoint-00000006 is now aside-checkpoint-00000006" in capsys.readouterr().err
    assert checkpoint.steps_in(out) == [3]                                              # the newest, and not those of the way that was left
    assert sorted(path.name for path in out.glob("aside*")) == ["aside-checkpoint-00000004", "aside-checkpoint-00000006"]
    assert train(toy(**changed), [data], out, quiet=True) == back


def test_a_damaged_checkpoint_does_not_displace_a_good_one(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(toy(keep=9), [data], out, quiet=True)
    (checkpoint.path_of(out, 6) / "state.json").unlink()
    train(toy(steps=5, keep=1), [data], out, quiet=True)
    assert checkpoint.steps_in(out) == [5]


def test_accumulation_may_change_on_the_way(data: Path, tmp_path: Path) -> None:
    straight = train(toy(), [data], tmp_path / "straight", quiet=True)
    train(toy(steps=4), [data], tmp_path / "run", quiet=True)
    assert train(toy(accumulate=2), [data], tmp_path / "run", quiet=True).step == straight.step
    a, b = (checkpoint.load(checkpoint.path_of(tmp_path / name, 6)).tensors["weights"] for name in ("straight", "run"))
    assert all(torch.allclose(a[name], b[name], atol=1e-5) for name in a)


def test_buckets_cannot_change_their_accumulation(data: Path, tmp_path: Path) -> None:
    shapes = {"size": 8, "mode": "bucket", "step": 8}
    train(toy(steps=2, data=shapes), [data], tmp_path / "run", quiet=True)
    with pytest.raises(UsageError, match=r"accumulate \(1 -> 2\)"):
        train(toy(steps=2, accumulate=2, data=shapes), [data], tmp_path / "run", quiet=True)


def test_a_tokenizer_without_weights_is_learned_anew_and_one_with_weights_goes_along(data: Path, tmp_path: Path) -> None:
    out, stale = tmp_path / "run", Tokenizer.train(["zzz"] * 9, 259, 16).text()
    out.mkdir()
    (out / "tokenizer.json").write_text(stale)                                          # left by a run that ended before its first checkpoint
    train(pairs(), [data], out, quiet=True)
    learned = (out / "tokenizer.json").read_text()
    assert learned != stale
    other = make_data(tmp_path / "other")
    for path in other.glob("*.txt"):
        path.write_text(path.read_text().replace("square", "box"))
    train(pairs(steps=3), [other], tmp_path / "next", resume=checkpoint.path_of(out, 2), accept_changes=True, quiet=True)
    assert (tmp_path / "next" / "tokenizer.json").read_text() == learned


def test_a_replay_of_other_settings_or_data_is_refused(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        plain = Trainer.run_step

        def bad(trainer: Trainer) -> dict[str, float]:
            return plain(trainer) if trainer.step < 1 else trainer._skip(["a"], "denoiser", float("nan"), 1.0)

        patch.setattr(Trainer, "run_step", bad)
        with pytest.raises(DivergedError):
            train(toy(), [data], tmp_path / "run", quiet=True)
    folder = tmp_path / "run" / "diverged-00000003"
    with pytest.raises(UsageError, match=r"seed \(0 -> 5\)"):
        replay(toy(seed=5), [data], tmp_path / "run", folder)
    with pytest.raises(UsageError, match="not those that"):
        replay(toy(), [make_data(tmp_path / "other", count=30)], tmp_path / "run", folder)
    assert len(replay(toy(seed=5), [data], tmp_path / "run", folder, accept_changes=True)) == 4


def test_a_finished_run_ends_once(data: Path, tmp_path: Path) -> None:
    for _ in range(3):
        train(toy(steps=2), [data], tmp_path / "run", quiet=True)
    assert [event["step"] for event in read_log(tmp_path / "run") if event["event"] == "end"] == [2]


def test_a_skipped_last_step_is_still_reported(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Trainer.run_step

    def bad(trainer: Trainer) -> dict[str, float]:
        return plain(trainer) if trainer.step < 2 else trainer._skip(["a"], "denoiser", float("nan"), 1.0)

    monkeypatch.setattr(Trainer, "run_step", bad)
    train(toy(steps=3, log_every=10, validate_every=10), [data], tmp_path / "run", quiet=True)
    assert [event["step"] for event in read_log(tmp_path / "run") if event["event"] == "validation"] == [0, 3]
    assert [event["step"] for event in read_log(tmp_path / "run") if event["event"] == "train"] == [3]


@pytest.mark.parametrize("captions", ["", "always the same"])
def test_pairs_need_captions(tmp_path: Path, captions: str) -> None:
    folder = make_data(tmp_path / "set")
    for path in folder.glob("*.txt"):
        path.write_text(captions)
    with pytest.raises(DataError) as caught:
        train(pairs(), [folder], tmp_path / "run", quiet=True)
    assert caught.value.code == "no_captions"
    assert "caption or text" in caught.value.message


def test_text_to_images_needs_captions(tmp_path: Path) -> None:
    folder = make_data(tmp_path / "set")
    for path in folder.glob("*.txt"):
        path.unlink()
    network = ("UNetConfig(in_channels=3, out_channels=3, widths=(8,), attention=(False,), cross=(True,), mid_attention=False, text_dim=16, "
               "pooled_dim=16, head_dim=8)")
    with pytest.raises(DataError, match="all captions are empty"):
        train(toy(network=network, text_network=ENCODER, vocab=300), [folder], tmp_path / "run", quiet=True)


def test_a_run_inside_its_data_is_refused(data: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "set"))
    for out in (folder, folder / "deep" / "run"):
        with pytest.raises(UsageError, match="is inside the data"):
            train(toy(), [folder], out, quiet=True)


def test_one_damaged_picture_of_a_hundred_may_be_a_held_out_one(tmp_path: Path) -> None:
    folder = make_data(tmp_path / "set", count=100)
    held_out = hold_out(open_source(folder), 10)[1]
    assert held_out is not None
    (folder / held_out.key(0)).write_bytes(b"cut")
    assert train(toy(steps=1, data={"validation": 10}, validate_every=1), [folder], tmp_path / "run", quiet=True).step == 1
    for i in range(3):
        (folder / held_out.key(i)).write_bytes(b"cut")
    with pytest.raises(DataError, match="cannot be read"):
        train(toy(steps=1, data={"validation": 10}, validate_every=1), [folder], tmp_path / "other", quiet=True)


def test_names_that_are_not_utf8_are_held_out_and_trained_on(tmp_path: Path) -> None:
    folder = make_data(tmp_path / "set", count=20)
    try:
        os.rename(folder / "004.png", os.fsencode(folder) + b"/\xff4.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    train(toy(steps=1), [folder], tmp_path / "run", quiet=True)
    assert rank("\udcff4.png") != rank("4.png")


def test_a_classifier_sees_a_path_as_often_as_asked(data: Path, tmp_path: Path) -> None:
    def count(source: Source) -> int:
        return sum(source.caption(i).startswith("a red") for i in range(len(source)))

    once = labelled(open_source(data), ["red", "green"])
    thrice = labelled(open_source([f"{data}*3"]), ["red", "green"])
    assert len(once) == 16
    assert (len(thrice), count(thrice)) == (48, 3 * count(once))


@pytest.mark.parametrize("size", [2, 4, 8, 16])
def test_the_edges_of_small_pictures_are_finite(size: int) -> None:
    x, y = torch.randn(2, 2, 3, size, 2 * size, generator=torch.Generator().manual_seed(0)).unbind(0)
    assert bool((edge_loss(x, y) > 0).all())
    assert bool(edge_loss(x, x).eq(0).all())


@pytest.mark.parametrize(("setting", "code"), [
    ("sample.sampler=xyz", "unknown_name"), ("sample.spacing=xyz", "unknown_name"), ("sample.steps=5000", "bad_steps"),
    ("sample.seeds=[-1]", "bad_seed"), ("sample.guidance=1000", "bad_guidance")])
def test_settings_that_no_picture_can_be_made_with_are_refused_first(data: Path, tmp_path: Path, setting: str, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        train_command("toy", data=[str(data)], out=str(tmp_path / "run"), set=[setting])
    assert caught.value.code == code
    assert not (tmp_path / "run").exists()


def test_what_goes_on_names_the_cache(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr("inkwash.train.run.train", lambda *args, command, **rest: told.append(command) or train(*args, command=command, **rest))
    train_command("toy", data=[str(data)], out=str(tmp_path / "run"), set=["steps=1"], cache=str(tmp_path / "cache"), quiet=True)
    assert told[0][-2:] == ["--cache", str(tmp_path / "cache")]
    with pytest.raises(UsageError, match="give one of both"):
        train_command("toy", data=[str(data)], out=str(tmp_path / "run"), resume="a", replay="b")


def test_two_folders_with_the_same_names_are_set_aside_one_by_one(tmp_path: Path) -> None:
    folders = [make_data(tmp_path / name, count=60) for name in ("a", "b")]
    for folder in folders:
        (folder / "007.png").write_bytes(b"cut")
    train(toy(steps=1, data={"validation": 0}), folders, tmp_path / "run", quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert [line["where"] for line in lines] == [str(folder / "007.png") for folder in folders]
    train(toy(steps=2, data={"validation": 0}), folders, tmp_path / "run", quiet=True)
    assert len((tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()) == 2


def test_captions_that_utf8_cannot_write(tmp_path: Path) -> None:
    folder = make_data(tmp_path / "set")
    rows = [json.dumps({"file_name": path.name, "caption": f"half a pair \ud83d {path.name}"}) for path in sorted(folder.glob("*.png"))]
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    train(pairs(steps=1), [folder], tmp_path / "run", quiet=True)
    assert open_source(folder).caption(0) == "half a pair ? 000.png"


def test_unknown_kinds_of_task_are_told(command: Any, tmp_path: Path) -> None:
    done = run(command(tmp_path / "run", task="[1]"))
    assert done.returncode == 2
    assert "task: must be one of" in done.stderr
