"""What two nodes tell each other on the way to a connection, through others (docs/protocol.md, "Signalling").

letter    signature (64) | sender's public key (32) | content
content   kind (1) | flags (1) | NAT (1) | port step (2) | number (2) | oldest (2) | heard (2) | time, Unix ms (8) |
          ufrag | password | reason (each: size (1), ASCII) | tcp | tcp seen (each an address) | count (1) | candidate*
address   family (1: 0 none, 4, 6) | ip (4 or 16) | port (2)
candidate head (1: type, transport) | priority (4) | foundation: size (1), ASCII | address | related address

Flags: bit 0 the candidates are complete, bit 1 UDP is blocked. NAT: mapping in the low four bits, filtering in the high.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from kodectl.errors import WireError
from kodectl.wire.candidates import Candidate, CandidateType
from kodectl.wire.contacts import pack_ip, unpack_ip
from kodectl.wire.nat import Behavior
from kodectl.wire.rpc import MAX_LETTER
from kodectl.wire.suite import KEY_SIZE, SIGNATURE_SIZE, Suite, node_id_of

Address = tuple[str, int]

CONTEXT = b"kodechain offer v1"
MAX_CANDIDATES = 16
MAX_TEXT = 64
"""Of a ufrag, a password, a reason: ours have 8 to 24 characters."""
MAX_FOUNDATION = 32
"""RFC 8839, section 5.1."""
MAX_NUMBER = 0xFFFF
MAX_STEP = 0x7FFF
"""What jumps further than half of all ports steps nowhere."""

_FLAG_COMPLETE, _FLAG_UDP_BLOCKED = 1, 2
_head = struct.Struct("!BBBhHHHQ")
_candidate_head = struct.Struct("!BI")
_BEHAVIORS = (
    None,
    Behavior.ENDPOINT_INDEPENDENT,
    Behavior.ADDRESS_DEPENDENT,
    Behavior.ADDRESS_AND_PORT_DEPENDENT,
)
_TYPES = (
    CandidateType.HOST,
    CandidateType.SERVER_REFLEXIVE,
    CandidateType.PEER_REFLEXIVE,
    CandidateType.RELAYED,
)
_TRANSPORTS = ("udp", "tcp")
_ICE_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")


class OfferKind(IntEnum):
    OFFER = 1
    ANSWER = 2
    UPDATE = 3
    """More candidates."""
    GO = 4
    """Punch now."""
    REFUSAL = 5


_NOTHING_SAID = 0
"""In place of a kind: the letter only tells what was heard."""


class NatHint(NamedTuple):
    """What a node knows of its NAT; None is unknown. `port_step`: between the ports of successive mappings."""

    mapping: Behavior | None = None
    filtering: Behavior | None = None
    port_step: int | None = None
    is_udp_blocked: bool = False


class Offer(NamedTuple):
    """`tcp`: where the sender can be dialled; `tcp_seen`: the outer address of its TCP port, whoever gets through to it.
    `reason` is for a refusal."""

    kind: OfferKind
    ufrag: str = ""
    password: str = ""
    candidates: tuple[Candidate, ...] = ()
    is_complete: bool = True
    hint: NatHint = NatHint()
    tcp: Address | None = None
    tcp_seen: Address | None = None
    reason: str = ""

    @staticmethod
    def refusal(reason: str) -> Offer:
        return Offer(OfferKind.REFUSAL, reason=reason)


class Letter(NamedTuple):
    """`number` counts this side's offers of a session from 1; `oldest`: what came before it is not repeated any more;
    `heard`: the other side's number up to which all have arrived. Without an offer, a letter tells that alone."""

    number: int
    oldest: int
    heard: int
    time_ms: int
    offer: Offer | None = None


class SignedLetter(NamedTuple):
    signature: bytes
    public_key: bytes
    content: bytes
    letter: Letter


class Correspondents(NamedTuple):
    """Who writes to whom, in which session: part of what is signed, so that no letter is any good elsewhere."""

    target: bytes
    sender: bytes
    session: bytes


# -- letters -----------------------------------------------------------------------------------------------------------


def pack_letter(letter: Letter, between: Correspondents, public_key: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    """At most 900 bytes: candidates that do not fit are left out, the last ones first."""
    content = _pack_content(letter)
    return sign(_statement(between, content)) + public_key + content


def unpack_letter(packed: bytes) -> SignedLetter:
    """Checks the layout, not the signature."""
    if len(packed) < SIGNATURE_SIZE + KEY_SIZE:
        raise WireError("letter cut short")
    signature, rest = packed[:SIGNATURE_SIZE], packed[SIGNATURE_SIZE:]
    public_key, content = rest[:KEY_SIZE], rest[KEY_SIZE:]
    return SignedLetter(signature, public_key, content, _unpack_content(content))


def letter_is_signed(suite: Suite, signed: SignedLetter, between: Correspondents) -> bool:
    """By the sender, for this target and session."""
    if node_id_of(signed.public_key) != between.sender:
        return False
    return suite.verify(signed.public_key, _statement(between, signed.content), signed.signature)


def _statement(between: Correspondents, content: bytes) -> bytes:
    return CONTEXT + b"".join(between) + content


# -- content -----------------------------------------------------------------------------------------------------------


def _pack_content(letter: Letter) -> bytes:
    offer = letter.offer
    if offer is None:
        head = _head.pack(_NOTHING_SAID, 0, 0, 0, letter.number, letter.oldest, letter.heard, letter.time_ms)
        return head + bytes(6)  # three empty texts, two addresses that are none, no candidates
    hint = offer.hint
    packed = _head.pack(
        offer.kind,
        _FLAG_COMPLETE * offer.is_complete | _FLAG_UDP_BLOCKED * hint.is_udp_blocked,
        _BEHAVIORS.index(hint.mapping) | _BEHAVIORS.index(hint.filtering) << 4,
        hint.port_step if hint.port_step and abs(hint.port_step) <= MAX_STEP else 0,
        letter.number,
        letter.oldest,
        letter.heard,
        letter.time_ms,
    )
    packed += b"".join(_pack_text(text, MAX_TEXT) for text in (offer.ufrag, offer.password, offer.reason))
    packed += _pack_address(offer.tcp) + _pack_address(offer.tcp_seen)
    return packed + _pack_candidates(offer.candidates, MAX_LETTER - SIGNATURE_SIZE - KEY_SIZE - len(packed))


def _unpack_content(content: bytes) -> Letter:
    reader = _Reader(content)
    kind, flags, nat, step, number, oldest, heard, time_ms = _head.unpack(reader.take(_head.size))
    ufrag, password, reason = reader.text(MAX_TEXT), reader.text(MAX_TEXT), reader.text(MAX_TEXT)
    tcp, tcp_seen = reader.address(), reader.address()
    candidates = _unpack_candidates(reader)
    if kind == _NOTHING_SAID:
        return Letter(number, oldest, heard, time_ms)
    if kind not in OfferKind.__members__.values():
        raise WireError(f"offer of kind {kind}")
    hint = NatHint(_behavior(nat & 15), _behavior(nat >> 4), step or None, bool(flags & _FLAG_UDP_BLOCKED))
    complete = bool(flags & _FLAG_COMPLETE)
    offer = Offer(OfferKind(kind), ufrag, password, candidates, complete, hint, tcp, tcp_seen, reason)
    return Letter(number, oldest, heard, time_ms, offer)


def _behavior(code: int) -> Behavior | None:
    """A code that is not known here reads as unknown: it may be a later version's."""
    return _BEHAVIORS[code] if code < len(_BEHAVIORS) else None


def _pack_candidates(candidates: tuple[Candidate, ...], room: int) -> bytes:
    packed, count = b"", 0
    for candidate in [one for one in candidates if one.transport in _TRANSPORTS][:MAX_CANDIDATES]:
        one = _pack_candidate(candidate)
        if 1 + len(packed) + len(one) > room:
            break
        packed += one
        count += 1
    return bytes((count,)) + packed


def _unpack_candidates(reader: _Reader) -> tuple[Candidate, ...]:
    count = reader.take(1)[0]
    if count > MAX_CANDIDATES:
        raise WireError(f"{count} candidates; the limit is {MAX_CANDIDATES}")
    read = [_unpack_candidate(reader) for _ in range(count)]
    return tuple(candidate for candidate in read if candidate is not None)


def _pack_candidate(candidate: Candidate) -> bytes:
    head = _TYPES.index(candidate.type) | _TRANSPORTS.index(candidate.transport) << 4
    packed = _candidate_head.pack(head, candidate.priority) + _pack_text(candidate.foundation, MAX_FOUNDATION)
    return packed + _pack_address(candidate.address) + _pack_address(candidate.related)


def _unpack_candidate(reader: _Reader) -> Candidate | None:
    """None for a type or transport of a later version."""
    head, priority = _candidate_head.unpack(reader.take(_candidate_head.size))
    foundation, address, related = reader.text(MAX_FOUNDATION), reader.address(), reader.address()
    if address is None:
        raise WireError("candidate without an address")
    if not foundation or not _ICE_CHARACTERS.issuperset(foundation):
        raise WireError(f"candidate with the foundation {foundation!r}")
    if head & 15 >= len(_TYPES) or head >> 4 >= len(_TRANSPORTS):
        return None
    return Candidate(foundation, 1, _TRANSPORTS[head >> 4], priority, address, _TYPES[head & 15], related)


# -- pieces ------------------------------------------------------------------------------------------------------------


def _pack_text(text: str, limit: int) -> bytes:
    packed = text.encode("ascii", "replace")[:limit]
    return bytes((len(packed),)) + packed


def _pack_address(address: Address | None) -> bytes:
    if address is None:
        return b"\0"
    ip = pack_ip(address[0])
    return bytes((4 if len(ip) == 4 else 6,)) + ip + address[1].to_bytes(2)


_IP_SIZES = {4: 4, 6: 16}


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        if len(taken) < size:
            raise WireError("letter cut short")
        self._at += size
        return taken

    def text(self, limit: int) -> str:
        size = self.take(1)[0]
        if size > limit:
            raise WireError(f"text of {size} characters in a letter; the limit is {limit}")
        packed = self.take(size)
        if not packed.isascii() or not packed.decode("ascii").isprintable():
            raise WireError("text in a letter that is not printable ASCII")
        return packed.decode("ascii")

    def address(self) -> Address | None:
        family = self.take(1)[0]
        if not family:
            return None
        size = _IP_SIZES.get(family)
        if size is None:
            raise WireError(f"address of family {family} in a letter")
        return unpack_ip(self.take(size)), int.from_bytes(self.take(2))
