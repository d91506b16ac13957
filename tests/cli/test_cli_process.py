"""What only a process of its own can show: start-up time, signals, pipes, and the same bytes after a restart."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

INKWASH = [sys.executable, "-c", "from inkwash.cli.main import main; main()"]
SLOW = ["generate", "a cat", "--steps", "1000", "-n", "2000", "--quiet"]


def test_help_is_quick_and_imports_no_torch() -> None:
    code = "import sys\nfrom inkwash.cli.main import run\nrun(['--help'])\nassert not {'torch', 'numpy', 'PIL', 'pydantic'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode == 0
    spent = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert subprocess.run([*INKWASH, "--help"], capture_output=True, timeout=60).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    # Processor time of the quickest of five: it equals the wall time on an idle machine, with room for a busy one and for cold bytecode.
    assert min(spent) < 0.6, spent


def test_version_and_help_of_every_own_command() -> None:
    found = subprocess.run([*INKWASH, "--version"], capture_output=True, text=True, timeout=60)
    assert found.stdout.strip().count(".") == 2
    for command, option in (("generate", "--guidance"), ("reproduce", "--model"), ("grid", "--x"), ("inspect", "--json"), ("list", "--json")):
        found = subprocess.run([*INKWASH, command, "--help"], capture_output=True, text=True, timeout=60)
        assert found.returncode == 0
        assert option in found.stdout


def test_S8_the_same_bytes_after_a_restart_with_other_threads(tiny_model: Path, tmp_path: Path) -> None:
    hashes = []
    for threads, number in (("1", "1"), ("2", "3")):
        words = ["generate", "a red cube", "--model", str(tiny_model), "--seed", "4", "-n", number, "--json", "-o", str(tmp_path)]
        found = subprocess.run([*INKWASH, *words], capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": threads})
        assert found.returncode == 0, found.stderr
        hashes.append(json.loads(found.stdout.splitlines()[0])["pixel_sha256"])
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_quietly_with_their_code(tiny_model: Path, tmp_path: Path, number: int, code: int) -> None:
    process = subprocess.Popen([*INKWASH, *SLOW, "--model", str(tiny_model), "-o", str(tmp_path / "out")], stderr=subprocess.PIPE, text=True,
                               stdout=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (tmp_path / "out").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Traceback" not in err


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timers")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_that_a_callback_swallows_is_heard(name: str, code: int) -> None:
    """The exception of the first signal is raised inside `__del__`, where Python drops it."""
    script = """
import os, signal, sys, time
import inkwash.cli.main as cli
cli.AGAIN_SEC = 0.2
class Deaf:
    def __del__(self):
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        time.sleep(0.01)
def busy(words):
    del [Deaf()][0]
    time.sleep(30)
cli._call = busy
cli.main()
"""
    ended = subprocess.run([sys.executable, "-c", script, name], capture_output=True, text=True, timeout=120)
    assert ended.returncode == code
    assert "Exception ignored" in ended.stderr


@pytest.mark.parametrize("words", [["list", "--json"], ["--help"], ["list", "--help"], ["--version"]], ids=" ".join)
def test_a_closed_pipe_is_no_error(words: list[str]) -> None:
    process = subprocess.Popen([*INKWASH, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.wait(timeout=60)
    assert err == ""
    assert process.returncode == 141


def test_telemetry_is_off_before_any_library_is_imported() -> None:
    code = ("import sys, os\nfrom inkwash.cli import main\nmain.run = lambda words: print(os.environ['HF_HUB_DISABLE_TELEMETRY'], "
            "os.environ['ORT_DISABLE_TELEMETRY'], 'torch' in sys.modules) or 0\nmain.main()")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert found.stdout.split() == ["1", "1", "False"]


def test_output_that_is_closed_goes_nowhere(tiny_model: Path, tmp_path: Path) -> None:
    words = ["generate", "a cat", "--model", str(tiny_model), "-o", str(tmp_path / "a.png")]
    script = "import os, sys\nos.close(1), os.close(2)\nos.execv(sys.executable, [sys.executable, '-c', *sys.argv[1:]])"
    ended = subprocess.run([sys.executable, "-c", script, *INKWASH[2:], *words], timeout=120)
    assert ended.returncode == 0
    assert (tmp_path / "a.png").is_file()


def test_a_full_output_is_named(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run([*INKWASH, "list", "models"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert ended.returncode == 5
    assert "error[disk_full]: no space left: standard output" in ended.stderr


@pytest.mark.parametrize("encoding", ["ascii", "utf-8:strict"])
def test_paths_and_words_that_the_output_cannot_write(encoding: str, tiny_model: Path, tmp_path: Path) -> None:
    out = os.fsencode(tmp_path) + "/é".encode() + b"\xff.png"
    words = [*INKWASH, "generate", "a café", "--model", str(tiny_model), "--steps", "1", "-o", out]
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    ended = subprocess.run(words, capture_output=True, timeout=120, env=env)
    assert ended.returncode == 0, ended.stderr
    ended = subprocess.run([*words, "--json"], capture_output=True, timeout=120, env=env)
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout.decode("utf-8"))
    assert said["prompt"] == "a café"
    assert os.fsencode(said["path"]) == out.replace(b".png", b"-2.png")


def test_python_m_inkwash_is_the_command_line() -> None:
    ended = subprocess.run([sys.executable, "-m", "inkwash", "--version"], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout.count(".")) == (0, 2)
