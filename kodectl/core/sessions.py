"""Discovery sessions: who is behind an address, proved, and an AEAD with him (docs/protocol.md, "Discovery: UDP").

A stranger costs one keyed hash and no memory: a HAIL is answered by a CHALLENGE no larger than itself, and only a HANDSHAKE
that brings back its cookie gets signature, key agreement and a session.  The core sees datagrams and times, and says
what to send back; sockets and waiting are the endpoint's.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Callable
from heapq import nsmallest
from typing import NamedTuple

from kodectl.core.identity import Identity
from kodectl.core.limits import SharedBudget, TokenBucket
from kodectl.core.prekey import Prekeys
from kodectl.core.session import Address, Session, derive_keys
from kodectl.core.table import subnet_of
from kodectl.errors import PeerFault, WireError
from kodectl.wire import packets
from kodectl.wire.packets import Challenge, Hail, Handshake
from kodectl.wire.suite import AeadFailure, node_id_of

ANY_ID = bytes(32)
"""Recipient id that means "whoever answers there"."""

MAX_SESSIONS = 4096
"""A full table (320), as many replacements, clients and lookups of an hour; about 4 MB."""
MAX_PENDING = 1024
"""Handshakes that this node has begun and that are not answered yet."""
MAX_QUEUED = 16
"""Messages waiting for one handshake."""
IDLE_LIMIT_S = 3600.0
UNCONFIRMED_LIMIT_S = 30.0
CROSSING_S = 10.0
"""Two nodes may begin at once and then hold two sessions; a session this young is not thrown away for another."""
HAIL_GAP_S = 0.2
PENDING_LIMIT_S = 10.0
COOKIE_LIMIT_S = 20.0
HANDSHAKES_PER_S = 500.0
HANDSHAKE_BURST = 1000.0
"""Accepted handshakes, about 0.3 ms of CPU each: strangers can take a sixth of a core and no more."""
SUBNET_HANDSHAKES_PER_S = 50.0
SUBNET_HANDSHAKE_BURST = 100.0
"""Of one /24 or /64: who floods from a rented network leaves nine tenths to all others."""
MAX_SESSIONS_PER_PEER = 4
"""With one identity at one address: two after crossed handshakes, and their successors."""
MAX_SESSIONS_PER_ADDRESS = 16
"""With whoever shows up at one address and port: one node, and what it was called before."""
MAX_SESSIONS_PER_SUBNET = MAX_SESSIONS // 16
"""More than a crowded /24 of honest nodes needs; with it, nobody drives out the sessions of others from one network."""


class Pending:
    """A handshake begun by this node: HAIL sent, or about to be sent again."""

    __slots__ = ("address", "hail", "node_id", "queue", "sent_at", "started")

    def __init__(self, node_id: bytes, address: Address, hail: bytes, now: float) -> None:
        self.node_id = node_id
        self.address = address
        self.hail = hail
        self.queue: list[bytes] = []
        self.started = self.sent_at = now


class Received(NamedTuple):
    """What a datagram amounted to. `replies` go to its sender.

    `message` came over `session`; `lost` is a session that the other side no longer has; `refused` is a peer whose
    answer to the HAIL did not hold, with the id that had been asked for."""

    replies: tuple[bytes, ...] = ()
    session: Session | None = None
    message: bytes | None = None
    lost: Session | None = None
    refused: tuple[bytes, PeerFault] | None = None


NOTHING = Received()


class Sessions:
    """All sessions of a node.

    `receive` never raises for what strangers send: it counts the reason in `dropped` and returns NOTHING."""

    def __init__(
        self, identity: Identity, random_bytes: Callable[[int], bytes], flags: int = 0, tcp_port: int = 0
    ) -> None:
        self.identity = identity
        self.flags = flags
        self.tcp_port = tcp_port
        self.dropped: Counter[str] = Counter()
        """By reason; the reasons are a fixed set, whatever strangers send."""
        self.handshakes = 0
        self._random = random_bytes
        self._suite = identity.suite
        self._cookie_key = random_bytes(32)
        self._by_sid: dict[bytes, Session] = {}
        self._by_address: dict[Address, tuple[Session, ...]] = {}
        """The newest first."""
        self._pending: dict[bytes, Pending] = {}
        self._pending_by_peer: dict[tuple[bytes, Address], bytes] = {}
        self._used_nonces: dict[bytes, float] = {}
        self._subnets: Counter[str] = Counter()
        total = TokenBucket(HANDSHAKES_PER_S, HANDSHAKE_BURST)
        self._budget = SharedBudget(total, SUBNET_HANDSHAKES_PER_S, SUBNET_HANDSHAKE_BURST)
        self._prekeys = Prekeys(identity, random_bytes)

    # -- sending ---------------------------------------------------------------------------------------------------

    def seal(self, node_id: bytes, address: Address, message: bytes, now: float, retry: bool = False) -> bytes | None:
        """The datagram that carries `message`, or that begins the handshake for it; None when it just waits in line.

        With `retry`, a session that was never confirmed is given up for a new handshake: the HANDSHAKE may have been
        lost. `node_id` may be ANY_ID."""
        session = self.session_with(node_id, address)
        if session is not None and (session.confirmed or not retry):
            session.last_used = now
            return session.seal_next(message)
        return self._queue(node_id, address, message, now)

    def session_with(self, node_id: bytes, address: Address) -> Session | None:
        """The newest; with ANY_ID, of those that were begun for whoever answers there."""
        for session in self._by_address.get(address, ()):
            if session.node_id == node_id or (node_id == ANY_ID and session.by_any_id):
                return session
        return None

    def is_heard(self, node_id: bytes) -> bool:
        """Whether there is a session with this node, wherever it is. Looks at all of them."""
        return any(session.node_id == node_id for session in self._by_sid.values())

    def restart(self, node_id: bytes, address: Address, message: bytes, now: float) -> bytes | None:
        """Begins a new handshake although there is a session; that one stays until the new one stands."""
        return self._queue(node_id, address, message, now)

    def reply(self, session: Session, message: bytes, now: float) -> bytes:
        """Seals over exactly this session: an answer goes back the way that the question came."""
        session.last_used = now
        return session.seal_next(message)

    def _queue(self, node_id: bytes, address: Address, message: bytes, now: float) -> bytes | None:
        key = (node_id, address)
        nonce = self._pending_by_peer.get(key)
        if nonce is not None:
            pending = self._pending[nonce]
            if len(pending.queue) < MAX_QUEUED and message not in pending.queue:
                pending.queue.append(message)
            if now - pending.sent_at < HAIL_GAP_S:
                return None
            pending.sent_at = now
            return pending.hail
        if len(self._pending) >= MAX_PENDING:
            self._expire_pending(now)
            if len(self._pending) >= MAX_PENDING:
                self.dropped["too many handshakes begun"] += 1
                return None
        nonce = self._random(16)
        hail = packets.pack_hail(Hail(node_id, self.identity.node_id, nonce))
        pending = Pending(node_id, address, hail, now)
        pending.queue.append(message)
        self._pending[nonce] = pending
        self._pending_by_peer[key] = nonce
        return hail

    # -- receiving -------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, address: Address, now: float, unix_time: float) -> Received:
        if len(data) > packets.MAX_PACKET:
            return self._drop("oversize")
        try:
            kind = data[0]
            if kind == packets.MESSAGE:
                return self._message(data, address, now)
            if kind == packets.HAIL:
                return self._hail(data, address, now, unix_time)
            if kind == packets.HANDSHAKE:
                return self._handshake(data, address, now, unix_time)
            if kind == packets.CHALLENGE:
                return self._challenge(data, address, now, unix_time)
            if kind == packets.RESET:
                return self._reset(data, address)
            return self._drop("unknown type")
        except WireError:
            return self._drop("malformed")
        except IndexError:
            return self._drop("empty packet")

    def _drop(self, reason: str) -> Received:
        self.dropped[reason] += 1
        return NOTHING

    def _message(self, data: bytes, address: Address, now: float) -> Received:
        sid, counter = packets.unpack_message_head(data)
        session = self._by_sid.get(sid)
        if session is None or session.address != address:
            self.dropped["no session"] += 1
            return Received((packets.pack_reset(data),))
        if not session.is_new(counter):
            return self._drop("replayed")
        try:
            message = session.open(data[9:17], data[17:], data[:17])
        except AeadFailure:
            return self._drop("not authentic")
        session.note(counter)
        session.last_used = now
        if not session.confirmed:
            self._confirm(session, now)
        return Received((), session, message)

    def _hail(self, data: bytes, address: Address, now: float, unix_time: float) -> Received:
        hail = packets.unpack_hail(data)
        if hail.recipient not in (self.identity.node_id, ANY_ID):
            return self._drop("meant for another node")
        if hail.sender == self.identity.node_id:
            return self._drop("from myself")
        prekey = self._prekeys.current(now, unix_time)
        cookie = self._cookie(int(now * 1000), hail.sender, hail.nonce, address)
        return Received((packets.pack_challenge(prekey.challenge(self.flags, self.tcp_port, hail.nonce, cookie)),))

    def _cookie(self, time_ms: int, sender: bytes, nonce: bytes, address: Address) -> bytes:
        time = time_ms.to_bytes(8)
        where = f"{address[0]} {address[1]}".encode()
        bound = time + sender + nonce + where
        return time + hashlib.blake2b(bound, key=self._cookie_key, digest_size=16).digest()

    def _challenge(self, data: bytes, address: Address, now: float, unix_time: float) -> Received:
        challenge = packets.unpack_challenge(data)
        pending = self._pending.get(challenge.nonce)
        if pending is None or pending.address != address:
            return self._drop("unsolicited challenge")
        try:
            node_id = self._check_challenge(challenge, pending, unix_time)
        except PeerFault as error:
            self._forget_pending(challenge.nonce)
            self.dropped[error.code] += 1
            return Received(refused=(pending.node_id, error))
        self._forget_pending(challenge.nonce)
        private, ephemeral = self._suite.exchange_keypair(self._random(32))
        handshake = Handshake(
            self.flags, challenge.nonce, challenge.cookie, self.identity.public_key, ephemeral, self.tcp_port, bytes(64)
        )
        unsigned = packets.pack_handshake_head(handshake)
        statement = packets.handshake_statement(unsigned, challenge.public_key, challenge.prekey)
        head = unsigned[:112] + self.identity.sign(statement)
        secret = self._suite.exchange(private, challenge.prekey)
        session = Session(node_id, challenge.public_key, address, challenge.flags, challenge.tcp_port)
        ours, theirs = derive_keys(secret, challenge.cookie, challenge.nonce, self.identity.node_id, node_id)
        session.set_keys(self._suite, ours, theirs)
        first, others = pending.queue[0], pending.queue[1:]
        if len(first) > packets.MAX_FIRST_MESSAGE:
            # The proof goes alone, and the request right behind it.
            first, others = b"", pending.queue
        sealed = session.seal(bytes(8), first, head)
        session.counter = 1
        session.by_any_id = pending.node_id == ANY_ID
        self._add(session, now)
        return Received((head + sealed, *[session.seal_next(message) for message in others]))

    def _check_challenge(self, challenge: Challenge, pending: Pending, unix_time: float) -> bytes:
        node_id = node_id_of(challenge.public_key)
        if pending.node_id not in (node_id, ANY_ID):
            raise PeerFault(
                f"another identity answered there: {node_id.hex()}, expected {pending.node_id.hex()}",
                code="identity_mismatch",
            )
        if node_id == self.identity.node_id:
            raise PeerFault("that is this node itself", code="self")
        if challenge.prekey_expiry < unix_time:
            raise PeerFault("the prekey has expired; is a clock wrong?", code="clock_skew")
        if not self._suite.verify(challenge.public_key, challenge.signed_part(), challenge.signature):
            raise PeerFault("the prekey's signature is wrong", code="bad_signature")
        return node_id

    def _handshake(self, data: bytes, address: Address, now: float, unix_time: float) -> Received:
        handshake, sealed = packets.unpack_handshake(data)
        node_id = node_id_of(handshake.public_key)
        made_ms = int.from_bytes(handshake.cookie[:8])
        if not 0 <= now * 1000 - made_ms + 1 <= COOKIE_LIMIT_S * 1000:
            return self._drop("cookie expired")
        if not hmac.compare_digest(self._cookie(made_ms, node_id, handshake.nonce, address), handshake.cookie):
            return self._drop("wrong cookie")
        if handshake.nonce in self._used_nonces:
            return self._drop("handshake replayed")
        if not self._budget.take(subnet_of(address[0]), now):
            return self._drop("handshakes over budget")
        self._remember_nonce(handshake.nonce, now)
        prekey = self._prekeys.signed_for(handshake, data, now, unix_time)
        if prekey is None:
            return self._drop("wrong handshake signature")
        session = Session(node_id, handshake.public_key, address, handshake.flags, handshake.tcp_port)
        secret = self._suite.exchange(prekey.private, handshake.ephemeral)
        theirs, ours = derive_keys(secret, handshake.cookie, handshake.nonce, node_id, self.identity.node_id)
        session.set_keys(self._suite, ours, theirs)
        try:
            message = session.open(bytes(8), sealed, data[: packets.HANDSHAKE_HEAD])
        except AeadFailure:
            return self._drop("not authentic")
        session.note(0)
        self._add(session, now)
        self._confirm(session, now)
        return Received((), session, message)

    def _reset(self, data: bytes, address: Address) -> Received:
        """Taken as a hint only: it must name one of the last packets sent there."""
        tag = packets.unpack_reset(data)
        for session in self._by_address.get(address, ()):
            if session.is_named_by(tag):
                return Received(lost=session)
        return self._drop("unsolicited reset")

    # -- upkeep ----------------------------------------------------------------------------------------------------

    def expire(self, now: float) -> None:
        """Drops what is idle; called every few seconds."""
        self._expire_pending(now)
        self._used_nonces = {nonce: until for nonce, until in self._used_nonces.items() if until > now}
        for session in list(self._by_sid.values()):
            idle_s = now - session.last_used
            if idle_s > (IDLE_LIMIT_S if session.confirmed else UNCONFIRMED_LIMIT_S):
                self._remove(session)

    def __len__(self) -> int:
        return len(self._by_sid)

    def _remember_nonce(self, nonce: bytes, now: float) -> None:
        # Bounded by the handshake budget: at most COOKIE_LIMIT_S * HANDSHAKES_PER_S + HANDSHAKE_BURST live entries.
        self._used_nonces[nonce] = now + COOKIE_LIMIT_S + 1

    def _add(self, session: Session, now: float) -> None:
        subnet = subnet_of(session.address[0])
        self._make_room(session, subnet)
        if subnet is not None:
            self._subnets[subnet] += 1
        session.made = session.last_used = now
        session.supersedes = self.session_with(session.node_id, session.address)
        self._by_sid[session.sid_in] = session
        self._by_address[session.address] = (session, *self._by_address.get(session.address, ()))

    def _make_room(self, newcomer: Session, subnet: str | None) -> None:
        """Whoever has too many gives up his own; in a full table those unused for longest go."""
        here = self._by_address.get(newcomer.address, ())
        same = [known for known in here if known.node_id == newcomer.node_id]
        if len(same) >= MAX_SESSIONS_PER_PEER:
            self._remove(min(same, key=_last_used))
        elif len(here) >= MAX_SESSIONS_PER_ADDRESS:
            self._remove(min(here, key=_last_used))
        if subnet is not None and self._subnets[subnet] >= MAX_SESSIONS_PER_SUBNET:
            near = [known for known in self._by_sid.values() if subnet_of(known.address[0]) == subnet]
            self._remove_unused(near, MAX_SESSIONS_PER_SUBNET // 16)
        if len(self._by_sid) >= MAX_SESSIONS:
            self._remove_unused(list(self._by_sid.values()), MAX_SESSIONS // 16)

    def _remove_unused(self, among: list[Session], count: int) -> None:
        for victim in nsmallest(max(1, count), among, key=_last_used):
            self._remove(victim)

    def _confirm(self, session: Session, now: float) -> None:
        session.confirmed = True
        self.handshakes += 1
        previous, session.supersedes = session.supersedes, None
        if previous is not None and now - previous.made > CROSSING_S:
            self._remove(previous)

    def _remove(self, session: Session) -> None:
        if self._by_sid.pop(session.sid_in, None) is None:
            return
        session.supersedes = None
        subnet = subnet_of(session.address[0])
        if subnet is not None:
            self._subnets[subnet] -= 1
            if not self._subnets[subnet]:
                del self._subnets[subnet]
        rest = tuple(other for other in self._by_address[session.address] if other is not session)
        if rest:
            self._by_address[session.address] = rest
        else:
            del self._by_address[session.address]

    def _forget_pending(self, nonce: bytes) -> None:
        pending = self._pending.pop(nonce)
        del self._pending_by_peer[(pending.node_id, pending.address)]

    def _expire_pending(self, now: float) -> None:
        for nonce in [n for n, pending in self._pending.items() if now - pending.started > PENDING_LIMIT_S]:
            self._forget_pending(nonce)


def _last_used(session: Session) -> float:
    return session.last_used
