"""Paths that a caller gave."""

from __future__ import annotations

import os
from pathlib import Path

from inkwash.errors import UsageError, expect

LONGEST, LONGEST_NAME = 4096, 255                          # bytes that Linux takes


def as_path(value: object, what: str) -> Path:
    """The path; `what` begins the sentence where it is none. Raises UsageError `bad_path`."""
    expect(value, (str, Path), what, "bad_path")
    _require_some(value, what)
    path = Path(value)  # type: ignore[arg-type]
    text = os.fsencode(path)
    if b"\0" in text or len(text) > LONGEST or any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):
        raise UsageError("bad_path", f"{what} must be a path that can exist, got {str(path)[:60]!r} of {len(text)} bytes; "
                                     f"a path has at most {LONGEST} bytes, each of its names {LONGEST_NAME}, and none is NUL")
    return path


def as_paths(value: object, what: str) -> list[str | Path]:
    """The paths, or the one path, with their weights (PATH*3). Raises UsageError `bad_path`."""
    expect(value, (str, Path, list, tuple), what, "bad_path")
    found = [value] if isinstance(value, str | Path) else list(value)  # type: ignore[call-overload]
    for one in found:
        expect(one, (str, Path), f"a path of {what}", "bad_path")
        _require_some(one, f"a path of {what}")
    return found


def _require_some(value: object, what: str) -> None:
    if value == "":                                        # often a variable of a shell that is not set
        raise UsageError("bad_path", f"{what} is empty; name one, or . for the present folder")
