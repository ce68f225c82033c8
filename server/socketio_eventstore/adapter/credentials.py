"""The credentials of a client, as a hash: equal for two connections of a user, different for two users.

A page calls ``disconnect(); socket.auth = …; connect()`` to log in as another user, and the official client
sends the former pid again. So after a client's own ``disconnect()`` the pid alone proves nothing.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from socketio_eventstore.transport.request_head import RequestHead


def hash_credentials(pid: str, auth: Any, head: RequestHead, own_cookie: str | None) -> bytes:
    """Return the SHA-256 of the pid, the ``auth`` and the identifying request headers.

    ``auth`` is without pid and offset. The server's own cookie changes with every connection and does not
    count. The pid makes the hashes of one user's sessions differ.
    """
    cookies = [cookie.strip() for cookie in head.header("cookie").split(";")]
    counted = sorted([cookie for cookie in cookies if cookie.partition("=")[0] not in ("", own_cookie)])
    text = json.dumps([pid, _canonical(auth), counted, head.header("authorization")])
    return hashlib.sha256(text.encode()).digest()


def _canonical(auth: Any) -> str:
    """Encode ``auth`` as JSON with sorted keys; an empty ``auth`` is the same as none."""
    if not auth:
        return ""
    try:
        return json.dumps(auth, sort_keys=True, default=repr)
    except TypeError:  # msgpack allows keys of several types in an object, and such keys have no order
        return repr(auth)
