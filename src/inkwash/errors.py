"""Errors that a user can cause: one line each, with a code, an exit status and the next step.

A message says what is wrong and where, the limit or what was expected, and what to do next. The command line prints
`inkwash: error[code]: message` and exits with `exit_code`. Everything else that is raised is a bug.
"""

from __future__ import annotations

import copyreg
from types import NoneType
from typing import Any, ClassVar


class InkwashWarning(UserWarning):
    """Something the user asked for has no effect or is not certain to work; the result is still what was asked."""


class InkwashError(ValueError):
    """An error with a stable `code` (snake_case, for programs) and a one-line `message` (for people)."""

    exit_code: ClassVar[int] = 2

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        """So that another process can raise it, with whatever a subclass adds."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]

    def line(self, limit: int = 400) -> str:
        """The line for stderr, without line breaks, at most `limit` characters long."""
        text = f"inkwash: error[{self.code}]: {' '.join(self.message.split())}"
        return text if len(text) <= limit else text[: limit - 3] + "..."


class UsageError(InkwashError):
    """A wrong argument, option or configuration."""

    exit_code = 2


def expect(value: object, kinds: type | tuple[type, ...], what: str, code: str = "bad_value") -> None:
    """Raises UsageError `code` unless the value of the argument `what` is of one of these kinds."""
    if not isinstance(value, kinds):
        names = ["None" if kind is NoneType else kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,))]
        raise UsageError(code, f"{what} must be {' or '.join(names)}, got {type(value).__name__}")


def shown(value: object, most: int) -> str:
    """The first `most` characters of the value's text. Python writes no whole number of more than 4300 digits; a message still has to."""
    try:
        return str(value)[:most]
    except ValueError:
        return f"a {type(value).__name__} too long to write"


def install(extras: str) -> str:
    """How to get what a feature needs beyond the core; `extras` are those of pyproject.toml, with commas between."""
    return f'in the clone of inkwash run: pip install -e ".[{extras}]"'


class DataError(InkwashError):
    """Training or input data that cannot be read or used."""

    exit_code = 3


class CheckpointError(InkwashError):
    """A model file or checkpoint that is missing, damaged, unsafe or of another kind."""

    exit_code = 4


class ResourceError(InkwashError):
    """Too little disk or memory, or a lost worker."""

    exit_code = 5


class DivergedError(InkwashError):
    """Training produced non-finite losses repeatedly."""

    exit_code = 6


class PolicyError(InkwashError):
    """Refused by a policy."""

    exit_code = 7


class VerifyError(InkwashError):
    """A verification, such as a pixel hash, failed."""

    exit_code = 8


class BusyError(InkwashError):
    """Something else holds the lock."""

    exit_code = 9
