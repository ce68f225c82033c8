"""Twenty attacks, one after the other; as a program, attacks until the stop."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable

import aiohttp

from support import session_attacks, transport_attacks
from support.attacker import Attacker

ATTACKS: tuple[Callable[[Attacker], Awaitable[None]], ...] = (
    # Attacks with connections that the server drops after a time come first: the times pass together.
    transport_attacks.repeated_upgrades,
    transport_attacks.unread_polls,
    transport_attacks.slow_bodies,
    transport_attacks.half_sent_handshakes,
    session_attacks.handlers_that_run_long,
    transport_attacks.unasked_pongs,
    transport_attacks.unread_websockets,
    transport_attacks.compressed_bombs,
    transport_attacks.large_posts,
    session_attacks.invalid_packets,
    session_attacks.binary_placeholders,
    session_attacks.long_names_and_room_lists,
    session_attacks.joins_and_leaves,
    session_attacks.silent_acknowledgements,
    session_attacks.claims_with_one_pid,
    session_attacks.pids_of_others,
    session_attacks.hostile_ids_and_offsets,
    session_attacks.unknown_namespaces,
    session_attacks.returns_that_hang_up,
    # The last attack: afterwards the server refuses handshakes for a time.
    transport_attacks.lonely_handshakes,
)
CONFIG: dict[str, dict[str, object]] = {
    "server": {
        "max_payload": 100_000,
        "connect_timeout": 4.0,
        # A response is watched for an eighth of the timeout: honest polls leave a gap for the census.
        "ping_interval": 2.0,
        "ping_timeout": 8.0,
        "websocket_compression": 1_000,
    },
    "connection_state_recovery": {"max_disconnection_duration": 3.0},
    "store": {"prune_interval": 0.5, "index_memory": 1_000_000},
    "limits": {"pending_handshakes": 300, "rooms_per_session": 100, "namespaces_per_connection": 2_000},
}
"""Short and small bounds, since the tests wait for the limits."""


async def attack(
    port: int,
    attacks: tuple[Callable[[Attacker], Awaitable[None]], ...] = ATTACKS,
    begins: Callable[[str], None] = lambda _: None,
) -> Attacker:
    """Run the attacks, and report the begin of each attack; the returned attacker keeps the connections."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        attacker = Attacker(port, http)
        for one in attacks:
            begins(one.__name__)
            await one(attacker)
        return attacker


async def attack_for_ever(port: int) -> None:
    """Run the attacks again and again; a line on standard output begins each attack, and ends each round."""
    while True:
        attacker = await attack(port, begins=say)
        say("waiting")
        attacker.hang_up()
        await accepts_handshakes(port)
        say("round")


def say(name: str) -> None:
    """Print the time, in seconds since 1970, and the name."""
    print(f"{time.time():.6f} {name}", flush=True)


async def accepts_handshakes(port: int) -> None:
    """Wait until the server has dropped the handshakes without a namespace."""
    async with aiohttp.ClientSession() as http:
        await Attacker(port, http).accepted_handshake()


if __name__ == "__main__":
    asyncio.run(attack_for_ever(int(sys.argv[1])))
