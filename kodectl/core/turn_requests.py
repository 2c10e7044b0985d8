"""Requests to a TURN server that are under way: what each is for, when it is repeated, when it is given up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from kodectl.core.turn_credentials import Seal
from kodectl.errors import PeerFault
from kodectl.wire.stun import ID_SIZE, Attribute, Message, MessageClass, Method, encode
from kodectl.wire.stun_attributes import Address

UDP_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 8.0)
"""After each sending (RFC 8489, section 6.2.1: RTO 500 ms, Rc 7, Rm 16)."""
STREAM_PAUSES_S = (39.5,)
"""Section 6.2.2: sent once, and waited for as long."""
MAX_CHALLENGES = 3
"""Of one request: its first 401, and a nonce that goes stale on the way, and again."""
UDP = 17
FAMILY_NUMBERS = {4: 1, 6: 2}
LIFETIME_S = 600
"""RFC 8656's default, and what most servers give whatever is asked."""


class Allocate(NamedTuple):
    family: int

    @property
    def attributes(self) -> tuple[tuple[int, Any], ...]:
        asked: tuple[tuple[int, Any], ...] = ((Attribute.REQUESTED_TRANSPORT, UDP), (Attribute.LIFETIME, LIFETIME_S))
        # IPv4 is the default, and servers from before RFC 6156 refuse the attribute.
        return (
            asked if self.family == 4 else (*asked, (Attribute.REQUESTED_ADDRESS_FAMILY, FAMILY_NUMBERS[self.family]))
        )


class Refresh(NamedTuple):
    lifetime_s: int

    @property
    def attributes(self) -> tuple[tuple[int, Any], ...]:
        return ((Attribute.LIFETIME, self.lifetime_s),)


class Permit(NamedTuple):
    ips: tuple[str, ...]

    @property
    def attributes(self) -> tuple[tuple[int, Any], ...]:
        return tuple((Attribute.XOR_PEER_ADDRESS, (ip, 0)) for ip in self.ips)


class BindChannel(NamedTuple):
    number: int
    peer: Address

    @property
    def attributes(self) -> tuple[tuple[int, Any], ...]:
        return ((Attribute.CHANNEL_NUMBER, self.number), (Attribute.XOR_PEER_ADDRESS, self.peer))


Purpose = Allocate | Refresh | Permit | BindChannel

METHODS: dict[type[Purpose], Method] = {
    Allocate: Method.ALLOCATE,
    Refresh: Method.REFRESH,
    Permit: Method.CREATE_PERMISSION,
    BindChannel: Method.CHANNEL_BIND,
}


LENGTHENING = (Attribute.SOFTWARE, "kodectl".ljust(100))
"""To a request without credentials: nodes send strangers no answer that is larger than what they asked (docs/protocol.md)."""


class Request:
    """One transaction. `seal` is what it was sealed with; None: sent without credentials."""

    __slots__ = ("challenges", "due_at", "fault", "packet", "pauses", "purpose", "seal", "transaction_id")

    def __init__(self, transaction_id: bytes, purpose: Purpose, seal: Seal | None, challenges: int) -> None:
        self.transaction_id = transaction_id
        self.purpose = purpose
        self.seal = seal
        self.challenges = challenges
        contents = purpose.attributes if seal else (*purpose.attributes, LENGTHENING)
        message = Message(MessageClass.REQUEST, METHODS[type(purpose)], transaction_id, contents)
        self.packet = seal.packed(message) if seal else encode(message)
        self.pauses: Iterator[float] = iter(())
        self.due_at = 0.0
        self.fault: PeerFault | None = None
        """Of an answer that could not be used: the reason, if nothing better comes."""


class Requests:
    """The table, by transaction id. Who begins requests keeps their number within bounds."""

    def __init__(self, random_bytes: Callable[[int], bytes], pauses_s: tuple[float, ...]) -> None:
        self._random_bytes = random_bytes
        self._pauses_s = pauses_s
        self._waiting: dict[bytes, Request] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_sealed(self) -> bool:
        """Whether any of them proves who asks."""
        return any(request.seal is not None for request in self._waiting.values())

    def begin(self, purpose: Purpose, seal: Seal | None, now: float, challenges: int = 0) -> Request:
        request = Request(self._random_bytes(ID_SIZE), purpose, seal, challenges)
        request.pauses = iter(self._pauses_s)
        request.due_at = now + next(request.pauses)
        self._waiting[request.transaction_id] = request
        return request

    def answered_by(self, data: bytes) -> Request | None:
        return self._waiting.get(data[8:20])

    def end(self, request: Request) -> None:
        self._waiting.pop(request.transaction_id, None)

    def clear(self) -> None:
        self._waiting.clear()

    def due(self, now: float) -> tuple[list[Request], list[Request]]:
        """Those to send again, and those that have ended without an answer, which are no longer here."""
        again: list[Request] = []
        ended: list[Request] = []
        for request in [request for request in self._waiting.values() if request.due_at <= now]:
            pause_s = next(request.pauses, None)
            if pause_s is None:
                self.end(request)
                ended.append(request)
            else:
                request.due_at = now + pause_s
                again.append(request)
        return again, ended

    def next_deadline(self) -> float | None:
        return min((request.due_at for request in self._waiting.values()), default=None)
