"""Compiling, keeping and loading the native kernels: nothing that others could have written, nothing in silence."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from inkwash.errors import InkwashWarning
from inkwash.nn import native
from inkwash.nn.native import build, check

FAKE = b"\x7fELF not a library"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder to be, and a compiler that only counts."""
    monkeypatch.setattr(build, "_compiled", lambda compiler: calls.append(compiler) or FAKE)  # type: ignore[func-returns-value]
    calls.clear()
    return tmp_path / "cache" / "native"


calls: list[str] = []


def test_what_is_compiled_once_is_kept_for_the_user_alone(place: Path) -> None:
    assert build._kept(place, "a.so", "gcc") == build._kept(place, "a.so", "gcc") == FAKE
    assert calls == ["gcc"]
    assert place.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in place.iterdir()] == ["a.so"]
    assert (place / "a.so").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", [lambda raw: raw[:-1], lambda raw: b"", lambda raw: raw[:40] + b"x" + raw[41:]])
def test_a_damaged_library_is_compiled_again(place: Path, damage: object) -> None:
    build._kept(place, "a.so", "gcc")
    path = place / "a.so"
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert build._kept(place, "a.so", "gcc") == FAKE
    assert len(calls) == 2
    assert build._kept(place, "a.so", "gcc") == FAKE
    assert len(calls) == 2


def test_a_folder_or_file_that_others_can_write_is_not_used(place: Path) -> None:
    build._kept(place, "a.so", "gcc")
    (place / "a.so").chmod(0o666)
    with pytest.raises(PermissionError, match="0666"):
        build._kept(place, "a.so", "gcc")
    place.chmod(0o770)
    with pytest.raises(PermissionError, match="0770"):
        build._kept(place, "b.so", "gcc")


def test_a_folder_of_another_user_is_not_used(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build._kept(place, "a.so", "gcc")
    monkeypatch.setattr(os, "geteuid", lambda: place.stat().st_uid + 1)
    with pytest.raises(PermissionError, match="another user"):
        build._kept(place, "a.so", "gcc")


def test_links_are_not_followed(place: Path, tmp_path: Path) -> None:
    build._kept(place, "a.so", "gcc")
    (place / "b.so").symlink_to(place / "a.so")
    with pytest.raises(OSError):
        build._kept(place, "b.so", "gcc")
    link = tmp_path / "link"
    link.symlink_to(place)
    with pytest.raises(OSError):
        build._kept(link, "a.so", "gcc")


@pytest.mark.parametrize(("change", "word"), [({"INKWASH_NATIVE": "0"}, "INKWASH_NATIVE=0"), ({"PATH": ""}, "no C compiler")])
def test_what_is_missing_is_said_and_is_no_warning(monkeypatch: pytest.MonkeyPatch, change: dict[str, str], word: str) -> None:
    monkeypatch.setattr(build, "_processor", lambda: ("any", " ".join(build.NEEDED)))
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        usable, text = fresh(monkeypatch)
    assert not usable
    assert word in text


def test_a_processor_without_amx_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_processor", lambda: ("any", " ".join(build.NEEDED - {"amx_bf16"})))
    usable, text = fresh(monkeypatch)
    assert not usable
    assert "the processor lacks amx_bf16" in text


def test_a_failing_compiler_is_a_warning_with_its_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "gcc"
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "gcc 0.1" && exit 0\necho "unknown option" >&2\nexit 1\n')
    compiler.chmod(0o755)
    monkeypatch.setattr(build, "_processor", lambda: ("any", " ".join(build.NEEDED)))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.warns(InkwashWarning, match="unknown option"):
        usable, text = fresh(monkeypatch)
    assert not usable
    assert "unknown option" in text


@pytest.mark.skipif(not native.usable(), reason=f"the native kernels are {native.status()}")
def test_kernels_that_compute_something_else_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check.wrong() == ""
    monkeypatch.setitem(check.EXAMPLES, "attention", lambda: (torch.ones(3), torch.tensor([1.0, 1.0, float("nan")])))
    with pytest.warns(InkwashWarning, match="self-check: attention"):
        assert not fresh(monkeypatch)[0]


def fresh(monkeypatch: pytest.MonkeyPatch) -> tuple[bool, str]:
    """What a new process would find."""
    monkeypatch.setattr(build, "load", build.load.__wrapped__)
    return native._state.__wrapped__()


@pytest.mark.skipif(not native.usable(), reason=f"the native kernels are {native.status()}")
def test_two_processes_at_once_and_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    """Both compile into one empty cache and both work; where a file stands in the folder's place, a process compiles for itself and says so."""
    (tmp_path / "full").write_text("a file")
    code = "from inkwash.nn import native; print(native.status()); assert native.usable()"
    homes = [tmp_path / "empty", tmp_path / "empty", tmp_path / "full"]
    running = [subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "XDG_CACHE_HOME": str(home)}, stdout=subprocess.PIPE, text=True)
               for home in homes]
    said = [process.communicate(timeout=250)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert "kept in" in said[0]
    assert "kept in" in said[1]
    assert "for this process alone" in said[2]
    assert len(list((tmp_path / "empty" / "inkwash" / "native").iterdir())) == 1
