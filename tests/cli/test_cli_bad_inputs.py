"""Every wrong input ends in one line that says what, where, the limit and the next step, with its exit code, before torch is imported."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from inkwash.cli.main import COMMANDS, run

LINE = re.compile(r"inkwash: error\[(\w+)\]: .+")

CASES = [
    (["generate", "x", "--steps", "0"], 2, "bad_steps", "--steps must be 1..1000, got 0"),
    (["generate", "x", "--steps", "-1"], 2, "bad_steps", "got -1"),
    (["generate", "x", "--steps", "1e9"], 2, "bad_steps", "got 1e9"),
    (["generate", "x", "--steps", "nan"], 2, "bad_steps", "got nan"),
    (["generate", "x", "--guidance", "50%"], 2, "bad_guidance", "not a percentage"),
    (["generate", "x", "--guidance", "nan"], 2, "bad_guidance", "got nan"),
    (["generate", "x", "--guidance=-1e9"], 2, "bad_guidance", "-100 to 100"),
    (["generate", "x", "--seed", "-1"], 2, "bad_seed", "0..2^63-1"),
    (["generate", "x", "--seed", str(2**64)], 2, "bad_seed", "0..2^63-1"),
    (["generate", "x", "--seed", "1.0"], 2, "bad_seed", "0..2^63-1"),
    (["generate", "x", "-n", "0"], 2, "bad_count", "1..10000"),
    (["generate", "x", "-n", "1.5"], 2, "bad_count", "1..10000"),
    (["generate", "x", "-n", "2", "--seed", str(2**63 - 1), "--model", "TINY"], 2, "bad_seed", "last seed"),
    (["generate", ""], 2, "empty_prompt", "1..4000 characters"),
    (["generate", "   "], 2, "empty_prompt", "1..4000 characters"),
    (["generate", "x" * 4001], 2, "prompt_too_long", "4001 characters; at most 4000"),
    (["generate", "ab\x07c"], 2, "invalid_characters", "U+0007 at character 3"),
    (["generate", "ab\u202ec"], 2, "invalid_characters", "U+202E at character 3"),
    (["generate", "ab\udcff"], 2, "invalid_characters", "U+DCFF at character 3"),
    (["generate", "x", "--negative", "\x1b"], 2, "invalid_characters", "negative prompt"),
    (["generate", "x", "--size", "1024x", "--model", "TINY"], 2, "invalid_size", "16..64 in steps of 16"),
    (["generate", "x", "--size", "0x64", "--model", "TINY"], 2, "invalid_size", "16..64 in steps of 16"),
    (["generate", "x", "--size", "63x64", "--model", "TINY"], 2, "invalid_size", "16..64 in steps of 16"),
    (["generate", "x", "--size", "99999x99999", "--model", "TINY"], 2, "invalid_size", "16..64 in steps of 16"),
    (["generate", "x", "--size", "64x64x3", "--model", "TINY"], 2, "invalid_size", "16..64 in steps of 16"),
    (["generate", "x", "--model", "no-such-model"], 4, "model_not_found", "known:"),
    (["generate", "x", "--model", "/"], 4, "model_not_found", "inkwash.json"),
    (["generate", "x", "--model", "TINY", "-o", "/proc/nowhere/a.png"], 2, "output_not_writable", "/proc/nowhere"),
    (["generate", "x", "--model", "TINY", "-o", "a.jpg"], 2, "bad_output", ".png"),
    (["generate"], 2, "usage", "inkwash generate --help"),
    (["generate", "x", "--stps", "4"], 2, "usage", "Did you mean --steps?"),
    (["generate", "x", "y"], 2, "usage", "inkwash generate --help"),
    (["generate", "a", "red", "cube"], 2, "usage", 'into quotes: "a b c"'),
    (["generate", "-a red cube"], 2, "usage", "inkwash generate -- '-a red cube'"),
    (["generate", "x", "--model", "x" * 300], 2, "bad_path", "each of its names 255"),
    (["generate", "x", "--model", "TINY", "-o", "x" * 300 + ".png"], 2, "bad_path", "each of its names 255"),
    (["generate", "x", "--steps"], 2, "usage", "--steps requires an argument"),
    (["generat", "x"], 2, "usage", "did you mean generate?"),
    (["fly"], 2, "usage", "known: generate"),
    (["--wings"], 2, "usage", "--wings"),
    (["reproduce", "nothing.png"], 3, "file_not_found", "nothing.png"),
    (["grid", "x"], 2, "usage", "--x"),
    (["grid", "x", "--x", "cfg=1,2"], 2, "bad_axis", "guidance"),
    (["grid", "x", "--x", "steps=1,,2"], 2, "bad_axis", "empty value"),
    (["grid", "x", "--x", "seed=4..1"], 2, "bad_axis", "4..1"),
    (["grid", "x", "--x", "seed=1..999999999"], 2, "bad_axis", "at most"),
    (["grid", "x", "--x", "seed=1..30", "--y", "steps=1..30"], 2, "bad_axis", "400"),
    (["grid", "x", "--x", "seed=1,2", "--y", "seed=1,2"], 2, "bad_axis", "both seed"),
    (["grid", "x", "--x", "seed=1,2", "--seed", "9", "--model", "TINY"], 2, "bad_axis", "beside an axis"),
    (["grid", "x", "--x", "prompt=a|b", "--model", "TINY"], 2, "bad_axis", "beside an axis"),
    (["grid", "x", "--x", "steps=1,0", "--model", "TINY"], 2, "bad_steps", "got 0"),
    (["grid", "--x", "steps=1,2", "--model", "TINY"], 2, "empty_prompt", "prompt"),
    (["list", "sampler"], 2, "unknown_kind", "did you mean samplers?"),
    (["inspect", "no-such-model"], 4, "model_not_found", "known:"),
]


@pytest.mark.parametrize(("words", "exit_code", "code", "text"), CASES, ids=[f"{case[2]}-{i}" for i, case in enumerate(CASES)])
def test_one_line_and_an_exit_code(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
                                   words: list[str], exit_code: int, code: str, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([str(tiny_model) if word == "TINY" else word for word in words]) == exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert LINE.fullmatch(err.strip())[1] == code  # type: ignore[index]
    assert text in err
    assert len(err) <= 401
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize("words", [["generate", "x", "--sampler", "dimm"], ["generate", "x", "--spacing", "karas"],
                                   ["generate", "x", "--guidance", "CGF(scale=2)"], ["generate", "x", "--sampler", "DDIM(etta=1)"],
                                   ["generate", "x", "--sampler", "__import__('os').abort()"], ["generate", "x", "--device", "tpu"]])
def test_names_are_refused_with_the_nearest(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
                                            words: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([*words, "--model", str(tiny_model)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "did you mean" in err or "its fields are" in err or "only numbers" in err or "available: auto, cpu" in err


def test_a_damaged_model_ends_with_4_and_names_the_tensor(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert run(["generate", "x", "--model", str(folder), "-o", str(tmp_path / "x.png")]) == 4
    assert "sha256 mismatch" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


def test_a_full_disk_ends_with_5_and_leaves_no_half_file(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    import errno
    import os

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert run(["generate", "a cat", "--model", str(tiny_model), "-o", str(tmp_path / "x.png")]) == 5
    assert "error[disk_full]" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.png"))


def test_an_unexpected_exception_is_called_a_bug_and_shown_with_debug(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import inkwash.cli.list as command

    def broken(kind: str) -> None:
        raise RuntimeError("one\ntwo")

    monkeypatch.setattr(command, "entries", broken)
    assert run(["list", "samplers"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("inkwash: error[bug]: RuntimeError: one two (")
    assert "--debug" in err
    assert "Traceback" not in err
    assert run(["list", "samplers", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_bad_inputs_are_refused_without_importing_torch() -> None:
    words = [case[0] for case in CASES if "TINY" not in case[0]]
    code = ("import sys\nfrom inkwash.cli.main import run\nfor words in eval(sys.stdin.read()):\n    assert run(words) != 0\n"
            "assert 'torch' not in sys.modules, 'torch was imported'\nprint('done')")
    found = subprocess.run([sys.executable, "-c", code], input=ascii(words), capture_output=True, text=True, timeout=120)
    assert found.stdout.strip().endswith("done"), found.stderr


def test_every_command_has_a_line_of_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)


PLAN = ["plan", "--deadline", "5"]


@pytest.mark.parametrize("given", ["a\0b", "x" * 300], ids=["NUL", "long"])
@pytest.mark.parametrize("words", [["generate", "x", "--model", "TINY", "-o"], ["generate", "x", "--model"],
                                   ["generate", "x", "--model", "TINY", "--image"], ["generate", "x", "--model", "TINY", "--weak"],
                                   ["generate", "x", "--model", "TINY", "--classifier"], ["grid", "x", "--model", "TINY", "--x", "steps=1,2", "-o"],
                                   ["reproduce"], ["inspect"], ["verify"], ["verify", "TINY", "--data"],
                                   ["train", "--data", "scenes:4", "--out", "run"], ["data", "make", "scenes", "--num", "1", "--out"], ["serve"],
                                   ["serve", "--keys"], ["serve", "--config"], ["serve", "--new-key", "x", "--keys"],
                                   ["serve", "TINY", "--port", "0", "--db", "sqlite:///"], ["serve", "TINY", "--port", "0", "--files"],
                                   [*PLAN, "--traffic"], [*PLAN, "--rate", "1", "--curve"], [*PLAN, "--rate", "1", "--config"],
                                   [*PLAN, "--rate", "1", "--save-curve"]], ids=lambda words: " ".join(words))
def test_a_text_that_is_no_path_is_refused_the_same_everywhere(words: list[str], given: str, tiny_model: Path, tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    *words, last = [str(tiny_model) if word == "TINY" else word for word in words]
    code = run([*words, last + given] if last.endswith("/") else [*words, last, given])
    told = capsys.readouterr().err
    assert "must be a path that can exist" in told
    assert "\0" not in told
    assert (code, told.count("\n")) == (2, 1)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


SCENES = ["--data", "scenes:4", "--out"]


@pytest.mark.parametrize("words", [[*SCENES, ""], ["--data", "", "--out", "run"], [*SCENES, "run", "--resume", ""], [*SCENES, "run", "--cache", ""],
                                   [*SCENES, "a\udcff"],
                                   [*SCENES, "a\0b"]])
def test_an_empty_path_does_not_mean_the_present_folder(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["train", "toy", *words]) == 2
    assert "error[bad_path]" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
