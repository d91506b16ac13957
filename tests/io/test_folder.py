"""Parts and manifests: what comes back is what went in, or an error that names the difference."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from inkwash.condition import Null, NullConfig
from inkwash.errors import CheckpointError, UsageError
from inkwash.io.find import find_model, read_info
from inkwash.io.folder import (
    explicit,
    load_info,
    load_part,
    load_tokenizer,
    model_hash,
    part_config,
    part_folder,
    part_hash,
    register_networks,
    save_info,
    save_part,
)
from inkwash.io.info import ModelInfo, Sizes, build_info, info_text
from inkwash.io.tensors import read_manifest
from inkwash.nn.config import NetworkConfig
from inkwash.pipeline import Pipeline
from inkwash.value import parse, registry
from interop_toys import build_shared


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def test_a_part_comes_back_bit_for_bit(tmp_path: Path) -> None:
    part = Null(NullConfig(5, 3))
    torch.nn.init.normal_(part.token)
    save_part(tmp_path, "conditioner", part)
    again = load_part(tmp_path, "conditioner")
    assert part_config(tmp_path, "conditioner") == again.config == NullConfig(5, 3)
    assert torch.equal(again.token, part.token)
    assert not again.training


@dataclasses.dataclass(frozen=True, repr=False)
class WavesConfig(NetworkConfig):
    """Of a network with a table that is not stored."""

    width: int = 4

    def build(self) -> torch.nn.Module:
        module = torch.nn.Linear(self.width, 1)
        module.config = self
        module.register_buffer("waves", torch.arange(self.width) / 2, persistent=False)
        return module


def test_a_table_that_a_network_computes_for_itself_is_there_after_loading(tmp_path: Path) -> None:
    part = WavesConfig(3).build()
    save_part(tmp_path, "denoiser", part)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    again = load_part(tmp_path, "denoiser")
    assert again.waves.tolist() == [0.0, 0.5, 1.0]
    assert torch.equal(again.weight, part.weight)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_stored_config_spells_out_every_field_and_reads_back() -> None:
    register_networks()
    for name, cls in registry(NetworkConfig).items():
        try:
            value = cls()
        except TypeError:
            value = NullConfig(5, 3)
        text = explicit(value)
        assert parse(text, NetworkConfig) == value, name
        assert all(f"{field.name}=" in text for field in dataclasses.fields(value)), name


def test_a_dtype_halves_the_file_and_loads_as_float32(tmp_path: Path) -> None:
    part = Null(NullConfig(4096, 8))
    torch.nn.init.normal_(part.token)
    sizes = []
    for dtype in (None, torch.bfloat16):
        save_part(tmp_path, "conditioner", part, dtype=dtype)
        sizes.append((tmp_path / "conditioner" / "model.safetensors").stat().st_size)
    again = load_part(tmp_path, "conditioner")
    assert sizes[1] < 0.6 * sizes[0]
    assert again.token.dtype == torch.float32
    assert torch.equal(again.token, part.token.bfloat16().float())


def test_the_layout_is_the_usual_one_and_the_manifest_lists_every_file(tiny_model: Path) -> None:
    files = {path.relative_to(tiny_model).as_posix() for path in tiny_model.rglob("*") if path.is_file()}
    assert {"model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
            "text_encoder/model.safetensors", "tokenizer/tokenizer.json", "scheduler/scheduler_config.json"} <= files
    assert set(read_manifest(tiny_model)) == files - {"manifest.json"}
    index = json.loads((tiny_model / "model_index.json").read_text())
    assert index["unet"] == ["inkwash.interop.parts", "UNet"]


def test_the_hash_is_of_what_decides_pixels(copy: Path) -> None:
    before = model_hash(copy)
    info = read_info(copy)
    save_info(copy, dataclasses.replace(info, card={"license": "other"}, vocabulary={}))
    assert model_hash(copy) == before
    save_info(copy, dataclasses.replace(info, mean=(0.5, 0.0, 0.0, 0.0)))
    changed = model_hash(copy)
    assert changed != before
    part = load_part(copy, "conditioner")
    torch.nn.init.constant_(part.token, 0.5)
    save_part(copy, "conditioner", part)
    assert model_hash(copy) not in (before, changed)


def test_info_survives_its_file(tmp_path: Path) -> None:
    info = ModelInfo("x", "Shifted(base=Straight(), shift=2.0)", "Velocity()", "FLOW", network="transformer", channels=1, mean=(0.0,), std=(2.0,),
                     sizes=Sizes((64, 96), 32, 128, 32), card={"a": [1, {"b": None}]}, vocabulary={"é": 3})
    save_info(tmp_path, info)
    assert load_info(tmp_path) == info


@pytest.mark.parametrize(("change", "part"), [({"mean": "x"}, "mean"), ({"steps": 3}, "steps"), ({"network": "mlp"}, "network"),
                                              ({"std": [0.0], "mean": [0.0]}, "std"), ({"channels": 2}, "2 latent channels"),
                                              ({"sizes": {"least": 1.5}}, "least"), ({"sigma_data": 10**400}, "too large"),
                                              ({"vocabulary": {"a": "b"}}, "vocabulary"), ({"channels": True}, "channels")])
def test_info_of_the_wrong_kind_is_refused_by_name(tmp_path: Path, change: dict[str, object], part: str) -> None:
    raw = json.loads(info_text(ModelInfo("x", "Cosine()", "V()", channels=1, mean=(0.0,), std=(1.0,))))
    (tmp_path / "inkwash.json").write_text(json.dumps({**raw, **change}))
    with pytest.raises(CheckpointError, match=part):
        read_info(tmp_path)


def test_tensors_of_another_architecture_are_refused_with_the_first_differences(copy: Path) -> None:
    path = copy / "conditioner" / "config.json"
    save_part(copy, "conditioner", Null(NullConfig(32, 32)), NullConfig(32, 7))
    with pytest.raises(CheckpointError, match=r"pooled: expected \(7,\), found \(32,\)") as caught:
        load_part(copy, "conditioner")
    assert caught.value.code == "arch_mismatch"
    assert path.is_file()


def test_T27_a_pickle_under_the_name_of_safetensors_is_refused(copy: Path) -> None:
    path = copy / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(b"PK\x03\x04" + b"0" * 100)
    with pytest.raises(CheckpointError) as caught:
        load_part(copy, "vae")
    assert caught.value.code in ("unsafe_format", "ckpt_corrupt")


def test_models_are_found_by_folder_and_unknown_ones_list_the_known(tiny_model: Path, tmp_path: Path) -> None:
    assert find_model(tiny_model) == tiny_model
    for wrong in ("nope", "../etc", ".", str(tmp_path), "a/b"):
        with pytest.raises(CheckpointError, match="known") as caught:
            find_model(wrong)
        assert caught.value.exit_code == 4
    with pytest.raises(UsageError, match="the model is empty"):
        find_model("")


@pytest.mark.parametrize("find", [find_model, lambda folder: part_folder(folder, "classifier")], ids=["model", "part"])
def test_folders_that_may_not_be_entered_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, find: Callable[[Path], Path]) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "is_file", refuse)           # root may enter any
    with pytest.raises(CheckpointError, match="Permission denied"):
        find(tmp_path)


def test_sizes_say_what_is_allowed() -> None:
    sizes = Sizes((128, 128), 64, 256, 16)
    assert sizes.check(64, 256) == (64, 256)
    for wrong in ((0, 64), (63, 64), (72, 64), (64, 272), (99999, 99999)):
        with pytest.raises(UsageError, match=r"64\.\.256 in steps of 16"):
            sizes.check(*wrong)
    assert str(Sizes((128, 128), 128, 128, 128)) == "128x128"


@pytest.mark.parametrize("change", [{"sigma_data": 0.0}, {"sigma_data": math.nan}, {"mean": [math.nan]}, {"std": [-1.0]}, {"sizes": {"multiple": 0}},
                                    {"sizes": {"least": 128, "most": 64}}], ids=str)
def test_numbers_with_which_no_picture_can_be_made_are_refused(change: dict[str, object]) -> None:
    good = {"name": "m", "process": "Cosine()", "prediction": "V()", "channels": 1, "mean": [0.0], "std": [1.0]}
    assert build_info(good).sigma_data == 1.0
    with pytest.raises(ValueError, match=r"must be|need"):
        build_info({**good, **change})


def test_a_model_that_lost_its_null_condition_is_refused(copy: Path) -> None:
    shutil.rmtree(copy / "conditioner")
    with pytest.raises(CheckpointError) as caught:
        Pipeline.from_pretrained(copy)
    assert caught.value.code == "model_damaged"
    assert "conditioner" in caught.value.message


@pytest.mark.parametrize("files", [{"inkwash.json": 3}, {"inkwash.json": None}, {"inkwash.json": {"tensors": []}},
                                   {"inkwash.json": {"tensors": {"w": "shape"}}}, {"inkwash.json": {"tensors": {"w": None}}}])
def test_a_manifest_whose_entries_are_no_objects_is_damaged(copy: Path, files: dict[str, object]) -> None:
    (copy / "manifest.json").write_text(json.dumps({"format": 1, "files": files}))
    with pytest.raises(CheckpointError, match="wrong type"):
        load_info(copy)


def test_a_manifest_that_lost_the_tensors_of_a_part_vouches_for_none(copy: Path) -> None:
    raw = json.loads((copy / "manifest.json").read_text("utf-8"))
    del raw["files"]["unet/diffusion_pytorch_model.safetensors"]["tensors"]
    (copy / "manifest.json").write_text(json.dumps(raw), "utf-8")
    assert part_hash(copy, "unet")
    with pytest.raises(CheckpointError, match="not expected") as caught:
        load_part(copy, "unet")
    assert caught.value.code == "ckpt_corrupt"


def test_the_marks_of_a_tokenizer_are_checked(tmp_path: Path) -> None:
    folder = build_shared(tmp_path / "model")
    config = folder / "tokenizer" / "tokenizer_config.json"
    whole = config.read_text("utf-8")
    config.write_text(whole.replace("endoftext", "startoftext"))
    with pytest.raises(CheckpointError, match="tokenizer_config"):
        load_tokenizer(folder, 16)
    config.unlink()
    with pytest.raises(CheckpointError, match="tokenizer_config"):
        load_tokenizer(folder, 16)


def test_a_model_opens_without_torchs_compiler() -> None:
    """To fill an embedding on `meta`, torch imports its compiler, which doubled the time until the first picture."""
    code = "import sys; from inkwash import Pipeline; Pipeline.from_pretrained('mini'); print('torch._dynamo' in sys.modules, 'sympy' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (found.stdout, found.stderr) == ("False False\n", "")
