"""The database of a store: SQLite in a file, or PostgreSQL.

SQLite keeps a write-ahead log and waits for the disk at every commit (synchronous=FULL), since with NORMAL a power cut can take back what was
acknowledged. One server has the file, by a lock that the system releases when the process dies, however it dies; so at its start nothing in
it can be held by a living server. PostgreSQL may have many servers; a dead one is known by its leases, and time is the database's.
Migrations run at the start, in one transaction; on PostgreSQL one server at a time.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event, func, make_url, select, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from inkwash.errors import BusyError, ResourceError, UsageError, install
from inkwash.io.durable import make_folder
from inkwash.io.path import as_path

LEASE_SEC = 15.0
FORMS = "give sqlite:///FILE or postgresql://USER@HOST/NAME"
PATIENCE = {"connect_timeout": 5, "options": "-c statement_timeout=20000", "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 2,
            "tcp_user_timeout": 20000}                     # of PostgreSQL's driver, in seconds and milliseconds
_MIGRATING = 0x1A4B_3A54                                    # the number of an advisory lock of PostgreSQL


class Database:
    """An open database with its tables. `holder` names this process in leases.

    Raises UsageError `bad_db`, `store_newer`; BusyError `store_in_use`; ResourceError `store_unavailable`.
    """

    def __init__(self, address: str) -> None:
        self.holder = secrets.token_hex(8)
        self.url = read_url(address)
        self.shared = self.url.get_backend_name() == "postgresql"
        self.engine = _postgres(self.url) if self.shared else _sqlite(self.url)
        self._lock = None if self.shared else _lock(Path(str(self.url.database)))
        try:
            self._migrate()
        except BaseException as error:
            self.close()
            if isinstance(error, CommandError):
                raise UsageError("store_newer", f"{self.name} was written by a newer version ({error}); use that one, or another --db") from None
            if isinstance(error, SQLAlchemyError):
                raise self.unusable(error) from None
            raise

    @property
    def name(self) -> str:
        """The address without its password."""
        return self.url.render_as_string(hide_password=True)

    def unusable(self, error: SQLAlchemyError) -> ResourceError:
        """The error of a database that cannot be opened."""
        return ResourceError("store_unavailable", f"cannot open {self.name}: {first_line(error)}; {FORMS}")

    def now(self, connection: Connection) -> float:
        """Seconds since 1970: of this machine for SQLite, of the database where servers share it."""
        return float(connection.scalar(select(func.extract("epoch", func.clock_timestamp()))) or 0) if self.shared else time.time()

    def clock(self) -> float:
        """`now`, on a connection of its own."""
        with self.engine.connect() as connection:
            return self.now(connection)

    def close(self) -> None:
        """Ends all connections, and gives SQLite's file free."""
        self.engine.dispose()
        if self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_UN)          # closing is not enough while a process that was forked meanwhile has the handle too
            os.close(self._lock)
            self._lock = None

    def _migrate(self) -> None:
        config = Config()
        config.set_main_option("script_location", "inkwash.serve.store:migrations")
        with self.engine.begin() as connection:
            if self.shared:
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATING})"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def read_url(address: str) -> URL:
    """The URL. Raises UsageError `bad_db`, `bad_path`."""
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):                    # the latter of a port that is no number
        kind = address.partition("//")[0]                  # what follows may hold a password
        raise UsageError("bad_db", f"{kind[:60]!r} does not begin the URL of a database that can be read; {FORMS}") from None
    known = url.drivername in ("sqlite", "postgresql", "postgresql+psycopg")
    if not known or (url.drivername == "sqlite" and url.database in (None, "", ":memory:")):
        raise UsageError("bad_db", f"{url.render_as_string(hide_password=True)[:80]!r} is no database that a server can use; {FORMS}")
    if url.drivername == "sqlite":
        as_path(url.database, "the file of --db")
    return url.set(drivername="postgresql+psycopg") if url.get_backend_name() == "postgresql" else url


def first_line(error: BaseException) -> str:
    """What a driver or a library says, without the statement and what it was given; its name where it says nothing."""
    said = getattr(error, "orig", None) or error
    return (str(said).strip() or type(said).__name__).splitlines()[0][:160]


def _sqlite(url: URL) -> Engine:
    engine = create_engine(url, connect_args={"check_same_thread": False})

    @event.listens_for(engine, "connect")
    def opened(connection: Any, _: Any) -> None:
        connection.isolation_level = None                  # transactions begin below, not when the driver thinks so
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _postgres(url: URL) -> Engine:
    try:
        return create_engine(url, pool_pre_ping=True, connect_args=PATIENCE)
    except ModuleNotFoundError:
        raise UsageError("not_installed", f"PostgreSQL needs the package psycopg; {install('serve,postgres')}") from None


def _lock(path: Path) -> int:
    """The lock that says that this process has SQLite's file, beside the file itself where `path` is a link to it."""
    try:
        path = Path(os.path.realpath(path))
        make_folder(path.parent)
        handle = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ResourceError("store_unavailable", f'cannot write in the folder of "{path}": {error.strerror}; give another one by --db') from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise BusyError("store_in_use", f'another server uses "{path}"; give this one its own by --db sqlite:///FILE, '
                                        "or both a PostgreSQL") from None
    return handle
