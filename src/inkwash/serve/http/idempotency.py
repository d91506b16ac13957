"""The header Idempotency-Key: the same request with the same key gets the same answer, and is served once.

A request is the same when its path, its fields as they were written and its files are. Only answers that went well are kept; after a refusal
the key is free. While the first request is being answered, the second one is told to come again (409 with Retry-After).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from inkwash.serve.http.errors import ApiError
from inkwash.serve.http.service import Service
from inkwash.serve.store.answers import Answer, InWork, Other

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


class Once:
    """One request with a key."""

    def __init__(self, service: Service, owner: str, key: str, digest: str) -> None:
        self.service = service
        self.owner = owner
        self.key = key
        self.digest = digest

    async def replay(self) -> Response | None:
        """The answer that was given before; None where the caller must make one, and `keep` or `drop` it. Raises ApiError 409."""
        try:
            found = await self.service.stored(self.service.store.answers.begin, self.owner, self.key, self.digest)
        except Other:
            raise ApiError(409, "idempotency_key_reused", "this Idempotency-Key was used for another request; give a new request a new key") from None
        except InWork:
            raise in_work() from None
        if found is None:
            self.service.making.add((self.owner, self.key))
            return None
        return Response(found.content, found.status, {"idempotent-replayed": "true"}, found.media_type)

    async def keep(self, status: int, media_type: str, content: bytes) -> None:
        """Keeps the answer before it is given."""
        try:
            await self.service.stored(self.service.store.answers.keep, self.owner, self.key, Answer(status, media_type, content))
        except InWork:
            raise in_work() from None
        self.kept()

    def kept(self) -> None:
        """The answer was kept; its lease is over."""
        self.service.making.discard((self.owner, self.key))

    def drop(self) -> None:
        """Frees the key, at once or, where the store cannot be reached, when its lease has passed."""
        if (self.owner, self.key) in self.service.making:
            self.kept()
            self.service.thread.submit(self.service.store.answers.drop, self.owner, self.key)


async def served(keyed: Once | None, make: Callable[[], Awaitable[Response]]) -> Response:
    """The answer that `make` gives, or gave when this was asked before."""
    if keyed is None:
        return await make()
    known = await keyed.replay()
    if known is not None:
        return known
    try:
        found = await make()
        await keyed.keep(found.status_code, str(found.media_type), bytes(found.body))
        return found
    except BaseException:
        keyed.drop()
        raise


def once(http: HttpRequest, fields: Mapping[str, Any], files: Mapping[str, bytes]) -> Once | None:
    """What the header asks for; None without it. Raises ApiError 400 `invalid_idempotency_key`."""
    key = http.headers.get("idempotency-key")
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        raise ApiError(400, "invalid_idempotency_key", "an Idempotency-Key has 1..255 printable ASCII characters and no space")
    asked = [http.url.path, fields, {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}]
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    return Once(http.app.state.service, http.scope["state"]["owner"], key, digest)


def in_work() -> ApiError:
    """The refusal while the first request is being answered."""
    return ApiError(409, "idempotency_in_progress", "the first request with this Idempotency-Key is still being answered; ask again", retry_sec=1)
