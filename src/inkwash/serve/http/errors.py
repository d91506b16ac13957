"""Errors as the clients of the OpenAI API know them: `{"error": {"message", "type", "param", "code"}}` and a status.

What a caller did wrong is told; what went wrong inside is not. Waiting helps with 429, 503 and 504, which carry Retry-After; a refusal that
would only be repeated says `x-should-retry: false`. Bodies are ASCII, so that a broken character in a request cannot break its answer.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Collection, Iterable

from starlette.responses import Response

from inkwash.errors import DataError, InkwashError, PolicyError, ResourceError, UsageError

TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 409: "conflict_error", 429: "rate_limit_error"}
PARAMS = {"bad_steps": "steps", "bad_seed": "seed", "bad_guidance": "guidance", "invalid_size": "size",
          "empty_prompt": "prompt", "bad_prompt": "prompt", "prompt_too_long": "prompt", "invalid_characters": "prompt", "two_spacings": "spacing",
          "unknown_branch": "guidance", "no_class": "prompt",
          "mask_without_alpha": "mask", "mask_size_differs": "mask", "bad_strength": "strength"}


class ApiError(Exception):
    """A refusal: `status`, a stable `code`, the `param` at fault, and `retry_sec` where waiting helps."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None, *, retry_sec: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_sec = retry_sec

    def body(self) -> dict[str, object]:
        """The JSON of the answer."""
        usual = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": TYPES.get(self.status, usual), "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Retry-After, or that a retry is of no use; what was not read of a body that is too large is not waited for."""
        found = {"content-type": "application/json"}
        if self.retry_sec is not None:
            found["retry-after"] = str(max(1, math.ceil(self.retry_sec)))
        elif self.status >= 400:
            found["x-should-retry"] = "false"
        if self.status == 401:
            found["www-authenticate"] = "Bearer"
        if self.status in (408, 413):
            found["connection"] = "close"
        return found

    def content(self) -> bytes:
        """The body in ASCII."""
        return json.dumps(self.body()).encode("ascii")

    def response(self) -> Response:
        """The answer."""
        return Response(self.content(), self.status, self.headers())


def unknown_parameter(name: str, known: Collection[str], where: str = "", aliases: Iterable[str] = ()) -> ApiError:
    """The refusal of a name that nobody reads, with the nearest one; `aliases` are names that are not told otherwise."""
    near = difflib.get_close_matches(name, [*known, *aliases], n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"
    return ApiError(400, "unknown_parameter", f"there is no parameter {name[:60]!r}{where and f' {where}'}; {hint}", name[:60])


class ClientGone(Exception):
    """The client closed its connection; nobody reads the answer (logged as 499)."""


def internal() -> ApiError:
    """A mistake of ours, about which the caller learns the request id only."""
    return ApiError(500, "internal_error", "the server made a mistake; give the X-Request-Id of this answer to its operator")


def draining() -> ApiError:
    """The refusal of a server that is about to leave."""
    return ApiError(503, "draining", "the server is about to stop; ask again, another one may answer", retry_sec=5)


def from_inkwash(error: InkwashError, param: str | None = None) -> ApiError:
    """The refusal that an error of the library means; only errors of the caller show their message."""
    return from_code(type(error), error.code, error.message, param)


def from_code(kind: type[InkwashError], code: str, message: str, param: str | None = None) -> ApiError:
    """`from_inkwash` of an error that came from another process."""
    if issubclass(kind, UsageError | PolicyError):
        named = next((name for name in ("sampler", "spacing", "guidance") if code == "unknown_name" and f"no {name} is" in message), None)
        return ApiError(400, code, message, param or PARAMS.get(code) or named)
    if issubclass(kind, DataError):
        return ApiError(415 if code == "image_format" else 400, code, message, param or "image")
    if issubclass(kind, ResourceError):
        return ApiError(503, code, "the server has too little memory for this at the moment; ask for less, or later", retry_sec=5)
    return internal()
