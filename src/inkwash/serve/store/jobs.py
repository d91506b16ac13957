"""Jobs: taken in, claimed by a server, finished once.

    queued -> running -> done | failed | cancelled        running -> queued when its server dies, drains, or loses its worker

The line of a model is fair by key: the k-th live job of one key comes after the k-1-th of every other, and of equals the older first. What a
job becomes is decided by one UPDATE that names the state and the holder it must still have. So two servers never finish one job, a server
that was taken for dead and comes back changes nothing, and a job that was cancelled stays so. A job may be worked on twice; it ends once.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, Update, and_, delete, func, insert, or_, select, true, update
from sqlalchemy.sql import Subquery

from inkwash.serve.store.answers import Answer, keep
from inkwash.serve.store.database import LEASE_SEC, Database
from inkwash.serve.store.tables import images, jobs

LIVE = ("queued", "running")
MAX_ATTEMPTS = 5
ID = re.compile(r"job_[0-9a-f]{24}")
GAVE_UP = {"status": 503, "code": "too_many_attempts", "message": f"the server or its worker died {MAX_ATTEMPTS} times while it worked on this job"}


class New(NamedTuple):
    """A job to take in: what to make, and its cost in network rows and steps."""

    id: str
    owner: str
    model: str
    work: dict[str, Any]
    cost: float
    total: int
    warnings: list[str]
    created: float
    deadline_sec: float | None


class Image(NamedTuple):
    """A picture of a finished job."""

    path: str
    sha256: str
    facts: dict[str, Any]


class Ahead(NamedTuple):
    """What stands before a queued job: the number of jobs, and their network rows."""

    jobs: int
    rows: float


class Jobs:
    """The jobs of a database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        if not database.shared:                            # nobody else has the file, so whoever held these is dead
            with database.engine.begin() as connection:
                connection.execute(update(jobs).where(jobs.c.status == "running").values(lease=0.0))

    def add(self, new: New, keyed: tuple[str, Answer] | None = None) -> None:
        """Takes a job in; `keyed` is (Idempotency-Key, answer), kept in the same transaction. Durable when this returns. Raises InWork."""
        with self.database.engine.begin() as connection:
            deadline = None if new.deadline_sec is None else self.database.now(connection) + new.deadline_sec
            fields = {name: value for name, value in new._asdict().items() if name != "deadline_sec"}
            connection.execute(insert(jobs).values(**fields, status="queued", done=0, attempts=0, holder="", lease=0.0, deadline=deadline))
            if keyed is not None:
                keep(connection, self.database.holder, new.owner, keyed[0], keyed[1])

    def count(self, owner: str | None = None, statuses: Sequence[str] = LIVE) -> int:
        """Jobs of these states, of one key or of all."""
        with self.database.engine.connect() as connection:
            found = select(func.count()).select_from(jobs).where(jobs.c.status.in_(statuses))
            return connection.scalar(found if owner is None else found.where(jobs.c.owner == owner)) or 0

    def get(self, job: str, owner: str) -> Row[Any] | None:
        """A job of this key, or None."""
        with self.database.engine.connect() as connection:
            return connection.execute(select(jobs).where(jobs.c.id == job, jobs.c.owner == owner)).one_or_none()

    def page(self, owner: str, limit: int, after: int | None = None, status: str | None = None) -> Sequence[Row[Any]]:
        """Jobs of this key, the newest first; `after` is the number of the last one that was seen."""
        found = select(jobs).where(jobs.c.owner == owner).order_by(jobs.c.number.desc()).limit(limit)
        found = found if after is None else found.where(jobs.c.number < after)
        with self.database.engine.connect() as connection:
            return connection.execute(found if status is None else found.where(jobs.c.status == status)).all()

    def images(self, job: str) -> list[Image]:
        """The pictures of a job, in order."""
        with self.database.engine.connect() as connection:
            found = connection.execute(select(images.c.path, images.c.sha256, images.c.facts).where(images.c.job == job).order_by(images.c.place))
            return [Image(*row) for row in found]

    def ahead(self, model: str, owner: str, number: int | None = None) -> Ahead:
        """What the line holds before a queued job of this key, or before its next one, if nothing new comes."""
        line = _line(model)
        own = select(func.count()).where(jobs.c.model == model, jobs.c.owner == owner, jobs.c.status.in_(LIVE))
        mine = (own.where(jobs.c.number < number) if number is not None else own).scalar_subquery() + 1
        before = or_(line.c.turn < mine, and_(line.c.turn == mine, true() if number is None else line.c.number < number))
        found = select(func.count(), func.coalesce(func.sum(line.c.cost), 0.0)).where(line.c.status == "queued", before)
        with self.database.engine.connect() as connection:
            jobs_before, rows = connection.execute(found).one()
            return Ahead(jobs_before, float(rows))

    def claim(self, model: str) -> Row[Any] | None:
        """The next job of a model's line, now running and held by this server; None where there is none."""
        line = _line(model)
        first = select(line.c.number).where(line.c.status == "queued").order_by(line.c.turn, line.c.number).limit(1)
        with self.database.engine.begin() as connection:
            now = self.database.now(connection)
            number = connection.scalar(first)
            taken = update(jobs).where(jobs.c.number == number, jobs.c.status == "queued").values(
                status="running", holder=self.database.holder, lease=now + LEASE_SEC, attempts=jobs.c.attempts + 1,
                started=func.coalesce(jobs.c.started, now)).returning(jobs)
            return None if number is None else connection.execute(taken).one_or_none()

    def renew(self, progress: dict[str, int]) -> set[str]:
        """Holds on to jobs, with the steps that are done by id; gives those that are still this server's."""
        with self.database.engine.begin() as connection:
            lease = self.database.now(connection) + LEASE_SEC
            return {job for job, done in progress.items() if changed(connection, self._mine(job).values(lease=lease, done=done))}

    def recover(self) -> int:
        """Puts the jobs of dead servers back into the line; one that has had its attempts fails. Returns how many there were."""
        with self.database.engine.begin() as connection:
            now = self.database.now(connection)
            dead = and_(jobs.c.status == "running", jobs.c.lease <= now)
            failed = update(jobs).where(dead, jobs.c.attempts >= MAX_ATTEMPTS).values(status="failed", holder="", finished=now, error=GAVE_UP)
            back = update(jobs).where(dead).values(status="queued", holder="")
            return connection.execute(failed).rowcount + connection.execute(back).rowcount

    def release(self, job: str, blame: bool, done: int = 0) -> bool:
        """Puts a job of this server back into the line, `done` of its steps kept; `blame` counts the attempt, and the last one fails the job."""
        with self.database.engine.begin() as connection:
            last = self._mine(job).where(jobs.c.attempts >= MAX_ATTEMPTS)
            if blame and changed(connection, last.values(status="failed", finished=self.database.now(connection), error=GAVE_UP)):
                return True
            return changed(connection, self._mine(job).values(status="queued", holder="", done=done, attempts=jobs.c.attempts - (0 if blame else 1)))

    def finish(self, job: str, made: Sequence[Image], warnings: Sequence[str]) -> bool:
        """Ends a job of this server with its pictures, all or nothing; False where it is no longer this server's."""
        with self.database.engine.begin() as connection:
            now = self.database.now(connection)
            if not changed(connection, self._mine(job).values(status="done", finished=now, done=jobs.c.total, warnings=list(warnings))):
                return False
            connection.execute(insert(images), [{"job": job, "place": i, **one._asdict()} for i, one in enumerate(made)])
            return True

    def fail(self, job: str, error: dict[str, Any]) -> bool:
        """Ends a job of this server with an error; False where it is no longer this server's."""
        with self.database.engine.begin() as connection:
            return changed(connection, self._mine(job).values(status="failed", finished=self.database.now(connection), error=error))

    def cancel(self, job: str, owner: str) -> bool:
        """Ends a live job of this key, whoever holds it; False where it has ended already."""
        with self.database.engine.begin() as connection:
            live = update(jobs).where(jobs.c.id == job, jobs.c.owner == owner, jobs.c.status.in_(LIVE))
            return changed(connection, live.values(status="cancelled", holder="", finished=self.database.now(connection)))

    def ended(self, older_sec: float, limit: int = 200) -> dict[str, list[str]]:
        """Jobs that ended so long ago, at most `limit`, with the paths of their files."""
        with self.database.engine.connect() as connection:
            before = self.database.now(connection) - older_sec
            old = connection.execute(select(jobs.c.id, jobs.c.work).where(jobs.c.finished < before).order_by(jobs.c.number).limit(limit)).all()
            found: dict[str, list[str]] = {row.id: [] for row in old}
            for row in connection.execute(select(images.c.job, images.c.path).where(images.c.job.in_(found)).order_by(images.c.place)):
                found[row.job].append(row.path)
            for row in old:
                found[row.id] += [*row.work["files"], *states_of(row.id, len(row.work["requests"]))]
            return found

    def forget(self, gone: Collection[str]) -> None:
        """Deletes jobs whose files are gone."""
        with self.database.engine.begin() as connection:
            connection.execute(delete(jobs).where(jobs.c.id.in_(gone)))

    def _mine(self, job: str) -> Update:
        """Changes a job if this server holds it."""
        return update(jobs).where(jobs.c.id == job, jobs.c.status == "running", jobs.c.holder == self.database.holder)


def changed(connection: Connection, change: Update) -> bool:
    """Makes a change; whether there was anything to change."""
    return bool(connection.execute(change).rowcount)


def new_id() -> str:
    """The id of a new job, which nobody can guess."""
    return f"job_{secrets.token_hex(12)}"


def states_of(job: str, number: int) -> list[str]:
    """Where the states of a job's `number` images are kept while it is under way."""
    return [f"jobs/{job}/{i}.state" for i in range(number)]


def _line(model: str) -> Subquery:
    """The live jobs of a model, each with its `turn`: which one it is of its key's."""
    turn = func.row_number().over(partition_by=jobs.c.owner, order_by=jobs.c.number).label("turn")
    return select(jobs.c.number, jobs.c.status, jobs.c.cost, turn).where(jobs.c.model == model, jobs.c.status.in_(LIVE)).subquery("line")
