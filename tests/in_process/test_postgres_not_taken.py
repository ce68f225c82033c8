"""A batch on PostgreSQL that a node cannot take, through a fault: no batch is left out without a sign."""

from __future__ import annotations

import pytest

from socketio_eventlog.errors import BatchNotTaken
from support import postgres
from support.postgres_nodes import joined_node
from support.storing import event

ODD_ROOMS = (
    """
    CREATE FUNCTION odd_rooms() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      NEW.rooms := '[["a room is a text or a number"]]';
      RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER odd_rooms BEFORE INSERT ON eventstore.events
    FOR EACH ROW WHEN (NEW.event = 'odd') EXECUTE FUNCTION odd_rooms()
    """,
)


@pytest.fixture
def url() -> str:
    return postgres.new_url()


async def test_a_batch_that_is_not_taken_ends_the_node(url: str) -> None:
    """A node that cannot take a batch gives out nothing after it, and leaves at once."""
    async with joined_node(url) as one:
        async with joined_node(url) as other:
            await other.until((await one.commit(event("before"))).number)
            postgres.shared_cluster().sql(url.partition("@/")[2].partition("?")[0], *ODD_ROOMS)
            odd = await one.commit(event(rooms=("a",))._replace(name="odd"))
            await one.commit(event("after"))
            with pytest.raises(BatchNotTaken, match=f"Batch {odd.number}: TypeError"):
                await other.until(odd.number + 1)
            assert other.batches[-1].number == odd.number - 1
        left = await one.until(odd.number + 2)
        assert left.node == other.log.node
