"""Pictures by path, in a folder or a bucket. A file in a folder is on the disk, its name too, before `put` returns; a bucket promises as much.

Paths are made by us from ids and numbers, never from what a caller wrote.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, ObjectStore, from_url

from inkwash.errors import ResourceError, UsageError
from inkwash.io.durable import make_folder, sync_folder, with_sync
from inkwash.io.path import as_path
from inkwash.serve.store.database import first_line, read_url

SCHEMES = ("s3", "gs", "az")


class Files:
    """The files at a folder, or at a URL such as s3://BUCKET/PREFIX, whose credentials the environment names.

    Raises UsageError `bad_files`, ResourceError `store_unavailable`.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.folder = None if "://" in address else as_path(address, "the folder of --files").absolute()
        try:
            if self.folder is not None:
                make_folder(self.folder)
            elif address.partition("://")[0] not in SCHEMES:
                raise ValueError("the address is of an unknown kind")
            self._store: ObjectStore = LocalStore(self.folder, automatic_cleanup=True) if self.folder is not None else from_url(
                address, retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=10)})
        except OSError as error:
            raise ResourceError("store_unavailable", f'cannot write in "{address}": {error.strerror}; give another place by --files') from None
        except (BaseError, ValueError) as error:
            raise UsageError("bad_files", f"{address[:80]!r} is no place for files: {first_line(error)}; "
                                          "give a folder, or s3://BUCKET/PREFIX") from None

    def put(self, path: str, data: bytes) -> None:
        """Writes a file durably. Raises ResourceError `store_full`, `store_unavailable`."""
        try:
            obstore.put(self._store, path, data)
            if self.folder is not None:
                with_sync(self.folder / path)
                for folder in (self.folder / path).parents:
                    sync_folder(folder)
                    if folder == self.folder:
                        break
        except (BaseError, OSError) as error:
            raise _unavailable(error) from None

    def get(self, path: str) -> bytes | None:
        """The file, or None where there is none. Raises ResourceError `store_unavailable`."""
        try:
            return bytes(obstore.get(self._store, path).bytes())
        except (NotFoundError, FileNotFoundError):
            return None
        except (BaseError, OSError) as error:
            raise _unavailable(error) from None

    def delete(self, paths: Iterable[str]) -> None:
        """Deletes files; those that are not there are passed over. Raises ResourceError `store_unavailable`."""
        for path in paths:
            try:
                obstore.delete(self._store, path)
            except (NotFoundError, FileNotFoundError):
                continue
            except (BaseError, OSError) as error:
                raise _unavailable(error) from None


def files_beside(db: str) -> str:
    """The folder of files that belongs to a database. Raises UsageError `bad_files` where that must be said."""
    url = read_url(db)
    if url.get_backend_name() != "sqlite":
        raise UsageError("bad_files", "with PostgreSQL, say where pictures go: --files FOLDER or --files s3://BUCKET/PREFIX")
    return str(Path(str(url.database)).absolute().parent / "files")


def _unavailable(error: Exception) -> ResourceError:
    """`store_full` where a disk or a quota is, else `store_unavailable`; the library of the store tells a number of the system in its text only."""
    full = any(getattr(error, "errno", None) == number or f"(os error {number})" in str(error) for number in (errno.ENOSPC, errno.EDQUOT))
    code, what = ("store_full", "have no room left") if full else ("store_unavailable", "cannot be reached")
    return ResourceError(code, f"the files of this server {what}: {first_line(error)}")
