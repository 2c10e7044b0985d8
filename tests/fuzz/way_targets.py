"""What is met on the way to a peer: STUN, TURN, ICE, QUIC, and routers that map ports."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import NamedTuple

from fuzz.target import Target, same, text_of, tried

from kodectl.core.ice.agent import Agent
from kodectl.core.ice.checks import Credentials
from kodectl.core.ice.effects import Transmit
from kodectl.core.ice.local import host
from kodectl.core.ice.requests import named_ufrag
from kodectl.core.quic_credit import ReceiveCredit, SendCredit
from kodectl.core.relay_credentials import RelayCredentials
from kodectl.core.stun_answers import BindingResponder, server_budget
from kodectl.core.turn_access import Client, Gate
from kodectl.core.turn_allocations import Relay, RelayLimits
from kodectl.core.turn_credentials import seal_for
from kodectl.core.turn_reach import ReachPolicy
from kodectl.core.turn_server import Bind, TurnResponder, is_turn_message
from kodectl.errors import WireError
from kodectl.wire import natpmp, pcp, quic, stun, upnp
from kodectl.wire.candidates import Candidate, CandidateType, decode_candidate, encode_candidate
from kodectl.wire.channel_data import pack_channel_data, unpack_channel_data
from kodectl.wire.stream_frames import pack_frame, unpack_length
from kodectl.wire.stun import Attribute, Message, MessageClass, Method
from kodectl.wire.stun_credentials import MD5, long_term_key
from kodectl.wire.tickets import decode_ticket, encode_ticket
from kodectl.wire.turn_server import parse_turn

VECTORS = Path(__file__).parents[1] / "vectors"
SEALS = (Attribute.MESSAGE_INTEGRITY, Attribute.MESSAGE_INTEGRITY_SHA256, Attribute.FINGERPRINT)
SOURCE = ("192.0.2.7", 4000)
REPLACED = "\ufffd"

# -- STUN ----------------------------------------------------------------------------------------------------------------


def stun_messages(data: bytes) -> None:
    """As it comes, and again as the attributes of a message with a right length and a right FINGERPRINT."""
    for packet in (data, _sealed(data)):
        message = tried(stun.decode, packet)
        tried(stun.verifies, packet, b"key")
        tried(named_ufrag, packet)
        BindingResponder().answer(packet, SOURCE, 0.0)
        if message is not None:
            tried(seal_for, message, "user", "password")
            _again(message)


def _sealed(data: bytes) -> bytes:
    head, attributes = data[:2].ljust(2, b"\0"), data[2:]
    attributes = attributes[: min(len(attributes), 2000) // 4 * 4]
    packet = head + (len(attributes) + 8).to_bytes(2) + stun.COOKIE + bytes(12) + attributes
    body = stun.encode(Message(MessageClass.REQUEST, 1, bytes(12)), fingerprint=True)  # its last eight bytes: the form
    return packet + body[-8:-4] + stun._fingerprint(packet)


def _again(message: Message) -> None:
    """Text of bytes that are none is told with other bytes; a seal is of the bytes before it."""
    message = message._replace(attributes=tuple(one for one in message.attributes if one[0] not in SEALS))
    if REPLACED not in repr(message):
        same(stun.decode(stun.encode(message)), message)


# -- TURN ----------------------------------------------------------------------------------------------------------------

CREDENTIALS = RelayCredentials("example.org", bytes(32))
NODE_ID = bytes(range(32))
CLIENT: Client = ("198.41.0.9", 4000)
NAME = CREDENTIALS.issue(NODE_ID, 0.0)


def turn_server(data: bytes) -> None:
    """The first byte: as it comes (0), sealed by a user of the relay (1), or sealed, after an allocation (2)."""
    if not data:
        return
    form, rest = data[0] % 3, data[1:]
    core, nonce = _relay()
    if form == 2:
        _take(core, _authentic(Method.ALLOCATE, nonce, b"\x00\x19\x00\x04\x11\x00\x00\x00"))
    packet = rest if form == 0 else _authentic(rest[0] if rest else 3, nonce, rest[1:])
    is_turn_message(packet)
    _take(core, packet)
    core.expire(1e6)
    same(len(core), 0)


def _relay() -> tuple[TurnResponder, bytes]:
    gate = Gate("example.org", lambda name, algorithm: CREDENTIALS.key_of(name, algorithm, 0.0), bytes(32))
    nonce = gate._nonces.issue(CLIENT, 0.0)
    reach = ReachPolicy(["198.41.0.4"])
    core = TurnResponder(gate, reach, RelayLimits(), (4, 6), server_budget(), random.Random(7).randbytes)
    return core, nonce


def _authentic(method: int, nonce: bytes, attributes: bytes) -> bytes:
    key = long_term_key(NAME.username, "example.org", NAME.password, MD5)
    named = ((Attribute.USERNAME, NAME.username), (Attribute.REALM, "example.org"), (Attribute.NONCE, nonce))
    return _signed(Message(MessageClass.REQUEST, method & 0xF, bytes(12), named), attributes, key)


def _signed(message: Message, attributes: bytes, key: bytes) -> bytes:
    """With the attributes as they are behind its own, and a right length, MESSAGE-INTEGRITY and FINGERPRINT."""
    packed = stun.encode(message)[stun.HEADER_SIZE :] + attributes[: min(len(attributes), 1200) // 4 * 4]
    head = stun.pack_type(message.kind, message.method)
    block = stun.COOKIE + message.transaction_id
    mac = stun._mac(Attribute.MESSAGE_INTEGRITY, key, stun._sealable(head, block, packed, 24))
    covered = stun._sealable(head, block, packed + stun._framed(Attribute.MESSAGE_INTEGRITY, mac), 8)
    return covered + stun._framed(Attribute.FINGERPRINT, stun._fingerprint(covered))


def _take(core: TurnResponder, packet: bytes) -> None:
    for effect in core.from_client(packet, CLIENT, 0.0):
        if isinstance(effect, Bind):
            ip = "198.41.0.4" if effect.family == 4 else "2001:500::4"
            core.bound(effect, tuple(Relay((ip, 50_000 + n), n) for n in range(1 + effect.with_next)), 0.0)


def turn_channels(data: bytes) -> None:
    read = tried(unpack_channel_data, data)
    if read is not None:
        same(unpack_channel_data(pack_channel_data(*read, padded=True)), read)
    length = tried(unpack_length, data)
    if length is not None:
        same(unpack_length(pack_frame(bytes(length))), length)


def relay_credentials(data: bytes) -> None:
    """`key_of` raises nothing: the name is a stranger's. What it gives is of a name that could have been issued."""
    text = data.decode(errors="replace")
    for algorithm in (1, 2):
        key = CREDENTIALS.key_of(text, algorithm, 0.0)
        if key is not None:
            same(len(key), 16 * algorithm)
            bytes.fromhex(CREDENTIALS.account_of(text))


def turn_urls(data: bytes) -> None:
    read = tried(parse_turn, text_of(data))
    if read is not None:
        same(0 < read.port < 65_536, True)
        again = parse_turn(str(read))
        same((again.host, again.port, again.transport), (read.host, read.port, read.transport))


# -- ICE and QUIC --------------------------------------------------------------------------------------------------------


class _Socket(NamedTuple):
    address: tuple[str, int]


OURS, THEIRS = Credentials("ours", "o" * 22), Credentials("them", "t" * 22)
BASE, PEER = _Socket(("20.0.0.1", 4000)), ("20.0.0.2", 5000)
MOST_EFFECTS = 8


def ice_agent(data: bytes) -> None:
    """A peer that has the passwords. Each message is a byte of length (in words), one that says what it is (class, or bytes as
    they come) and to whom it goes on, and its attributes; answers are to the agent's first check."""
    rng = random.Random(7)
    agent = Agent(is_controlling=True, credentials=OURS, tie_breaker=1 << 32, random_bytes=rng.randbytes, rng=rng)
    agent.add_local(host(BASE, 65_535), 0.0)
    there = [Candidate("f", 1, "udp", 1, PEER, CandidateType.HOST)]
    effects = agent.set_remote(THEIRS, there, 0.0) + agent.tick(0.0)
    asked = next((effect.data[8:20] for effect in effects if isinstance(effect, Transmit)), bytes(12))
    for number in range(16):
        size = 4 * data[0] if data else 0
        message, data = data[1 : 2 + size], data[2 + size :]
        if not message:
            return
        packet = _ice_message(message[0], message[1:], asked)
        agent.hears(packet)
        now = 0.02 * number
        effects = agent.receive(BASE, packet, (PEER[0], PEER[1] + (message[0] >> 6)), now) + agent.tick(now)
        same(len(effects) <= MOST_EFFECTS, True)


def _ice_message(form: int, attributes: bytes, asked: bytes) -> bytes:
    named = ((Attribute.USERNAME, "ours:them"),)
    match form % 5:
        case 0:
            return _signed(Message(MessageClass.REQUEST, Method.BINDING, bytes(12), named), attributes, OURS.key)
        case 1:
            return _signed(Message(MessageClass.SUCCESS, Method.BINDING, asked), attributes, THEIRS.key)
        case 2:
            return _signed(Message(MessageClass.ERROR, Method.BINDING, asked), attributes, THEIRS.key)
        case 3:
            return _signed(Message(MessageClass.INDICATION, Method.BINDING, bytes(12)), attributes, OURS.key)
        case _:
            return attributes


def candidates(data: bytes) -> None:
    read = tried(decode_candidate, text_of(data))
    if read is not None:
        tried(lambda: read.is_usable)
        text = encode_candidate(read)
        if len(text) <= 1024:
            same(decode_candidate(text), read)


def tickets(data: bytes) -> None:
    read = tried(decode_ticket, text_of(data))
    if read is not None and all(len(encode_candidate(one)) <= 1024 for one in read.candidates):
        packed = encode_ticket(read.ufrag, read.password, read.candidates)
        if len(packed) <= 65_536:
            same(decode_ticket(packed), read)


def quic_packets(data: bytes) -> None:
    """What is read without keys, and the two streams' bytes that are ours."""
    quic.destination_id(data)
    initial = tried(quic.unpack_initial, data)
    if initial is not None:
        quic.pack_version_negotiation(initial)
    # The size of a first packet is checked before what is in it.
    initial = tried(quic.unpack_initial, data.ljust(quic.MIN_INITIAL, b"\0"))
    if initial is not None and len(initial.source) <= 20:
        same(quic.destination_id(quic.pack_version_negotiation(initial)), initial.source)
    limit, rest = quic.unpack_limits(data)
    same(len(rest) < quic.LIMIT_SIZE, True)
    if limit is not None:
        same(quic.unpack_limits(quic.pack_limit(limit)), (limit, b""))
        _credit(data)


def _credit(data: bytes) -> None:
    sending, receiving = SendCredit(), ReceiveCredit()
    for at in range(0, len(data) - 7, 8):
        limit = int.from_bytes(data[at : at + 8])
        try:
            sending.grant(limit)
        except WireError:
            pass
        else:
            sending.spend(min(sending.room, limit))
        same(0 <= sending.room <= quic.CREDIT_WINDOW, True)
        if tried(lambda size: receiving.arrive(size) or True, limit & 0xFFFFF):
            receiving.read(limit & 0xFFFFF)
        else:
            return


# -- routers -------------------------------------------------------------------------------------------------------------


def nat_pmp(data: bytes) -> None:
    request = tried(natpmp.unpack_request, data)
    if isinstance(request, natpmp.MappingRequest):
        same(natpmp.unpack_request(natpmp.pack_mapping_request(request)), request)
    answer = tried(natpmp.unpack_answer, data)
    if answer is not None:
        same(natpmp.unpack_answer(natpmp.pack_answer(answer)), answer)


def pcp_messages(data: bytes) -> None:
    request = tried(pcp.unpack_request, data)
    if request is not None:
        same(pcp.unpack_request(pcp.pack_request(request)), request)
    answer = tried(pcp.unpack_answer, data)
    if answer is not None:
        same(pcp.unpack_answer(pcp.pack_answer(answer)), answer)


LOCATION = upnp.Url("192.0.2.1", 80, "/root.xml")


def ssdp(data: bytes) -> None:
    read = tried(upnp.unpack_search_answer, data, LOCATION.ip)
    if read is not None:
        same(upnp.parse_url(str(read)), read)


def router_responses(data: bytes) -> None:
    """HTTP, and what a whole one brings as a description."""
    tried(upnp.is_whole, data)
    body = tried(upnp.unpack_response, data)
    if body is not None:
        same(len(body) <= upnp.MAX_BODY, True)
        router_descriptions(body)


def router_descriptions(data: bytes) -> None:
    read = tried(upnp.unpack_description, data, LOCATION)
    if read is not None:
        same(0 < len(read.services) <= upnp.MAX_SERVICES and len(read.name) <= upnp.MAX_NAME, True)
        for service in read.services:
            packed = upnp.pack_description(service)
            found = upnp.unpack_description(upnp.unpack_response(packed), LOCATION) if b"&" not in packed else None
            if found is not None:
                same(found.services, (service,))


# -- seeds ---------------------------------------------------------------------------------------------------------------

STUN = [bytes.fromhex(one["message"]) for one in json.loads((VECTORS / "stun.json").read_text()).values()]
CANDIDATES = (
    "candidate:1 1 udp 2130706431 192.0.2.7 30301 typ host",
    "a=candidate:x 1 UDP 1 2001:db8::1 9 typ srflx raddr 10.0.0.1 rport 9 generation 0",
)
UFRAG, PASSWORD = "abcd", "abcdefghijklmnopqrstuv"
TICKETS = (
    encode_ticket(UFRAG, PASSWORD, [decode_candidate(CANDIDATES[0])]),
    json.dumps({"ufrag": UFRAG, "pwd": PASSWORD, "candidates": list(CANDIDATES)}),
)
TURN_URLS = ("a:b@example.org:3478", "turn:a:b%20c@[2001:db8::1]?transport=tcp", "turns:h:5349", "turn:x@h:1")
TURN_SEEDS = [
    b"\0" + _authentic(3, b"obMatJos2AAAA", b"\x00\x19\x00\x04\x11\x00\x00\x00"),
    b"\x01\x03\x00\x19\x00\x04\x11\x00\x00\x00",
    b"\x01\x03\x00\x19\x00\x04\x11\x00\x00\x00\x00\x18\x00\x01\x80\x00\x00\x00",
    b"\x02\x08\x00\x12\x00\x08\x00\x01\x12\x34\x35\x1b\xad\x4b",
    b"\x02\x09\x00\x0c\x00\x04\x40\x00\x00\x00\x00\x12\x00\x08\x00\x01\x12\x34\x35\x1b\xad\x4b",
    b"\x02\x04\x00\x0d\x00\x04\x00\x00\x00\x00",
]
ICE_CHECK = b"\x00\x24\x00\x04\x6e\x00\x01\xff\x80\x29\x00\x08" + bytes(8)
ICE_ANSWER = b"\x00\x20\x00\x08\x00\x01\x2e\xb2\x35\x12\xa4\x43"
ICE_SEEDS = (
    bytes((len(ICE_CHECK) // 4, 0)) + ICE_CHECK + bytes((len(ICE_ANSWER) // 4, 1)) + ICE_ANSWER,
    b"\x02\x02\x00\x09\x00\x04\x00\x00\x04\x57",
    bytes((len(ICE_CHECK) // 4, 0x40)) + ICE_CHECK + b"\x01\x04data",
)
INITIAL = b"\xc3\0\0\0\x01\x08" + bytes(8) + b"\x08" + bytes(8) + b"\x04" + bytes(4)
PCP_MAP = pcp.Map(bytes(12), 17, 30301, 30301, "192.0.2.1")
XML = upnp.pack_description(
    upnp.Service("urn:schemas-upnp-org:service:WANIPConnection:1", LOCATION._replace(path="/c"))
)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"

TARGETS = (
    Target("stun_messages", stun_messages, [*STUN, *(one[:2] + one[20:] for one in STUN)]),
    Target("turn_server", turn_server, TURN_SEEDS),
    Target("turn_channels", turn_channels, [b"\x40\x00\x00\x03abc\0", b"\x4f\xff\0\0"]),
    Target("relay_credentials", relay_credentials, [NAME.username.encode(), b"1:" + b"0" * 32]),
    Target("turn_urls", turn_urls, [text.encode() for text in TURN_URLS]),
    Target("ice_agent", ice_agent, ICE_SEEDS),
    Target("candidates", candidates, [text.encode() for text in CANDIDATES]),
    Target("tickets", tickets, [text.encode() for text in TICKETS]),
    Target("quic_packets", quic_packets, [INITIAL, quic.pack_limit(1 << 20) + quic.pack_limit(1 << 21)]),
    Target(
        "nat_pmp",
        nat_pmp,
        [
            natpmp.pack_mapping_request(natpmp.MappingRequest(natpmp.Opcode.MAP_UDP, 1, 2, 3)),
            natpmp.pack_answer(natpmp.Mapping(natpmp.Opcode.MAP_TCP, 7, 1, 2, 3)),
            natpmp.pack_answer(natpmp.ExternalAddress(7, "192.0.2.1")),
        ],
    ),
    Target(
        "pcp_messages",
        pcp_messages,
        [
            pcp.pack_request(pcp.Request(pcp.Opcode.MAP, 60, "192.0.2.7", PCP_MAP, (pcp.PREFER_FAILURE,))),
            pcp.pack_answer(pcp.Answer(pcp.Opcode.MAP, 0, 60, 7, PCP_MAP)),
        ],
    ),
    Target("ssdp", ssdp, [f"HTTP/1.1 200 OK\r\nLOCATION: {LOCATION}\r\nST: x\r\n\r\n".encode()]),
    Target("router_responses", router_responses, [XML, CHUNKED]),
    Target("router_descriptions", router_descriptions, [upnp.unpack_response(XML)]),
)
