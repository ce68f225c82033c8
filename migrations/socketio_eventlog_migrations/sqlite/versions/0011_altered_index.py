"""A record of changes in the index by other programs.

Without the list of a room, the server does not find the events that a client of the room has missed. Triggers
note all events of the segment, for all rooms. The server deletes segments after their last event is pruned,
so the conditions leave its deletions out. The lists of an unfinished segment have no row in
``index_generations``: the server deletes and rewrites such lists at a start.
"""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

# One row for all lists of a segment: a tool may delete ten thousand lists.
NOTE = """
  INSERT INTO altered_ranges (first, last, audience_lost)
  SELECT generation, generation + length(sizes) / 4 - 1, 1 FROM index_generations AS g
  WHERE generation = OLD.generation AND NOT EXISTS (
    SELECT 1 FROM altered_ranges AS a
    WHERE a.last = g.generation + length(g.sizes) / 4 - 1 AND a.first = g.generation AND a.audience_lost = 1);
"""
NOT_PRUNED = """
WHEN (SELECT generation + length(sizes) / 4 - 1 FROM index_generations WHERE generation = OLD.generation)
     > (SELECT pruned_through FROM log_state)
"""
ON_UPDATE = "BEFORE UPDATE OF generation, audience, offsets ON index_lists"
STATEMENTS = (
    f"CREATE TRIGGER index_lists_deleted BEFORE DELETE ON index_lists {NOT_PRUNED} BEGIN {NOTE} END",
    f"CREATE TRIGGER index_lists_updated {ON_UPDATE} {NOT_PRUNED} BEGIN {NOTE} END",
)


def upgrade() -> None:
    """Add triggers; all rows stay."""
    connection = op.get_bind()
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement)


def downgrade() -> None:
    """Raise NotImplementedError: only a backup restores the former version."""
    raise NotImplementedError("Put a copy of the database from before back instead.")
