"""The reload of the configuration while the server runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace

from socketio_eventstore.adapter.async_server import AsyncServer
from socketio_eventstore.program.config import TABLES, Config, ConfigError, engine_hosts, engine_origins
from socketio_eventstore.program.config_sources import SECRETS
from socketio_eventstore.program.keys import ApiKeys
from socketio_eventstore.program.logs import set_level
from socketio_eventstore.transport.access_rules import AccessRules
from socketio_eventstore.transport.addresses import ANY

logger = logging.getLogger(__name__)

RELOADABLE = frozenset(
    {
        ("server", "allowed_hosts"),
        ("server", "cors_allowed_origins"),
        ("server", "trusted_proxies"),
        ("server", "shutdown_grace"),
        ("server", "drain"),
        ("limits", "connections"),
        ("limits", "pending_handshakes"),
        ("limits", "connections_per_address"),
        ("limits", "handshakes_per_address"),
        ("log", "level"),
        ("http", "api_keys"),
    }
)
"""The keys with effect without a restart."""


def reload(sio: AsyncServer, api_keys: ApiKeys, present: Config, load: Callable[[], Config]) -> Config:
    """Load the configuration again; return the configuration in force.

    An invalid configuration changes nothing. A log line names each changed key. A key that needs a restart
    keeps its value, so the next reload compares with the values in force.
    """
    try:
        loaded = load()
    except ConfigError as error:
        for line in error.errors:
            logger.error("Reload: %s", line)
        logger.error("Reload: the configuration is invalid; nothing has changed.")
        return present
    changed = [
        (table, key)
        for table, model in TABLES.items()
        for key in model.model_fields
        if _value(present, table, key) != _value(loaded, table, key)
    ]
    for table, key in changed:
        if (table, key) in RELOADABLE:
            logger.info("Reload: [%s] %s = %s", table, key, _shown(loaded, table, key))
        else:
            logger.warning("Reload: [%s] %s has changed; it takes effect after a restart.", table, key)
    if not changed:
        logger.info("Reload: nothing has changed.")
    in_force = _with_changes(present, loaded, RELOADABLE.intersection(changed))
    apply(sio, in_force)
    api_keys.replace(in_force.http.api_keys)
    return in_force


def apply(sio: AsyncServer, config: Config) -> None:
    """Give the reloadable values to a running server."""
    sio.eio.cors_allowed_origins = engine_origins(config.server)
    sio.eio.cors_credentials = sio.eio.cors_allowed_origins != ANY
    sio.eio.access = AccessRules(engine_hosts(config), config.server.trusted_proxies, sio.eio.access.refused)
    sio.eio.connections = config.limits.connections
    limits = config.limits
    sio.eio.address_limits.change(limits.connections_per_address, limits.handshakes_per_address)
    set_level(config.log)
    sio.eio.pending_handshakes = config.limits.pending_handshakes


def _with_changes(present: Config, loaded: Config, keys: Iterable[tuple[str, str]]) -> Config:
    """Return ``present`` with the values of ``keys`` from ``loaded``."""
    for table, key in keys:
        changed = getattr(present, table).model_copy(update={key: _value(loaded, table, key)})
        present = replace(present, **{table: changed})
    return present


def _shown(config: Config, table: str, key: str) -> object:
    """Return the value for a log line; of secrets only the names."""
    value = _value(config, table, key)
    return sorted(value) if key in SECRETS and isinstance(value, dict) else value


def _value(config: Config, table: str, key: str) -> object:
    return getattr(getattr(config, table), key, None)
