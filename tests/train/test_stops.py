"""Ctrl-C, a full disk and half-written files, wherever a run is: one line, nothing lost, and the same command goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_runs import make_data, toy

from inkwash.cli.main import run
from inkwash.data import loader
from inkwash.data.preflight import Quarantine
from inkwash.data.scenes.source import Scenes, write_scenes
from inkwash.data.source import open_source
from inkwash.errors import ResourceError
from inkwash.io.durable import PARTIAL
from inkwash.train import checkpoint, loop, stop
from inkwash.train.log import LOG, CacheLines, Log, read_log
from inkwash.train.run import train


def test_ctrl_c_while_pixels_are_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "toy", "--data", str(make_data(tmp_path / "data", count=150)), "--out", str(tmp_path / "run"), "--set", "steps=2"]
    real, keys = loader.decode, []

    def interrupted(item, *rest, **options):  # type: ignore[no-untyped-def]
        keys.append(item.key)
        if len(keys) == 100:
            raise KeyboardInterrupt
        return real(item, *rest, **options)

    monkeypatch.setattr(loader, "decode", interrupted)
    assert run(words) == 130
    assert capsys.readouterr().err == "inkwash: interrupted\n"
    assert not list((tmp_path / "run").rglob(f"{PARTIAL}*"))
    first = keys[:]
    assert run(words) == 0
    assert set(first[:64]).isdisjoint(keys[100:]), "the first piece was found again"
    assert set(first) | set(keys) == {f"{i:03d}.png" for i in range(150)}


@pytest.mark.parametrize("place", ["report", "save"])
def test_a_signal_while_validating_or_saving_ends_the_run_behind_it(
        place: str, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, name = {"report": (loop, "report"), "save": (checkpoint, "write_manifest")}[place]
    real: Callable[..., None] = getattr(module, name)

    def signalled(*given: object) -> None:
        monkeypatch.setattr(module, name, real)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)                                             # torchrun hands on what the terminal sent already
        real(*given)

    monkeypatch.setattr(module, name, signalled)
    result = train(toy(steps=50, checkpoint_every=2), [data], tmp_path / "run", quiet=True)
    assert (result.step, result.stopped) == ({"report": 0, "save": 2}[place], signal.SIGINT)
    assert checkpoint.load(checkpoint.path_of(tmp_path / "run", result.step)).step == result.step
    assert not list((tmp_path / "run").rglob(f"{PARTIAL}*"))
    assert train(toy(steps=3, checkpoint_every=2), [data], tmp_path / "run", quiet=True).stopped == 0


@pytest.mark.parametrize("tell", [True, False])
def test_the_first_signal_is_answered_at_once(tell: bool, capfd: pytest.CaptureFixture[str]) -> None:
    listener = stop.Stop(tell)
    with listener.listening():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert capfd.readouterr().err == (stop.TOLD.decode() if tell else "")


def test_a_second_ctrl_c_interrupts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = stop.Stop()
    with listener.listening():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert listener.signal == signal.SIGTERM
        monkeypatch.setattr(stop, "ONCE_SEC", -1.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_log_on_a_full_disk(tmp_path: Path) -> None:
    log = Log(tmp_path, 0, 10)
    log.event("train", 1, {"loss": 1.0})
    file = log._file
    with open("/dev/full", "ab", buffering=0) as full:
        log._file = full
        with pytest.raises(ResourceError, match="no checkpoint was written yet") as caught:
            log.event("train", 2, {"loss": 1.0})
    assert caught.value.code == "disk_full"
    log._file = file
    log.close()
    assert [event["step"] for event in read_log(tmp_path)] == [1]


def test_lines_that_were_cut_are_passed_over(tmp_path: Path) -> None:
    cut = b'{"event": "train", "step": 1}\n12\n\0\0\xff\n{"event": "train", "st'
    (tmp_path / LOG).write_bytes(cut)
    log = Log(tmp_path, 5, 10)
    log.event("train", 6, {})
    log.close()
    assert [event["step"] for event in read_log(tmp_path)] == [1, 6]
    source = open_source("scenes:3")
    lines = tmp_path / "quarantine.jsonl"
    Quarantine(source, lines).add(1, "torn")
    lines.write_bytes(lines.read_bytes() + b'{"index": 2, "ke')
    again = Quarantine(source, lines)
    again.add(1, "torn")
    assert lines.read_bytes().count(b"torn") == 1


def test_scenes_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    def told(done: int, total: int, what: str) -> None:
        raise next(ends)

    for kind in ("parquet", "folder", "tar"):
        ends = iter([KeyboardInterrupt(), OSError(28, "No space left on device")])
        for expected in (KeyboardInterrupt, ResourceError):
            with pytest.raises(expected):
                write_scenes(Scenes(5, size=16), tmp_path / "out", kind, told)
            assert list(tmp_path.iterdir()) == []
        assert len(open_source(write_scenes(Scenes(5, size=16), tmp_path / "out", kind))) == 5
        (tmp_path / "out").rename(tmp_path.with_name(f"{tmp_path.name}-{kind}"))


def test_a_long_cache_is_told_in_lines() -> None:
    said: list[str] = []
    lines = CacheLines(said.append, every=-1.0)
    for done in (10, 20, 40):
        lines(done, 40, "latents")
    assert said[0] == "cache latents: 10 of 40 are there from before"
    assert said[1].startswith("cache latents: 20 of 40, about ")
    assert said[2] == "cache latents: 40 of 40"
    quick: list[str] = []
    lines = CacheLines(quick.append)
    for done in (0, 20, 40):
        lines(done, 40, "latents")
    assert quick == []
