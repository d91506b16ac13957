"""A bucket of the S3 protocol in a thread, as far as files need it: put, get, delete. It checks no signature; it notes who asked."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Bucket(ThreadingHTTPServer):
    """`kept` are the objects by path, `keys` the access keys that requests were signed with."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.kept: dict[str, bytes] = {}
        self.keys: set[str] = set()
        self.away = False


class Handler(BaseHTTPRequestHandler):
    server: Bucket
    protocol_version = "HTTP/1.1"

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("etag", '"1"')
        self.send_header("last-modified", "Sat, 21 Nov 2026 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(body)

    def _handle(self) -> None:
        data = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.keys.add(self.headers.get("authorization", "").partition("Credential=")[2].partition("/")[0])
        if self.server.away:
            self._answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        elif self.command == "POST":                       # several at once
            keys = re.findall(r"<Key>(.*?)</Key>", data.decode())
            for key in keys:
                self.server.kept.pop(f"{self.path.partition('?')[0]}/{key}", None)
            gone = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
            self._answer(200, f'<?xml version="1.0"?><DeleteResult>{gone}</DeleteResult>'.encode())
        elif self.command == "PUT":
            self.server.kept[self.path] = data
            self._answer(200)
        elif self.path not in self.server.kept:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            self._answer(200, self.server.kept[self.path])

    do_PUT = do_GET = do_POST = _handle

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def bucket() -> Iterator[Bucket]:
    """A bucket that is there for a block."""
    found = Bucket()
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    try:
        yield found
    finally:
        found.shutdown()
        thread.join()
        found.server_close()
