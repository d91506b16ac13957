"""What owns an engine: frames in, ticks, frames out. As a process of the machine: `python -m inkwash.serve.http.worker FD`.

One thread: between two ticks everything that has arrived is read, so a cancelled row is gone before the next step. Before it says "ready" it
has read the weights against their hashes, measured whether bits depend on company, and made a golden image alone and beside another one:
where bits are exact, both must have the same pixels. When the web process is gone, the socket ends and so does this process; an error of
the model ends it too, and a fresh process takes over.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import select
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch

from inkwash.errors import CheckpointError, InkwashError, UsageError, VerifyError
from inkwash.io.png import pixel_sha256, png_bytes
from inkwash.output import Image, to_pil
from inkwash.picture import Picture
from inkwash.pipeline import Pipeline
from inkwash.record import parameters, record
from inkwash.request import Request
from inkwash.serve.admission import Refused
from inkwash.serve.engine import Engine
from inkwash.serve.http.channel import LARGE, Decoder, Frame
from inkwash.serve.http.pictures import read_pictures
from inkwash.serve.http.raster import Start
from inkwash.serve.policy import Policy
from inkwash.serve.ticket import Finished, Ticket
from inkwash.value import parse

GOLDEN_STEPS = 4


@dataclasses.dataclass
class Item:
    """A ticket, how its image shall be delivered, and a `note` for its warnings. `told` is the last step that was reported."""

    number: int
    ticket: Ticket
    format: str
    compression: int
    previews: tuple[int, ...]
    note: str
    told: int = 0


class Worker:
    """An engine behind frames: `handle` takes one, `tick` works, `send` is told what came of it."""

    def __init__(self, send: Callable[[Frame], None]) -> None:
        self.send = send
        self.items: dict[int, Item] = {}
        self.pipeline: Pipeline | None = None
        self.engine: Engine | None = None
        self._last: tuple[tuple[str, int, int, bytes], tuple[Picture, Picture | None, str]] | None = None

    @property
    def pending(self) -> bool:
        """Whether `tick` has anything to do."""
        return self.engine is not None and self.engine.pending

    def _send(self, head: dict[str, Any], body: bytes = b"") -> None:
        self.send(Frame(head, body))

    def handle(self, frame: Frame) -> None:
        """Does what a frame says."""
        head = frame.head
        item = self.items.get(head.get("id", 0))
        if head["do"] == "load":
            self._load(head)
        elif head["do"] == "submit":
            self._submit(head, frame.body)
        elif head["do"] == "check":
            self._check(head, frame.body)
        elif head["do"] == "cancel" and item is not None:
            self._engine.cancel(item.ticket)
            del self.items[item.number]
        elif head["do"] == "preview" and item is not None:
            self._preview(item)
        elif head["do"] == "save" and item is not None:
            self._send({"is": "saved", "id": item.number, "done": item.ticket.step}, self._engine.save(item.ticket))
        elif head["do"] == "ask":
            self._send({"is": "here"})

    @property
    def _engine(self) -> Engine:
        assert self.engine is not None, "load comes first"
        return self.engine

    def _load(self, head: dict[str, Any]) -> None:
        try:
            policy = parse(head["policy"], Policy)  # type: ignore[type-abstract]
            torch.set_num_threads(max(1, torch.get_num_threads() // head["share"]))
            pipeline = Pipeline.from_pretrained(head["folder"], device=head["device"])
            facts = {"model": pipeline.info.name, "hash": pipeline.hash, "determinism": pipeline.determinism, "device": str(pipeline.device),
                     "threads": torch.get_num_threads()}
            engine = Engine(pipeline, policy=policy, queue=head["queue"])
            golden = check_golden(pipeline, engine)
        except InkwashError as error:
            self._send({"is": "broken", **failure(error)})
            return
        self.pipeline, self.engine = pipeline, engine
        self._send({"is": "ready", **facts, "golden": golden, "rate": engine.rate.value})

    def _submit(self, head: dict[str, Any], body: bytes) -> None:
        state, body = body[: head["state"]], body[head["state"] :]
        how = {"key": head["key"], "deadline_sec": head["deadline_sec"], "priority": head["priority"]}
        try:
            request, note = self._read(head, body)
            ticket, unused = None, ""
            try:
                ticket = self._engine.resume(state, of=request, **how) if state else None
            except CheckpointError as error:               # the order starts over, and the web process logs why
                unused = error.code
            ticket = ticket or self._engine.submit(request, **how)
        except Exception as error:
            self._send({"is": "failed", "id": head["id"], **failure(error)})
            return
        self.items[head["id"]] = Item(head["id"], ticket, head["format"], head["compression"], tuple(head["previews"]), note, ticket.step)
        self._send({"is": "accepted", "id": head["id"], "total": ticket.steps, "cost": sum(ticket.job.rows), "done": ticket.step, "unused": unused})

    def _check(self, head: dict[str, Any], body: bytes) -> None:
        try:
            rows = self._engine.rows_of(self._read(head, body)[0])
            self._send({"is": "checked", "id": head["id"], "cost": sum(rows), "total": len(rows)})
        except Exception as error:
            self._send({"is": "failed", "id": head["id"], **failure(error)})

    def _read(self, head: dict[str, Any], body: bytes) -> tuple[Request, str]:
        """The request in a frame, and a note about its pictures. Raises InkwashError.

        The images of one request come one after the other with the same pictures, which are fitted to the size once: large ones take seconds.
        """
        request, start = Request(**head["request"]), head["start"]
        if start is None:
            return request, ""
        key = (json.dumps(start), request.width, request.height, hashlib.sha256(body).digest())
        if self._last is None or self._last[0] != key:
            self._last = key, read_pictures(Start.of(start, body), request.width, request.height)
        picture, painted, note = self._last[1]
        return dataclasses.replace(request, image=picture, mask=painted, strength=start["strength"]), note

    def tick(self) -> None:
        """One tick of the engine, and the word about it."""
        engine = self._engine
        began, rows = time.perf_counter(), engine.rows_done
        ended = {finished.ticket.number: finished for finished in engine.tick()}
        done = []
        for item in list(self.items.values()):
            if item.ticket.step > item.told:
                item.told = item.ticket.step
                done.append((item.number, item.told))
                if item.told in item.previews and item.ticket.live:
                    self._preview(item)
            finished = ended.get(item.ticket.number)
            if finished is not None:
                self._finish(item, finished)
        self._send({"is": "tick", "rows": engine.rows_done - rows, "sec": time.perf_counter() - began, "done": done})

    def _preview(self, item: Item) -> None:
        pixels = self._engine.preview(item.ticket)
        if pixels is not None:
            buffer = io.BytesIO()
            to_pil(pixels.cpu()).save(buffer, "PNG", compress_level=1)
            self._send({"is": "preview", "id": item.number, "step": item.ticket.step}, buffer.getvalue())

    def _finish(self, item: Item, finished: Finished) -> None:
        del self.items[item.number]
        if finished.image is None:
            self._send({"is": "expired", "id": item.number})
            return
        assert self.pipeline is not None
        data, facts = deliver(finished.image, self.pipeline, item.format, item.compression)
        facts["warnings"] += [item.note] if item.note else []
        self._send({"is": "made", "id": item.number, "facts": facts}, data)


def failure(error: Exception) -> dict[str, Any]:
    """An error on its way to the web process. What is none of ours ends one request and not the worker, for nothing was begun yet."""
    if not isinstance(error, InkwashError) and isinstance(error, ArithmeticError | ValueError):
        error = UsageError("bad_value", "a value of the sampler, spacing or guidance leads to numbers that cannot be computed; use a usual one")
    if not isinstance(error, InkwashError):
        traceback.print_exception(error)
        error = InkwashError("internal_error", "the request could not be taken in")
    retry = {"retry_sec": error.retry_sec} if isinstance(error, Refused) else {}
    kind = next(cls.__name__ for cls in type(error).__mro__ if cls.__module__ == "inkwash.errors")
    return {"kind": kind, "code": error.code, "message": error.message, **retry}


def deliver(image: Image, pipeline: Pipeline, form: str, compression: int) -> tuple[bytes, dict[str, Any]]:
    """The picture file and the facts about it. Only PNG carries the record by which the picture can be made again."""
    assert image.pixels is not None
    picture = to_pil(image.pixels)
    pixel_hash = pixel_sha256(picture)
    text = parameters(image.request, pipeline)
    if form == "png":
        data = png_bytes(picture, text, record(image, pipeline, pixel_hash))
    else:
        buffer = io.BytesIO()
        picture.save(buffer, form.upper(), quality=compression)
        data = buffer.getvalue()
    tokenizer = getattr(pipeline.conditioner, "tokenizer", None)
    tokens = int(tokenizer([image.request.prompt]).mask.sum()) if tokenizer is not None else 0
    return data, {"seed": image.request.seed, "nfe": image.nfe, "pixel_sha256": pixel_hash, "determinism": pipeline.determinism, "tokens": tokens,
                  "warnings": list(image.warnings), "infotext": text}


def check_golden(pipeline: Pipeline, engine: Engine) -> str:
    """The pixel hash of a fixed image, made alone and in the engine beside another one. Raises VerifyError `golden_image`."""
    usual, (width, height) = pipeline.info.defaults, pipeline.info.sizes.default
    golden = Request("a red cube", "", 7, GOLDEN_STEPS, usual.sampler, usual.spacing, usual.guidance, width, height)
    alone = pipeline.generate([golden])[0]
    tickets = [engine.submit(dataclasses.replace(golden, prompt="two blue spheres", seed=8, steps=GOLDEN_STEPS + 1)), engine.submit(golden)]
    ended = {finished.ticket.number: finished.image for finished in engine.run()}
    beside = ended[tickets[1].number]
    assert alone.pixels is not None
    assert beside is not None
    assert beside.pixels is not None
    if not bool(alone.latent.isfinite().all()) or int(alone.pixels.max()) == int(alone.pixels.min()):
        raise VerifyError("golden_image", f"{pipeline.info.name} makes an empty picture; restore the model, and check it by "
                                          f'inkwash verify "{pipeline.source or pipeline.info.name}"')
    found = pixel_sha256(to_pil(alone.pixels))
    if pipeline.determinism == "exact" and pixel_sha256(to_pil(beside.pixels)) != found:
        raise VerifyError("golden_image", f"{pipeline.info.name} makes other pixels beside a neighbour than alone; "
                                          "this is a mistake in inkwash, report it")
    return found


def work(sock: socket.socket) -> None:
    """A worker at the end of a socket, until it ends."""
    worker, decoder = Worker(lambda frame: sock.sendall(frame.pack())), Decoder()
    large = b""
    arrived = select.poll()                                # select cannot see a number above 1023, which a busy web process may give it
    arrived.register(sock, select.POLLIN)
    while True:
        wait = not worker.pending
        while arrived.poll(None if wait else 0):
            data = sock.recv(1 << 16)
            if not data:
                return
            for frame in decoder.feed(data):
                if frame.head.get("again"):
                    frame = Frame(frame.head, large)
                large = frame.body if len(frame.body) >= LARGE else b""
                worker.handle(frame)
            wait = False
        if worker.pending:
            worker.tick()


if __name__ == "__main__":
    work(socket.socket(fileno=int(sys.argv[1])))
