"""Libraries that can be put to our tests, one file each: `load() -> Library` raises UsageError `missing_library` where it is not installed."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from inkwash.errors import UsageError, expect
from inkwash.verify.adapter import Library

ADAPTERS: dict[str, Callable[[], Library]] = {"diffusers": lambda: import_module("inkwash.verify.adapters.diffusers").load()}
"""Name -> how to load it. A third library is one more file and one more entry."""


def load(name: str) -> Library:
    """The library of that name. Raises UsageError `unknown_library` or `missing_library`."""
    expect(name, str, "a library", "unknown_library")
    if name not in ADAPTERS:
        raise UsageError("unknown_library", f"no adapter is called {name[:40]!r}; known: {', '.join(ADAPTERS)}")
    return ADAPTERS[name]()
