"""A PostgreSQL of its own for the tests, where its programs are installed."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from serving import wait


def program(name: str) -> str:
    """A program of PostgreSQL; skips the test where there is none."""
    found = shutil.which(name) or next(map(str, sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)), None)
    if found is None:
        pytest.skip(f"no PostgreSQL server is installed here ({name})")
    return found


def reachable(url: str) -> bool:
    """Whether the server answers."""
    psycopg = pytest.importorskip("psycopg")
    try:
        psycopg.connect(url).close()
        return True
    except psycopg.OperationalError:
        return False


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of an empty database, on a server that ends with the block. PostgreSQL refuses to run as root, so then it runs as `postgres`."""
    initdb, server = program("initdb"), program("postgres")
    user = None
    if os.geteuid() == 0:
        if "postgres" not in {entry.pw_name for entry in pwd.getpwall()}:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        user = "postgres"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="inkwash-pg-"))
    if user is not None:
        shutil.chown(folder, user)
    try:
        subprocess.run([initdb, "-D", str(folder / "data"), "-U", "tester", "-A", "trust", "--no-sync"], user=user, check=True, capture_output=True)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([server, "-D", str(folder / "data"), "-p", str(port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1"],
                                       user=user, stdout=log, stderr=log)
        url = f"postgresql://tester@127.0.0.1:{port}/postgres"
        try:
            wait(lambda: reachable(url), 120)
            yield url
        finally:
            process.terminate()
            process.wait(60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
