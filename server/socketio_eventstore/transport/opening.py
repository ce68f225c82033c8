"""The opening of connections: handshakes within the limits, over polling or WebSocket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, cast

from socketio_eventstore.core.frames import Frames, polling_body
from socketio_eventstore.core.options import Offsets
from socketio_eventstore.core.packets import quoted
from socketio_eventstore.core.random_ids import random_id
from socketio_eventstore.transport.aiohttp_websocket import AiohttpWebSocket
from socketio_eventstore.transport.asgi_websocket import AsgiWebSocket
from socketio_eventstore.transport.connection import EngineConnection
from socketio_eventstore.transport.engine_server import EngineServer
from socketio_eventstore.transport.handshake_limits import HandshakeLimits
from socketio_eventstore.transport.handshakes import (
    PYTHON_POLL_PACKETS,
    check_handshake,
    end_of_handshake,
    is_python,
    parse_query,
    takes_offsets,
)
from socketio_eventstore.transport.origin_checks import OriginChecks
from socketio_eventstore.transport.packet_log import PacketLog, Traffic
from socketio_eventstore.transport.request_head import RequestHead
from socketio_eventstore.transport.responses import plain_response, unavailable
from socketio_eventstore.transport.shared_rounds import SharedRounds
from socketio_eventstore.transport.websocket import MakeReceiver
from socketio_eventstore.transport.websocket_handshake import InvalidHandshake, accept_plainly


class Opening(OriginChecks, HandshakeLimits):
    """The part of ``Engine`` that opens connections."""

    logger: logging.Logger
    ping_interval: float
    ping_interval_grace_period: float
    ping_timeout: float
    max_http_buffer_size: int
    allow_upgrades: bool
    cookie: Any
    _generate_sid_cookie: Callable[[str, Mapping[str, Any]], str]
    websocket_compression: int
    """The smallest payload that a WebSocket compresses, in bytes; 0 compresses none."""
    shared_rounds: SharedRounds
    """The rounds of the event loop in which clients with many packets go on."""
    offsets: Offsets
    """Whether clients that do not take offsets are recognised (``auto``)."""
    connection_opened: Callable[[EngineConnection], Awaitable[bool]]
    """Called for each handshake; returns False to refuse the client for now."""
    opened_at_once: Callable[[EngineConnection], bool]
    """Called instead of ``connection_opened``; returns False where something is to be waited for."""
    packet_log: PacketLog | None
    """The view of all packets; None unless ``engineio_logger`` or ``count_traffic`` asks for them."""
    _id_prefix: str
    _loop: asyncio.AbstractEventLoop | None
    _traffic: Traffic | None
    _websocket_class: type[AiohttpWebSocket] | type[AsgiWebSocket]

    generate_id = staticmethod(random_id)
    """Returns the id of a connection or session; an application may replace this method."""

    def count_traffic(self, traffic: Traffic | None) -> None:
        """Report transports and packets from now on; None ends the reports."""
        self._traffic = traffic
        self._look_at_log_level()

    def _look_at_log_level(self) -> None:
        # Asked for each connection and not for each packet: the level may change, and packets are many.
        log = self.logger  # its own level answers without a call
        has_lines = getattr(log, "level", 0) <= logging.INFO and log.isEnabledFor(logging.INFO)
        is_needed = has_lines or self._traffic is not None
        self.packet_log = PacketLog(log if has_lines else None, self._traffic) if is_needed else None

    async def _open(self, head: RequestHead, transport: str, query: Mapping[str, str]) -> Any:
        check_handshake(head, transport, query)
        self._look_at_log_level()
        self.forget_ended_loop()
        self._check_limits()
        connection = self._new_connection(head, query)
        try:
            is_accepted = await self.connection_opened(connection)
        except BaseException:  # nothing else would ever take it out of the limits
            self.forget(connection.id)
            raise
        if not is_accepted:
            self.logger.warning("Application rejected connection")
            self.forget(connection.id)
            raise unavailable()
        handshake = self._handshake(connection.id, transport)
        if transport == "websocket":
            try:
                return await self._websocket(partial(connection.open_websocket, handshake), head, handshake)
            finally:
                if not connection.upgraded:
                    connection.abort("the WebSocket handshake failed")
        connection.open_polling(handshake)
        response = plain_response(polling_body(connection.take_unsent()))
        if self.cookie:
            attributes = self.cookie if isinstance(self.cookie, dict) else None
            attributes = attributes or {"name": self.cookie, "path": "/", "SameSite": "Lax"}
            response["headers"].append(("Set-Cookie", self._generate_sid_cookie(connection.id, attributes)))
        return response

    def open_at_once(
        self, head: RequestHead, transport: asyncio.Transport, headers: Mapping[str, str], early_data: bytes
    ) -> bool:
        """Open a WebSocket on a TCP connection without waiting, for a handshake that nothing refuses.

        ``head`` is that of a GET without a body, and ``headers`` are its headers; ``early_data`` is what the
        client sent behind it. Returns False, without any effect, for every other request:
        ``handle_request`` answers it.
        """
        query = parse_query(head.query)
        is_handshake = query.get("transport") == "websocket" and query.get("EIO") == "4"
        if not is_handshake or "sid" in query or not self.allows(head) or self._is_beyond_limits(head):
            return False
        try:
            extensions = head.headers("sec-websocket-extensions")
            acceptance = accept_plainly(headers, extensions, may_compress=self.websocket_compression > 0)
        except InvalidHandshake:
            return False
        self._look_at_log_level()
        connection = self._new_connection(head, query)
        is_opened = False
        try:
            is_opened = self.opened_at_once(connection)
        finally:
            if not is_opened:
                self.forget(connection.id)
        if not is_opened:
            return False
        handshake = self._handshake(connection.id, "websocket")
        make_receiver = partial(connection.open_websocket, handshake)
        limits = self.max_http_buffer_size, self.websocket_compression
        websocket = AiohttpWebSocket(make_receiver, *limits, self.shared_rounds, handshake)
        try:
            transport.set_protocol(websocket)
            websocket.begin(transport, acceptance, early_data)
        finally:
            if not connection.upgraded:
                connection.abort("the WebSocket handshake failed")
        return True

    def _new_connection(self, head: RequestHead, query: Mapping[str, str]) -> EngineConnection:
        """Return a connection that counts from now on. Raises RequestRefused beyond an address's limit."""
        place = self._place_of(head) if self.address_limits.is_on else None
        engine = cast("EngineServer", self)  # with what the other parts of ``Engine`` have
        connection = EngineConnection(engine, self._id_prefix + self.generate_id(), head)
        connection.place = place
        connection.takes_offsets = self.offsets == "always" or takes_offsets(query)
        connection.wants_base64 = query.get("b64") in ("1", "true")
        if "t" in query and is_python(query):
            connection.poll_packets = PYTHON_POLL_PACKETS
        self.sockets[connection.id] = connection
        return connection

    def forget_ended_loop(self) -> None:
        """Forget the connections of an ended event loop: nothing closes them, and they would count."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop and (self._loop is None or not self._loop.is_running()):
            self._loop = loop
            for connection_id in list(self.sockets):
                self.forget(connection_id)

    def forget(self, connection_id: str) -> None:
        """Forget a connection that was not accepted, or whose event loop has ended."""
        connection = self.sockets.pop(connection_id, None)
        if connection is not None:
            connection.ask_for_namespace()
            if connection.place is not None:
                connection.place.free()

    def _handshake(self, connection_id: str, transport: str) -> Frames:
        may_upgrade = self.allow_upgrades and transport != "websocket"
        interval, timeout = self.ping_interval + self.ping_interval_grace_period, self.ping_timeout
        settings = end_of_handshake(may_upgrade, timeout, interval, self.max_http_buffer_size)
        return Frames(f'0{{"sid":{quoted(connection_id)},{settings}')

    def _websocket(
        self, make_receiver: MakeReceiver, head: RequestHead, greeting: Frames | None = None
    ) -> Awaitable[Any]:
        """Open a WebSocket, which first sends the greeting."""
        limits = self.max_http_buffer_size, self.websocket_compression
        if self._websocket_class is AsgiWebSocket:
            return AsgiWebSocket(make_receiver, *limits, greeting)(head.request)
        return AiohttpWebSocket(make_receiver, *limits, self.shared_rounds, greeting)(head.request)
