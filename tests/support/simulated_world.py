"""A server, a disk, the network and the clients in a world with invariants."""

from __future__ import annotations

from socketio_eventlog.session_changes import SessionResumed
from socketio_eventstore.core.operation import Operation
from support.simulated_clients import Scene
from support.simulated_server import SimulatedServer
from support.simulated_store import Disk, SimulatedLog
from support.simulated_twins import Twins

WORLDS: list[World] = []


class World(Scene):
    """A server on a disk, clients, and the network in between."""

    def __init__(self, *, durable: bool) -> None:
        super().__init__()
        WORLDS[:] = [self]
        self.durable = durable
        self.disk = Disk()
        self.start()

    def start(self) -> None:
        """Start the server."""
        epoch = f"epoch{next(self.ids)}"
        self.log = SimulatedLog(self.disk, self.twins, epoch, lambda: self.seconds, durable=self.durable)
        self.server = self.loop.call(self._started)

    def _started(self) -> SimulatedServer:
        return SimulatedServer(self, self.log, self.log.snapshot())

    def submit(self, *operations: Operation) -> bool:
        return self.server.submit(*operations)

    def stop(self) -> None:
        """End the process and all transports."""
        for client in self.clients:
            self.hang_up(client)
        for wire in [*self.zombies, *self.server.wires]:
            wire.closed = True
        self.zombies.clear()
        self.end_tasks()

    def crash(self, keep: int, *, find_uncertain: bool) -> None:
        """Power off and on again; ``keep`` is the number of remaining unsynced entries."""
        if find_uncertain and self.log.waiting is not None:
            self.disk.uncertain = self.log.waiting
        self.stop()
        for change in self.disk.crash(keep, keep_uncertain=find_uncertain):
            if isinstance(change, SessionResumed):
                self.away_again.add((change.namespace, change.sid))
        _, batches = self.disk.fold()
        self.twins = Twins(batches)
        self.start()

    def is_lost(self, offset: str | None) -> bool:
        if offset is None:
            return False
        epoch, _, sequence = offset.rpartition(".")
        began = {entry.epoch: entry.began_after for entry in self.disk.epochs}
        later = [entry.began_after for entry in self.disk.epochs[list(began).index(epoch) + 1 :]]
        return int(sequence) > min([*later, self.log.head])
