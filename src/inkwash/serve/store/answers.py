"""Answers by Idempotency-Key: whoever asks twice, because an answer got lost on its way, is answered once more and not served once more.

    begin -> (the answer is made) -> keep        asked again: the same bytes
                                  -> drop        refused or interrupted: the key is free again

While an answer is being made, a lease holds its key. Where the server that made it died, the lease passes and the next one makes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, delete, func, insert, or_, select, tuple_, update
from sqlalchemy.exc import IntegrityError

from inkwash.serve.store.database import LEASE_SEC, Database
from inkwash.serve.store.tables import answers


class Answer(NamedTuple):
    """What a caller was told."""

    status: int
    media_type: str
    content: bytes


class Other(Exception):
    """The key was used for another request."""


class InWork(Exception):
    """The first request with this key is being answered."""


class Answers:
    """The answers of a database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        if not database.shared:                            # as for jobs: whoever was making these is dead
            with database.engine.begin() as connection:
                connection.execute(delete(answers).where(answers.c.media_type.is_(None)))

    def begin(self, owner: str, key: str, digest: str) -> Answer | None:
        """The answer that was given, or None: it is now this server's to make, and `keep` or `drop` must follow. Raises Other, InWork."""
        try:
            with self.database.engine.begin() as connection:
                now = self.database.now(connection)
                free = and_(answers.c.media_type.is_(None), answers.c.lease <= now)
                connection.execute(delete(answers).where(_at(owner, key), free))
                found = connection.execute(select(answers).where(_at(owner, key))).one_or_none()
                if found is None:
                    connection.execute(insert(answers).values(owner=owner, key=key, digest=digest, holder=self.database.holder, lease=now + LEASE_SEC,
                                                              created=now))
                    return None
        except IntegrityError:                             # another server was first
            raise InWork from None
        if found.digest != digest:
            raise Other
        if found.media_type is None:
            raise InWork
        return Answer(found.status, found.media_type, found.content)

    def keep(self, owner: str, key: str, answer: Answer) -> None:
        """Keeps the answer, durably. Raises InWork where another server has taken the key over."""
        with self.database.engine.begin() as connection:
            keep(connection, self.database.holder, owner, key, answer)

    def drop(self, owner: str, key: str) -> None:
        """Frees a key that has no answer."""
        with self.database.engine.begin() as connection:
            connection.execute(delete(answers).where(_at(owner, key), answers.c.holder == self.database.holder, answers.c.media_type.is_(None)))

    def renew(self, making: Iterable[tuple[str, str]]) -> None:
        """Holds on to (owner, key) of the answers that this server is making."""
        with self.database.engine.begin() as connection:
            lease = self.database.now(connection) + LEASE_SEC
            for owner, key in making:
                mine = and_(_at(owner, key), answers.c.holder == self.database.holder, answers.c.media_type.is_(None))
                connection.execute(update(answers).where(mine).values(lease=lease))

    def forget(self, older_sec: float, most_bytes: float) -> None:
        """Deletes answers that were given so long ago, and the oldest of each owner who has more than `most_bytes` of them."""
        size = func.sum(func.length(answers.c.content)).over(partition_by=answers.c.owner, order_by=(answers.c.created.desc(), answers.c.key))
        sizes = select(answers.c.owner, answers.c.key, size.label("size")).where(answers.c.media_type.is_not(None)).subquery()
        too_many = select(sizes.c.owner, sizes.c.key).where(sizes.c.size > most_bytes)
        with self.database.engine.begin() as connection:
            old = answers.c.created < self.database.now(connection) - older_sec
            connection.execute(delete(answers).where(old, or_(answers.c.media_type.is_not(None), answers.c.lease <= self.database.now(connection))))
            connection.execute(delete(answers).where(tuple_(answers.c.owner, answers.c.key).in_(too_many)))


def keep(connection: Connection, holder: str, owner: str, key: str, answer: Answer) -> None:
    """Keeps an answer in a transaction that is open. Raises InWork where the lease has passed and another server makes it."""
    mine = update(answers).where(_at(owner, key), answers.c.holder == holder, answers.c.media_type.is_(None))
    if not connection.execute(mine.values(media_type=answer.media_type, status=answer.status, content=answer.content)).rowcount:
        raise InWork


def _at(owner: str, key: str) -> Any:
    return and_(answers.c.owner == owner, answers.c.key == key)
