"""What a peer's request says, and the answers to it (RFC 8445, section 7.3; RFC 8489, section 9.1.3)."""

from __future__ import annotations

from typing import Any, NamedTuple

from kodectl.core.ice.checks import Credentials, Role
from kodectl.wire.candidates import MAX_PRIORITY, Address
from kodectl.wire.stun import (
    Attribute,
    Message,
    MessageClass,
    Method,
    StunError,
    decode,
    encode,
    is_binding_request,
    verifies,
)

UNDERSTOOD = frozenset(
    {
        Attribute.USERNAME,
        Attribute.MESSAGE_INTEGRITY,
        Attribute.MESSAGE_INTEGRITY_SHA256,
        Attribute.PRIORITY,
        Attribute.USE_CANDIDATE,
        Attribute.XOR_MAPPED_ADDRESS,
        Attribute.ERROR_CODE,
        Attribute.UNKNOWN_ATTRIBUTES,
        Attribute.MAPPED_ADDRESS,
        Attribute.REALM,
        Attribute.NONCE,
    }
)
UNDERSTOOD_IN_ANSWERS = frozenset(
    {
        Attribute.XOR_MAPPED_ADDRESS,
        Attribute.MAPPED_ADDRESS,
        Attribute.MESSAGE_INTEGRITY,
        Attribute.MESSAGE_INTEGRITY_SHA256,
        Attribute.USERNAME,
        Attribute.ERROR_CODE,
        Attribute.UNKNOWN_ATTRIBUTES,
        Attribute.PRIORITY,
        Attribute.USE_CANDIDATE,
    }
)
BAD_REQUEST, UNAUTHENTICATED, UNKNOWN_ATTRIBUTE, ROLE_CONFLICT = 400, 401, 420, 487


class Requested(NamedTuple):
    """A request that proved to come from who has our credentials."""

    message: Message
    priority: int | None
    """None of one that checks only consent."""
    nominates: bool
    role: Role | None


def named_ufrag(data: bytes) -> str | None:
    """Whom a request is for: the ufrag of the agent, where many share a socket. None for anything but an ICE request.
    Raises WireError for what is no STUN message."""
    if not is_binding_request(data):
        return None
    username = decode(data).get(Attribute.USERNAME)
    return None if username is None else str(username).partition(":")[0]


def mapped_in(answer: Message) -> Address | None:
    """Where the peer sees us; None where it does not say, or says what is not understood and has to be."""
    mapped: Address | None = answer.get(Attribute.XOR_MAPPED_ADDRESS)
    return None if answer.unknown_required(UNDERSTOOD_IN_ANSWERS) else mapped


def is_for(message: Message, local: Credentials) -> bool:
    username = message.get(Attribute.USERNAME)
    return username is not None and str(username).partition(":")[0] == local.ufrag


def read_request(data: bytes, message: Message, local: Credentials) -> Requested | bytes | None:
    """What is asked, or the refusal to send; None for silence, where the refusal of who has proved nothing would be larger
    than what asks for it: its sender may be forged."""
    if message.get(Attribute.USERNAME) is None or message.get(Attribute.MESSAGE_INTEGRITY) is None:
        return _not_larger(refusal(message, BAD_REQUEST, ""), data)
    if not is_for(message, local) or not verifies(data, local.key):
        return _not_larger(refusal(message, UNAUTHENTICATED, ""), data)
    unknown = message.unknown_required(UNDERSTOOD)
    if unknown:
        return refusal(message, UNKNOWN_ATTRIBUTE, "Unknown", local, extra=((Attribute.UNKNOWN_ATTRIBUTES, unknown),))
    priority = message.get(Attribute.PRIORITY)
    if priority is not None and not 0 < priority <= MAX_PRIORITY:
        return refusal(message, BAD_REQUEST, "Bad Request", local)
    return Requested(message, priority, bool(message.get(Attribute.USE_CANDIDATE)), _role_in(message))


def _not_larger(reply: bytes, data: bytes) -> bytes | None:
    return reply if len(reply) <= len(data) else None


def answer(request: Message, source: Address, local: Credentials) -> bytes:
    return _pack(request, MessageClass.SUCCESS, ((Attribute.XOR_MAPPED_ADDRESS, source),), local)


def refusal(
    request: Message,
    code: int,
    reason: str,
    local: Credentials | None = None,
    extra: tuple[tuple[int, Any], ...] = (),
) -> bytes:
    """`local`: of a request that was proved; its refusal is proved too."""
    return _pack(request, MessageClass.ERROR, ((Attribute.ERROR_CODE, StunError(code, reason)), *extra), local)


def _role_in(message: Message) -> Role | None:
    for attribute, is_controlling in ((Attribute.ICE_CONTROLLING, True), (Attribute.ICE_CONTROLLED, False)):
        tie_breaker = message.get(attribute)
        if tie_breaker is not None:
            return Role(is_controlling, tie_breaker)
    return None


def _pack(
    request: Message, kind: MessageClass, attributes: tuple[tuple[int, Any], ...], local: Credentials | None
) -> bytes:
    message = Message(kind, Method.BINDING, request.transaction_id, attributes)
    return encode(message, key=None if local is None else local.key, fingerprint=True)
