"""JSON bodies read with suspicion.

Python's json takes NaN, 1e999, duplicate keys and text in UTF-16; each of them would fail or mean something else further in. Depth and
size are measured before parsing, in one pass over the bytes, for a parser recurses. Raises ApiError 400 `invalid_json` for all of it.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from inkwash.serve.http.errors import ApiError

MAX_DEPTH = 16
MAX_DIGITS = 30
MAX_PARTS = 10_000                                         # strings, commas and brackets: millions of tiny values would stop the server for minutes
_TOKEN = re.compile(rb'[^"\[\]{},]*+("(?>[^"\\]+|\\(?:.|\Z))*+(?:"|\Z)|[\[\]{},])', re.DOTALL)
"""What is between tokens comes with the next one. An open string runs to the end: one pass, whatever comes."""


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`, UTF-8."""
    if not body:
        _refuse("the body is empty; send a JSON object")
    _check_shape(body)
    try:
        found = json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_constant, parse_int=_int, parse_float=_float)
    except UnicodeDecodeError as error:
        _refuse(f"the body is not UTF-8 at byte {error.start}")
    except json.JSONDecodeError as error:
        _refuse(f"{error.msg.lower()} at line {error.lineno}, column {error.colno}")
    if not isinstance(found, dict):
        _refuse(f"the body must be a JSON object, got {type(found).__name__}")
    return found


def _check_shape(body: bytes) -> None:
    depth = 0
    for number, token in enumerate(_TOKEN.finditer(body)):
        if number >= MAX_PARTS:
            _refuse(f"it has more than {MAX_PARTS} parts")
        first = token[1][:1]
        depth += (first in b"[{") - (first in b"]}")
        if depth > MAX_DEPTH:
            _refuse(f"arrays and objects are nested more than {MAX_DEPTH} deep")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if any("\ud800" <= character <= "\udfff" for name in found for character in name):
        _refuse("a key has a broken surrogate")
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        _refuse(f"the key {twice[:40]!r} stands twice")
    return found


def _constant(text: str) -> NoReturn:
    _refuse(f"{text} is not JSON")


def _int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        _refuse(f"a number has {len(text)} digits; at most {MAX_DIGITS} are read")
    return int(text)


def _float(text: str) -> float:
    value = float(text) if len(text) <= 100 else math.inf
    if not math.isfinite(value):
        _refuse(f"the number {text[:20]} is too large or too long")
    return value


def _refuse(reason: str) -> NoReturn:
    raise ApiError(400, "invalid_json", f"cannot read the body as JSON: {reason}")
