"""Answering Binding requests: RFC 8489, RFC 3489 for its clients, and RFC 5780 where there are two addresses.

A sender's address can be forged, so what is answered is limited for each network and altogether. With one address an
answer is never larger than 1.5 times its request, both counted with their IP and UDP headers: it has the mapped
address and nothing else, and FINGERPRINT only where the request had it. With two addresses RFC 5780 (section 6.1) wants
four addresses in each answer, which is twice the size of the smallest request.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from kodectl.core.limits import SharedBudget, TokenBucket
from kodectl.core.table import subnet_of
from kodectl.errors import WireError
from kodectl.wire.stun import (
    HEADER_SIZE,
    Address,
    Attribute,
    Change,
    Message,
    MessageClass,
    Method,
    StunError,
    decode,
    encode,
    pack_type,
)

ANSWERS_PER_S = 500.0
ANSWER_BURST = 1_000.0
"""Of a node: at 13 us each less than 1 % of a core, for something that is not its work."""
NETWORK_ANSWERS_PER_S = 10.0
NETWORK_BURST = 60.0
"""One network (/24, /64): a probe with all its tests and repetitions sends about 30 requests to a server."""

SERVER_ANSWERS_PER_S = 10_000.0
SERVER_BURST = 20_000.0
SERVER_NETWORK_ANSWERS_PER_S = 100.0
SERVER_NETWORK_BURST = 500.0
"""Of a server that does nothing else. A carrier puts some thousand customers behind one network's addresses."""

_UNDERSTOOD = frozenset(
    {
        Attribute.MAPPED_ADDRESS,
        Attribute.CHANGE_REQUEST,
        # Credentials are understood, and not asked for (RFC 8489, section 12).
        Attribute.USERNAME,
        Attribute.MESSAGE_INTEGRITY,
        Attribute.ERROR_CODE,
        Attribute.UNKNOWN_ATTRIBUTES,
        Attribute.REALM,
        Attribute.NONCE,
        Attribute.MESSAGE_INTEGRITY_SHA256,
        Attribute.PASSWORD_ALGORITHM,
        Attribute.USERHASH,
        Attribute.XOR_MAPPED_ADDRESS,
    }
)
# RFC 3489's RESPONSE-ADDRESS is refused everywhere: it has a server send to whoever the sender names.
_UNDERSTOOD_BY_TWO = _UNDERSTOOD | {Attribute.PADDING, Attribute.RESPONSE_PORT}

_BINDING_REQUEST = pack_type(MessageClass.REQUEST, Method.BINDING).to_bytes(2)
_NO_CHANGE = Change(False, False)


class Place(NamedTuple):
    """One of a server's four sockets: which of its addresses, which of its ports (0 or 1)."""

    ip: int
    port: int

    def changed(self, change: Change) -> Place:
        return Place(self.ip ^ change.ip, self.port ^ change.port)


FIRST = Place(0, 0)


class Grid(NamedTuple):
    """Two addresses and two ports, as they are seen from outside."""

    ips: tuple[str, str]
    ports: tuple[int, int]

    def address(self, place: Place) -> Address:
        return self.ips[place.ip], self.ports[place.port]


class Reply(NamedTuple):
    """`data` is to leave from `place`, to `target`."""

    data: bytes
    place: Place
    target: Address


class _Refused(Exception):
    """Carries what goes into the error answer."""

    def __init__(self, code: int, reason: str, types: tuple[int, ...] = ()) -> None:
        super().__init__(code)
        self.error = StunError(code, reason)
        self.types = types


def node_budget() -> SharedBudget:
    return SharedBudget(TokenBucket(ANSWERS_PER_S, ANSWER_BURST), NETWORK_ANSWERS_PER_S, NETWORK_BURST)


def server_budget() -> SharedBudget:
    total = TokenBucket(SERVER_ANSWERS_PER_S, SERVER_BURST)
    return SharedBudget(total, SERVER_NETWORK_ANSWERS_PER_S, SERVER_NETWORK_BURST)


class BindingResponder:
    """Answers what is a Binding request and leaves no state but the budget's. `counters`: answered, refused, over_rate,
    malformed, silent (a classic client asked for an answer from an address that is not there)."""

    def __init__(self, budget: SharedBudget | None = None, grid: Grid | None = None) -> None:
        self._budget = budget or node_budget()
        self._grid = grid
        self._understood = _UNDERSTOOD_BY_TWO if grid else _UNDERSTOOD
        self.counters: Counter[str] = Counter()

    def answer(self, data: bytes, source: Address, now: float) -> bytes | None:
        """Of a server with one address; None where there is nothing to say."""
        reply = self.reply(data, source, now)
        return reply.data if reply else None

    def reply(self, data: bytes, source: Address, now: float, place: Place = FIRST) -> Reply | None:
        """`place`: where `data` came in."""
        if data[:2] != _BINDING_REQUEST or len(data) < HEADER_SIZE:
            return None
        if not self._budget.take(subnet_of(source[0]), now):
            self.counters["over_rate"] += 1
            return None
        try:
            request = decode(data)
        except WireError:
            self.counters["malformed"] += 1
            return None
        try:
            change = self._accepted(request)
        except _Refused as refused:
            self.counters["refused"] += 1
            return Reply(_refusal(request, refused), place, source)
        if any(change) and self._grid is None:
            self.counters["silent"] += 1
            return None
        self.counters["answered"] += 1
        origin = place.changed(change)
        answer = _pack(request, MessageClass.SUCCESS, self._contents(request, source, place, origin))
        return Reply(answer, origin, (source[0], request.get(Attribute.RESPONSE_PORT) or source[1]))

    def _accepted(self, request: Message) -> Change:
        """From where the answer is to leave. Raises _Refused."""
        unknown = request.unknown_required(self._understood)
        if unknown:
            raise _Refused(420, "Unknown", unknown)
        change: Change = request.get(Attribute.CHANGE_REQUEST) or _NO_CHANGE
        # RFC 5780, section 6.1: an error where there is no other address. A client of RFC 3489 waits for silence there,
        # and some (pystun3) take any answer for the one from the other address.
        if any(change) and self._grid is None and not request.is_classic:
            raise _Refused(420, "Unknown", (Attribute.CHANGE_REQUEST,))
        if request.get(Attribute.PADDING) is not None and request.get(Attribute.RESPONSE_PORT) is not None:
            raise _Refused(400, "Bad Request")
        return change

    def _contents(self, request: Message, source: Address, place: Place, origin: Place) -> list[tuple[int, Any]]:
        mapped = Attribute.MAPPED_ADDRESS if request.is_classic else Attribute.XOR_MAPPED_ADDRESS
        contents: list[tuple[int, Any]] = [(mapped, source)]
        if self._grid is None:
            return contents
        told = self._grid.address(origin), self._grid.address(place.changed(Change(True, True)))
        if request.is_classic:
            return [*contents, (Attribute.SOURCE_ADDRESS, told[0]), (Attribute.CHANGED_ADDRESS, told[1])]
        contents += [
            (Attribute.MAPPED_ADDRESS, source),
            (Attribute.RESPONSE_ORIGIN, told[0]),
            (Attribute.OTHER_ADDRESS, told[1]),
        ]
        padding = request.get(Attribute.PADDING)
        if padding is not None:
            # Section 6.1 suggests the size of the MTU, whatever was sent: that would be an amplifier.
            contents.append((Attribute.PADDING, bytes(len(padding))))
        return contents


def _refusal(request: Message, refused: _Refused) -> bytes:
    contents: list[tuple[int, Any]] = [(Attribute.ERROR_CODE, refused.error)]
    if refused.types:
        # RFC 3489, section 11.2.10: an even number, one of them repeated.
        filler = refused.types[:1] if request.is_classic and len(refused.types) % 2 else ()
        contents.append((Attribute.UNKNOWN_ATTRIBUTES, refused.types + filler))
    return _pack(request, MessageClass.ERROR, contents)


def _pack(request: Message, kind: MessageClass, contents: list[tuple[int, Any]]) -> bytes:
    answer = Message(kind, request.method, request.transaction_id, tuple(contents))
    return encode(answer, fingerprint=request.get(Attribute.FINGERPRINT) is not None)
