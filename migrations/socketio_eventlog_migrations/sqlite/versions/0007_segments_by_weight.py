"""Segments of the index that begin at any offset, so a segment with many lists can end early.

A segment was a generation of 4096 offsets. Now the key of a segment is the first offset, and the number of
sizes gives the end of the segment.
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

STATEMENTS = (
    # By way of negative numbers, since 4096 times a generation may be the number of another generation.
    "UPDATE index_lists SET generation = -4096 * generation WHERE generation > 0",
    "UPDATE index_generations SET generation = -4096 * generation WHERE generation > 0",
    "UPDATE index_lists SET generation = -generation WHERE generation < 0",
    "UPDATE index_generations SET generation = -generation WHERE generation < 0",
)


def upgrade() -> None:
    """Multiply the keys of the segments; all rows stay."""
    connection = op.get_bind()
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement)


def downgrade() -> None:
    """Raise NotImplementedError: only a backup restores the former version."""
    raise NotImplementedError("Put a copy of the database from before back instead.")
