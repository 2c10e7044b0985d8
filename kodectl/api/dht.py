"""/api/dht: values and nodes of the distributed hash table."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
from falcon.request import Request
from falcon.response import Response

from kodectl.api.problems import encode
from kodectl.api.requests import Gate, check_seconds, read_json
from kodectl.errors import LocalMisuse
from kodectl.settings import DEFAULT_VALUE_TTL_S, MAX_VALUE_TTL_S

if TYPE_CHECKING:
    from kodectl.node.node import Node


class PutBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    value: bytes
    ttl_s: float = DEFAULT_VALUE_TTL_S


class KeyResource:
    """PUT and GET of the values under a key; the key is the text of the path, hashed by the node."""

    def __init__(self, node: Node, waiting: Gate) -> None:
        self._node = node
        self._waiting = waiting

    def on_put(self, request: Request, response: Response, key: str) -> None:
        body = read_json(request, PutBody)
        ttl_s = check_seconds(body.ttl_s, "ttl_s", MAX_VALUE_TTL_S)
        with self._waiting.enter():
            response.data = encode(self._node.dht_put(_key_of(key), body.value, ttl_s))

    def on_get(self, request: Request, response: Response, key: str) -> None:
        with self._waiting.enter():
            response.data = encode(self._node.dht_get(_key_of(key)))


def _key_of(text: str) -> bytes:
    """Raises LocalMisuse for a path that is not UTF-8: falcon puts U+FFFD for what it cannot read, and keys would fall
    together."""
    if "\ufffd" in text:
        raise LocalMisuse("a key in a path is UTF-8", code="malformed_key")
    return text.encode()


class NodesResource:
    """A lookup of a node id, with its trace. `found` says whether the node itself was found."""

    def __init__(self, node: Node, waiting: Gate) -> None:
        self._node = node
        self._waiting = waiting

    def on_get(self, request: Request, response: Response, node_id: str) -> None:
        if not re.fullmatch(r"[0-9a-fA-F]{64}", node_id):
            raise LocalMisuse(f"a node id has 64 hex digits, not {node_id!r}", code="malformed_id")
        with self._waiting.enter():
            response.data = encode(self._node.dht_find_node(node_id.lower()))
