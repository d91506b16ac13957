"""The scoreboard of another library's schedulers, kept with date, versions, command and machine.

    python benchmarks/verify_against.py diffusers --date 2026-11-21

writes benchmarks/DATE-conformance-NAME.json and .md. Nothing is timed; the numbers are errors of arithmetic and do not depend on the machine
beyond the last digits.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from pathlib import Path

import torch

from inkwash.verify.against import compare
from inkwash.verify.claim import Finding, Report


def machine() -> str:
    """The processor, as the system names it, and the threads that torch uses."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return f"{names[0] if names else platform.machine()}, {torch.get_num_threads()} thread(s)"


def table(findings: Sequence[Finding]) -> list[str]:
    """A Markdown table with one line per scheduler."""
    columns = list(dict.fromkeys(finding.claim for finding in findings))
    cells = {(finding.subject, finding.claim): (finding.cell or "ok") + ("" if finding.passed else " !") for finding in findings}
    lines = [f"| scheduler | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    return lines + [f"| {subject} | {' | '.join(cells.get((subject, column), '-') for column in columns)} |"
                    for subject in dict.fromkeys(finding.subject for finding in findings)]


def page(report: Report, command: str, date: str) -> str:
    """The scoreboard as a Markdown page."""
    head = [f"# {report.title}", "", f"Date {date}. Command `{command}`. Machine: {machine()}.", "",
            "Versions: " + ", ".join(f"{name} {value}" for name, value in report.head) + ".", ""]
    claims = [f"- **{claim.name}**: {claim.says}" for claim in report.claims]
    notes = [f"- {finding.subject}, {finding.claim}: measured {finding.measured}, expected {finding.expected}"
             + (f" ({finding.note})" if finding.note else "") + "." for finding in report.failures]
    return "\n".join([*head, *claims, "", "`!` marks what differs from what is expected.", "", *table(report.findings), "",
                      "## What differs, in full", "", *(notes or ["Nothing."]), ""])


def main() -> None:
    """Runs and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library")
    parser.add_argument("--date", required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    given = parser.parse_args()
    report = compare(given.library)
    command = f"python benchmarks/verify_against.py {given.library} --date {given.date}"
    stem = given.out / f"{given.date}-conformance-{given.library}"
    stem.with_suffix(".json").write_text(json.dumps({"date": given.date, "command": command, "machine": machine(), **report.json()}, indent=1) + "\n")
    stem.with_suffix(".md").write_text(page(report, command, given.date))


if __name__ == "__main__":
    main()
