"""Reports and the command: tables, JSON, exit codes, and narrowing."""

from __future__ import annotations

import json

import pytest

from inkwash.cli.main import run
from inkwash.core.spacing import Spacing
from inkwash.errors import UsageError, VerifyError
from inkwash.sample import Sampler
from inkwash.value import alias_table, registry
from inkwash.verify import parts
from inkwash.verify.claim import Check, Claim, Finding, Report, below, each
from inkwash.verify.oracle import distance_limit
from inkwash.verify.registry import KINDS, conform

GOOD = Finding("sampler", "ddim", "order", True, "0.99", "1", cell="0.99")
BAD = Finding("sampler", "heun", "order", False, "1.02", "2", "slope at 80, 160 steps", "1.02")
CLAIMS = (Claim("order", "The error falls as stated."),)


def test_a_failed_claim_raises_with_exit_code_8_and_is_listed() -> None:
    report = Report("title", CLAIMS, (GOOD, BAD), 1.0)
    with pytest.raises(VerifyError, match=r"sampler heun: order fails: measured 1\.02") as caught:
        report.require()
    assert caught.value.exit_code == 8
    text = report.text(explain=True)
    assert "FAIL 1.02" in text
    assert "0.99" in text
    assert "1 of 2 claims hold" in text
    assert "The error falls as stated." in text
    Report("title", CLAIMS, (GOOD,), 1.0).require()


def test_json_holds_everything() -> None:
    found = json.loads(json.dumps(Report("title", CLAIMS, (GOOD, BAD), 1.0, (("torch", "2"),)).json()))
    assert found["passed"] is False
    assert found["head"] == {"torch": "2"}
    assert found["findings"][1]["measured"] == "1.02"
    assert found["claims"] == {"order": "The error falls as stated."}


def test_not_a_number_fails() -> None:
    assert not below(float("nan"), 1.0).passed
    check = Check[float](Claim("small", "It is small."), each(lambda value: below(value, 1.0) if value >= 0 else None))
    assert [finding.subject for finding in check.find("number", {"a": 0.5, "b": -1.0})] == ["a"]


def test_every_part_of_the_registry_is_checked_under_all_its_names() -> None:
    for kind, make, checks in KINDS:
        assert make(), kind
        assert checks, kind
    names = {name.strip() for text in parts.samplers() for name in text.split(",")}
    assert set(alias_table(Sampler)) <= names  # type: ignore[type-abstract]
    assert {type(value).__name__ for value in parts.samplers().values()} == set(registry(Sampler))  # type: ignore[type-abstract]
    assert {type(value).__name__ for value in parts.spacings()} == set(registry(Spacing))  # type: ignore[type-abstract]


def test_only_narrows_to_a_part_a_class_a_kind_or_a_claim() -> None:
    assert {finding.subject for finding in conform("trailing").findings} == {"trailing"}
    assert {finding.subject for finding in conform("Karras").findings} == {"karras"}
    assert {finding.kind for finding in conform("gauges").findings} == {"gauge"}
    assert {finding.claim for finding in conform("convert").findings} == {"convert"}
    with pytest.raises(UsageError, match="did you mean trailing"):
        conform("trailling")


def test_the_quick_kinds_hold() -> None:
    for only in ("schedules", "spacings", "predictions", "gauges", "guidances"):
        report = conform(only)
        assert not report.failures, report.text()


def test_the_command_prints_a_table_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", "--only", "gauges"]) == 0
    assert "claims hold" in capsys.readouterr().out
    assert run(["verify", "--only", "gauges", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True


def test_the_command_exits_with_8(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from inkwash.core.spacing import Karras, Uniform

    monkeypatch.setattr(Karras, "lam", Uniform.lam)
    assert run(["verify", "--only", "karras"]) == 8
    shown = capsys.readouterr()
    assert "FAIL" in shown.out
    assert "error[claims_failed]" in shown.err


def test_wrong_options_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", "--against", "difusers"]) == 2
    assert run(["verify", "mini", "--against", "diffusers"]) == 2
    assert run(["verify", "--only", "nothing-such"]) == 2


def test_the_limit_of_the_distance_is_massarts() -> None:
    assert distance_limit(1000, 0.05) == pytest.approx((0.5 * 3.688879454 / 1000) ** 0.5)
