"""Checks of the rows: statements that find rows which break a promise of the log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from socketio_eventlog.postgres.check_report import Probe

_HEAD: Final = "(SELECT last FROM eventstore.batches ORDER BY batch DESC LIMIT 1)"


class RowCheck(NamedTuple):
    """A statement that selects the rows with a broken promise, and a sentence for each row."""

    sql: str
    text: str
    """A format for the columns of the row."""


CHECKS: Final[dict[str, tuple[RowCheck, ...]]] = {
    "batches": (
        RowCheck(
            """
SELECT batch FROM (SELECT batch, before, last, lag(batch) OVER w AS former, lag(last) OVER w AS ended
                   FROM eventstore.batches WINDOW w AS (ORDER BY batch)) AS b
WHERE last < before OR (former = batch - 1 AND ended <> before)
""",
            "batch {} does not continue the batch before it",
        ),
    ),
    "offsets": (
        RowCheck(
            f"""
SELECT lower(r), upper(r) - 1 FROM unnest(coalesce((
  SELECT range_agg(int8range(previous + 1, "offset")) FROM (
    SELECT "offset", lag("offset", 1, (SELECT pruned_through FROM eventstore.log_state))
                     OVER (ORDER BY "offset") AS previous
    FROM (SELECT "offset" FROM eventstore.events
          WHERE "offset" > (SELECT pruned_through FROM eventstore.log_state)
          UNION ALL SELECT {_HEAD} + 1) AS o) AS p
  WHERE previous < "offset" - 1), '{{}}')
  - coalesce((SELECT range_agg(int8range(first, last, '[]')) FROM eventstore.altered_ranges), '{{}}')) AS t(r)
""",  # noqa: S608 -- a constant
            "events {} to {} are gone without a note",
        ),
        RowCheck(
            f'SELECT "offset" FROM eventstore.events WHERE "offset" > {_HEAD}',  # noqa: S608 -- a constant
            "event {} is beyond the last batch",
        ),
    ),
    "events": (
        RowCheck(
            'SELECT "offset" FROM eventstore.events WHERE "offset" <= '
            "(SELECT pruned_through FROM eventstore.log_state)",
            "event {} is there, although it was pruned",
        ),
        RowCheck(
            """
SELECT e."offset", e.size_bytes FROM eventstore.events AS e
LEFT JOIN (SELECT "offset", sum(length(content)) AS content FROM eventstore.attachments
           GROUP BY "offset") AS a USING ("offset")
WHERE e.size_bytes <> length(e.payload) + coalesce(a.content, 0)
  AND NOT EXISTS (SELECT FROM eventstore.altered_ranges WHERE e."offset" BETWEEN first AND last)
""",
            "event {} has another size than its size_bytes, {}",
        ),
        RowCheck(
            """
SELECT "offset" FROM eventstore.events AS e
WHERE (payload NOT LIKE '[%]' OR rooms NOT LIKE '[%]' OR skip NOT LIKE '[%]')
  AND NOT EXISTS (SELECT FROM eventstore.altered_ranges WHERE e."offset" BETWEEN first AND last)
""",
            "event {} has a payload, rooms or sids to skip that are no JSON array",
        ),
        RowCheck(
            """
SELECT e."offset", e.attachments FROM eventstore.events AS e
LEFT JOIN (SELECT "offset", count(*) AS count, max(num) + 1 AS next FROM eventstore.attachments
           GROUP BY "offset") AS a USING ("offset")
WHERE e.attachments <> coalesce(a.count, 0) OR e.attachments <> coalesce(a.next, 0)
""",
            "event {} has not the attachments 0 to {}, without the last",
        ),
        RowCheck(
            """
SELECT DISTINCT "offset" FROM eventstore.attachments AS a
WHERE NOT EXISTS (SELECT FROM eventstore.events AS e WHERE e."offset" = a."offset")
""",
            "there are attachments of event {}, which is not there",
        ),
    ),
    "epochs": (
        RowCheck(
            """
SELECT epoch FROM (SELECT epoch, began_after, began_in, lag(began_after) OVER w AS former,
                          lag(began_in) OVER w AS former_batch
                   FROM eventstore.epochs WINDOW w AS (ORDER BY number)) AS e
WHERE began_after < former OR began_in <= former_batch
""",
            "epoch {} began before the one before it",
        ),
        RowCheck(
            """
SELECT b.epoch FROM (SELECT epoch FROM eventstore.batches ORDER BY batch DESC LIMIT 1) AS b
WHERE b.epoch <> '' AND b.epoch IS DISTINCT FROM
  (SELECT epoch FROM eventstore.epochs ORDER BY number DESC LIMIT 1)
""",
            "the last batch has the epoch {}, which is not the last one",
        ),
    ),
    "sessions": (
        RowCheck(
            f"""
SELECT sid, namespace FROM eventstore.sessions AS s
WHERE start_offset > {_HEAD} OR confirmed < start_offset OR confirmed > {_HEAD}
   OR NOT EXISTS (SELECT FROM eventstore.epochs AS e WHERE e.epoch = s.start_epoch)
""",  # noqa: S608 -- a constant
            "session {} of {} has a start or a confirmed offset outside of the log",
        ),
        RowCheck(
            """
SELECT sid, namespace, node FROM eventstore.sessions AS s
WHERE node IS NOT NULL AND NOT EXISTS (SELECT FROM eventstore.nodes AS n WHERE n.node = s.node)
""",
            "session {} of {} belongs to the server {}, which is gone",
        ),
        RowCheck(
            "SELECT sid, namespace FROM eventstore.sessions WHERE length(pid_hash) <> 32 OR claim < 1",
            "session {} of {} has no valid pid_hash or claim",
        ),
    ),
    "memberships": (
        RowCheck(
            """
SELECT room, sid, namespace FROM eventstore.rooms AS m
WHERE NOT EXISTS (SELECT FROM eventstore.sessions AS s
                  WHERE s.namespace = m.namespace AND s.sid = m.sid)
""",
            "room {} has a member {} of {}, whose session is not there",
        ),
        RowCheck(
            f"""
SELECT room, sid, namespace FROM (
  SELECT *, lag(coalesce(left_after, {_HEAD} + 1)) OVER (PARTITION BY namespace, sid, room
                                                         ORDER BY joined_after) AS former
  FROM eventstore.rooms) AS m
WHERE joined_after < former OR joined_after > {_HEAD} OR left_after > {_HEAD}
""",  # noqa: S608 -- a constant
            "the membership of room {} of {} of {} does not fit the log",
        ),
    ),
}
"""By title."""


def check(probe: Probe, title: str, at_most: int) -> Iterator[str]:
    """Yield a sentence for each row with a broken promise, at most ``at_most`` of a kind."""
    for one in CHECKS[title]:
        for row in probe.rows(f"{one.sql} LIMIT {at_most}"):
            yield f"{title}: {one.text.format(*row)}"
