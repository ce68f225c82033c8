"""The history of each session: tables, and the functions that note the entries of changes.

``socketio_eventlog.history`` defines the entries of a change; the functions find the sessions of a change.
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
CREATE TABLE eventstore.session_history (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  session bigint NOT NULL,
  kind text NOT NULL,
  at double precision NOT NULL,
  uptime double precision NOT NULL,
  sequence bigint NOT NULL,
  node text,
  reason text,
  detail text
)
""",
    "CREATE INDEX session_history_session ON eventstore.session_history (session, number)",
    """
CREATE TABLE eventstore.ended_sessions (
  session bigint PRIMARY KEY,
  namespace text NOT NULL,
  sid text NOT NULL,
  identity text,
  pid_hash bytea NOT NULL,
  start_offset bigint NOT NULL,
  confirmed bigint NOT NULL,
  rooms text NOT NULL,
  UNIQUE (namespace, sid)
)
""",
    "CREATE INDEX ended_sessions_pid ON eventstore.ended_sessions (pid_hash)",
    """
CREATE FUNCTION eventstore.note(
  p_namespace text, p_sid text, p_kind text, p_at double precision, p_node text, p_reason text, p_detail text,
  p_sequence bigint, p_uptime double precision
) RETURNS void LANGUAGE sql AS $$
INSERT INTO eventstore.session_history (kind, at, uptime, sequence, node, reason, detail, session)
SELECT p_kind, p_at, p_uptime, p_sequence, p_node, p_reason, p_detail, number
FROM eventstore.sessions WHERE namespace = p_namespace AND sid = p_sid
$$
""",
    """
CREATE FUNCTION eventstore.note_opened(
  p_rows jsonb, p_sequence bigint, p_node text, p_uptime double precision
) RETURNS void LANGUAGE plpgsql AS $$
-- New sessions, whose rows are written. Row: the sixth element names the session that the client asked for.
DECLARE
  r jsonb;
  v_former bigint;
  v_former_sid text;
BEGIN
  INSERT INTO eventstore.session_history (kind, at, uptime, sequence, node, session)
  SELECT k.kind, (o.r->>4)::double precision, p_uptime, p_sequence, k.node, s.number
  FROM jsonb_array_elements(p_rows) WITH ORDINALITY AS o(r, n)
  JOIN eventstore.sessions AS s ON s.namespace = o.r->>0 AND s.sid = o.r->>1
  CROSS JOIN (VALUES (1, 'opened', NULL), (2, 'connected', p_node)) AS k(place, kind, node)
  WHERE o.r->6 = 'null' ORDER BY n, k.place;
  FOR r IN SELECT value FROM jsonb_array_elements(p_rows) WHERE value->6 <> 'null' LOOP
    v_former := NULL;
    v_former_sid := NULL;
    IF r->6->>1 IS NOT NULL THEN
      SELECT number, sid INTO v_former, v_former_sid FROM (
        SELECT number, sid FROM eventstore.sessions WHERE namespace = r->>0 AND sid = r->6->>1
        UNION ALL
        SELECT session, sid FROM eventstore.ended_sessions WHERE namespace = r->>0 AND sid = r->6->>1
      ) AS found LIMIT 1;
    ELSIF r->6->>2 IS NOT NULL THEN
      SELECT session, sid INTO v_former, v_former_sid FROM eventstore.ended_sessions
      WHERE pid_hash = decode(r->6->>2, 'hex') AND namespace = r->>0 LIMIT 1;
    END IF;
    IF v_former IS NOT NULL THEN
      INSERT INTO eventstore.session_history (kind, at, uptime, sequence, reason, detail, session)
      VALUES ('replaced', (r->>4)::double precision, p_uptime, p_sequence, r->6->>0, to_json(r->>1)::text,
              v_former);
    END IF;
    PERFORM eventstore.note(r->>0, r->>1, 'opened', (r->>4)::double precision, NULL, r->6->>0,
                            to_json(v_former_sid)::text, p_sequence, p_uptime);
    PERFORM eventstore.note(r->>0, r->>1, 'connected', (r->>4)::double precision, p_node, NULL, NULL,
                            p_sequence, p_uptime);
  END LOOP;
END
$$
""",
    """
CREATE FUNCTION eventstore.keep_ended(p_namespace text, p_sid text, p_claim integer)
RETURNS boolean LANGUAGE sql AS $$
-- Keep what the history of a session needs that is about to end; false for another claim.
WITH kept AS (
  INSERT INTO eventstore.ended_sessions
  SELECT number, namespace, sid, identity, pid_hash, start_offset, confirmed,
         (SELECT CASE WHEN length(found::text) <= 4000 THEN found::text ELSE '[]' END
          FROM (SELECT json_agg(json_build_array(room, joined_after, left_after)) AS found
                FROM eventstore.rooms AS r WHERE r.namespace = s.namespace AND r.sid = s.sid) AS rooms)
  FROM eventstore.sessions AS s
  WHERE namespace = p_namespace AND sid = p_sid AND claim = coalesce(p_claim, claim)
  ON CONFLICT (namespace, sid) DO UPDATE
  SET session = excluded.session, identity = excluded.identity, pid_hash = excluded.pid_hash,
      start_offset = excluded.start_offset, confirmed = excluded.confirmed, rooms = excluded.rooms
  RETURNING session)
SELECT EXISTS (SELECT FROM kept)
$$
""",
    """
CREATE FUNCTION eventstore.note_before(
  p_kind text, p_rows jsonb, p_sequence bigint, p_uptime double precision, p_now double precision
) RETURNS void LANGUAGE plpgsql AS $$
-- Changes of one kind that are about to be written; one without an effect has no entry.
DECLARE
  r jsonb;
BEGIN
  IF p_kind = 'joined' THEN
    INSERT INTO eventstore.session_history (kind, at, uptime, sequence, detail, session)
    SELECT 'joined', p_now, p_uptime, p_sequence, j.r->>2, s.number
    FROM (SELECT t.r, min(n) AS n FROM jsonb_array_elements(p_rows) WITH ORDINALITY AS t(r, n)
          GROUP BY t.r) AS j
    JOIN eventstore.sessions AS s ON s.namespace = j.r->>0 AND s.sid = j.r->>1
    WHERE NOT EXISTS (SELECT FROM eventstore.rooms AS m
                      WHERE m.namespace = s.namespace AND m.sid = s.sid AND m.room = j.r->>2
                        AND m.left_after IS NULL)
    ORDER BY j.n;
    RETURN;
  END IF;
  FOR r IN SELECT value FROM (SELECT value, min(n) AS n
                              FROM jsonb_array_elements(p_rows) WITH ORDINALITY AS t(value, n)
                              GROUP BY value) AS d ORDER BY n LOOP
    CASE p_kind
    WHEN 'left' THEN
      IF EXISTS (SELECT FROM eventstore.rooms WHERE namespace = r->>0 AND sid = r->>1
                 AND room = r->>2 AND left_after IS NULL) THEN
        PERFORM eventstore.note(
          r->>0, r->>1, 'left', p_now, NULL,
          CASE WHEN r->>3 IS NOT NULL THEN 'the client''s new token does not name the room' END,
          r->>2, coalesce((r->>3)::bigint, p_sequence), p_uptime);
      END IF;
    WHEN 'closed' THEN
      PERFORM eventstore.note(m.namespace, m.sid, 'left', p_now, NULL, 'the room was closed', m.room,
                              p_sequence, p_uptime)
      FROM eventstore.rooms AS m
      WHERE m.namespace = r->>0 AND m.room = r->>1 AND m.left_after IS NULL;
    WHEN 'bound' THEN
      PERFORM eventstore.note(s.namespace, s.sid, 'bound', p_now, NULL, NULL, to_json(r->>2)::text,
                              p_sequence, p_uptime)
      FROM eventstore.sessions AS s
      WHERE s.namespace = r->>0 AND s.sid = r->>1 AND s.identity IS DISTINCT FROM r->>2;
    WHEN 'revoked' THEN
      PERFORM eventstore.note(s.namespace, s.sid, 'ended', p_now, NULL, 'revoked', NULL, p_sequence, p_uptime)
      FROM (SELECT namespace, sid FROM eventstore.sessions WHERE identity = r->>0 ORDER BY number) AS s;
      PERFORM eventstore.keep_ended(s.namespace, s.sid, NULL)
      FROM eventstore.sessions AS s WHERE s.identity = r->>0;
    END CASE;
  END LOOP;
END
$$
""",
    """
CREATE FUNCTION eventstore.note_left_behind(
  p_now double precision, p_uptime double precision, p_history boolean
) RETURNS void LANGUAGE plpgsql AS $$
-- The sessions of nodes that are gone, before they are put away. Without histories, those from before go:
-- what came since would be missing in them.
BEGIN
  IF NOT p_history THEN
    DELETE FROM eventstore.session_history;
    DELETE FROM eventstore.ended_sessions;
    RETURN;
  END IF;
  INSERT INTO eventstore.session_history (kind, at, uptime, sequence, reason, session)
  SELECT 'away',
         greatest(coalesce((SELECT max(alive_at) FROM eventstore.nodes), p_now),
                  (SELECT at FROM eventstore.session_history ORDER BY number DESC LIMIT 1)),
         p_uptime, (SELECT last FROM eventstore.batches ORDER BY batch DESC LIMIT 1), 'the server is gone',
         number
  FROM eventstore.sessions WHERE node IS NOT NULL OR away_since IS NULL ORDER BY number;
END
$$
""",
)


def upgrade() -> None:
    """Create two tables, indexes included, and the functions."""
    connection = op.get_bind()
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement.strip().replace("%", "%%"))  # psycopg's escape


def downgrade() -> None:
    """Raise NotImplementedError: only a backup restores the former version."""
    raise NotImplementedError("Put a copy of the database from before back instead.")
