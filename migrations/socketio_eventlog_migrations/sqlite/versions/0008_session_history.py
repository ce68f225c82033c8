"""The history of each session: opened, connected, away, recovered or not, rooms, and end.

The SQL calls an epoch or a node a boot, and the uptime clock the service clock.
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
CREATE TABLE session_history (
  -- What happened to sessions, each row written in the transaction of the change itself. The newest 200
  -- rows of a session stay, as long as events and an hour more. No number of a session with rows is reused.
  number INTEGER PRIMARY KEY,    -- in the order of the log
  session INTEGER NOT NULL,      -- sessions.number, or ended_sessions.session
  kind TEXT NOT NULL,            -- opened, connected, recovered, away, refused, replaced, joined, left,
                                 -- bound, ended
  at REAL NOT NULL,              -- seconds since 1970, UTC, by the server's clock
  uptime REAL NOT NULL,          -- on the service clock, which runs only while the server runs
  sequence INTEGER NOT NULL,     -- the offset of the last event before it
  node TEXT,                     -- the boot to which a client connected; NULL: it is not about a connection
  reason TEXT,                   -- why: of a refusal, a lost connection, an end; NULL: there is none
  detail ANY                     -- what: a room, the missed events, another sid, an identity; NULL: nothing
) STRICT
""",
    """
CREATE INDEX session_history_session -- finds the rows of a session
ON session_history (session)
""",
    """
CREATE TABLE ended_sessions (
  -- The sessions that are over and still have a history. Nothing opens them any more.
  session INTEGER PRIMARY KEY,   -- the number that it had in the table sessions
  namespace TEXT NOT NULL,
  sid TEXT NOT NULL,
  identity TEXT,                 -- the identity from bind(); NULL: none
  pid_hash BLOB NOT NULL,        -- SHA-256 of the private id, with which a late client asks for it
  start_offset INTEGER NOT NULL, -- the log's position at which it began
  confirmed INTEGER NOT NULL,    -- events up to this one are known to have reached the client
  rooms TEXT NOT NULL,           -- JSON array of its rooms at the end: [room, joined_after, left_after or
                                 -- null]; empty if it would be longer than 4000 characters
  UNIQUE (namespace, sid)
) STRICT
""",
    """
CREATE INDEX ended_sessions_pid -- finds the session of a client that comes back too late
ON ended_sessions (pid_hash)
""",
    """
CREATE VIEW session_timelines AS
  -- The history for people, newest first. Cheap with LIMIT.
SELECT strftime('%Y-%m-%dT%H:%M:%fZ', at, 'unixepoch') AS time,
       coalesce(sessions.namespace, ended_sessions.namespace) AS namespace,
       coalesce(sessions.sid, ended_sessions.sid) AS sid,
       coalesce(sessions.identity, ended_sessions.identity) AS identity,
       kind,
       session_history.node,
       reason,
       detail,
       (SELECT boot FROM boots WHERE began_after < max(sequence, 1)
        ORDER BY began_after DESC, boots.number DESC LIMIT 1) || '.' || sequence AS offset
FROM session_history
LEFT JOIN sessions ON sessions.number = session_history.session
LEFT JOIN ended_sessions ON ended_sessions.session = session_history.session
ORDER BY session_history.number DESC
""",
)


def upgrade() -> None:
    """Add two tables, indexes included, and a view; all rows stay."""
    connection = op.get_bind()
    for statement in STATEMENTS:
        # Directly on the driver: text() would look for :parameters in the comments.
        connection.exec_driver_sql(statement.strip())


def downgrade() -> None:
    """Raise NotImplementedError: only a backup restores the former version."""
    raise NotImplementedError("Put a copy of the database from before back instead.")
