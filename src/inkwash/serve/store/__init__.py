"""What a server must not forget: jobs, their images, and answers that may be asked for again.

Rows live in a database (SQLite in a file, or PostgreSQL), pictures in a folder or a bucket. A row is written durably before anybody is told
of it, and a picture before the row that names it; so whatever the moment of a crash, what was acknowledged is there, and what is there is whole.
Everything here blocks and is called from one thread; it knows nothing of HTTP, engines or torch.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy.exc import SQLAlchemyError

from inkwash.serve.store.answers import Answers
from inkwash.serve.store.database import Database
from inkwash.serve.store.files import Files, files_beside
from inkwash.serve.store.jobs import Jobs


class Store(NamedTuple):
    """The parts of an open store."""

    database: Database
    files: Files
    jobs: Jobs
    answers: Answers


def open_store(db: str, files: str | None) -> Store:
    """The store at a database's URL, its tables made or brought up to date; `files` is a folder or URL, by default a folder beside SQLite's file.

    Raises UsageError `bad_db`, `bad_files`, `store_newer`; BusyError `store_in_use`; ResourceError `store_unavailable`.
    """
    place = Files(files_beside(db) if files is None else files)
    database = Database(db)
    try:
        return Store(database, place, Jobs(database), Answers(database))
    except SQLAlchemyError as error:
        database.close()
        raise database.unusable(error) from None
