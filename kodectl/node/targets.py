"""What people may name a node by: `enode://...`, a node id (64 hex digits), or `ip:port`."""

from __future__ import annotations

from kodectl.errors import LocalMisuse, WireError
from kodectl.wire.enode import ZERO_ID, Enode, parse_enode


def parse_node_id(text: str) -> bytes:
    """Raises LocalMisuse (code bad_node_id)."""
    try:
        node_id = bytes.fromhex(text)
    except ValueError:
        node_id = b""
    if len(node_id) != 32 or len(text) != 64:
        raise LocalMisuse(f"not a node id (64 hex digits): {text[:80]!r}", code="bad_node_id")
    return node_id


def parse_target(text: str) -> Enode:
    """An enode whose host is empty when only the id is known, and whose id is zeros when only the address is.

    Raises LocalMisuse (code bad_target)."""
    try:
        if text.startswith("enode:"):
            return parse_enode(text)
        if len(text) == 64 and ":" not in text and "." not in text:
            return Enode(parse_node_id(text), "", 0, 0)
        return parse_enode(f"enode://{ZERO_ID.hex()}@{text}")
    except WireError as error:
        raise LocalMisuse(
            f"not a target: {text[:200]!r}: {error.message.removeprefix('enode: ')}",
            code="bad_target",
            hint="enode://..., 64 hex digits, or ip:port",
        ) from error
