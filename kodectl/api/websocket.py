"""/ws: the upgrade of a request to a WebSocket (RFC 6455, section 4.2) that brings events."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Any

from kodectl.api.requests import has_body
from kodectl.api.routing import Call, Media, Route, Service
from kodectl.errors import LocalMisuse

VERSION = "13"
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
KEY_SIZE = 16


def ws(service: Service, call: Call) -> None:
    """Events as they happen, on a WebSocket.

    Messages are JSON: `{"op": "subscribe", "topics": [...], "since": seq}` and `{"op": "unsubscribe"}`."""
    # Here, since the table of routes is read by commands too, which need neither.
    from kodectl.api.event_socket import EventSocket

    response = call.response
    response.set_header("Upgrade", "websocket")
    response.set_header("Sec-WebSocket-Version", VERSION)
    connection = call.request.env.get("kodectl.connection")
    accept = accept_of(call.request.env)
    if has_body(call.request.env):
        raise LocalMisuse("an upgrade has no body", code="malformed_request")
    if connection is None:
        raise LocalMisuse("this server cannot upgrade a connection", code="upgrade_required")
    service.subscriptions.make_room()
    upgrade = EventSocket(service.node.events, service.subscriptions, head_of(accept))
    service.subscriptions.enter(upgrade)
    connection.upgrade = upgrade
    response.status = 101


def accept_of(environ: Mapping[str, Any]) -> str:
    """The answer to the key of an upgrade. Raises LocalMisuse (upgrade_required, malformed_request)."""
    if (
        "websocket" not in _tokens(environ.get("HTTP_UPGRADE"))
        or "upgrade" not in _tokens(environ.get("HTTP_CONNECTION"))
        or environ.get("HTTP_SEC_WEBSOCKET_VERSION", "").strip() != VERSION
        or environ.get("SERVER_PROTOCOL") != "HTTP/1.1"
        or environ.get("REQUEST_METHOD") != "GET"
    ):
        raise LocalMisuse(
            f"this is a WebSocket, version {VERSION}",
            code="upgrade_required",
            hint="connect with a WebSocket client; for plain HTTP there is /api/events",
        )
    key = environ.get("HTTP_SEC_WEBSOCKET_KEY", "").strip()
    try:
        known = len(base64.b64decode(key, validate=True)) == KEY_SIZE
    except (binascii.Error, ValueError):
        known = False
    if not known:
        raise LocalMisuse(f"the Sec-WebSocket-Key is not {KEY_SIZE} bytes in base64", code="malformed_request")
    # Not a use of SHA-1 that keeps a secret: it only shows that the server understood.
    digest = hashlib.sha1(key.encode("ascii") + GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode("ascii")


def head_of(accept: str) -> bytes:
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n\r\n"
    ).encode("ascii")


def _tokens(header: str | None) -> set[str]:
    return {token.strip().lower() for token in (header or "").split(",")}


ROUTES = (
    Route(
        "GET",
        "/ws",
        ws,
        {101: Media("application/json", "One event, gap or answer a message.")},
        problems={426: ("upgrade_required",)},
    ),
)
