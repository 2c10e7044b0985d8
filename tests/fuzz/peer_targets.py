"""What other nodes send: enodes, discovery, Noise, frames, messages, records, letters."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import zstandard
from fuzz.target import Target, same, text_of, tried

from kodectl.core.correspondence import MAX_EARLY, Correspondence
from kodectl.core.identity import Identity
from kodectl.core.sessions import Sessions
from kodectl.errors import WireError
from kodectl.wire import messages, packets, rpc
from kodectl.wire.announcement import EnodeData, Ports, announcement_statement, pack_announcement, unpack_announcement
from kodectl.wire.contacts import pack_contacts, unpack_contacts
from kodectl.wire.enode import parse_enode
from kodectl.wire.frames import (
    MAX_CONTENT,
    MAX_MESSAGES,
    Compression,
    FrameDecoder,
    check_segment_size,
    decode_messages,
    encode_message,
)
from kodectl.wire.noise import CipherState, Handshake
from kodectl.wire.offers import MAX_LETTER, Correspondents, letter_is_signed, pack_letter, unpack_letter
from kodectl.wire.presence import pack_presence, unpack_presence
from kodectl.wire.record import CONTEXT, pack_record, record_statement, unpack_record
from kodectl.wire.suite import RealSuite

VECTORS = Path(__file__).parents[1] / "vectors"
SUITE = RealSuite()
OURS, THEIRS = Identity(SUITE, bytes(32)), Identity(SUITE, bytes(31) + b"\x01")
HERE, THERE = ("192.0.2.1", 30301), ("192.0.2.2", 30301)
KEY = bytes(range(32))
ID = "ab" * 32
UNIX_S = 1_790_000_000.0


def _vectors(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text())


# -- enodes and what discovery brings ------------------------------------------------------------------------------------


def enode(data: bytes) -> None:
    parsed = tried(parse_enode, text_of(data))
    if parsed is not None:
        same(parse_enode(str(parsed)), parsed)


PACKETS: dict[int, tuple[Any, Any]] = {
    packets.HAIL: (packets.unpack_hail, packets.pack_hail),
    packets.CHALLENGE: (packets.unpack_challenge, packets.pack_challenge),
    packets.KNOCK: (packets.unpack_knock, packets.pack_knock),
    packets.RESET: (packets.unpack_reset, packets.pack_reset),
    packets.HANDSHAKE: (packets.unpack_handshake, lambda read: packets.pack_handshake_head(read[0]) + read[1]),
    packets.MESSAGE: (packets.unpack_message_head, lambda read: packets.pack_message_head(*read) + bytes(16)),
}


def discovery_packets(data: bytes) -> None:
    unpack, pack = PACKETS.get(data[0] if data else 0, PACKETS[packets.HAIL])
    read = tried(unpack, data)
    if read is not None:
        same(unpack(pack(read)), read)


def _sessions(identity: Identity) -> Sessions:
    return Sessions(identity, Random(7).randbytes, 0, 30303)


def discovery_sessions(data: bytes) -> None:
    """A handshake in which one packet is changed on its way, or made up: at most so many replies, and nothing raised."""
    if len(data) < 3:
        return
    step, at, packet = data[0] % 4, data[1], data[2:]
    ours, theirs = _sessions(OURS), _sessions(THEIRS)
    sent = [ours.seal(THEIRS.node_id, THERE, b"hello", 0.0)]
    sides = ((theirs, HERE), (ours, THERE))
    for number in range(4):
        core, source = sides[number % 2]
        if number == step:
            changed = bytearray(sent[0] or b"") if at else bytearray()
            changed[at - 1 if at else 0 : at - 1 + len(packet) if at else 0] = packet
            arriving = bytes(changed)
        else:
            arriving = sent[0] or b""
        received = core.receive(arriving, source, 0.1 * number, UNIX_S)
        if sum(map(len, received.replies)) > max(len(arriving), 1232):
            raise AssertionError("an answer that is larger than what it answers")
        if received.message is not None and received.session is not None:
            sent = [core.reply(received.session, b"answer", 0.1 * number)]
        else:
            sent = list(received.replies[:1])
        if not sent:
            return


def rpc_messages(data: bytes) -> None:
    unpacked = tried(rpc.unpack_message, data)
    body = None if unpacked is None else tried(rpc.unpack_body, unpacked[0], unpacked[2])
    if unpacked is None or body is None:
        return
    packed = rpc.pack_message(unpacked[1], body)
    same(rpc.unpack_body(packed[0], packed[5:]), body)
    _inside(body)


def _inside(body: Any) -> None:
    """What bodies carry as bytes or text of a form of their own."""
    for field, decode in (("contacts", contacts), ("record", record), ("letter", letters), ("via", contacts)):
        inner = getattr(body, field, b"")
        if inner:
            decode(inner)
    for inner in getattr(body, "records", ()):
        record(inner)
    for text in getattr(body, "peers", ()):
        tried(parse_enode, text)


def contacts(data: bytes) -> None:
    read = tried(unpack_contacts, data, 64)
    if read is not None:
        same(unpack_contacts(pack_contacts(read), 64), read)
    presence = tried(unpack_presence, data)
    if presence is not None:
        same(unpack_presence(pack_presence(presence)), presence)


def record(data: bytes) -> None:
    read = tried(unpack_record, data)
    if read is None:
        return
    statement = record_statement(read.publisher, read.key, read.sequence, read.expiry, read.value)
    same(statement, read.statement())
    same(unpack_record(pack_record(statement, read.signature)), read)
    same(read.statement()[: len(CONTEXT)], CONTEXT)
    SUITE.verify(read.publisher, read.statement(), read.signature)


def announcement(data: bytes) -> None:
    read = tried(unpack_announcement, data)
    if read is None:
        return
    packed = pack_announcement(read.data, read.timestamp, read.signature)
    if len(packed) <= 1024:
        again = unpack_announcement(packed)
        same((again.data, again.timestamp, again.signature), (read.data, read.timestamp, read.signature))
    same((len(read.data.id), len(read.data.public_key), len(read.signature)), (64, 64, 64))


# -- links ---------------------------------------------------------------------------------------------------------------


def _handshake(initiator: bool, public_key: bytes | None = None) -> Handshake:
    private, public = SUITE.exchange_keypair(bytes((initiator,)) * 32)
    static = (private, public if public_key is None else public_key)
    return Handshake(SUITE, initiator=initiator, static=static, ephemeral_secret=bytes(32), prologue=b"fuzz")


def noise(data: bytes) -> None:
    """The first byte: which message of the three is the fuzzer's, and whether its own side has sealed it properly; the
    next 32 of those are the static key that it claims, the rest its payload."""
    if not data:
        return
    step, is_proper, rest = data[0] % 3, bool(data[0] & 4), data[1:]
    claimed = rest[:32].ljust(32, b"\0") if is_proper else None
    sides = [_handshake(True, claimed), _handshake(False, claimed)]
    ours = sides[(step + 1) % 2] = _handshake(step == 1)
    for number in range(step + 1):
        writer, reader = sides[number % 2], sides[(number + 1) % 2]
        try:
            message = writer.write_message(rest[32:] if is_proper else b"")
            reader.read_message(message if number < step or is_proper else rest)
        except WireError:
            if reader is ours:
                _refuses_for_good(ours)
            return
    if step == 2:
        ours.split()


def _refuses_for_good(handshake: Handshake) -> None:
    for action in (handshake.split, handshake.write_message, lambda: handshake.read_message(b"")):
        try:
            action()
        except WireError:
            continue
        raise AssertionError("a handshake that failed goes on")


COMPRESSION = Compression()
ZSTD = zstandard.ZstdCompressor(level=1)


def frames(data: bytes) -> None:
    """The first byte: as it is (0), sealed as one segment (1), each part sealed as one (2: a byte of length, the part),
    compressed and sealed (3), as the content of a frame (4)."""
    if not data:
        return
    form, rest = data[0] % 5, data[1:]
    tried(check_segment_size, int.from_bytes(rest[:2]))
    if form == 4:
        _content(rest)
        return
    sender = CipherState(SUITE.aead(KEY))
    decoder = FrameDecoder(CipherState(SUITE.aead(KEY)), COMPRESSION)
    for segment in _segments(form, rest):
        opened = tried(decoder.open, segment if form == 0 else sender.encrypt(segment))
        if opened is None:
            return
        same(len(opened) <= MAX_MESSAGES and sum(len(body) for _, body in opened) <= MAX_CONTENT, True)


def _segments(form: int, rest: bytes) -> list[bytes]:
    if form == 3:
        return [b"\x01" + ZSTD.compress(rest)]
    if form < 2:
        return [rest]
    parts = []
    while rest:
        parts.append(rest[1 : 1 + rest[0]])
        rest = rest[1 + rest[0] :]
    return parts


def _content(data: bytes) -> None:
    read = tried(decode_messages, data)
    if read is not None:
        same(decode_messages(b"".join(encode_message(kind, body) for kind, body in read)), read)


BODIES: tuple[tuple[Any, Any], ...] = (
    (messages.unpack_hello, messages.pack_hello),
    (messages.unpack_heartbeat, messages.pack_heartbeat),
    (messages.unpack_disconnect, messages.pack_disconnect),
    (messages.unpack_peer_request, messages.pack_peer_request),
    (messages.unpack_peer_response, messages.pack_peer_response),
    (messages.unpack_sync, messages.pack_sync),
    (lambda body: messages.unpack_envelope(messages.MessageKind.BLOCK, body), messages.pack_envelope),
    (lambda body: messages.unpack_envelope(messages.MessageKind.TRANSACTION, body), messages.pack_envelope),
)


def link_messages(data: bytes) -> None:
    """The first byte: the type of the body that follows."""
    if not data:
        return
    unpack, pack = BODIES[data[0] % len(BODIES)]
    read = tried(unpack, data[1:])
    if read is not None:
        same(unpack(pack(read)), read)
        if isinstance(read, messages.Envelope):
            messages.envelope_is_signed(SUITE, read)


# -- letters -------------------------------------------------------------------------------------------------------------

BETWEEN = Correspondents(OURS.node_id, THEIRS.node_id, b"session1")


def letters(data: bytes) -> None:
    signed = tried(unpack_letter, data)
    if signed is None:
        return
    letter_is_signed(SUITE, signed, BETWEEN)
    again = unpack_letter(pack_letter(signed.letter, BETWEEN, THEIRS.public_key, THEIRS.sign))
    same(letter_is_signed(SUITE, again, BETWEEN), True)
    offer = signed.letter.offer
    has_odd_step = offer is not None and offer.hint.port_step == -0x8000  # half of all ports: told as none
    if len(data) <= MAX_LETTER and not has_odd_step:
        same(again.letter, signed.letter)


def correspondence(data: bytes) -> None:
    """Letters one after another, each with a byte of length before it, in one session."""
    ours = Correspondence()
    for number in count():
        letter, data = data[1 : 1 + 2 * data[0]] if data else b"", data[1 + 2 * data[0] :] if data else b""
        if not letter:
            return
        signed = tried(unpack_letter, bytes(96) + letter)
        if signed is None:
            continue
        if len(ours.take(signed.letter, float(number))) > MAX_EARLY + 1:
            raise AssertionError("more offers than may wait")
        if signed.letter.offer is not None:
            ours.write(signed.letter.offer, float(number))
        ours.due(float(number))


# -- seeds ---------------------------------------------------------------------------------------------------------------


def _letter_seeds() -> list[bytes]:
    return [bytes.fromhex(letter["packed"]) for letter in _vectors("signalling")["letters"]]


def _noise_seeds() -> list[bytes]:
    proper = [bytes((step | 4,)) + bytes(range(32)) + b"payload" for step in range(3)]
    low_order = [bytes((step | 4,)) + bytes(32) + b"payload" for step in range(1, 3)]
    return [*proper, *low_order, b"\0" + bytes(range(32)), b"\0" + bytes(32), b"\x01" + bytes(96), b"\x02" + bytes(64)]


def _frame_seeds() -> list[bytes]:
    content = b"\x07\x03\x92\x00\x01\x05\x02xx"
    packed = ZSTD.compress(bytes(2000))
    parts = bytes((5,)) + b"\x02\x07\x03\x92\x00" + bytes((2,)) + b"\x00\x01"
    # A frame that declares four million bytes, and one that does not say.
    big, silent = ZSTD.compress(bytes(MAX_CONTENT)), zstandard.ZstdCompressor(write_content_size=False).compress(b"ab")
    sealed = [b"\x01\x00" + content, b"\x01\x01" + packed, b"\x01\x01" + big[:64], b"\x01\x01" + silent]
    return [*sealed, b"\x02" + parts, b"\x03" + content, b"\x04" + content, b"\x00" + bytes(40)]


def _message_seeds() -> list[bytes]:
    order = ("hello", "heartbeat", "disconnect", "peer_request", "peer_response", "sync", "block", "transaction")
    found = _vectors("messages")
    bodies = [*found["accepted"], *found["refused"]]
    return [
        bytes((order.index(one["type"]),)) + bytes.fromhex(one["body"])
        for one in bodies
        if one["type"] in order and len(one["body"]) < 2000
    ]


def _packet_seeds() -> list[bytes]:
    found = [value for value in _vectors("discovery")["handshake"].values() if isinstance(value, str)]
    return [bytes.fromhex(value) for value in found if value[:2] in ("08", "09", "0a", "0b", "0c") and len(value) > 30]


def _rpc_seeds() -> list[bytes]:
    found = [*_vectors("discovery")["messages"], *_vectors("signalling")["messages"]]
    return [bytes.fromhex(one["packed"]) for one in found]


def _record_seed() -> bytes:
    statement = record_statement(THEIRS.public_key, bytes(32), 7, int(UNIX_S), b"value")
    return pack_record(statement, THEIRS.sign(statement))


def _announcement_seed() -> bytes:
    data = EnodeData(THEIRS.node_id.hex(), "192.0.2.7", Ports(30303, 30301), "kodechain", THEIRS.public_key.hex())
    return pack_announcement(data, 1_790_000_000_000, THEIRS.sign(announcement_statement(data, 1_790_000_000_000)))


ENODES = (
    f"enode://{ID}@192.0.2.7:30303?discport=0",
    f"enode://{2 * ID}@[2001:db8::1]:1",
    f"enode://{ID}@a.b:0?discport=9&x",
)
SESSION_SEEDS = tuple(bytes((step, at)) + b"\x00" for step in range(4) for at in (0, 1, 20, 120))
TARGETS = (
    Target("enode", enode, [text.encode() for text in ENODES]),
    Target("discovery_packets", discovery_packets, _packet_seeds()),
    Target("discovery_sessions", discovery_sessions, SESSION_SEEDS),
    Target("rpc_messages", rpc_messages, _rpc_seeds()),
    Target("contacts", contacts, [bytes.fromhex(_vectors("signalling")["presence"]["packed"])]),
    Target("record", record, [_record_seed()]),
    Target("announcement", announcement, [_announcement_seed()]),
    Target("noise", noise, _noise_seeds()),
    Target("frames", frames, _frame_seeds()),
    Target("link_messages", link_messages, _message_seeds()),
    Target("letters", letters, _letter_seeds()),
    Target(
        "correspondence",
        correspondence,
        [bytes(((len(seed) - 95) // 2,)) + seed[96:] for seed in _letter_seeds() if len(seed) < 600],
    ),
)
