"""The result as JSON, and the gate that a faster setting has to pass.

A result holds every number as an Estimate with its interval and all that it depends on, so two results can be told to be comparable: the same
extractor, data, reference, captions and number of samples. A gate compares the numbers themselves, since a budget is a promise about
what is shown; that their intervals overlap is said, and calls for more samples rather than for letting it pass.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inkwash.errors import CheckpointError, UsageError, VerifyError
from inkwash.evaluate.measure import METRICS
from inkwash.evaluate.metrics.compare import Comparison
from inkwash.evaluate.metrics.interval import Estimate
from inkwash.evaluate.metrics.slices import Slice
from inkwash.evaluate.run import Evaluation

FORMAT = 1
KIND = "inkwash evaluation"
SAME = {"extractors": "feature extractors", "judge": "judges of adherence", "num": "numbers of samples", "seeds": "seeds", "captions": "captions"}
SAME_DATA = {"reference_fingerprint": "reference pictures", "num_reference": "numbers of reference pictures"}


def as_json(found: Evaluation) -> dict[str, Any]:
    """The whole result; numbers that are not finite become null."""
    parts: dict[str, Any] = {name: _numbers(row) for name, row in found.parts.items()}
    if found.psnr is not None:
        finite = found.psnr[found.psnr.isfinite()]
        known = {"mean": float(finite.mean()), "lowest": float(finite.min()), "num": len(found.psnr)} if len(finite) else None
        parts["reconstruction_psnr_db"] = known
    result = {
        "format": FORMAT, "kind": KIND, "about": found.about, "metrics": _numbers(found.metrics), "parts": parts,
        "bits": None if found.bits is None else {name: value._asdict() if isinstance(value, Estimate) else value
                                                 for name, value in found.bits._asdict().items()},
        "memorization": _memory(found), "unconditional": None if found.unconditional is None else _numbers(found.unconditional),
        "slices": {name: [_slice(row) for row in rows] for name, rows in found.slices.items()},
        "curves": [point.json() for point in found.curves],
        "against": {name: _comparison(row) for name, row in found.comparison.items()},
        "against_slices": {name: [_slice(row) for row in rows] for name, rows in found.compared_slices.items()},
    }
    clean = _finite(result)
    assert isinstance(clean, dict)
    return clean


def text_of(result: Mapping[str, Any]) -> str:
    """The text of result.json."""
    return json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_result(path: Path) -> dict[str, Any]:
    """A stored result, from its file or the folder of a report. Raises CheckpointError `result_unreadable`."""
    file = path / "result.json" if path.is_dir() else path
    try:
        raw = json.loads(file.read_text("utf-8"))
        if raw["kind"] != KIND or raw["format"] != FORMAT:
            raise TypeError(f"it is {str(raw['kind'])[:40]!r}, format {raw['format']!r}")
        for name in raw["metrics"]:
            estimate(raw, name)
        if not all(isinstance(part, dict) for part in (raw["about"], raw["about"]["data"])):
            raise TypeError("it does not say what its numbers depend on")
        return dict(raw)
    except (OSError, ValueError, OverflowError, KeyError, TypeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CheckpointError("result_unreadable", f'"{file}" is not a result of inkwash evaluate: {reason}; '
                                                   "give a result.json or its folder") from None


def estimate(result: Mapping[str, Any], name: str) -> Estimate:
    """A metric of a stored result."""
    row = dict(result["metrics"][name])
    ends = {end: math.nan if row[end] is None else float(row[end]) for end in ("value", "low", "high")}
    return Estimate(ends["value"], ends["low"], ends["high"], int(row["num"]), float(row["level"]), str(row["note"]))


def require_comparable(result: Mapping[str, Any], baseline: Mapping[str, Any]) -> None:
    """Raises UsageError `not_comparable`, naming what differs."""
    for names, a, b in ((SAME, result["about"], baseline["about"]), (SAME_DATA, result["about"]["data"], baseline["about"]["data"])):
        for key, title in names.items():
            if a.get(key) != b.get(key):
                raise UsageError("not_comparable", f"the baseline has other {title}: {_short(b.get(key))}, here {_short(a.get(key))}; "
                                                   "measure both in the same way")


def valid_distance(result: Mapping[str, Any]) -> str:
    """"fd", or "fd_at_n" where there are too few samples for the extrapolation, as the note of "fd" says."""
    return "fd_at_n" if result["metrics"]["fd"]["note"] else "fd"


def check_baseline(result: Mapping[str, Any], baseline: Mapping[str, Any], allow: float, names: Sequence[str] | None = None) -> list[str]:
    """One line for each of `names`: how it stands against the baseline. Raises VerifyError `quality_gate` when one is worse by more than `allow`.

    Unless given, they are the kernel distance and the Fréchet distance, at this N where there are too few samples for the extrapolation.
    For a distance the limit is (1 + allow) x baseline, for a share (1 - allow) x baseline. Raises UsageError `not_comparable`.
    """
    require_comparable(result, baseline)
    names = (valid_distance(result), "kid") if names is None else names
    limits = {}
    for name in names:
        if name not in baseline["metrics"] or name not in result["metrics"]:
            raise UsageError("not_comparable", f"there is no {name!r} in both results; measured here: {', '.join(result['metrics'])}")
        value = estimate(baseline, name).value
        limits[name] = value + (1 if METRICS[name].smaller_is_better else -1) * allow * abs(value)
    return check_budget(result, limits, {name: estimate(baseline, name) for name in names})


def check_budget(result: Mapping[str, Any], limits: Mapping[str, float], before: Mapping[str, Estimate] | None = None) -> list[str]:
    """One line for each limit. Raises VerifyError `quality_gate` naming those that are not kept, UsageError `unknown_metric`."""
    lines, failed = [], []
    for name, limit in limits.items():
        if name not in result["metrics"]:
            raise UsageError("unknown_metric", f"there is no metric {name[:40]!r}; measured here: {', '.join(result['metrics'])}")
        found = estimate(result, name)
        kept = found.value <= limit if METRICS[name].smaller_is_better else found.value >= limit
        sure = "" if found.low > limit or found.high < limit else ", not certain at this N"
        old = f", before {before[name].value:.4g}" if before else ""
        lines.append(f"{name} {found.value:.4g} [{found.low:.4g}, {found.high:.4g}], limit {limit:.4g}{old}: {'kept' if kept else 'not kept'}{sure}")
        if not kept:
            failed.append(lines[-1])
    if failed:
        raise VerifyError("quality_gate", f"quality falls short of its budget: {'; '.join(failed)}; use more steps, or allow more")
    return lines


def _numbers(row: Mapping[str, Estimate]) -> dict[str, dict[str, Any]]:
    return {name: found._asdict() for name, found in row.items()}


def _slice(row: Slice) -> dict[str, Any]:
    return {"word": row.name, "mean": row.mean._asdict(), "difference": row.difference._asdict(), "p": row.p, "p_table": row.p_table,
            "notable": row.notable}


def _comparison(row: Comparison) -> dict[str, Any]:
    return {"difference": row.difference._asdict(), "p": row.p, "better": row.better, "num_to_decide": row.num_to_decide}


def _memory(found: Evaluation) -> dict[str, Any] | None:
    if found.memory is None or found.train is None:
        return None
    inner, train = found.memory.found, found.train
    return {"share": inner.share._asdict(), "false_positives": inner.false_positives._asdict(), "excess": inner.excess._asdict(),
            "threshold": inner.threshold, "rate": found.memory.rate, "canaries": found.memory.canaries._asdict(),
            "copies": [{"sample": copy.fake, "train": train.key(copy.train), "ratio": copy.ratio, "distance": copy.distance}
                       for copy in inner.copies]}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _short(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
