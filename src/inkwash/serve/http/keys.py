"""API keys: 256 random bits, of which the file holds the SHA-256 only.

Random keys need no slow hash: nobody can guess them, and a stolen file cannot be turned back. One line per key, `NAME SHA256`; a deleted
line revokes its key at once, for the file is read again when it changed. All lines are compared in constant time.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path
from shlex import quote

from inkwash.errors import UsageError
from inkwash.io.durable import make_folder, space_for, sync_folder

PREFIX = "ink-"
_LINE = re.compile(r"([\w.@-]{1,64}) ([0-9a-f]{64})")


class Keys:
    """The keys in a file. Raises UsageError `bad_keys` when it cannot be read or has other lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int] | None = None
        self._hashes: dict[str, str] = {}
        self.read()

    def read(self) -> dict[str, str]:
        """Name by hash; the file is read when it changed. A file that is gone holds no key."""
        try:
            state = self.path.stat()
            if self._seen != (state.st_mtime_ns, state.st_size):
                self._hashes = {found: name for name, found in parse(self.path)}
                self._seen = (state.st_mtime_ns, state.st_size)
        except FileNotFoundError:
            if self._seen is None:
                raise UsageError("bad_keys", f'there is no file "{self.path}"; make a key by '
                                             f"inkwash serve --keys {quote(str(self.path))} --new-key NAME") from None
            self._hashes, self._seen = {}, (0, 0)          # the same file may come back
        return self._hashes

    def name_of(self, key: str) -> str | None:
        """Whose key it is, or None."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        name = None
        for known, owner in self.read().items():
            if hmac.compare_digest(known, digest):
                name = owner
        return name


def parse(path: Path) -> list[tuple[str, str]]:
    """(name, hash) of each line; empty lines and those that begin with # are passed over. Raises UsageError `bad_keys`."""
    found = []
    try:
        lines = path.read_text("utf-8").splitlines()
    except (UnicodeDecodeError, PermissionError, IsADirectoryError) as error:
        raise UsageError("bad_keys", f'cannot read the keys in "{path}": {error}') from None
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            match = _LINE.fullmatch(line.strip())
            if match is None:
                raise UsageError("bad_keys", f'"{path}", line {number}: expected NAME and a SHA-256 in hexadecimal; make keys by --new-key NAME')
            found.append((match[1], match[2]))
    return found


def new_key(path: Path, name: str) -> str:
    """Adds a key at the end of the file and returns it; it cannot be shown again. Only its owner may read a file that is made here.

    A file that is there keeps its owner, its rights and its comments, for a server may have to read it as another user. Raises UsageError
    `bad_keys`, ResourceError `disk_full`.
    """
    lines = parse(path) if path.exists() else []
    if not _LINE.fullmatch(f"{name} {'0' * 64}"):
        raise UsageError("bad_keys", f"the name of a key has 1..64 letters, digits and . _ @ -, got {name[:40]!r}")
    if name in dict(lines):
        raise UsageError("bad_keys", f'"{path}" has a key named {name!r}; delete its line to revoke it, or choose another name')
    key = PREFIX + secrets.token_urlsafe(32)
    make_folder(path.parent)
    path.touch(mode=0o600)
    before = path.read_bytes()
    line = f"{name} {hashlib.sha256(key.encode()).hexdigest()}\n".encode()
    line = line if before.endswith(b"\n") or not before else b"\n" + line
    with space_for(path.parent, len(line)), path.open("ab", buffering=0) as file:
        try:
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(len(before))                     # a part of a line would shut everybody out
            raise
    sync_folder(path.parent)
    return key


def presented(header: str) -> str | None:
    """The key in an Authorization header: `Bearer KEY`, or `Basic` with the key as the password, which tools of A1111 send."""
    scheme, _, rest = header.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest.strip(), validate=True).decode("utf-8").partition(":")[2]
        except ValueError:                                 # not ASCII, not base64, or no text in it
            return None
    return None
