"""A run says whether the native kernels compute, and warns when it goes on in another way than it began."""

from __future__ import annotations

from pathlib import Path

import pytest

from inkwash.errors import InkwashWarning
from inkwash.nn import native
from inkwash.train.log import Log, read_log
from inkwash.train.run import _tell_kernels


def told(run: Path, step: int, used: bool, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(native, "usable", lambda: used)
    monkeypatch.setattr(native, "status", lambda: "used, compiled by gcc" if used else "not used: INKWASH_NATIVE=0")
    said: list[str] = []
    log = Log(run, step, 10, bar=False)
    try:
        _tell_kernels(log, step, said.append)
    finally:
        log.close()
    return said


def test_a_run_says_it_once_a_start_and_warns_of_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(tmp_path, 0, True, monkeypatch) == ["native kernels: used, compiled by gcc"]
    assert told(tmp_path, 3, True, monkeypatch) == ["native kernels: used, compiled by gcc"]
    with pytest.warns(InkwashWarning, match="up to step 5 the native kernels were used, from here they are not used"):
        assert told(tmp_path, 5, False, monkeypatch) == ["native kernels: not used: INKWASH_NATIVE=0"]
    assert [(event["step"], event["used"]) for event in read_log(tmp_path) if event["event"] == "native"] == [(0, True), (3, True), (5, False)]
