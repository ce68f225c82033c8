"""The log, the sessions beside the log, and the nodes, on PostgreSQL.

The schema ``eventstore`` exists before: alembic keeps its own table there. Names and columns are as in the
SQLite database, where both databases have them. The next migrations have the functions and the views.
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = (
    """
CREATE TABLE eventstore.events (
  "offset" bigint PRIMARY KEY,
  emitted_at double precision NOT NULL,
  namespace text NOT NULL,
  event text NOT NULL,
  rooms text,
  skip text,
  size_bytes bigint NOT NULL,
  attachments integer NOT NULL,
  payload text NOT NULL
)
""",
    """
CREATE TABLE eventstore.attachments (
  "offset" bigint NOT NULL,
  num integer NOT NULL,
  content bytea NOT NULL,
  PRIMARY KEY ("offset", num)
)
""",
    """
CREATE TABLE eventstore.batches (
  batch bigint PRIMARY KEY,
  epoch text NOT NULL,
  node text NOT NULL,
  node_batch bigint NOT NULL,
  body bytea NOT NULL,
  chain bytea NOT NULL,
  before bigint NOT NULL,
  last bigint NOT NULL,
  at double precision NOT NULL,
  uptime double precision NOT NULL,
  changes jsonb NOT NULL,
  outcomes integer[] NOT NULL,
  UNIQUE (node, node_batch)
)
""",
    """
INSERT INTO eventstore.batches
VALUES (0, '', '', 0, '', '', 0, 0, extract(epoch FROM clock_timestamp()), 0, '[]', '{}')
""",
    """
CREATE TABLE eventstore.sessions (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  namespace text NOT NULL,
  sid text NOT NULL,
  pid_hash bytea NOT NULL,
  start_epoch text NOT NULL,
  start_offset bigint NOT NULL,
  former_offset text,
  confirmed bigint NOT NULL,
  opened_at double precision NOT NULL,
  resumed_at double precision,
  disconnected_at double precision,
  away_since double precision,
  data text NOT NULL,
  identity text,
  auth_hash bytea,
  left_by_client boolean NOT NULL DEFAULT false,
  token_expires_at double precision,
  token_rooms text,
  claim integer NOT NULL DEFAULT 1,
  claimed_in bigint NOT NULL,
  node text,
  UNIQUE (namespace, sid)
) WITH (fillfactor = 70)
""",
    "CREATE INDEX sessions_identity ON eventstore.sessions (identity) WHERE identity IS NOT NULL",
    """
CREATE TABLE eventstore.rooms (
  namespace text NOT NULL,
  sid text NOT NULL,
  room text NOT NULL,
  joined_after bigint NOT NULL,
  left_after bigint,
  PRIMARY KEY (namespace, sid, room, joined_after)
)
""",
    "CREATE INDEX rooms_left ON eventstore.rooms (left_after) WHERE left_after IS NOT NULL",
    """
CREATE TABLE eventstore.answers (
  namespace text NOT NULL,
  event text NOT NULL,
  identity text NOT NULL,
  key text NOT NULL,
  answer text NOT NULL,
  answered_at double precision NOT NULL,
  CONSTRAINT answers_key PRIMARY KEY (namespace, event, identity, key)
)
""",
    "CREATE INDEX answers_answered ON eventstore.answers (answered_at)",
    """
CREATE TABLE eventstore.publications (
  publisher text NOT NULL,
  key text NOT NULL,
  digest bytea NOT NULL,
  epoch text NOT NULL,
  last_offset bigint NOT NULL,
  events integer NOT NULL,
  published_at double precision NOT NULL,
  CONSTRAINT publications_key PRIMARY KEY (publisher, key)
)
""",
    "CREATE INDEX publications_published ON eventstore.publications (published_at)",
    """
CREATE TABLE eventstore.nodes (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  node text NOT NULL UNIQUE,
  address text NOT NULL,
  alive_at double precision NOT NULL,
  uptime double precision NOT NULL,
  applied bigint NOT NULL,
  floor bigint NOT NULL,
  max_disconnection double precision,
  backend integer,
  backend_start timestamptz
)
""",
    """
CREATE TABLE eventstore.epochs (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  epoch text NOT NULL UNIQUE,
  began_after bigint NOT NULL,
  began_in bigint NOT NULL,
  began_at double precision NOT NULL,
  fingerprint text NOT NULL
)
""",
    "CREATE INDEX epochs_began ON eventstore.epochs (began_after)",
    "CREATE UNLOGGED TABLE eventstore.canary (epoch text NOT NULL)",
    """
CREATE TABLE eventstore.positions (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  uptime double precision NOT NULL,
  position bigint NOT NULL
)
""",
    """
CREATE TABLE eventstore.log_state (
  id integer PRIMARY KEY CHECK (id = 1),
  pruned_through bigint NOT NULL,
  min_reader integer NOT NULL
)
""",
    "INSERT INTO eventstore.log_state (id, pruned_through, min_reader) VALUES (1, 0, 1)",
    """
CREATE TABLE eventstore.altered_ranges (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  namespace text,
  first bigint NOT NULL,
  last bigint NOT NULL,
  audience_lost boolean NOT NULL DEFAULT false
)
""",
    """
CREATE TABLE eventstore.index_segments (
  segment bigint PRIMARY KEY,
  sizes bytea NOT NULL
)
""",
    """
CREATE TABLE eventstore.index_lists (
  segment bigint NOT NULL,
  audience text NOT NULL,
  offsets bytea NOT NULL,
  size_bytes bigint NOT NULL,
  PRIMARY KEY (segment, audience)
)
""",
)


def upgrade() -> None:
    """Create all tables and indexes."""
    connection = op.get_bind()
    for statement in STATEMENTS:
        # Directly on the driver: text() would look for :parameters.
        connection.exec_driver_sql(statement.strip())


def downgrade() -> None:
    """Raise NotImplementedError: no version precedes the first version."""
    raise NotImplementedError("Drop the schema eventstore instead.")
