"""The tables. A change here needs a migration beside those in `migrations/versions`; a test compares the two.

    jobs      one row per job: what to make, whose it is, how far it is, and which server holds it until when
    images    one row per picture of a finished job, written in the transaction that finishes it
    answers   one row per Idempotency-Key: the hash of what was asked, and the bytes of the answer

Times are seconds since 1970 by the clock of `Database.now`. A holder is a server's process; where its lease has passed, it is taken for dead.
"""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, Double, ForeignKey, Index, Integer, LargeBinary, MetaData, String, Table, Text

metadata = MetaData(naming_convention={"ix": "ix_%(column_0_label)s", "pk": "pk_%(table_name)s", "fk": "fk_%(table_name)s_%(column_0_name)s",
                                       "uq": "uq_%(table_name)s_%(column_0_name)s"})

jobs = Table(
    "jobs", metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),  # order of arrival
    Column("id", String(40), nullable=False, unique=True),
    Column("owner", String(64), nullable=False),
    Column("model", String(200), nullable=False),
    Column("status", String(10), nullable=False),           # queued, running, done, failed, cancelled
    Column("work", JSON, nullable=False),                   # what to make
    Column("cost", Double, nullable=False),                 # network rows
    Column("done", Integer, nullable=False),                # steps, of all images
    Column("total", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("holder", String(32), nullable=False),
    Column("lease", Double, nullable=False),
    Column("created", Double, nullable=False),
    Column("deadline", Double),
    Column("started", Double),
    Column("finished", Double),
    Column("warnings", JSON, nullable=False),
    Column("error", JSON),
    Index("ix_jobs_status_model", "status", "model"),
    Index("ix_jobs_owner_number", "owner", "number"),
)

images = Table(
    "images", metadata,
    Column("job", String(40), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("place", Integer, primary_key=True),             # 0 .. n - 1
    Column("path", String(200), nullable=False),            # in the files
    Column("sha256", String(64), nullable=False),           # of the file
    Column("facts", JSON, nullable=False),                  # seed, nfe, hash of the pixels and the like
)

answers = Table(
    "answers", metadata,
    Column("owner", String(64), primary_key=True),
    Column("key", Text, primary_key=True),
    Column("digest", String(64), nullable=False),           # of route and body
    Column("holder", String(32), nullable=False),
    Column("lease", Double, nullable=False),
    Column("created", Double, nullable=False),
    Column("media_type", String(100)),                      # null while the answer is being made
    Column("status", Integer),
    Column("content", LargeBinary),
    Index("ix_answers_created", "created"),
)
