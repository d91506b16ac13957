"""What a model's folder keeps of its evaluation: a summary in the card of inkwash.json, and README.md for people.

Only what stands beside its interval, its settings and the hash of its extractor is kept, so that nobody has to believe a bare number. The summary
is no part of the model's hash: measuring a model does not make it another one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inkwash.errors import UsageError
from inkwash.evaluate.measure import METRICS
from inkwash.evaluate.memory import POWER
from inkwash.evaluate.report.result import valid_distance
from inkwash.io.durable import write_text
from inkwash.io.find import read_info
from inkwash.io.folder import model_hash, save_info
from inkwash.io.info import ModelInfo
from inkwash.io.tensors import MANIFEST

README = "README.md"
ENDS = ("value", "low", "high")
KEPT = ("kid", "precision", "recall", "density", "coverage", "clip", "adherence")


def summary(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the card keeps of a stored result: numbers as [value, low, high], and what they depend on. The memorized share is left out where most
    planted copies were not found."""
    about, memorized = result["about"], result["memorization"]
    valid = valid_distance(result)
    parts = {name: _ends(row[valid]) for name, row in result["parts"].items() if row is not None and "fd" in row}
    return {"date": about["date"], "inkwash": about["inkwash"], "num": about["num"], "level": about["level"],
            "distance": valid, "parts": parts,
            "numbers": {name: _ends(result["metrics"][name]) for name in (valid, *KEPT) if name in result["metrics"]},
            **({"memorized": _ends(memorized["excess"])} if memorized and memorized["canaries"]["value"] >= POWER else {}),
            "extractor": about["extractors"]["features"]["name"], "extractor_hash": about["extractors"]["features"]["hash"],
            "judge": about["judge"], "reference": f"{about['data']['num_reference']} {about['data']['reference']} pictures",
            "data": about["data"]["fingerprint"], "settings": about["settings"], "seeds": about["seeds"]}


def update_card(folder: Path, result: Mapping[str, Any]) -> None:
    """Writes `summary` as `evaluation` into the card of the model in `folder`, and its README.md; other fields, its hash and its weights stay.

    Raises UsageError `wrong_model` when the result is of another model, `output_not_writable`.
    """
    if model_hash(folder) != result["about"]["model"]["hash"]:
        raise UsageError("wrong_model", f'the result is not of the model in "{folder}"; evaluate that one')
    info = read_info(folder)
    measured = dataclasses.replace(info, card={**info.card, "evaluation": summary(result)})
    try:
        save_info(folder, measured)
        write_text(folder / README, readme(measured, model_hash(folder)))
    except PermissionError as error:
        raise UsageError("output_not_writable", f'cannot write "{error.filename or folder / MANIFEST}"; '
                                                "copy the model to a folder of yours") from None


def told(kept: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A summary for people: names with numbers and intervals, then what they depend on."""
    rows = [(METRICS[name].title, _text(ends)) for name, ends in kept["numbers"].items() if name in METRICS]
    rows += [(f"{METRICS[kept.get('distance', 'fd')].title}, {name}", _text(ends)) for name, ends in kept.get("parts", {}).items()]
    rows += [("memorized share", _text(kept["memorized"]))] if "memorized" in kept else []
    settings = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in kept["settings"].items() if value not in (None, ""))
    return [*rows, ("intervals", f"{100 * kept['level']:g} %"),
            ("samples", f"{kept['num']}, seeds {kept['seeds'][0]} to {kept['seeds'][1]}, against {kept['reference']}"), ("settings", settings),
            ("features", f"{kept['extractor']} {kept['extractor_hash'][:12]}"), ("measured", f"{kept['date']} by inkwash {kept['inkwash']}")]


def readme(info: ModelInfo, name: str) -> str:
    """README.md of a model folder: what the model is made of, what its card says, how good it was measured to be."""
    lines = [f"# {info.name}", "", str(info.card.get("summary", "")), "", "| | |", "| --- | --- |"]
    rows = [("hash", name), ("network", info.network), ("images become", f"{info.codec}, {info.channels} channels, 1/{info.factor} of the size"),
            ("condition", info.conditioning), ("process", f"{info.process}, predicts {info.prediction}, gauge {info.gauge}")]
    rows += [(key.replace("_", " "), ", ".join(map(str, value)) if isinstance(value, list) else str(value)) for key, value in info.card.items()
             if key not in ("summary", "evaluation")]
    lines += [f"| {key} | {_cell(value)} |" for key, value in rows]
    kept = info.card.get("evaluation")
    if isinstance(kept, Mapping):
        lines += ["", "## Measured", "", "| | |", "| --- | --- |", *(f"| {key} | {_cell(value)} |" for key, value in told(kept))]
    return "\n".join(lines) + "\n"


def _ends(row: Mapping[str, Any]) -> list[float | None]:
    return [None if row[end] is None else float(f"{row[end]:.4g}") for end in ENDS]


def _text(ends: list[float | None]) -> str:
    value, low, high = ("not finite" if end is None else f"{end:g}" for end in ends)
    return f"{value} [{low}, {high}]"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
