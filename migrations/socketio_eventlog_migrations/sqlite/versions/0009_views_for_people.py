"""Views with the owner of a session, the time left, the missed events, and the sizes of attachments.

Foreign keys of the tables show tools which rows belong together. SQLite enforces foreign keys only at the
request of a program; the server makes no such request, so the keys cost nothing.

The SQL calls an epoch a boot, and the uptime clock the service clock.
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# SQLite has no statement that adds a foreign key to a table. https://sqlite.org/lang_altertable.html ("Making
# Other Kinds Of Table Schema Changes") describes the change of a constraint's text: the rows stay as they
# are, so gigabytes of attachments are not copied.
FOREIGN_KEYS = (
    "PRAGMA writable_schema = ON",
    """
UPDATE sqlite_master
SET sql = replace(sql, 'offset INTEGER NOT NULL,', 'offset INTEGER NOT NULL REFERENCES events (offset),')
WHERE type = 'table' AND name = 'attachments'
""",
    """
UPDATE sqlite_master
SET sql = replace(sql, 'start_boot TEXT NOT NULL,', 'start_boot TEXT NOT NULL REFERENCES boots (boot),')
WHERE type = 'table' AND name = 'sessions'
""",
    """
UPDATE sqlite_master
SET sql = replace(sql, 'PRIMARY KEY (namespace, sid, room, joined_after)',
                  'PRIMARY KEY (namespace, sid, room, joined_after),
  FOREIGN KEY (namespace, sid) REFERENCES sessions (namespace, sid)')
WHERE type = 'table' AND name = 'rooms'
""",
    "PRAGMA writable_schema = RESET",
)

STATEMENTS = (
    *FOREIGN_KEYS,
    # How long clients of the boot may be away, in seconds on the service clock. NULL: not recorded.
    "ALTER TABLE boots ADD COLUMN max_disconnection REAL",
    "DROP VIEW recent_events",
    """
CREATE VIEW recent_events AS
  -- The log for people, newest first. Cheap with LIMIT, however long the log is.
SELECT strftime('%Y-%m-%dT%H:%M:%fZ', emitted_at, 'unixepoch') AS time,
       (SELECT boot FROM boots WHERE began_after < events.offset
        ORDER BY began_after DESC, number DESC LIMIT 1) || '.' || events.offset AS offset,
       namespace,
       event,
       payload,
       CASE WHEN rooms IS NULL THEN '(everyone)'
            ELSE (SELECT group_concat(value, ', ') FROM json_each(events.rooms)) END AS rooms,
       -- The size of the binary arguments; NULL: there are none.
       CASE WHEN attachments > 0 THEN size_bytes - length(payload) END AS binary_bytes
FROM events
ORDER BY events.offset DESC
""",
    "DROP VIEW current_sessions",
    """
CREATE VIEW current_sessions AS
  -- The sessions for people, newest first. A session that a crash left open reads "connected" until
  -- the server has started again.
SELECT sid,
       namespace,
       CASE WHEN disconnected_at IS NULL THEN 'connected' ELSE 'away' END AS state,
       identity,
       (SELECT group_concat(room, ', ') FROM rooms
        WHERE rooms.namespace = sessions.namespace AND rooms.sid = sessions.sid
          AND left_after IS NULL) AS rooms,
       -- For how many seconds the client may still return, while the server runs; NULL: it is connected.
       CASE WHEN disconnected_at IS NOT NULL THEN (
         SELECT CAST(max(0, max_disconnection - (service_time - away_since)) AS INTEGER)
         FROM boots ORDER BY boots.number DESC LIMIT 1
       ) END AS remaining_seconds,
       strftime('%Y-%m-%dT%H:%M:%fZ', opened_at, 'unixepoch') AS opened,
       strftime('%Y-%m-%dT%H:%M:%fZ', resumed_at, 'unixepoch') AS resumed,
       strftime('%Y-%m-%dT%H:%M:%fZ', disconnected_at, 'unixepoch') AS disconnected,
       data
FROM sessions
ORDER BY number DESC
""",
    # Apart from current_sessions, and without an order: a tool that counts the rows of an ordered view would
    # read the events of all sessions.
    """
CREATE VIEW waiting_sessions AS
  -- The sessions whose clients are away, and the events that wait for them. Of a long log only the next 1000
  -- events are looked at: missed is the number of those among them that the client will receive.
SELECT sid,
       namespace,
       identity,
       (SELECT CAST(max(0, max_disconnection - (service_time - away_since)) AS INTEGER)
        FROM boots ORDER BY boots.number DESC LIMIT 1) AS remaining_seconds,
       (SELECT count(*) FROM (
          SELECT * FROM events
          WHERE events.offset > max(sessions.confirmed, sessions.start_offset)
          ORDER BY events.offset LIMIT 1000
        ) AS e
        WHERE e.namespace = sessions.namespace
          AND (e.skip IS NULL OR sessions.sid NOT IN (SELECT value FROM json_each(e.skip)))
          AND (e.rooms IS NULL OR EXISTS (
            SELECT 1 FROM json_each(e.rooms) AS addressed
            WHERE addressed.value = sessions.sid OR EXISTS (
              SELECT 1 FROM rooms AS r
              WHERE r.namespace = sessions.namespace AND r.sid = sessions.sid AND r.room = addressed.value
                AND r.joined_after < e.offset AND (r.left_after IS NULL OR e.offset <= r.left_after))))
       ) AS missed,
       (SELECT count(*) FROM (
          SELECT 1 FROM events
          WHERE events.offset > max(sessions.confirmed, sessions.start_offset)
          ORDER BY events.offset LIMIT 1000
       )) AS events_looked_at
FROM sessions
WHERE disconnected_at IS NOT NULL
""",
)


def upgrade() -> None:
    """Add foreign keys, a column and a view, and make two views anew; all rows stay."""
    connection = op.get_bind()
    for statement in STATEMENTS:
        # Directly on the driver: text() would look for :parameters in the comments.
        connection.exec_driver_sql(statement.strip())


def downgrade() -> None:
    """Raise NotImplementedError: only a backup restores the former version."""
    raise NotImplementedError("Put a copy of the database from before back instead.")
