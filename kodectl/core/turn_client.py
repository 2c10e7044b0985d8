"""One allocation on a TURN server, asking side (RFC 8656), without clock and sockets.

Methods return a `Step`: packets for the server, in their order, and what has happened. Whoever calls sends the packets,
looks at the events, and calls `tick` when `next_deadline` is reached. Nothing is raised from what comes in: what is not
from the server, not asked for, not authentic or not permitted is dropped and counted in `counters`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from enum import Enum, auto
from math import inf

from kodectl.core.turn_answers import MIN_LIFETIME_S, allocated, is_acceptable_alternate, lifetime_of, plain
from kodectl.core.turn_credentials import Seal, seal_for
from kodectl.core.turn_events import (
    NOTHING,
    DataReceived,
    Event,
    Forgotten,
    Lost,
    Mismatched,
    PeerRefused,
    Redirected,
    Step,
)
from kodectl.core.turn_peers import Channels, Permissions
from kodectl.core.turn_refusals import (
    Refusal,
    TurnRefused,
    credentials_wanted,
    no_answer,
    peer_refusal,
    refusal,
    unauthorised,
)
from kodectl.core.turn_requests import (
    LIFETIME_S,
    MAX_CHALLENGES,
    METHODS,
    STREAM_PAUSES_S,
    UDP_PAUSES_S,
    Allocate,
    BindChannel,
    Permit,
    Purpose,
    Refresh,
    Request,
    Requests,
)
from kodectl.errors import KodectlError, WireError
from kodectl.wire.addresses import address_text
from kodectl.wire.channel_data import FIRST_BYTES, pack_channel_data, unpack_channel_data
from kodectl.wire.contacts import is_unicast
from kodectl.wire.stun import ID_SIZE, Attribute, Message, MessageClass, Method, StunError, decode, encode, pack_type
from kodectl.wire.stun_attributes import CODECS, Address

REFRESH_MARGIN_S = 60.0
KEEPALIVE_S = 20.0
"""Over UDP, when nothing else was sent: NATs forget after 30 s at the earliest (measured in the field; RFC 4787 asks for
two minutes)."""
LEAVE_LIMIT_S = 0.5
"""For the answer to what was asked last: longer than nearly all round trips, and a wait that nobody minds."""
MAX_DATA = 65_000
"""What fits into a datagram with everything around it."""

_DATA_INDICATION = pack_type(MessageClass.INDICATION, Method.DATA).to_bytes(2)


class State(Enum):
    IDLE = auto()
    ALLOCATING = auto()
    ALLOCATED = auto()
    LEAVING = auto()
    """Closed while an Allocate was under way: what it may have made is still to be let go."""
    ENDED = auto()


class TurnClient:
    """IDLE -start-> ALLOCATING -success-> ALLOCATED -437-> ALLOCATING; from each of them to ENDED, by `close` (from ALLOCATING
    by way of LEAVING), or with one of the events Mismatched, Redirected and Lost. `before`: the client whose place this one
    takes; who was permitted stays so."""

    def __init__(
        self,
        server: Address,
        credentials: tuple[str, str],
        random_bytes: Callable[[int], bytes],
        *,
        family: int = 4,
        is_stream: bool = False,
        before: TurnClient | None = None,
    ) -> None:
        self.server = server
        self.seal: Seal | None = before.seal if before and before.server == server else None
        self.state = State.IDLE
        self.relayed: Address | None = None
        self.counters: Counter[str] = Counter()
        self._credentials = credentials
        self._random_bytes = random_bytes
        self._family = family
        self._is_stream = is_stream
        self._requests = Requests(random_bytes, STREAM_PAUSES_S if is_stream else UDP_PAUSES_S)
        self._permissions: Permissions = before._permissions if before else Permissions()
        self._channels = Channels()
        self._refresh_at = inf
        self._expires_at = inf
        self._leave_by = inf
        self._allocated_at = -inf
        self._sent_at = -inf
        self._packets: list[bytes] = []
        self._events: list[Event] = []

    # --- What the user wants ----------------------------------------------------------------------------------------------

    def start(self, now: float) -> Step:
        """Asks for the allocation."""
        self._allocate(now)
        return self._step(now)

    def permit(self, ips: Iterable[str], now: float) -> Step:
        """Addresses of another family than the relayed one's, and those that are no host's, are passed over."""
        for ip in ips:
            if self._can_be_peer(ip) and self._permissions.add(ip, now):
                self._permissions.ask_again((ip,), now)
        self._ask_permissions(now)
        return self._step(now)

    def send(self, data: bytes, peer: Address, now: float) -> Step:
        """Dropped unless there is an allocation. A peer that is not permitted yet is permitted."""
        if self.state is not State.ALLOCATED or len(data) > MAX_DATA or not peer[1] or not self._can_be_peer(peer[0]):
            self.counters["not_sent"] += 1
            return NOTHING
        number = self._channels.bound(peer, now)
        if number is not None:
            self._permissions.allows(peer[0], now)
            self._sent_at = now
            return Step((pack_channel_data(number, data, padded=self._is_stream),))
        if self._permissions.add(peer[0], now):
            self._permissions.ask_again((peer[0],), now)
            self._ask_permissions(now)
        channel = self._channels.wanted(peer, now)
        if channel is not None:
            self._begin(BindChannel(channel.number, peer), now)
        contents = ((Attribute.XOR_PEER_ADDRESS, peer), (Attribute.DATA, data))
        self._packets.append(self._indication(Method.SEND, contents))
        return self._step(now)

    def close(self, now: float) -> Step:
        """Asks the server to let the allocation go, once; one that may be on its way, when it comes."""
        if self.state is State.ALLOCATING and self._may_get_one:
            self.state = State.LEAVING
            self._leave_by = now + LEAVE_LIMIT_S
        elif self.state is not State.LEAVING:
            self._leave(self.state is State.ALLOCATED, now)
        return self._step(now)

    @property
    def _may_get_one(self) -> bool:
        """A server lets go by itself with a stream, and of what was asked without credentials it gives nothing."""
        return not self._is_stream and self._requests.is_sealed

    def _leave(self, is_held: bool, now: float) -> None:
        self._end()
        if is_held:
            self._begin(Refresh(0), now)
            self._requests.clear()

    # --- What comes in ----------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> Step | None:
        """Of a message that came from the server's address; None: not one of ours."""
        if self.state is State.ENDED or not data:
            return None
        if data[0] in FIRST_BYTES:
            return self._receive_channel_data(data)
        if data[:2] == _DATA_INDICATION:
            return self._receive_indication(data, now)
        request = self._requests.answered_by(data)
        if request is None:
            return None
        try:
            self._receive_answer(request, data, now)
        except WireError as fault:
            request.fault = fault
            self.counters["unusable_answers"] += 1
        return self._step(now)

    def _receive_channel_data(self, data: bytes) -> Step | None:
        try:
            number, payload = unpack_channel_data(data)
        except WireError:
            return None
        peer = self._channels.peer_of(number)
        return None if peer is None else Step((), (DataReceived(payload, peer),))

    def _receive_indication(self, data: bytes, now: float) -> Step | None:
        try:
            message = decode(data)
        except WireError:
            return None
        peer, payload = message.get(Attribute.XOR_PEER_ADDRESS), message.get(Attribute.DATA)
        if peer is None or payload is None or message.unknown_required(CODECS):
            # Most of them carry ICMP errors (section 11.6), which prove nothing: anybody can have them made.
            self.counters["indications_dropped"] += 1
            return NOTHING
        peer = plain(peer)
        if not self._permissions.allows(peer[0], now):
            self.counters["data_of_strangers"] += 1
            return NOTHING
        return Step((), (DataReceived(payload, peer),))

    def _receive_answer(self, request: Request, data: bytes, now: float) -> None:
        """Raises WireError for what cannot be the answer: the request goes on."""
        message = decode(data)
        if message.transaction_id != request.transaction_id or message.method != METHODS[type(request.purpose)]:
            raise WireError("STUN message that answers something else")
        if message.kind not in (MessageClass.SUCCESS, MessageClass.ERROR):
            raise WireError(f"STUN {message.kind.name.lower()} in place of an answer")
        error: StunError | None = message.get(Attribute.ERROR_CODE) if message.kind is MessageClass.ERROR else None
        if self.state is State.LEAVING:
            self._leave(message.kind is MessageClass.SUCCESS, now)
            return
        if message.kind is MessageClass.ERROR and error is None:
            raise WireError("STUN error without a number")
        # A challenge comes from who cannot, or does not want to, check who asks: it is never sealed.
        is_challenge = error is not None and error.code in (Refusal.UNAUTHENTICATED, Refusal.STALE_NONCE)
        if request.seal is not None and not is_challenge and not request.seal.vouches(data):
            raise WireError("the TURN server's answer is not authentic")
        unknown = message.unknown_required(CODECS)
        if unknown:
            raise WireError(f"STUN answer with the unknown attribute 0x{unknown[0]:04x}")
        if error is not None and is_challenge:
            self._challenged(request, message, error, now)
        elif error is not None:
            self._requests.end(request)
            self._refused(request.purpose, message, error, now)
        else:
            self._succeeded(request, message, now)

    def _challenged(self, request: Request, message: Message, error: StunError, now: float) -> None:
        username, password = self._credentials
        if not username:
            self._requests.end(request)
            self._failed(request.purpose, credentials_wanted(self.server), now)
            return
        seal = seal_for(message, username, password, request.seal)
        self._requests.end(request)
        is_same_realm = request.seal is not None and request.seal.realm == seal.realm
        if error.code == Refusal.UNAUTHENTICATED and is_same_realm:
            self._failed(request.purpose, unauthorised(self.server), now)
        elif request.challenges >= MAX_CHALLENGES:
            words = f"the TURN server at {address_text(*self.server)} takes no nonce, not even its own"
            self._failed(request.purpose, TurnRefused(error.code, words), now)
        else:
            self.seal = seal
            self._begin(request.purpose, now, request.challenges + 1)

    def _succeeded(self, request: Request, message: Message, now: float) -> None:
        purpose = request.purpose
        if isinstance(purpose, Allocate):
            event = allocated(message, purpose)
            self.state = State.ALLOCATED
            self.relayed = event.relayed
            self._allocated_at = now
            self._lives(event.lifetime_s, now)
            self._events.append(event)
            self._permissions.forgotten(now)
            self._ask_permissions(now)
        elif isinstance(purpose, Refresh):
            self._lives(lifetime_of(message), now)
        elif isinstance(purpose, Permit):
            self._permissions.granted(purpose.ips, now)
        else:
            self._channels.granted(purpose.number, now)
        self._requests.end(request)

    def _lives(self, lifetime_s: int, now: float) -> None:
        self._expires_at = now + lifetime_s
        self._refresh_at = now + max(lifetime_s / 4, min(lifetime_s / 2, lifetime_s - REFRESH_MARGIN_S))

    # --- What goes wrong --------------------------------------------------------------------------------------------------

    def _refused(self, purpose: Purpose, message: Message, error: StunError, now: float) -> None:
        alternate: Address | None = message.get(Attribute.ALTERNATE_SERVER)
        if isinstance(purpose, Allocate) and error.code == Refusal.ALLOCATION_MISMATCH:
            self._end(Mismatched(refusal(error, self.server)))
        elif isinstance(purpose, Allocate) and error.code == Refusal.TRY_ALTERNATE and alternate is not None:
            self._redirected(plain(alternate))
        elif error.code == Refusal.ALLOCATION_MISMATCH:
            self._forgotten(now)
        elif isinstance(purpose, Permit) and len(purpose.ips) > 1:
            # One of them is enough for a refusal of all (section 10.2).
            for ip in purpose.ips:
                self._begin(Permit((ip,)), now)
        else:
            self._failed(purpose, refusal(error, self.server), now, error)

    def _failed(self, purpose: Purpose, error: KodectlError, now: float, answer: StunError | None = None) -> None:
        """For good: with the same question again there would be the same answer."""
        if isinstance(purpose, Allocate | Refresh) or answer is None or error.code == "turn_unauthorised":
            self._end(Lost(error))
        elif isinstance(purpose, Permit):
            self._permissions.refused(purpose.ips[0])
            self._events.append(PeerRefused(purpose.ips[0], peer_refusal(purpose.ips[0], answer)))
        else:
            self._channels.refused(purpose.number)

    def _forgotten(self, now: float) -> None:
        if now < self._allocated_at + MIN_LIFETIME_S:
            words = f"the TURN server at {address_text(*self.server)} forgets its allocations as soon as it gives them"
            self._end(Lost(TurnRefused(Refusal.ALLOCATION_MISMATCH, words)))
            return
        self._events.append(Forgotten())
        self._allocate(now)

    def _redirected(self, alternate: Address) -> None:
        if is_acceptable_alternate(self.server, alternate):
            self._end(Redirected(alternate))
            return
        words = f"the TURN server at {address_text(*self.server)} sends its clients to {address_text(*alternate)}"
        self._end(Lost(TurnRefused(Refusal.TRY_ALTERNATE, words, hint="take another server: this one may be a trap")))

    # --- Time -------------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> Step:
        if self.state is State.LEAVING:
            if now >= self._leave_by:
                self._end()
            return NOTHING
        again, ended = self._requests.due(now)
        self._packets += [request.packet for request in again]
        for request in ended:
            self._unanswered(request, now)
        if self.state is State.ALLOCATED:
            self._keep_up(now)
        return self._step(now)

    def next_deadline(self) -> float | None:
        if self.state is State.LEAVING:
            return self._leave_by
        deadlines = [self._requests.next_deadline() or inf]
        if self.state is State.ALLOCATED:
            deadlines += [self._refresh_at, self._expires_at, self._keepalive_at]
            deadlines += [self._permissions.next_deadline(), self._channels.next_deadline()]
        deadline = min(deadlines)
        return None if deadline == inf else deadline

    def _unanswered(self, request: Request, now: float) -> None:
        purpose = request.purpose
        if isinstance(purpose, Allocate):
            self._end(Lost(request.fault or no_answer(self.server)))
        elif isinstance(purpose, Refresh):
            # As long as the allocation may be there it is asked for: a way that was cut may have come back.
            self._refresh_at = now
        elif isinstance(purpose, Permit):
            self._permissions.ask_again(purpose.ips, now)
        else:
            self._channels.ask_again(purpose.number, now)

    def _keep_up(self, now: float) -> None:
        if now >= self._expires_at:
            self._end(Lost(no_answer(self.server)))
            return
        if now >= self._refresh_at:
            self._refresh_at = inf
            self._begin(Refresh(LIFETIME_S), now)
        self._ask_permissions(now)
        for channel in self._channels.take_due(now):
            self._begin(BindChannel(channel.number, channel.peer), now)
        if not self._packets and now >= self._keepalive_at:
            self._packets.append(self._indication(Method.BINDING, ()))

    @property
    def _keepalive_at(self) -> float:
        return inf if self._is_stream else self._sent_at + KEEPALIVE_S

    # --- Parts ------------------------------------------------------------------------------------------------------------

    def _allocate(self, now: float) -> None:
        """From nothing: what the server knew of channels is gone with the allocation they were of."""
        self.state = State.ALLOCATING
        self._requests.clear()
        self._channels = Channels()
        self._refresh_at = self._expires_at = inf
        self._begin(Allocate(self._family), now)

    def _ask_permissions(self, now: float) -> None:
        if self.state is State.ALLOCATED:
            for ips in self._permissions.take_due(now):
                self._begin(Permit(ips), now)

    def _begin(self, purpose: Purpose, now: float, challenges: int = 0) -> None:
        request = self._requests.begin(purpose, self.seal, now, challenges)
        self._packets.append(request.packet)

    def _indication(self, method: Method, contents: tuple[tuple[int, object], ...]) -> bytes:
        return encode(Message(MessageClass.INDICATION, method, self._random_bytes(ID_SIZE), contents))

    def _can_be_peer(self, ip: str) -> bool:
        return is_unicast(ip) and (":" in ip) == (self._family == 6)

    def _end(self, event: Event | None = None) -> None:
        self.state = State.ENDED
        self._requests.clear()
        if event is not None:
            self._events.append(event)

    def _step(self, now: float) -> Step:
        if not self._packets and not self._events:
            return NOTHING
        if self._packets:
            self._sent_at = now
        step = Step(tuple(self._packets), tuple(self._events))
        self._packets.clear()
        self._events.clear()
        return step
