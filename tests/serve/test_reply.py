"""Streams of events: silence, and mistakes of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.requests import Request as HttpRequest
from starlette.responses import StreamingResponse
from starlette.types import Message

from inkwash.serve.http import reply
from inkwash.serve.http.reply import Events


def test_a_stream_without_news_says_that_it_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reply, "ALIVE_SEC", 0.01)
    go_on = asyncio.Event()

    async def steps() -> AsyncIterator[tuple[str, dict[str, object]]]:
        yield "one", {}
        await go_on.wait()
        yield "two", {}

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def ask() -> list[object]:
        found: list[object] = []
        async with asyncio.timeout(30):
            answer = await Events(HttpRequest({"type": "http"}, receive), steps()).response()
            assert isinstance(answer, StreamingResponse)
            async for part in answer.body_iterator:
                found.append(part)
                if found.count(b": open\n\n") == 3:
                    go_on.set()
        return found

    found = asyncio.run(ask())
    assert found[:4] == [b"event: one\ndata: {}\n\n", *[b": open\n\n"] * 3]
    assert found[-1] == b"event: two\ndata: {}\n\n"


def test_a_mistake_of_ours_ends_a_stream(caplog: pytest.LogCaptureFixture) -> None:
    async def steps() -> AsyncIterator[tuple[str, dict[str, object]]]:
        yield "one", {}
        raise KeyError("a mistake")

    async def ask(skip: int) -> list[object]:
        async def receive() -> Message:
            await asyncio.Event().wait()
            raise AssertionError

        told = steps()
        for _ in range(skip):
            await anext(told)
        http = HttpRequest({"type": "http", "state": {"request_id": "r"}}, receive)
        async with asyncio.timeout(5):
            answer = await Events(http, told).response()
            assert isinstance(answer, StreamingResponse)
            return [part async for part in answer.body_iterator]

    found = asyncio.run(ask(0))
    assert len(found) == 2
    assert b"internal_error" in found[1]  # type: ignore[operator]
    with pytest.raises(KeyError):
        asyncio.run(ask(1))
