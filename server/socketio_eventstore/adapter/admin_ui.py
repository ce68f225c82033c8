"""The reports for the Socket.IO Admin UI (``instrument()``), sent past the log.

python-socketio's own reports are emits: with a log each report would be a commit, and the headers of every
client would be on disk. Here reports are packets for the connected admins; without an admin there are no
reports. Source of the events: socket.io Admin UI, https://socket.io/docs/v4/admin-ui/.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Final

from socketio.async_admin import InstrumentedAsyncServer
from socketio.exceptions import ConnectionRefusedError as Refused

from socketio_eventlog.errors import StoreError
from socketio_eventlog.events import Event
from socketio_eventstore.adapter import admin_views
from socketio_eventstore.core.context import Context
from socketio_eventstore.core.handler_transaction import submit_or_defer
from socketio_eventstore.core.operation import UnstoredOperation
from socketio_eventstore.core.operations import SendPacket
from socketio_eventstore.core.runtime import Runtime
from socketio_eventstore.core.sessions import ClientConnection, Session

MAX_SHOWN_CLIENTS: Final = 1000
"""The most clients in the report for a new admin, and the most recipients in the report of an event.

The reports on 50,000 clients would stall the event loop for seconds, and fill the buffer of the admin.
"""
MAX_SHOWN_CHARACTERS: Final = 1000
_COMMANDS: Final = ("EMIT", "JOIN", "LEAVE", "DISCONNECT", "MJOIN", "MLEAVE", "MDISCONNECT")


class AdminUi(InstrumentedAsyncServer):  # type: ignore[misc]  # python-socketio is not typed
    """The reports of a server, and the commands of the admins.

    The constructor's arguments, ``uninstrument`` and ``shutdown`` are as in python-socketio. The server calls
    ``accepted``, ``handler_called``, ``emitted``, ``joined`` and ``left``; the engine reports traffic.
    """

    def instrument(self) -> None:
        """Register the handlers of the admin namespace; the constructor calls this."""
        self._began = time.time()
        self._timer: asyncio.TimerHandle | None = None
        self._is_detailed: bool = self.mode == "development"
        self._takes_commands = self._is_detailed and not self.read_only
        handlers: dict[str, Any] = {"connect": self.admin_connect}
        if self._takes_commands:
            handlers["emit"], handlers["_disconnect"] = self.admin_emit, self.admin_disconnect
            handlers["join"], handlers["leave"] = self.admin_enter_room, self.admin_leave_room
        for event, handler in handlers.items():
            self.sio.on(event, handler, namespace=self.admin_namespace)

    def uninstrument(self) -> None:
        """End the reports."""
        self.stop()
        self.sio.end_reports(self)

    async def shutdown(self) -> None:
        """End the statistics; the signature is python-socketio's."""
        self.stop()

    def stop(self) -> None:
        """End the statistics until the next admin connects."""
        self.sio.eio.count_traffic(None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def admin_connect(self, sid: str, environ: dict[str, Any], client_auth: Any) -> None:
        """Authenticate an admin. Raises ConnectionRefusedError of python-socketio."""
        if self.auth and not await self._is_authenticated(client_auth):
            raise Refused("authentication failed")

    async def _is_authenticated(self, client_auth: Any) -> bool:
        if isinstance(self.auth, dict):
            return bool(client_auth == self.auth)
        if isinstance(self.auth, list):
            return client_auth in self.auth
        answer = self.auth(client_auth)
        return bool(await answer if inspect.isawaitable(answer) else answer)

    # What the server reports ----------------------------------------------------------------------

    def accepted(self, session: Session) -> None:
        """Report an accepted client; for an admin, report all the other clients, too."""
        if self._is_detailed:
            others = [admin for admin in self._admins() if admin is not session]
            self._send(others, "socket_connected", self._socket(session), admin_views.iso(time.time()))
        if session.namespace == self.admin_namespace:
            self._welcome(session)

    def handler_called(self, event: str, namespace: str, sid: str, *arguments: Any) -> None:
        """Report a disconnection, or an event of a client. Commands of admins are no such events."""
        if not self._is_detailed or event in ("connect", "session_expired"):
            return
        now = admin_views.iso(time.time())
        if event == "disconnect":
            self._report("socket_disconnected", namespace, sid, arguments[0], now)
            for room in self.sio.manager.get_rooms(sid, namespace):
                self._report("room_left", namespace, room, sid, now)
        elif namespace != self.admin_namespace:
            self._report("event_received", namespace, sid, [event, *arguments], now)

    async def emitted(self, runtime: Runtime, event: Event) -> None:
        """Report an event that was sent, or was deferred by a handler transaction."""
        if self._is_detailed and event.namespace != self.admin_namespace and self._admins():
            with suppress(StoreError):  # the event itself was stored
                await submit_or_defer(runtime.queue, Report(self, event))

    def report_recipients(self, event: Event) -> None:
        """Report a sent event. The report includes the stored text of the event."""
        runtime, admins = self.sio.manager.runtime, self._admins()
        if runtime is None or not admins:
            return
        namespace, end = json.dumps(event.namespace), json.dumps(admin_views.iso(time.time()))
        members = runtime.registry.members(event.namespace, event.rooms)
        recipients = (one for one in members if one.is_connected and one.sid not in event.skip)
        for session in list(islice(recipients, MAX_SHOWN_CLIENTS)):
            sid = json.dumps(session.sid)
            payload = f'["event_sent",{namespace},{sid},{event.payload},{end}]'
            self._send_encoded(runtime, admins, payload, event.attachments)

    def joined(self, session: Session, room: object) -> None:
        """Report a room of a connected client. The report of a later client includes the rooms."""
        self._report_room("room_joined", session, room)

    def left(self, session: Session, room: object) -> None:
        """Report the end of a membership of a connected client."""
        self._report_room("room_left", session, room)

    def _report_room(self, what: str, session: Session, room: object) -> None:
        if self._is_detailed and session.is_connected:
            self._report(what, session.namespace, room, session.sid, admin_views.iso(time.time()))

    # What the engine reports, only while an admin is connected --------------------------------------

    def opened(self) -> None:
        """Count a new transport."""
        self.event_buffer.push("rawConnection")

    def closed(self) -> None:
        """Count the end of a transport."""
        self.event_buffer.push("rawDisconnection")

    def upgraded(self, connection: ClientConnection) -> None:
        """Report the upgrade of a connection's clients to a WebSocket."""
        if self._is_detailed:
            for session in connection.sessions.values():
                update = {"id": session.sid, "nsp": session.namespace, "transport": "websocket"}
                self._report("socket_updated", update)

    def sent(self, packets: int, size_bytes: int) -> None:
        """Count packets for clients."""
        self.event_buffer.push("packetsOut", packets)
        self.event_buffer.push("bytesOut", size_bytes)

    def received(self, size_bytes: int) -> None:
        """Count a packet of a client."""
        self.event_buffer.push("packetsIn")
        self.event_buffer.push("bytesIn", size_bytes)

    # Admins -----------------------------------------------------------------------------------------

    def _admins(self) -> list[Session]:
        runtime: Runtime | None = self.sio.manager.runtime
        if runtime is None or not (sessions := runtime.registry.namespaces.get(self.admin_namespace)):
            return []
        return [session for session in sessions.values() if session.is_connected]

    def _welcome(self, admin: Session) -> None:
        features = ["AGGREGATED_EVENTS"]
        if self._takes_commands:
            features += _COMMANDS
        if self._is_detailed:
            features.append("ALL_EVENTS")
        self._send([admin], "config", {"supportedFeatures": features})
        if self._is_detailed:
            connected = (session for session in self.sio.manager.runtime.registry if session.is_connected)
            sockets = [self._socket(session) for session in islice(connected, MAX_SHOWN_CLIENTS)]
            self._send([admin], "all_sockets", sockets)
        if self._timer is None:
            self.event_buffer.get_and_clear()
            self.sio.eio.count_traffic(self)
            self._schedule_stats()
        self._send([admin], "server_stats", self._stats([]))

    def _schedule_stats(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self.server_stats_interval, self._report_stats)

    def _report_stats(self) -> None:
        if self._admins():
            self._report("server_stats", self._stats(self.event_buffer.get_and_clear()))
            self._schedule_stats()
        else:
            self.stop()

    def _stats(self, aggregated: Sequence[Any]) -> dict[str, Any]:
        more = {
            "serverId": self.server_id,
            "uptime": time.time() - self._began,
            "aggregatedEvents": aggregated,
        }
        return admin_views.server(self.sio, self.sio.manager.runtime) | more

    def _socket(self, session: Session) -> dict[str, Any]:
        return admin_views.socket(self.sio, self.sio.manager.runtime, session)

    def _report(self, event: str, *arguments: Any) -> None:
        if admins := self._admins():
            self._send(admins, event, *arguments)

    def _send(self, admins: Sequence[Session], event: str, *arguments: Any) -> None:
        runtime = self.sio.manager.runtime
        if runtime is None or not admins:
            return
        try:
            payload, attachments = runtime.encoder.payload([event, *arguments])
        except (TypeError, ValueError):  # a client may send values that a server must not
            shown = [ascii(argument)[:MAX_SHOWN_CHARACTERS] for argument in arguments]
            payload, attachments = runtime.encoder.payload([event, *shown])
        self._send_encoded(runtime, admins, payload, attachments)

    def _send_encoded(
        self, runtime: Runtime, admins: Iterable[Session], payload: str, attachments: Sequence[bytes]
    ) -> None:
        frames = runtime.encoder.event(self.admin_namespace, payload, attachments, None)
        for admin in admins:
            if (connection := admin.current.connection) is not None:
                try:
                    runtime.queue.post(SendPacket(connection, self.admin_namespace, frames))
                except StoreError:  # the queue is full or closed: a report is not worth an error
                    return


class Report(UnstoredOperation):
    """The report of an event, behind the event; in a handler transaction it is deferred like the event."""

    def __init__(self, admin_ui: AdminUi, event: Event) -> None:
        self._admin_ui = admin_ui
        self._event = event

    def send(self, context: Context) -> None:
        self._admin_ui.report_recipients(self._event)
