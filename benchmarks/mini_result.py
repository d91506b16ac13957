"""What the benchmark of `mini` writes: rows with intervals and goals, a JSON file that later parts are merged into, and a page made from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from inkwash.errors import UsageError
from inkwash.evaluate.metrics.interval import Estimate
from inkwash.io.durable import write_text


class Row(NamedTuple):
    """A measured number; `goal` is what it should reach, from above where smaller is better. `unit` is "%" for shares of 0..1."""

    what: str
    estimate: Estimate
    goal: float | None = None
    unit: str = "%"
    smaller: bool = False

    @property
    def met(self) -> str:
        """Whether the goal is reached: "yes", "no", or "open" where it lies inside the interval; "" without a goal."""
        if self.goal is None:
            return ""
        value, low, high = self.estimate[:3]
        reached = value <= self.goal if self.smaller else value >= self.goal
        sure = high <= self.goal or low > self.goal if self.smaller else low >= self.goal or high < self.goal
        return ("yes" if reached else "no") + ("" if sure else ", within the interval")

    def json(self) -> dict[str, Any]:
        goal = {} if self.goal is None else {"goal": self.goal, "met": self.met}
        return {"what": self.what, "unit": self.unit, **self.estimate._asdict(), **goal}


def merged(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any]:
    """`new` with the parts of `old` that it does not have. Raises UsageError `another_model` where they are of different models."""
    if old is None:
        return dict(new)
    if old["model"] != new["model"]:
        raise UsageError("another_model", f"the file is of model {old['model']['hash'][:12]} with {old['model']['settings']}, and this is "
                                          f"{new['model']['hash'][:12]} with {new['model']['settings']}; name another file with --out")
    return {**old, **new, "parts": {**old["parts"], **new["parts"]}}


def save(out: Path, found: Mapping[str, Any]) -> None:
    """`out` and the page beside it."""
    write_text(out, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    write_text(out.with_suffix(".md"), page(found))


def shown(value: float, unit: str) -> str:
    """A number as people read it: 0.123 of "%" is 12.3 %."""
    return f"{100 * value:.1f} %" if unit == "%" else f"{value:.4g} {unit}".rstrip()


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["| what | value | 95 % interval | N | goal | met |", "|---|---|---|---|---|---|"]
    for row in rows:
        unit = row["unit"]
        what = row["what"] + (f" ({row['note']})" if row["note"] else "")
        goal = shown(row["goal"], unit) if "goal" in row else ""
        lines.append(f"| {what} | {shown(row['value'], unit)} | {shown(row['low'], unit)} to {shown(row['high'], unit)} | {row['num']} | {goal} | "
                     f"{row.get('met', '')} |")
    return lines


def _points(points: Sequence[Mapping[str, Any]], chosen: int) -> list[str]:
    names = list(points[0]["kinds"])
    lines = [f"| sampler | steps | guidance | evaluations | as asked | {' | '.join(names)} | Fréchet at this N | s/image |",
             "|---" * (len(names) + 7) + "|"]
    for number, point in enumerate(points):
        right, far, mark = point["right"], point["metrics"]["fd_at_n"], "**" if number == chosen else ""
        cells = [f"{mark}{point['sampler']}{mark}", point["steps"], f"{point['guidance']:g}", f"{point['nfe']:g}",
                 f"{shown(right['value'], '%')} ({shown(right['low'], '%')} to {shown(right['high'], '%')})",
                 *(shown(point["kinds"][name], "%") for name in names), f"{far['value']:.1f} ({far['low']:.1f} to {far['high']:.1f})",
                 f"{point['seconds_per_image']:.2f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def page(found: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    model = found["model"]
    lines = [f"# What {model['name']} can do", "", f"Model `{model['hash']}`, {model['settings']}. Features: {found['extractor']}.", ""]
    for name, part in found["parts"].items():
        about = part["machine"]
        lines += [f"## {name.capitalize().replace('_', ' ')}", "", *([*_table(part["rows"]), ""] if part["rows"] else [])]
        if part.get("points"):
            lines += [*_points(part["points"], part["cheapest"]), ""]
        lines += [f"- {note}" for note in part["notes"]]
        lines += [f"- {about['date']}, {about['processor']}, {about['cores']} core(s), {about['threads']} thread(s), load {about['load']}, "
                  f"commit {part['commit']}, {part['seconds']:.0f} s; `{about['command']}`", ""]
    return "\n".join(lines)
