"""`inkwash evaluate` from the outside: what it prints and writes, how it refuses, and that two processes give the bits of one."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from evaluate_tools import build_data, build_extractor
from inkwash.cli.main import run
from inkwash.io.folder import load_info, save_info
from inkwash.io.info import Sizes
from inkwash.pipeline import Pipeline

MAIN = "from inkwash.cli.main import main; main()"
SMALL = ["--num", "48", "--held-out", "6", "--reference", "all", "--bits", "0", "--steps", "2", "--sampler", "ddim"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The options that name data and extractor."""
    root = tmp_path_factory.mktemp("parts")
    return ["--data", str(build_data(root / "data")), "--extractor", str(build_extractor(root / "extractor"))]


@pytest.fixture(scope="module")
def report(tiny_model: Path, parts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of one process."""
    out = tmp_path_factory.mktemp("out") / "report"
    assert run(["evaluate", str(tiny_model), *parts, *SMALL, "--report", str(out), "--quiet"]) == 0
    return out


def test_a_report_and_a_summary(report: Path, tiny_model: Path, parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert (report / "index.html").read_text().startswith("<!doctype html>")
    stored = json.loads((report / "result.json").read_text())
    assert run(["evaluate", str(tiny_model), *parts, *SMALL, "--report", str(report)]) == 0
    out, err = capsys.readouterr()
    assert "0 pictures to make" in err
    assert f"[{stored['metrics']['kid']['low']:.4g}, {stored['metrics']['kid']['high']:.4g}] (95 %, N = 48)" in out
    assert ("adherence to the caption" in out) == ("adherence" in stored["metrics"] or "not judged: fewer than 2 captions" in out)
    assert ("not judged" in out) == ("adherence" not in stored["metrics"])
    assert out.rstrip().endswith("index.html")
    assert run(["evaluate", str(tiny_model), *parts, *SMALL, "--report", str(report), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == stored["metrics"]


def test_a_report_does_not_replace_its_own_baseline(report: Path, tiny_model: Path, parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    before = (report / "result.json").read_text()
    for baseline in (report, report / "result.json"):
        assert run(["evaluate", str(tiny_model), *parts, *SMALL, "--report", str(report), "--baseline", str(baseline), "--quiet"]) == 2
        assert "error[baseline_replaced]" in capsys.readouterr().err
    assert (report / "result.json").read_text() == before


def test_a_baseline_of_something_else_is_refused_before_the_first_picture(report: Path, tiny_model: Path, parts: list[str], tmp_path: Path,
                                                                         capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new"
    words = ["evaluate", str(tiny_model), *parts, *SMALL[2:], "--num", "40", "--report", str(out), "--baseline", str(report)]
    assert run(words) == 2
    said = capsys.readouterr().err
    assert "error[not_comparable]: the baseline has other numbers of samples: 48, here 40" in said
    assert "pictures to make" not in said
    assert not list(out.rglob("samples*"))


def test_captions_that_are_drawn_from_twice_are_told(report: Path, tiny_model: Path, parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    captions = json.loads((report / "result.json").read_text())["about"]["data"]["num_reference"]
    for num, told in ((captions, False), (captions + 1, True)):
        assert run(["evaluate", str(tiny_model), *parts, *SMALL[2:], "--num", str(num), "--minutes", "0"]) == 2
        said = capsys.readouterr().err
        assert "error[too_long]" in said
        assert (f"{num} samples of {captions} captions, which are drawn from more than once" in said) == told


def test_another_model_of_another_size_is_told(tiny_model: Path, parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = Path(shutil.copytree(tiny_model, tmp_path / "other"))
    save_info(other, dataclasses.replace(load_info(other), sizes=Sizes((48, 48), 16, 64, 16)))
    assert run(["evaluate", str(tiny_model), *parts, *SMALL, "--against", str(other)]) == 0
    assert "draws 48x48 pixels and tiny 32x32; real pictures of 32x32" in capsys.readouterr().err


def test_no_room_for_a_report_is_no_mistake_in_its_path(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *rest: object, **more: object) -> None:
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "mkdir", full)
    assert run(["evaluate", "mini", "--data", "scenes:40", "--report", str(tmp_path / "report")]) == 5
    assert "error[disk_full]: no space left" in capsys.readouterr().err


def test_what_was_stopped_goes_on(tiny_model: Path, parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    words, made = ["evaluate", str(tiny_model), *parts, *SMALL, "--report", str(tmp_path / "report")], Pipeline.generate
    calls: list[int] = []

    def stopping(self: Pipeline, *given: object, **more: object) -> object:  # a user's Ctrl-C, in the middle of the second chunk of samples
        calls.append(1)
        if len(calls) == 5:                                                    # three trials tell the cost
            raise KeyboardInterrupt
        return made(self, *given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Pipeline, "generate", stopping)
    assert run(words) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not (tmp_path / "report" / "result.json").exists()
    monkeypatch.setattr(Pipeline, "generate", made)
    assert run(words) == 0
    err = capsys.readouterr().err
    assert "32 pictures to make" in err
    assert "16 are there from before" in err
    assert "samples: 48" in err


def test_what_was_killed_goes_on_and_leaves_nothing_half_written(tiny_model: Path, parts: list[str], tmp_path: Path,
                                                                  capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "report"
    words = ["evaluate", str(tiny_model), *parts, *SMALL, "--report", str(place)]
    killed = "import os, signal; os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL); " + MAIN
    assert subprocess.run([sys.executable, "-c", killed, *words], check=False, timeout=300, stderr=subprocess.DEVNULL).returncode == -9
    assert len(list(place.rglob(".partial-*"))) == 1
    mine = place / "cache" / f".partial-{os.getpid()}-other.safetensors"                   # what a living process writes stays
    mine.write_bytes(b"")
    assert run(words) == 0
    assert "samples: 48" in capsys.readouterr().err
    assert list(place.rglob(".partial-*")) == [mine]


def test_T9_two_processes_give_the_bits_of_one(report: Path, tiny_model: Path, parts: list[str], tmp_path: Path) -> None:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python", "--", sys.executable, "-c", MAIN]
    words = ["evaluate", str(tiny_model), *parts, *SMALL, "--report", str(tmp_path / "two")]
    found = subprocess.run([*start, *words], capture_output=True, text=True, timeout=280, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert found.returncode == 0, found.stderr[-2000:]
    one, two = (json.loads((folder / "result.json").read_text()) for folder in (report, tmp_path / "two"))
    assert two["about"]["processes"] == 2
    for part in ("metrics", "parts", "memorization", "slices"):
        assert one[part] == two[part], part
    names = [{path.name for path in (folder / "cache").iterdir()} for folder in (report, tmp_path / "two")]
    assert names[0] == names[1]
    for name in names[0]:
        if not name.startswith("samples"):                 # those hold the seconds that they took
            assert (report / "cache" / name).read_bytes() == (tmp_path / "two" / "cache" / name).read_bytes()


def test_S7_the_gate_exits_with_8(report: Path, tiny_model: Path, parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = ["evaluate", str(tiny_model), *parts, *SMALL, "--report", str(report)]
    assert run([*again, "--baseline", str(shutil.copy(report / "result.json", tmp_path / "before.json"))]) == 0
    assert "kept" in capsys.readouterr().out
    strict = json.loads((report / "result.json").read_text())
    strict["metrics"]["kid"]["value"] /= 3
    (tmp_path / "strict.json").write_text(json.dumps(strict))
    assert run([*again, "--baseline", str(tmp_path / "strict.json"), "--allow", "0.5", "--quiet"]) == 8
    assert "error[quality_gate]" in capsys.readouterr().err
    assert run([*again, "--budget", "coverage=1.1", "--quiet"]) == 8
    assert run([*again, "--budget", "fd=1000", "--budget", "coverage=0", "--quiet"]) == 0


def test_a_card_is_written(report: Path, tiny_model: Path, parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    assert run(["evaluate", str(copy), *parts, *SMALL, "--card", "--quiet"]) == 0
    card = json.loads((copy / "inkwash.json").read_text())["card"]
    assert card["license"] == "Apache-2.0"
    assert card["evaluation"]["num"] == 48
    assert run(["inspect", str(copy)]) == 0
    shown = capsys.readouterr().out
    assert "kernel distance (KID)" in shown
    assert card["evaluation"]["extractor_hash"][:12] in shown
    assert "## Measured" in (copy / "README.md").read_text("utf-8")


@pytest.mark.parametrize(("words", "code", "text"), [
    (["nowhere", "--data", "scenes:40"], 4, "error[model_not_found]"),
    (["MODEL", "--data", "nowhere"], 3, "error[data_missing]"),
    (["MODEL", "--data", "EMPTY"], 3, "error[data_empty]"),
    (["MODEL", "--data", "DATA", "--num", "1"], 2, "error[bad_count]"),
    (["MODEL", "--data", "DATA", "--num", "6", "--held-out", "all"], 2, "fd needs at least 8"),
    (["MODEL", "--data", "DATA"], 2, "error[held_out_unknown]"),
    (["MODEL", "--data", "DATA", "--size", "33", "--held-out", "all"], 2, "error[invalid_size]"),
    (["MODEL", "--data", "DATA", "--extractor", "nothing"], 2, "error[unknown_extractor]"),
    (["MODEL", "--data", "DATA", "--fit", "stretch"], 2, "error[bad_fit]"),
    (["MODEL", "--data", "DATA", "--budget", "fd"], 2, "error[bad_budget]"),
    (["MODEL", "--data", "DATA", "--budget", "beauty=1"], 2, "error[bad_budget]"),
    (["MODEL", "--data", "DATA", "--budget", "fd=1", "--budget", "fd=9"], 2, "--budget names fd twice"),
    (["MODEL", "--data", "DATA", "--budget", "clip=1"], 2, "name one by --clip"),
    (["MODEL", "--data", "DATA", "--curve-num", "16", "--curve-steps", "5"], 2, "--curve-steps and --curve-num without --curves"),
    (["MODEL", "--data", "DATA", "--allow", "nan"], 2, "error[bad_number]"),
    (["MODEL", "--data", "DATA", "--guidance", "inf"], 2, "error[bad_guidance]"),
    (["MODEL", "--data", "DATA", "--baseline", "nowhere.json"], 4, "error[result_unreadable]"),
    (["MODEL", "--data", ""], 2, "error[bad_path]"),
    (["MODEL", "--data", "DATA", "--report", ""], 2, "error[bad_path]"),
    (["MODEL", "--data", "DATA", "--report", "a\0b"], 2, "error[bad_path]"),
    (["MODEL", "--data", "DATA", "--report", "DATA"], 2, "error[bad_output]"),
    (["MODEL", "--data", "DATA", "--against", "nowhere"], 4, "error[model_not_found]"),
    (["MODEL", "--data", "DATA", "--curves", "--curve-steps", "0"], 2, "error[bad_steps]"),
    (["MODEL", "--data", "DATA", "--curves", "--curve-samplers", "nonsense", "--held-out", "all"], 2, "error[unknown_name]"),
    (["MODEL", "--data", "DATA", "--minutes", "0", "--held-out", "all"], 2, "error[too_long]"),
])
def test_mistakes_are_one_line(words: list[str], code: int, text: str, tiny_model: Path, parts: list[str], tmp_path: Path,
                               capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    places = {"MODEL": str(tiny_model), "DATA": parts[1], "EMPTY": str(tmp_path / "empty")}
    own = [] if "--extractor" in words else parts[2:]
    assert run(["evaluate", *(places.get(word, word) for word in words), *own, "--quiet"]) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert text in lines[0]
    assert len(lines[0]) <= 400
