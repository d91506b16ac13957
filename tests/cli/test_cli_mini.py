"""The embedded model, as a person meets it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from inkwash.cli.main import run
from inkwash.io.find import MODELS


def test_mini_fits_in_24_MiB(mini: str) -> None:
    assert sum(path.stat().st_size for path in (MODELS / mini).rglob("*") if path.is_file()) <= 24 * 2**20


def test_mini_makes_a_picture_by_default(mini: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from inkwash.cli.main import main; main()", "generate", "emoji of a smiling cat", "--seed", "1"]
    start = time.monotonic()
    found = subprocess.run([*command, "-o", str(tmp_path / "cat.png"), "--json"], capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    line = json.loads(found.stdout)
    assert line["size"] == "128x128"
    assert line["warnings"] == []
    assert line["seconds"] < 30
    assert time.monotonic() - start < 120


def test_mini_reproduces_itself(mini: str, tmp_path: Path) -> None:
    path = str(tmp_path / "x.png")
    assert run(["generate", "a black leather jacket", "--steps", "4", "-o", path, "--quiet"]) == 0
    assert run(["reproduce", path]) == 0


def test_mini_says_what_it_never_saw(mini: str, tmp_path: Path, capsys) -> None:
    assert run(["generate", "a quixotic zeppelin", "--steps", "2", "-o", str(tmp_path / "x.png")]) == 0
    assert "quixotic" in capsys.readouterr().err
    assert run(["inspect", mini]) == 0
    assert "vocabulary" in capsys.readouterr().out
