"""Claims, what was found, and the report of both.

A claim is one sentence about a kind of part ("its error falls with the power that it states"). A finding is one claim measured on one part,
with the number that was expected. A report holds findings; its table has one line per part and one column per claim, and every failure
follows in full. A claim that does not apply to a part has no finding, and the table shows a dash.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from inkwash._version import __version__
from inkwash.errors import VerifyError

P = TypeVar("P")


@dataclass(frozen=True)
class Claim:
    """A sentence that can fail: `name` heads a column, `says` is the sentence, `kind` what it is about if kinds share the name."""

    name: str
    says: str
    kind: str = ""


@dataclass(frozen=True)
class Finding:
    """One claim measured on one part. `measured` and `expected` are numbers as text; `cell` is what the table shows instead of ok."""

    kind: str                                              # what the subject is: "sampler", "schedule", "model"
    subject: str                                           # its name: "ddim"
    claim: str                                             # the name of the claim
    passed: bool
    measured: str
    expected: str
    note: str = ""
    cell: str = ""

    def line(self) -> str:
        """The finding as a sentence."""
        word = "holds" if self.passed else "fails"
        return f"{self.kind} {self.subject}: {self.claim} {word}: measured {self.measured}, expected {self.expected}" + \
            (f" ({self.note})" if self.note else "")


class Measure(NamedTuple):
    """What a check found of one part, as in Finding."""

    passed: bool
    measured: str
    expected: str
    note: str = ""
    cell: str = ""


@dataclass(frozen=True)
class Check(Generic[P]):
    """A claim with its measurement of any number of parts at once; None where the claim does not apply to a part."""

    claim: Claim
    measure: Callable[[Sequence[P]], Sequence[Measure | None]]

    def find(self, kind: str, parts: Mapping[str, P]) -> list[Finding]:
        """One finding per part. An error in a part is a failure of that part, with the error as what was measured."""
        try:
            found = self.measure(list(parts.values()))
        except Exception as error:
            if len(parts) > 1:
                return [finding for name, part in parts.items() for finding in self.find(kind, {name: part})]
            found = [Measure(False, f"{type(error).__name__}: {' '.join(str(error).split())[:160]}", "no error", cell="error")]
        return [Finding(kind, name, self.claim.name, *measure) for name, measure in zip(parts, found, strict=True) if measure is not None]


def each(measure: Callable[[P], Measure | None]) -> Callable[[Sequence[P]], Sequence[Measure | None]]:
    """The measurement of many parts, one after another."""
    return lambda parts: [measure(part) for part in parts]


def below(value: float, limit: float, note: str = "", cell: str = "") -> Measure:
    """The measure "value is below limit"; not a number is a failure."""
    return Measure(bool(value < limit), f"{value:.3g}", f"below {limit:.3g}", note, cell)


@dataclass(frozen=True)
class Report:
    """What was claimed and what was found. `head` are facts to print above the table: versions, counts, the false-alarm rate.

    A `survey` of somebody else's work does not fail: what differs is marked with an exclamation mark. A `tall` report is about one part only
    and has one line per claim.
    """

    title: str
    claims: tuple[Claim, ...]
    findings: tuple[Finding, ...]
    seconds: float
    head: tuple[tuple[str, str], ...] = ()
    survey: bool = False
    tall: bool = False

    @property
    def failures(self) -> tuple[Finding, ...]:
        """Findings that did not pass."""
        return tuple(finding for finding in self.findings if not finding.passed)

    def require(self) -> None:
        """Raises VerifyError `claims_failed` when a finding of a report that is no survey did not pass."""
        failed = self.failures
        if failed and not self.survey:
            more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
            raise VerifyError("claims_failed", f"{len(failed)} of {len(self.findings)} claims fail: {failed[0].line()}{more}; "
                                               "the report lists them all, --only NAME narrows it")

    def json(self) -> dict[str, Any]:
        """Everything, as one JSON object."""
        return {"title": self.title, "inkwash": __version__, "passed": not self.failures, "seconds": round(self.seconds, 2),
                "head": dict(self.head), "claims": {f"{claim.kind} {claim.name}".strip(): claim.says for claim in self.claims},
                "findings": [dataclasses.asdict(finding) for finding in self.findings]}

    def text(self, *, explain: bool = False) -> str:
        """One table per kind of part, the failures in full, and a sum; with `explain` every claim's sentence."""
        lines = [self.title, *(f"  {name}: {value}" for name, value in self.head), ""]
        for kind in dict.fromkeys(finding.kind for finding in self.findings):
            lines += [*(self._list() if self.tall else self._table(kind)), ""]
        if explain:
            lines += columns_of([[f"  {claim.kind}".rstrip(), claim.name, claim.says] for claim in self.claims]) + [""]
        lines += [f"  {finding.line()}" for finding in self.failures] + ([""] if self.failures else [])
        held = len(self.findings) - len(self.failures)
        lines.append(f"{held} of {len(self.findings)} claims hold, {self.seconds:.1f} s")
        return "\n".join(lines)

    def _list(self) -> list[str]:
        found = {finding.claim: finding for finding in self.findings}
        names = dict.fromkeys([*(claim.name for claim in self.claims), *found])
        return columns_of([["claim", "", "measured"]] + [
            [name, "ok" if found[name].passed else "FAIL", found[name].measured] if name in found
            else [name, "-", "not asked: it does not apply, or another claim must hold first"] for name in names])

    def _table(self, kind: str) -> list[str]:
        mine = [finding for finding in self.findings if finding.kind == kind]
        columns = [claim.name for claim in self.claims if claim.kind in ("", kind) and any(finding.claim == claim.name for finding in mine)]
        columns += [name for name in dict.fromkeys(finding.claim for finding in mine) if name not in columns]
        cells = {(finding.subject, finding.claim): _cell(finding, self.survey) for finding in mine}
        rows = [[kind, *columns]] + [[subject, *(cells.get((subject, column), "-") for column in columns)]
                                     for subject in dict.fromkeys(finding.subject for finding in mine)]
        return columns_of(rows)


def _cell(finding: Finding, survey: bool) -> str:
    if finding.passed:
        return finding.cell or "ok"
    return f"{finding.cell or 'differs'} !" if survey else f"FAIL {finding.cell}".rstrip()


def columns_of(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
