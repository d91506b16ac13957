"""What the README shows is there: targets of make, options of the command line, links, and Python that runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from doc_blocks import blocks, check_command, commands, links

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LOG.md", "benchmarks/README.md")]


def test_every_make_target_exists() -> None:
    known = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    shown = {target for page in PAGES for target in re.findall(r"^make ([a-z-]+)", "\n".join(blocks(page, "bash")), re.M)}
    assert {"image", "test", "check", "bench", "train-demo"} <= shown
    assert shown <= known


@pytest.mark.parametrize("command", commands(ROOT / "README.md"))
def test_every_command_is_understood(command: str) -> None:
    check_command(command)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths(page: Path) -> None:
    text = page.read_text("utf-8")
    assert not re.search(r"(?<![\w.])/(?:work|tmp|root|home|Users)/", text), "a path of somebody's machine"
    missing = [target for target in links(text) if not (page.parent / target).exists()]
    assert not missing


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) < 100


def test_python_runs(mini: str, tmp_path: Path) -> None:
    [code] = blocks(ROOT / "README.md", "python")
    assert len(code.splitlines()) <= 10
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "cat.png").read_bytes().startswith(b"\x89PNG")
    assert "[7]" in done.stdout
