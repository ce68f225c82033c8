"""The log, the sessions beside the log, and the views for people.

The statements are literal SQL and run separately: sqlite3's executescript() would commit the surrounding
transaction. The comments stand inside the CREATE statements, where SQLite keeps comments, so ``.schema``
in the sqlite3 program explains the database.

The SQL keeps older words: a boot is an epoch, the service clock is the uptime clock, a generation of the
index is a segment.
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

EVENTS = """
CREATE TABLE events (
  -- The log: every stored event, in the one order in which all clients receive them.
  offset INTEGER PRIMARY KEY,    -- its number: increases, is never used twice; clients see boot.offset
  emitted_at REAL NOT NULL,      -- seconds since 1970, UTC, by the server's clock
  namespace TEXT NOT NULL,       -- Socket.IO namespace; / is the main one
  event TEXT NOT NULL,           -- the event's name, the same as payload ->> 0
  rooms TEXT,                    -- JSON array of the rooms it is addressed to (a sid is a room); NULL: all
  skip TEXT,                     -- JSON array of the sids that do not receive it; NULL: none
  size_bytes INTEGER NOT NULL,   -- characters of payload + bytes of attachments
  attachments INTEGER NOT NULL,  -- how many rows it has in the table attachments
  payload TEXT NOT NULL          -- JSON array [name, argument, ...] as on the wire, without the offset
) STRICT
"""

ATTACHMENTS = """
CREATE TABLE attachments (
  -- The binary arguments of events; payload holds {"_placeholder":true,"num":...} in their place.
  offset INTEGER NOT NULL,       -- the event
  num INTEGER NOT NULL,          -- which placeholder it stands for
  content BLOB NOT NULL,
  PRIMARY KEY (offset, num)
) STRICT, WITHOUT ROWID
"""

SESSIONS = """
CREATE TABLE sessions (
  -- One row for each client session that is connected or may still be recovered.
  number INTEGER PRIMARY KEY,    -- in the order in which they were opened
  namespace TEXT NOT NULL,
  sid TEXT NOT NULL,             -- the session id that handlers see
  pid_hash BLOB NOT NULL,        -- SHA-256 of the private id with which the client comes back
  start_boot TEXT NOT NULL,      -- the server start that opened it (boots.boot)
  start_offset INTEGER NOT NULL, -- the log's position at which it began
  former_offset TEXT,            -- offset that the client brought along from an earlier session
  confirmed INTEGER NOT NULL,    -- events up to this one are known to have reached the client
  opened_at REAL NOT NULL,       -- seconds since 1970, UTC
  resumed_at REAL,               -- when it was last recovered; NULL: never
  disconnected_at REAL,          -- when the connection was lost; NULL: connected, or left open by a crash
  away_since REAL,               -- the same on the service clock, which runs only while the server runs
  data TEXT NOT NULL,            -- JSON object: what the handlers saved with save_session()
  UNIQUE (namespace, sid)
) STRICT
"""

ROOMS = """
CREATE TABLE rooms (
  -- Memberships: a session receives a room's events with joined_after < offset <= left_after.
  namespace TEXT NOT NULL,
  sid TEXT NOT NULL,
  room ANY NOT NULL,             -- text or integer; 42 and '42' are different rooms
  joined_after INTEGER NOT NULL, -- the log's position when it joined
  left_after INTEGER,            -- the log's position when it left; NULL: it is in the room
  PRIMARY KEY (namespace, sid, room, joined_after)
) STRICT, WITHOUT ROWID
"""

ROOMS_LEFT = """
CREATE INDEX rooms_left -- what pruning looks for: memberships whose events are all gone
ON rooms (left_after) WHERE left_after IS NOT NULL
"""

BOOTS = """
CREATE TABLE boots (
  -- One row for each start of the server. Offsets name the boot that gave them out, so those from a
  -- future that was lost (power cut, older copy of this file put back) are recognised.
  number INTEGER PRIMARY KEY,    -- in the order of the starts
  boot TEXT NOT NULL UNIQUE,     -- random id, the first part of every offset of this start
  began_after INTEGER NOT NULL,  -- the log's position when it began
  started_at REAL NOT NULL,      -- seconds since 1970, UTC
  alive_at REAL NOT NULL,        -- its last sign of life
  service_time REAL NOT NULL     -- seconds that servers ran on this database until alive_at
) STRICT
"""

BOOTS_BEGAN = """
CREATE INDEX boots_began -- finds the boot that wrote an event
ON boots (began_after)
"""

LOG_STATE = """
CREATE TABLE log_state (
  -- One row.
  id INTEGER PRIMARY KEY CHECK (id = 1),
  pruned_through INTEGER NOT NULL -- events up to this one were deleted
) STRICT
"""

FIRST_LOG_STATE = "INSERT INTO log_state (id, pruned_through) VALUES (1, 0)"

INDEX_GENERATIONS = """
CREATE TABLE index_generations (
  -- The index by room, 4096 consecutive offsets at a time, written when their last one has passed.
  generation INTEGER PRIMARY KEY, -- offset / 4096
  sizes BLOB NOT NULL             -- size_bytes of each offset: 4096 little-endian 32 bit numbers
) STRICT
"""

INDEX_LISTS = """
CREATE TABLE index_lists (
  -- Which offsets of a generation are addressed to whom.
  generation INTEGER NOT NULL,
  audience TEXT NOT NULL,         -- JSON array [namespace, room]; room null: the whole namespace
  offsets BLOB NOT NULL,          -- offset % 4096, ascending, little-endian 16 bit numbers
  PRIMARY KEY (generation, audience)
) STRICT, WITHOUT ROWID
"""

RECENT_EVENTS = """
CREATE VIEW recent_events AS
  -- The log for people, newest first. Cheap with LIMIT, however long the log is.
SELECT strftime('%Y-%m-%dT%H:%M:%fZ', emitted_at, 'unixepoch') AS time,
       (SELECT boot FROM boots WHERE began_after < events.offset
        ORDER BY began_after DESC, number DESC LIMIT 1) || '.' || events.offset AS offset,
       namespace,
       event,
       payload,
       CASE WHEN rooms IS NULL THEN '(everyone)'
            ELSE (SELECT group_concat(value, ', ') FROM json_each(events.rooms)) END AS rooms
FROM events
ORDER BY events.offset DESC
"""

CURRENT_SESSIONS = """
CREATE VIEW current_sessions AS
  -- The sessions for people, newest first. A session that a crash left open reads "connected" until
  -- the server has started again.
SELECT sid,
       namespace,
       CASE WHEN disconnected_at IS NULL THEN 'connected' ELSE 'away' END AS state,
       (SELECT group_concat(room, ', ') FROM rooms
        WHERE rooms.namespace = sessions.namespace AND rooms.sid = sessions.sid
          AND left_after IS NULL) AS rooms,
       strftime('%Y-%m-%dT%H:%M:%fZ', opened_at, 'unixepoch') AS opened,
       strftime('%Y-%m-%dT%H:%M:%fZ', resumed_at, 'unixepoch') AS resumed,
       strftime('%Y-%m-%dT%H:%M:%fZ', disconnected_at, 'unixepoch') AS disconnected,
       data
FROM sessions
ORDER BY number DESC
"""

STATEMENTS = (
    EVENTS,
    ATTACHMENTS,
    SESSIONS,
    ROOMS,
    ROOMS_LEFT,
    BOOTS,
    BOOTS_BEGAN,
    LOG_STATE,
    FIRST_LOG_STATE,
    INDEX_GENERATIONS,
    INDEX_LISTS,
    RECENT_EVENTS,
    CURRENT_SESSIONS,
    # "SioE" distinguishes the database from databases of other programs with alembic.
    "PRAGMA application_id = 0x53696f45",
)


def upgrade() -> None:
    """Create all tables, indexes and views."""
    connection = op.get_bind()
    for statement in STATEMENTS:
        # Directly on the driver: text() would look for :parameters in the comments.
        connection.exec_driver_sql(statement.strip())


def downgrade() -> None:
    """Raise NotImplementedError: no version precedes the first version."""
    raise NotImplementedError("Delete the database file instead.")
