"""A TURN server without sockets (RFC 8656): what each datagram of a client or a peer leads to.

Who owns the sockets hands in what arrives and carries out the effects that come back. Relayed sockets are asked for with
`Bind` and handed in with `bound`; nothing is kept between the two. Data of channels has a way of its own, `channel_data`
and `from_peer`: it is nearly all of a relay's work.

Strangers leave nothing behind. What they are told costs them a share of a budget, since their address may be forged: an
answer with a challenge is about 104 bytes for 20 to 28 of a request (2.4 to 2.8 times, with the headers of IP and UDP),
and has to have a realm and a nonce in it. With `may_grow` only those over UDP whose address is known get more than they
sent. Who has an allocation pays for requests from its own rate instead, so a flood of strangers keeps newcomers out at
worst.

What is refused on purpose: DONT-FRAGMENT (420; the sockets cannot be told), TCP relaying (442), a second relayed address
of the other family (ADDITIONAL-ADDRESS-FAMILY: the IPv4 one comes, with 440 for the other, as section 7.2 has it).
"""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Sequence
from math import inf
from typing import Any, NamedTuple

from kodectl.core.limits import SharedBudget
from kodectl.core.turn_access import NONCE_LIFETIME_S, Asker, Client, Gate, Refused
from kodectl.core.turn_allocations import (
    DEFAULT_LIFETIME_S,
    MAX_LIFETIME_S,
    Allocation,
    Allocations,
    Relay,
    RelayLimits,
    network_of,
)
from kodectl.core.turn_reach import Reach, ReachPolicy
from kodectl.errors import WireError
from kodectl.wire.channel_data import FIRST_BYTES as CHANNEL_FIRST_BYTES
from kodectl.wire.channel_data import HEADER_SIZE, pack_channel_data
from kodectl.wire.stun import ID_SIZE, Attribute, Message, MessageClass, Method, decode, encode, looks_like_stun
from kodectl.wire.stun_attributes import CODECS, TOKEN_SIZE, Address, AddressError

REPEATS_KNOWN_S = 40.0
"""How long an answer is kept for repetitions of its request: a client gives up after 39.5 s (RFC 8489, section 6.2.1)."""
MAX_REPEATS_KNOWN = 4096
"""Answers kept; 150 bytes each. Only of users, and only where doing it twice would end otherwise."""
MAX_DONE_KNOWN = 4096
"""Requests known to be done; 200 bytes each."""
RESERVATION_LIFETIME_S = 30.0
"""Section 7.2: at least 30 s."""
MAX_RESERVATIONS = 256
MAX_REQUEST = 2048
"""Bytes of a request: the largest has 64 peers of IPv6, and credentials."""

UDP = 17
FAMILIES = {1: 4, 2: 6}
IPV6_NUMBER = 2
EVEN_PORT_AND_NEXT = 0x80

# DONT-FRAGMENT is not among them: see above.
_UNDERSTOOD = frozenset(CODECS) - {Attribute.DONT_FRAGMENT, Attribute.USERHASH, Attribute.CHANGE_REQUEST}
_channel_header = struct.Struct("!HH")


class Reply(NamedTuple):
    """`data` is to go to the client."""

    data: bytes
    client: Client


class Forward(NamedTuple):
    """`data` is to leave from the relayed socket, to a peer."""

    relay: Relay
    data: bytes
    peer: Address


class Bind(NamedTuple):
    """A relayed socket is to be opened, and handed in with `bound`."""

    client: Client
    family: int
    is_even: bool
    """Its port has to be even."""
    with_next: bool
    """The next port is to be opened too, and reserved."""
    asker: Asker
    request: Message


class Close(NamedTuple):
    """The relayed socket is over; `client` is who had it, None for a reservation."""

    relay: Relay
    client: Client | None


RepeatKey = tuple[Client, int, bytes, str]
Effect = Reply | Forward | Bind | Close


class Reservation(NamedTuple):
    relay: Relay
    family: int
    expires_at: float


class TurnResponder:
    """Answers clients and relays for them. `families`: 4 and 6, as far as relayed sockets can be had.
    `channel_first_bytes`: of the channel numbers that are granted. `may_grow`: whether
    an answer to who is not authentic may be larger than his request, by his IP address. Nothing that arrives raises
    anything; `counters`: answered, challenged (401, 438), refused, over_rate, too_small, malformed, no_allocation,
    no_permission, no_channel, over_throughput, allocations, expired, and relayed_packets and relayed_bytes, which are
    attributes."""

    def __init__(
        self,
        gate: Gate,
        reach: ReachPolicy,
        limits: RelayLimits,
        families: Collection[int],
        budget: SharedBudget,
        random_bytes: Callable[[int], bytes],
        channel_first_bytes: range = CHANNEL_FIRST_BYTES,
        may_grow: Callable[[str], bool] = lambda ip: True,
    ) -> None:
        self._gate = gate
        self._may_grow = may_grow
        self._reach = reach.reach
        self._limits = limits
        self._families = frozenset(families)
        self._budget = budget
        self._random_bytes = random_bytes
        self._allocations = Allocations(limits)
        self._reservations: dict[bytes, Reservation] = {}
        self._repeats: OrderedDict[RepeatKey, tuple[bytes, float]] = OrderedDict()
        self._done: OrderedDict[RepeatKey, float] = OrderedDict()
        """Requests that have allocated or ended something, until their nonces end: somebody on the way may have kept them, and
        send them again in the client's name once that would do something again."""
        self.allocation_of = self._allocations.get
        self.holder_of = self._allocations.at
        self.channel_first_bytes = channel_first_bytes
        self.counters: Counter[str] = Counter()
        self.relayed_packets = self.relayed_bytes = 0

    def __len__(self) -> int:
        """Allocations there are."""
        return len(self._allocations)

    # Data

    def channel_data(self, data: bytes, client: Client, now: float) -> Forward | None:
        """ChannelData of a client: what is to be sent on."""
        allocation = self.allocation_of(client)
        if allocation is None:
            self.counters["no_allocation"] += 1
            return None
        if len(data) < HEADER_SIZE:
            self.counters["malformed"] += 1
            return None
        number, size = _channel_header.unpack_from(data)
        channel = allocation.channels.get(number)
        if channel is None or channel.expires_at <= now:
            self.counters["no_channel"] += 1
            return None
        content = data[HEADER_SIZE : HEADER_SIZE + size]
        if len(content) < size:
            self.counters["malformed"] += 1
            return None
        return self._forwarded(allocation, content, channel.peer, channel.reach, now)

    def from_peer(self, allocation: Allocation, data: bytes, peer: Address, now: float) -> bytes | None:
        """What came to the relayed socket, in the form in which it is to go to the client."""
        if not allocation.permits(peer[0], now) or allocation.expires_at <= now:
            self.counters["no_permission"] += 1
            return None
        if not self._lets(allocation, len(data), now):
            return None
        channel = allocation.channel_to.get(peer)
        try:
            if channel is not None and channel.expires_at > now:
                return pack_channel_data(channel.number, data, padded=len(allocation.client) > 2)
            contents = ((Attribute.XOR_PEER_ADDRESS, peer), (Attribute.DATA, data))
            return encode(Message(MessageClass.INDICATION, Method.DATA, self._random_bytes(ID_SIZE), contents))
        except WireError:  # longer than an indication can say
            self.counters["malformed"] += 1
            return None

    def _forwarded(
        self, allocation: Allocation, content: bytes, peer: Address, reach: Reach, now: float
    ) -> Forward | None:
        if reach is Reach.RELAYS and not self._allocations.is_other_relay(peer, allocation):
            self.counters["no_permission"] += 1
            return None
        if allocation.expires_at <= now or not self._lets(allocation, len(content), now):
            return None
        return Forward(allocation.relay, content, peer)

    def _lets(self, allocation: Allocation, size: int, now: float) -> bool:
        if allocation.throughput.lets(size, now) and self._allocations.total_lets(allocation.share, size, now):
            self.relayed_packets += 1
            self.relayed_bytes += size
            return True
        self.counters["over_throughput"] += 1
        return False

    def _send(self, indication: Message, client: Client, now: float) -> Sequence[Effect]:
        """A Send indication. It is not authenticated: the permission was (section 11.2)."""
        allocation = self.allocation_of(client)
        if allocation is None:
            self.counters["no_allocation"] += 1
            return ()
        peer, content = indication.get(Attribute.XOR_PEER_ADDRESS), indication.get(Attribute.DATA)
        if peer is None or content is None or not peer[1] or indication.unknown_required(_UNDERSTOOD):
            self.counters["malformed"] += 1
            return ()
        if not allocation.permits(peer[0], now):
            self.counters["no_permission"] += 1
            return ()
        forward = self._forwarded(allocation, content, peer, self._reach(peer[0]), now)
        return () if forward is None else (forward,)

    # Requests

    def from_client(self, data: bytes, client: Client, now: float) -> Sequence[Effect]:
        """Any datagram of a client, or message of its stream; nothing comes of what is not TURN."""
        if data and data[0] in self.channel_first_bytes:
            forward = self.channel_data(data, client, now)
            return () if forward is None else (forward,)
        if not looks_like_stun(data) or not self._affords(data, client, now):
            return ()
        try:
            message = decode(data)
        except WireError:
            self.counters["malformed"] += 1
            return ()
        if message.kind is MessageClass.INDICATION and message.method == Method.SEND:
            return self._send(message, client, now)
        if message.kind is not MessageClass.REQUEST or message.method not in _HANDLERS:
            return ()
        return self._answered(message, data, client, now)

    def _affords(self, data: bytes, client: Client, now: float) -> bool:
        allocation = self.allocation_of(client)
        if allocation is not None:
            is_within = allocation.throughput.lets(0, now)
        else:
            is_within = len(data) <= MAX_REQUEST and self._budget.take(network_of(client[0]), now)
        if not is_within:
            self.counters["over_rate"] += 1
        return is_within

    def _answered(self, request: Message, data: bytes, client: Client, now: float) -> Sequence[Effect]:
        try:
            asker = self._gate.asker(request, data, client, now)
        except Refused as refused:
            answer = _packed(request, MessageClass.ERROR, refused.attributes, None)
            if len(answer) > len(data) and len(client) == 2 and not self._may_grow(client[0]):
                self.counters["too_small"] += 1
                return ()
            is_challenge = any(number == Attribute.NONCE for number, _ in refused.attributes)
            self.counters["challenged" if is_challenge else "refused"] += 1
            return (Reply(answer, client),)
        known = self._repeats.get(_repeat_key(request, asker, client))
        if known is not None and known[1] > now:
            return (Reply(known[0], client),)
        try:
            if self._done.get(_repeat_key(request, asker, client), now) > now:
                raise Refused(437, "Allocation Mismatch")
            unknown = request.unknown_required(_UNDERSTOOD)
            if unknown:
                raise Refused(420, "Unknown Attribute", (Attribute.UNKNOWN_ATTRIBUTES, unknown))
            return _HANDLERS[Method(request.method)](self, request, asker, client, now)
        except Refused as refused:
            return self._refusal(request, asker, client, refused)

    def _refusal(self, request: Message, asker: Asker, client: Client, refused: Refused) -> Sequence[Effect]:
        self.counters["refused"] += 1
        return (Reply(_packed(request, MessageClass.ERROR, refused.attributes, asker), client),)

    def _success(self, request: Message, asker: Asker, client: Client, *contents: tuple[int, Any]) -> Reply:
        self.counters["answered"] += 1
        return Reply(_packed(request, MessageClass.SUCCESS, contents, asker), client)

    def _remember(self, request: Message, asker: Asker, reply: Reply, now: float) -> None:
        key = _repeat_key(request, asker, reply.client)
        self._repeats[key] = (reply.data, now + REPEATS_KNOWN_S)
        self._done[key] = now + NONCE_LIFETIME_S
        while len(self._done) > MAX_DONE_KNOWN or next(iter(self._done.values())) <= now:
            self._done.popitem(last=False)
        while len(self._repeats) > MAX_REPEATS_KNOWN or next(iter(self._repeats.values()))[1] <= now:
            self._repeats.popitem(last=False)

    def _allocate(self, request: Message, asker: Asker, client: Client, now: float) -> Sequence[Effect]:
        """Section 7.2, in its order."""
        if self.allocation_of(client) is not None:
            raise Refused(437, "Allocation Mismatch")
        transport = request.get(Attribute.REQUESTED_TRANSPORT)
        if transport is None:
            raise Refused(400, "Bad Request")
        if transport != UDP:
            raise Refused(442, "Unsupported Transport Protocol")
        token = request.get(Attribute.RESERVATION_TOKEN)
        even_port = request.get(Attribute.EVEN_PORT)
        family = self._family_asked(request, token, even_port)
        self._allocations.check_quota(client, asker.account)
        if token is not None:
            reservation = self._reservations.pop(token, None)
            if reservation is None or reservation.expires_at <= now:
                closing = () if reservation is None else (Close(reservation.relay, None),)
                return (*closing, *self._refusal(request, asker, client, Refused(508, "Insufficient Capacity")))
            return self._allocated(request, asker, client, reservation.family, reservation.relay, None, now)
        with_next = bool((even_port or 0) & EVEN_PORT_AND_NEXT)
        if with_next and len(self._reservations) >= MAX_RESERVATIONS:
            raise Refused(508, "Insufficient Capacity")
        return (Bind(client, family, even_port is not None, with_next, asker, request),)

    def _family_asked(self, request: Message, token: bytes | None, even_port: int | None) -> int:
        asked = request.get(Attribute.REQUESTED_ADDRESS_FAMILY)
        additional = request.get(Attribute.ADDITIONAL_ADDRESS_FAMILY)
        if token is not None and (asked, additional, even_port) != (None, None, None):
            raise Refused(400, "Bad Request")
        if additional is not None:
            is_pair_asked = bool((even_port or 0) & EVEN_PORT_AND_NEXT)
            if asked is not None or additional != IPV6_NUMBER or is_pair_asked:
                raise Refused(400, "Bad Request")
        family = FAMILIES.get(1 if asked is None else asked)
        # What was reserved has a family already.
        if family is None or (token is None and family not in self._families):
            raise Refused(440, "Address Family not Supported")
        return family

    def bound(self, bind: Bind, relays: Sequence[Relay], now: float) -> Sequence[Effect]:
        """`relays`: the socket that was asked for, and the next one if that was; fewer when they cannot be had, which must
        then be none."""
        if not relays:
            return self._refusal(bind.request, bind.asker, bind.client, Refused(508, "Insufficient Capacity"))
        reserved = relays[1] if len(relays) > 1 else None
        return self._allocated(bind.request, bind.asker, bind.client, bind.family, relays[0], reserved, now)

    def _allocated(
        self,
        request: Message,
        asker: Asker,
        client: Client,
        family: int,
        relay: Relay,
        reserved: Relay | None,
        now: float,
    ) -> Sequence[Effect]:
        share = self._allocations.share_of(client)
        allocation = Allocation(client, asker.username, asker.account, family, relay, self._limits, share)
        lifetime_s = _lifetime(request)
        allocation.expires_at = now + lifetime_s
        self._allocations.add(allocation)
        self.counters["allocations"] += 1
        contents: list[tuple[int, Any]] = [
            (Attribute.XOR_RELAYED_ADDRESS, relay.address),
            (Attribute.LIFETIME, lifetime_s),
            (Attribute.XOR_MAPPED_ADDRESS, client[:2]),
        ]
        if reserved is not None:
            token = self._random_bytes(TOKEN_SIZE)
            self._reservations[token] = Reservation(reserved, family, now + RESERVATION_LIFETIME_S)
            contents.append((Attribute.RESERVATION_TOKEN, token))
        if request.get(Attribute.ADDITIONAL_ADDRESS_FAMILY) is not None:
            error = AddressError(IPV6_NUMBER, 440, "Address Family not Supported")
            contents.append((Attribute.ADDRESS_ERROR_CODE, error))
        reply = self._success(request, asker, client, *contents)
        self._remember(request, asker, reply, now)
        return (reply,)

    def _refresh(self, request: Message, asker: Asker, client: Client, now: float) -> Sequence[Effect]:
        allocation = self._held(asker, client, now)
        asked = request.get(Attribute.REQUESTED_ADDRESS_FAMILY)
        if asked is not None and FAMILIES.get(asked) != allocation.family:
            raise Refused(443, "Peer Address Family Mismatch")
        lifetime_s = 0 if request.get(Attribute.LIFETIME) == 0 else _lifetime(request)
        reply = self._success(request, asker, client, (Attribute.LIFETIME, lifetime_s))
        allocation.expires_at = now + lifetime_s
        if lifetime_s:
            return (reply,)
        self._remember(request, asker, reply, now)
        self._allocations.remove(allocation)
        return reply, Close(allocation.relay, client)

    def _create_permission(self, request: Message, asker: Asker, client: Client, now: float) -> Sequence[Effect]:
        allocation = self._held(asker, client, now)
        peers = {peer[0] for number, peer in request.attributes if number == Attribute.XOR_PEER_ADDRESS}
        if not peers:
            raise Refused(400, "Bad Request")
        for ip in peers:
            self._reach_of(ip, allocation)
        allocation.permit(peers, now)
        return (self._success(request, asker, client),)

    def _channel_bind(self, request: Message, asker: Asker, client: Client, now: float) -> Sequence[Effect]:
        allocation = self._held(asker, client, now)
        number, peer = request.get(Attribute.CHANNEL_NUMBER), request.get(Attribute.XOR_PEER_ADDRESS)
        if number is None or peer is None or not peer[1] or number >> 8 not in self.channel_first_bytes:
            raise Refused(400, "Bad Request")
        reach = self._reach_of(peer[0], allocation)
        allocation.bind(number, peer, reach, now)
        return (self._success(request, asker, client),)

    def _held(self, asker: Asker, client: Client, now: float) -> Allocation:
        allocation = self.allocation_of(client)
        if allocation is None or allocation.expires_at <= now:
            raise Refused(437, "Allocation Mismatch")
        if allocation.username != asker.username:
            raise Refused(441, "Wrong Credentials")
        return allocation

    def _reach_of(self, ip: str, allocation: Allocation) -> Reach:
        if (6 if ":" in ip else 4) != allocation.family:
            raise Refused(443, "Peer Address Family Mismatch")
        reach = self._reach(ip)
        if reach is Reach.FORBIDDEN:
            raise Refused(403, "Forbidden")
        return reach

    # Ends

    def expire(self, now: float) -> list[Close]:
        """What has ended by the clock."""
        closing: list[Close] = []
        for allocation in self._allocations.expired(now):
            self.counters["expired"] += 1
            closing.append(self._removed(allocation))
        for token in [token for token, reserved in self._reservations.items() if reserved.expires_at <= now]:
            closing.append(Close(self._reservations.pop(token).relay, None))
        return closing

    def vanished(self, client: Client) -> list[Close]:
        """The client's connection has ended, and its allocation with it."""
        allocation = self.allocation_of(client)
        return [] if allocation is None else [self._removed(allocation)]

    def _removed(self, allocation: Allocation) -> Close:
        self._allocations.remove(allocation)
        return Close(allocation.relay, allocation.client)

    def next_deadline(self) -> float | None:
        reserved = (reservation.expires_at for reservation in self._reservations.values())
        earliest = min(self._allocations.next_deadline(), min(reserved, default=inf))
        return None if earliest == inf else earliest


_HANDLERS: dict[Method, Callable[[TurnResponder, Message, Asker, Client, float], Sequence[Effect]]] = {
    Method.ALLOCATE: TurnResponder._allocate,
    Method.REFRESH: TurnResponder._refresh,
    Method.CREATE_PERMISSION: TurnResponder._create_permission,
    Method.CHANNEL_BIND: TurnResponder._channel_bind,
}


def is_turn_message(data: bytes) -> bool:
    """Whether it is a request or indication of TURN's, by its first bytes."""
    return data[:2] in _TYPES and looks_like_stun(data)


_TYPES = frozenset(bytes((0, method)) for method in _HANDLERS) | {bytes((0, 0x10 | Method.SEND))}


def _repeat_key(request: Message, asker: Asker, client: Client) -> RepeatKey:
    """The user too: an answer is sealed with his key, and is his business."""
    return client, request.method, request.transaction_id, asker.username


def _lifetime(request: Message) -> int:
    asked = request.get(Attribute.LIFETIME)
    return DEFAULT_LIFETIME_S if asked is None else max(DEFAULT_LIFETIME_S, min(asked, MAX_LIFETIME_S))


def _packed(request: Message, kind: MessageClass, contents: Sequence[tuple[int, Any]], asker: Asker | None) -> bytes:
    answer = Message(kind, request.method, request.transaction_id, tuple(contents))
    has_fingerprint = request.get(Attribute.FINGERPRINT) is not None
    if asker is None:
        return encode(answer, fingerprint=has_fingerprint)
    return encode(answer, key=asker.seal.key, integrity=(asker.seal.integrity,), fingerprint=has_fingerprint)
