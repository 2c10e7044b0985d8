"""/api/dht: values and nodes of the distributed hash table."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

from kodectl.api.network import DISK_PROBLEMS, WAITING, base64_of
from kodectl.api.routing import Call, Route, Service
from kodectl.errors import LocalMisuse
from kodectl.node.views import LookupView, PutView, ValueView
from kodectl.settings import DEFAULT_VALUE_TTL_S, MAX_VALUE_TTL_S
from kodectl.wire.record import MAX_VALUE


class PutBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value, and how long it is to be kept."""

    value: Annotated[bytes, base64_of(MAX_VALUE)]
    ttl_s: Annotated[float, msgspec.Meta(ge=1, le=MAX_VALUE_TTL_S)] = DEFAULT_VALUE_TTL_S


def put(service: Service, call: Call) -> PutView:
    """Signs a value and stores it at the nodes closest to its key, which is the hash of the text in the path."""
    body: PutBody = call.body
    return service.node.dht_put(_key_of(call.path["key"]), body.value, body.ttl_s)


def get(service: Service, call: Call) -> ValueView:
    """The values under a key, one for each publisher."""
    return service.node.dht_get(_key_of(call.path["key"]))


def find_node(service: Service, call: Call) -> LookupView:
    """A lookup of a node id, with its trace. `found` says whether the node itself was found."""
    node_id = call.path["node_id"]
    if not re.fullmatch(r"[0-9a-fA-F]{64}", node_id):
        raise LocalMisuse(f"a node id has 64 hex digits, not {node_id!r}", code="malformed_id")
    return service.node.dht_find_node(node_id.lower())


def _key_of(text: str) -> bytes:
    """Raises LocalMisuse for a path that is not UTF-8: falcon puts U+FFFD for what it cannot read, and keys would fall
    together."""
    if "\ufffd" in text:
        raise LocalMisuse("a key in a path is UTF-8", code="malformed_key")
    return text.encode()


ROUTES = (
    Route(
        "PUT",
        "/api/dht/{key}",
        put,
        {200: PutView},
        body=PutBody,
        problems={400: ("malformed_key", "value_too_large"), 404: ("not_stored",)} | DISK_PROBLEMS,
        limit=WAITING,
    ),
    Route(
        "GET",
        "/api/dht/{key}",
        get,
        {200: ValueView},
        problems={400: ("malformed_key",), 404: ("value_not_found",)},
        limit=WAITING,
    ),
    Route(
        "GET",
        "/api/dht/nodes/{node_id}",
        find_node,
        {200: LookupView},
        problems={400: ("malformed_id",)},
        limit=WAITING,
    ),
)
