"""The functions that write changes: set-based for a run of the same kind, or singly with outcomes."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

WRITE_RUN = """
CREATE FUNCTION eventstore.write_run(
  p_kind text, p_rows jsonb, p_position bigint, p_batch bigint, p_epoch text, p_node text,
  p_uptime double precision, p_now double precision, p_history boolean
) RETURNS void LANGUAGE plpgsql AS $$
-- Changes of one kind whose outcome does not depend on their place; p_position: the last event before them.
DECLARE
  v_through bigint;
BEGIN
  IF p_history AND p_kind IN ('bound', 'joined', 'left', 'closed', 'revoked') THEN
    PERFORM eventstore.note_before(p_kind, p_rows, p_position, p_uptime, p_now);
  END IF;
  CASE p_kind
  WHEN 'opened' THEN
    INSERT INTO eventstore.sessions (namespace, sid, pid_hash, start_epoch, start_offset, former_offset,
                                     confirmed, opened_at, auth_hash, claimed_in, node, data)
    SELECT r->>0, r->>1, decode(r->>2, 'hex'), p_epoch, p_position, r->>3, p_position,
           (r->>4)::double precision, decode(r->>5, 'hex'), p_batch, p_node, '{}'
    FROM jsonb_array_elements(p_rows) WITH ORDINALITY AS t(r, n) ORDER BY n;
    IF p_history THEN
      PERFORM eventstore.note_opened(p_rows, p_position, p_node, p_uptime);
    END IF;
  WHEN 'bound' THEN
    UPDATE eventstore.sessions AS s SET identity = b.identity
    FROM (SELECT DISTINCT ON (r->>0, r->>1) r->>0 AS namespace, r->>1 AS sid, r->>2 AS identity
          FROM jsonb_array_elements(p_rows) WITH ORDINALITY AS t(r, n)
          ORDER BY r->>0, r->>1, n DESC) AS b
    WHERE s.namespace = b.namespace AND s.sid = b.sid;
  WHEN 'saved' THEN
    UPDATE eventstore.sessions AS s SET data = d.data
    FROM (SELECT DISTINCT ON (r->>0, r->>1) r->>0 AS namespace, r->>1 AS sid, r->>2 AS data
          FROM jsonb_array_elements(p_rows) WITH ORDINALITY AS t(r, n)
          ORDER BY r->>0, r->>1, n DESC) AS d
    WHERE s.namespace = d.namespace AND s.sid = d.sid;
  WHEN 'token' THEN
    UPDATE eventstore.sessions AS s SET token_expires_at = d.expires_at, token_rooms = d.rooms
    FROM (SELECT DISTINCT ON (r->>0, r->>1) r->>0 AS namespace, r->>1 AS sid,
                 (r->>2)::double precision AS expires_at, r->>3 AS rooms
          FROM jsonb_array_elements(p_rows) WITH ORDINALITY AS t(r, n)
          ORDER BY r->>0, r->>1, n DESC) AS d
    WHERE s.namespace = d.namespace AND s.sid = d.sid;
  WHEN 'joined' THEN
    -- A second join of the same room must not move the beginning of the membership.
    INSERT INTO eventstore.rooms (namespace, sid, room, joined_after)
    SELECT j.namespace, j.sid, j.room, p_position
    FROM (SELECT DISTINCT r->>0 AS namespace, r->>1 AS sid, r->>2 AS room
          FROM jsonb_array_elements(p_rows) AS t(r)) AS j
    WHERE EXISTS (SELECT FROM eventstore.sessions AS s WHERE s.namespace = j.namespace AND s.sid = j.sid)
      AND NOT EXISTS (SELECT FROM eventstore.rooms AS m
                      WHERE m.namespace = j.namespace AND m.sid = j.sid AND m.room = j.room
                        AND m.left_after IS NULL)
    ON CONFLICT (namespace, sid, room, joined_after) DO UPDATE SET left_after = NULL;
  WHEN 'left' THEN
    UPDATE eventstore.rooms AS m SET left_after = coalesce((r->>3)::bigint, p_position)
    FROM jsonb_array_elements(p_rows) AS t(r)
    WHERE m.namespace = r->>0 AND m.sid = r->>1 AND m.room = r->>2 AND m.left_after IS NULL;
  WHEN 'closed' THEN
    UPDATE eventstore.rooms AS m SET left_after = p_position
    FROM jsonb_array_elements(p_rows) AS t(r)
    WHERE m.namespace = r->>0 AND m.room = r->>1 AND m.left_after IS NULL;
  WHEN 'revoked' THEN
    DELETE FROM eventstore.rooms AS m USING eventstore.sessions AS s
    WHERE m.namespace = s.namespace AND m.sid = s.sid
      AND s.identity IN (SELECT r->>0 FROM jsonb_array_elements(p_rows) AS t(r));
    DELETE FROM eventstore.sessions
    WHERE identity IN (SELECT r->>0 FROM jsonb_array_elements(p_rows) AS t(r));
  WHEN 'handled' THEN
    INSERT INTO eventstore.answers (namespace, event, identity, key, answer, answered_at)
    SELECT r->>0, r->>1, r->>2, r->>3, r->>4, p_uptime FROM jsonb_array_elements(p_rows) AS t(r);
  WHEN 'published' THEN
    INSERT INTO eventstore.publications (publisher, key, digest, epoch, last_offset, events, published_at)
    SELECT r->>0, r->>1, decode(r->>2, 'hex'), p_epoch, p_position, (r->>3)::integer, p_uptime
    FROM jsonb_array_elements(p_rows) AS t(r);
  WHEN 'heartbeat' THEN
    UPDATE eventstore.nodes
    SET alive_at = p_now, uptime = p_uptime, applied = (r->>0)::bigint, floor = (r->>1)::bigint
    FROM jsonb_array_elements(p_rows) AS t(r) WHERE node = p_node;
    IF p_rows @> '[[true]]' THEN
      INSERT INTO eventstore.positions (uptime, position)
      SELECT p_uptime, p_position FROM jsonb_array_elements(p_rows) AS t(r) WHERE (r->>2)::boolean;
      DELETE FROM eventstore.positions WHERE number <= (SELECT max(number) FROM eventstore.positions) - 128;
    END IF;
  WHEN 'pruned' THEN
    SELECT least(max((r->>0)::bigint), p_position) INTO v_through
    FROM jsonb_array_elements(p_rows) AS t(r);
    -- First: the triggers do not note the rows up to pruned_through.
    UPDATE eventstore.log_state SET pruned_through = v_through WHERE pruned_through < v_through;
    DELETE FROM eventstore.events WHERE "offset" <= v_through;
    DELETE FROM eventstore.attachments WHERE "offset" <= v_through;
    DELETE FROM eventstore.rooms WHERE left_after <= v_through;
    DELETE FROM eventstore.altered_ranges WHERE last <= v_through;
    DELETE FROM eventstore.index_lists WHERE segment IN (
      SELECT segment FROM eventstore.index_segments WHERE segment + length(sizes) / 4 <= v_through + 1);
    DELETE FROM eventstore.index_segments WHERE segment + length(sizes) / 4 <= v_through + 1;
  END CASE;
END
$$
"""

DECIDE = """
CREATE FUNCTION eventstore.decide(
  p_kind text, p_rows jsonb, p_position bigint, p_batch bigint, p_epoch text, p_node text,
  p_uptime double precision, p_now double precision, p_history boolean
) RETURNS integer[] LANGUAGE plpgsql AS $$
-- Changes with a condition, one by one: for each the number of the claim, 0 for another effect, -1 for none.
DECLARE
  r jsonb;
  v_run jsonb;
  v_claim integer;
  v_outcomes integer[] := '{}';
BEGIN
  FOR r IN SELECT value FROM jsonb_array_elements(p_rows) LOOP
    v_claim := 0;
    CASE p_kind
    WHEN 'claimed' THEN
      UPDATE eventstore.sessions
      SET claim = claim + 1, claimed_in = p_batch, node = p_node, away_since = coalesce(away_since, p_uptime)
      WHERE namespace = r->>0 AND sid = r->>1 RETURNING claim INTO v_claim;
    WHEN 'resumed' THEN
      UPDATE eventstore.sessions
      SET resumed_at = (r->>3)::double precision, disconnected_at = NULL, away_since = NULL,
          left_by_client = false
      WHERE namespace = r->>0 AND sid = r->>1 AND claim = (r->>2)::integer;
      IF FOUND THEN
        IF p_history THEN
          PERFORM eventstore.note(r->>0, r->>1, 'recovered', (r->>3)::double precision, p_node, NULL, r->>5,
                                  p_position, p_uptime);
        END IF;
        FOR v_run IN SELECT value FROM jsonb_array_elements(r->4) LOOP
          PERFORM eventstore.write_run(
            v_run->>0, v_run->1, p_position, p_batch, p_epoch, p_node, p_uptime, p_now, p_history);
        END LOOP;
      ELSE
        v_claim := NULL;
      END IF;
    WHEN 'away' THEN
      -- A refused client must not clear left_by_client, which protects the session.
      UPDATE eventstore.sessions
      SET node = NULL, away_since = coalesce(away_since, p_uptime),
          disconnected_at = coalesce(disconnected_at, (r->>3)::double precision),
          confirmed = greatest(confirmed, (r->>4)::bigint),
          left_by_client = left_by_client OR (r->>5)::boolean
      WHERE namespace = r->>0 AND sid = r->>1 AND claim = (r->>2)::integer;
      IF FOUND THEN
        DELETE FROM eventstore.rooms
        WHERE namespace = r->>0 AND sid = r->>1 AND left_after <= (r->>4)::bigint;
        IF p_history THEN
          PERFORM eventstore.note(
            r->>0, r->>1, CASE WHEN r->>7 IS NULL THEN 'away' ELSE 'refused' END,
            (r->>3)::double precision, NULL, coalesce(r->>7, r->>6), NULL, p_position, p_uptime);
        END IF;
      ELSE
        v_claim := NULL;
      END IF;
    WHEN 'ended' THEN
      IF p_history AND r->>3 IN ('refused', 'never_accepted') THEN
        DELETE FROM eventstore.session_history WHERE session = (
          SELECT number FROM eventstore.sessions
          WHERE namespace = r->>0 AND sid = r->>1 AND claim = coalesce((r->>2)::integer, claim));
      ELSIF p_history AND eventstore.keep_ended(r->>0, r->>1, (r->>2)::integer) THEN
        PERFORM eventstore.note(r->>0, r->>1, 'ended', p_now, NULL, r->>3, NULL, p_position, p_uptime);
      END IF;
      DELETE FROM eventstore.sessions
      WHERE namespace = r->>0 AND sid = r->>1 AND claim = coalesce((r->>2)::integer, claim);
      IF FOUND THEN
        DELETE FROM eventstore.rooms WHERE namespace = r->>0 AND sid = r->>1;
      ELSE
        v_claim := NULL;
      END IF;
    WHEN 'redacted' THEN
      PERFORM set_config('eventstore.redacting', 'on', true);  -- the triggers note nothing
      UPDATE eventstore.events
      SET event = r->>1, payload = r->>2, size_bytes = length(r->>2), attachments = 0
      WHERE "offset" = (r->>0)::bigint;
      v_claim := CASE WHEN FOUND THEN 0 END;
      DELETE FROM eventstore.attachments WHERE "offset" = (r->>0)::bigint;
      PERFORM set_config('eventstore.redacting', '', true);
    END CASE;
    v_outcomes := v_outcomes || coalesce(v_claim, -1);
  END LOOP;
  RETURN v_outcomes;
END
$$
"""

FUNCTIONS = (WRITE_RUN, DECIDE)


def upgrade() -> None:
    """Create the functions."""
    connection = op.get_bind()
    for statement in FUNCTIONS:
        connection.exec_driver_sql(statement.strip().replace("%", "%%"))  # psycopg's escape


def downgrade() -> None:
    """Raise NotImplementedError: only a backup restores the former version."""
    raise NotImplementedError("Put a copy of the database from before back instead.")
