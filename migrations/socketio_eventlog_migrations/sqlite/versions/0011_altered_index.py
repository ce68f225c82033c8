"""A record of changes in the index by other programs.

Without the list of a room, the server does not find the events that a client of the room has missed. Triggers
note all events of the segment, for all rooms. The row of a segment in ``index_generations`` makes the lists
of the segment valid, so the conditions need this row: the server deletes the row of a pruned segment before
the lists, and the lists of an unfinished segment have no row yet. REPLACE and INSERT are not noted.
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
IS_VALID = "WHEN EXISTS (SELECT 1 FROM index_generations WHERE generation = OLD.generation)"
ON_UPDATE = "BEFORE UPDATE OF generation, audience, offsets ON index_lists"
STATEMENTS = (
    f"CREATE TRIGGER index_lists_deleted BEFORE DELETE ON index_lists {IS_VALID} BEGIN {NOTE} END",
    f"CREATE TRIGGER index_lists_updated {ON_UPDATE} {IS_VALID} BEGIN {NOTE} END",
    # No range ends after the last event: a start would take the end for the end of the log.
    """
CREATE TRIGGER index_generations_deleted BEFORE DELETE ON index_generations
WHEN OLD.generation + length(OLD.sizes) / 4 - 1 > (SELECT pruned_through FROM log_state)
  AND OLD.generation <= (SELECT max(offset) FROM events)
BEGIN
  INSERT INTO altered_ranges (first, last, audience_lost)
  SELECT OLD.generation, min(OLD.generation + length(OLD.sizes) / 4 - 1, (SELECT max(offset) FROM events)), 1;
END
""",
    # All later events: a segment that has grown, or moved to the end, hides the events after it.
    """
CREATE TRIGGER index_generations_updated BEFORE UPDATE OF generation, sizes ON index_generations
WHEN OLD.generation + length(OLD.sizes) / 4 - 1 > (SELECT pruned_through FROM log_state)
  AND min(OLD.generation, NEW.generation) <= (SELECT max(offset) FROM events)
BEGIN
  INSERT INTO altered_ranges (first, last, audience_lost)
  SELECT min(OLD.generation, NEW.generation), max(offset), 1 FROM events;
END
""",
)


def upgrade() -> None:
    """Add triggers; all rows stay."""
    connection = op.get_bind()
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement)


def downgrade() -> None:
    """Raise NotImplementedError: only a backup restores the former version."""
    raise NotImplementedError("Put a copy of the database from before back instead.")
