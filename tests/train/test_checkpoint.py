"""A folder of checkpoints by itself: what is written, found, kept, refused and put aside."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from inkwash.errors import CheckpointError
from inkwash.train import checkpoint
from inkwash.train.checkpoint import Snapshot, latest, load, path_of, prune, require_fit, save, set_aside, steps_in


def snapshot(step: int) -> Snapshot:
    tensors = {group: {"one/w": torch.full((2, 3), float(step + i))} for i, group in enumerate(checkpoint.GROUPS)}
    return Snapshot(step, tensors, {"seen": 8 * step, "settings": {"lr": 0.1}})


def fill(run: Path, *steps: int) -> Path:
    for step in steps:
        save(path_of(run, step), snapshot(step))
    return run


def rewrite_state(path: Path, **changes: object) -> None:
    state = path / checkpoint.STATE
    state.write_text(json.dumps({**json.loads(state.read_text()), **changes}))


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    found, expected = load(path_of(fill(tmp_path, 7), 7)), snapshot(7)
    assert (found.step, found.state) == (expected.step, expected.state)
    for group in checkpoint.GROUPS:
        assert torch.equal(found.tensors[group]["one/w"], expected.tensors[group]["one/w"])


def test_the_newest_good_one_is_taken_and_as_many_as_asked_are_kept(tmp_path: Path) -> None:
    said: list[str] = []
    fill(tmp_path, 2, 10, 4)
    (tmp_path / "checkpoint-99").mkdir()                   # no name of ours
    rewrite_state(path_of(tmp_path, 10), seen=0)
    found = latest(tmp_path, said.append)
    assert found is not None
    assert found.step == 4
    assert [line.split(":")[0] for line in said] == ["skipped checkpoint-00000010"]
    prune(tmp_path, 2)
    assert steps_in(tmp_path) == [4, 10]
    assert latest(tmp_path / "none", said.append) is None


def test_a_single_damaged_checkpoint_is_no_fresh_start_either(tmp_path: Path) -> None:
    rewrite_state(path_of(fill(tmp_path, 3), 3), seen=0)
    with pytest.raises(CheckpointError) as caught:
        latest(tmp_path, lambda line: None)
    assert caught.value.code == "no_good_checkpoint"


def test_a_state_that_was_changed_or_is_of_the_next_format_is_refused(tmp_path: Path) -> None:
    for changes, code in (({"step": 8}, "ckpt_corrupt"), ({"format": checkpoint.FORMAT + 1}, "ckpt_too_new"), ({"format": "x"}, "ckpt_corrupt")):
        path = path_of(fill(tmp_path / code / str(changes), 5), 5)
        rewrite_state(path, **changes)
        with pytest.raises(CheckpointError) as caught:
            load(path)
        assert caught.value.code == code


def test_later_checkpoints_are_put_aside_under_names_of_their_own(tmp_path: Path) -> None:
    for _ in range(3):
        set_aside(fill(tmp_path, 2, 4), 2, lambda line: None)
        assert steps_in(tmp_path) == [2]
        shutil.rmtree(path_of(tmp_path, 2))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"aside{number}-checkpoint-00000004" for number in ("", "1", "2")]


def test_the_first_five_differences_of_another_network_are_told() -> None:
    def named(**shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
        return {name: torch.zeros(shape) for name, shape in shapes.items()}

    require_fit("it", named(a=(2, 3)), named(a=(2, 3)))
    with pytest.raises(CheckpointError) as caught:
        require_fit("it", named(a=(2, 3), b=(1,), d=(), e=(), f=(), g=()), named(a=(3, 2), c=(1,)))
    for part in ("a: (2, 3) in the checkpoint, (3, 2) here", "b: not in this network", "c: missing in the checkpoint", "d: not", "e: not",
                 "and 2 more"):
        assert part in caught.value.message
    assert "f: not" not in caught.value.message
