"""Jobs, their images, and answers by Idempotency-Key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Makes the three tables."""
    op.create_table(
        "jobs",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("status", sa.String(10), nullable=False),
        sa.Column("work", sa.JSON, nullable=False),
        sa.Column("cost", sa.Double, nullable=False),
        sa.Column("done", sa.Integer, nullable=False),
        sa.Column("total", sa.Integer, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("holder", sa.String(32), nullable=False),
        sa.Column("lease", sa.Double, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("deadline", sa.Double),
        sa.Column("started", sa.Double),
        sa.Column("finished", sa.Double),
        sa.Column("warnings", sa.JSON, nullable=False),
        sa.Column("error", sa.JSON),
        sa.PrimaryKeyConstraint("number", name="pk_jobs"),
        sa.UniqueConstraint("id", name="uq_jobs_id"),
    )
    op.create_index("ix_jobs_status_model", "jobs", ["status", "model"])
    op.create_index("ix_jobs_owner_number", "jobs", ["owner", "number"])
    op.create_table(
        "images",
        sa.Column("job", sa.String(40), sa.ForeignKey("jobs.id", name="fk_images_job", ondelete="CASCADE")),
        sa.Column("place", sa.Integer),
        sa.Column("path", sa.String(200), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("facts", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("job", "place", name="pk_images"),
    )
    op.create_table(
        "answers",
        sa.Column("owner", sa.String(64)),
        sa.Column("key", sa.Text),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("holder", sa.String(32), nullable=False),
        sa.Column("lease", sa.Double, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("media_type", sa.String(100)),
        sa.Column("status", sa.Integer),
        sa.Column("content", sa.LargeBinary),
        sa.PrimaryKeyConstraint("owner", "key", name="pk_answers"),
    )
    op.create_index("ix_answers_created", "answers", ["created"])
