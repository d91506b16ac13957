"""Tensor files: what safetensors lets through in silence is refused by name, and nothing is ever executed."""

from __future__ import annotations

import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from inkwash.errors import CheckpointError, ResourceError
from inkwash.io import durable, tensors
from inkwash.io.tensors import load_tensors, read_manifest, save_tensors, write_manifest

GOOD = {"blocks.0.weight": torch.arange(12.0).reshape(3, 4), "blocks.0.bias": torch.ones(3, dtype=torch.bfloat16), "step": torch.tensor(7)}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    write_manifest(tmp_path, {path.name: save_tensors(path, GOOD, {"made": "here"})})
    return path


def refused(path: Path, code: str, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_tensors(path)
    assert caught.value.code == code
    assert caught.value.exit_code == 4
    for word in words:
        assert word in caught.value.message, caught.value.message


def test_round_trip_keeps_every_bit(saved: Path) -> None:
    found = load_tensors(saved)
    assert list(found) == sorted(GOOD)
    for name, tensor in GOOD.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_channels_last_weights_are_stored_in_their_own_order(tmp_path: Path) -> None:
    weight = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    save_tensors(tmp_path / "a.safetensors", {"w": weight})
    assert torch.equal(load_tensors(tmp_path / "a.safetensors")["w"], weight)
    assert tensors.sha256(weight) == tensors.sha256(weight.contiguous())


@pytest.mark.parametrize("offset", [-1, -5, -40])
def test_t25_a_flipped_bit_names_its_tensor(saved: Path, offset: int) -> None:
    data = bytearray(saved.read_bytes())
    data[offset] ^= 1
    saved.write_bytes(data)
    refused(saved, "ckpt_corrupt", "tensor ", "sha256 mismatch")


def test_truncation_and_garbage(saved: Path) -> None:
    data = saved.read_bytes()
    for cut in (0, 4, 8, 30, len(data) - 1):
        saved.write_bytes(data[:cut])
        refused(saved, "ckpt_corrupt")
    (saved.parent / "manifest.json").unlink()
    for cut in (0, 4, 8, 30, len(data) - 1):
        saved.write_bytes(data[:cut])
        refused(saved, "ckpt_corrupt")


def test_missing_extra_and_reshaped_tensors_are_named(saved: Path) -> None:
    entry = read_manifest(saved.parent)[saved.name]
    for change, word in (({"extra": {}}, "tensor extra: missing"), ({"step": None}, "tensor step: not expected"),
                         ({"step": {"shape": [1], "dtype": "int64"}}, "tensor step: shape is []"),
                         ({"step": {"shape": [], "dtype": "int32"}}, "tensor step: dtype is int64")):
        listed = {name: value for name, value in {**entry["tensors"], **change}.items() if value is not None}
        with pytest.raises(CheckpointError, match=r"ckpt_corrupt|tensor") as caught:
            load_tensors(saved, {**entry, "tensors": listed})
        assert word in caught.value.message


def test_not_finite_values_are_refused_in_both_directions(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(CheckpointError, match="tensor w has NaN"):
        save_tensors(tmp_path / "nan.safetensors", {"w": torch.tensor([1.0, float("nan")])})
    from safetensors.torch import save_file

    save_file({"w": torch.tensor([float("inf")])}, tmp_path / "inf.safetensors")
    refused(tmp_path / "inf.safetensors", "not_finite", "tensor w")


def crafted(path: Path, header: str, body: bytes = b"") -> Path:
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + body)
    return path


def test_duplicate_names_and_huge_headers(tmp_path: Path) -> None:
    one = '"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    refused(crafted(tmp_path / "twice.safetensors", "{" + one + "," + one + "}", b"\0" * 4), "ckpt_corrupt", '"w" twice')
    many = json.dumps({f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(tensors.MAX_TENSORS + 1)})
    refused(crafted(tmp_path / "many.safetensors", many), "ckpt_corrupt", "at most 20000")
    refused(crafted(tmp_path / "large.safetensors", "{" + " " * tensors.MAX_HEADER_BYTES + "}"), "ckpt_corrupt", "header of")


@pytest.mark.parametrize("header", ["5       ", "null    ", "[]      ", '"abc"   '])
def test_a_header_that_is_no_object_is_refused(tmp_path: Path, header: str) -> None:
    refused(crafted(tmp_path / "odd.safetensors", header), "ckpt_corrupt", "not a JSON object")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_numbers_of_8_bits_are_read_and_checked(tmp_path: Path, dtype: torch.dtype) -> None:
    from safetensors.torch import save_file

    save_file({"w": torch.ones(3).to(dtype)}, tmp_path / "small.safetensors")
    assert torch.equal(load_tensors(tmp_path / "small.safetensors")["w"].float(), torch.ones(3))
    save_file({"w": torch.full((3,), float("nan")).to(dtype)}, tmp_path / "nan.safetensors")
    refused(tmp_path / "nan.safetensors", "not_finite", "tensor w")


class Bomb:
    def __reduce__(self):  # type: ignore[no-untyped-def]
        return eval, ("open('exploded', 'w').close()",)


@pytest.mark.parametrize("name", ["model.pt", "model.ckpt", "renamed.safetensors", "zipped.safetensors"])
def test_t27_pickles_are_refused_and_never_run(tmp_path: Path, name: str) -> None:
    data = pickle.dumps(Bomb())
    if name.startswith("zipped"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("archive/data.pkl", data)
        data = buffer.getvalue()
    (tmp_path / name).write_bytes(data)
    code = f"""
import sys
from pathlib import Path
from inkwash.errors import CheckpointError
from inkwash.io.tensors import load_tensors
seen = []
sys.addaudithook(lambda event, args: seen.append(event) if event.startswith(("pickle.", "exec", "marshal")) else None)
try:
    load_tensors(Path({name!r}))
except CheckpointError as error:
    print(error.code, seen)
"""
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert found.stdout.split(" ", 1) == ["unsafe_format", "[]\n"], found.stderr
    assert not (tmp_path / "exploded").exists()


def test_a_newer_manifest_is_not_half_understood(saved: Path) -> None:
    path = saved.parent / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    refused(saved, "ckpt_too_new", "format 2")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    durable.write_text(path, "old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ResourceError, match=r"needs 0\.0 MiB, .* MiB free .*; step 4 is intact"):
        durable.write_text(path, "new", "step 4 is intact")
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["state.json"]


def test_every_write_is_synced_before_it_is_renamed_and_the_folder_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    events: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr("os.fsync", lambda handle: (events.append("folder" if Path(f"/proc/self/fd/{handle}").is_dir() else "file"), fsync(handle)))
    monkeypatch.setattr(Path, "replace", lambda self, target: (events.append("replace"), replace(self, target))[1])
    durable.write_text(tmp_path / "a", "text")
    assert events == ["file", "replace", "folder"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint"
    with durable.new_folder(target) as folder:
        (folder / "one").write_text("1")
        assert not target.exists()
    assert (target / "one").read_text() == "1"

    def fail() -> None:
        with durable.new_folder(target) as folder:
            (folder / "two").write_text("2")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [path.name for path in target.iterdir()] == ["one"]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("there", [True, False], ids=["folder", "nothing yet"])
def test_a_link_stays_and_what_it_names_is_replaced(tmp_path: Path, there: bool) -> None:
    (tmp_path / "disk").mkdir()
    link, real = tmp_path / "link", tmp_path / "disk" / "real"
    if there:
        real.mkdir()
    link.symlink_to(real)
    with durable.new_folder(link) as folder:
        (folder / "one").write_text("1")
    assert link.is_symlink()
    assert (real / "one").read_text() == "1"
    assert {path.name for path in tmp_path.rglob("*")} == {"disk", "real", "link", "one"}


def test_what_was_moved_away_by_a_killed_process_comes_back(tmp_path: Path) -> None:
    target = tmp_path / "check-point"
    with durable.new_folder(target) as folder:
        (folder / "one").write_text("1")
    target.rename(tmp_path / f"{durable.OLD}123-check-point")                            # as between the two names of `new_folder`
    (tmp_path / f"{durable.PARTIAL}123-check-point").mkdir()
    durable.remove_partials(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["check-point"]
    assert [path.name for path in target.iterdir()] == ["one"]
    (tmp_path / f"{durable.OLD}123-check-point").mkdir()                                  # and where the new one has come
    durable.remove_partials(tmp_path)
    assert [path.name for path in target.iterdir()] == ["one"]
