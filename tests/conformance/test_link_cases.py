"""Conformance of links over TCP. The headings are those of docs/protocol.md, a docstring says what is required there."""

from __future__ import annotations

import json
import os
import socket
import struct

import pytest
from conformance.client import msgpack, zstd
from conformance.client.keys import Identity, changed, new_key
from conformance.client.links import (
    ANNOUNCEMENT,
    BLOCK,
    COMPRESSED,
    DISCONNECT,
    DUPLICATE_CONNECTION,
    HEARTBEAT,
    HELLO,
    HELLO_BODY,
    INCOMPATIBLE_VERSION,
    MORE_FOLLOWS,
    PEER_REQUEST,
    PEER_RESPONSE,
    PROLOGUE,
    PROTOCOL_ERROR,
    SYNC,
    WANT,
    WRONG_NETWORK,
    Ended,
    Link,
    check_proof,
    message,
    proof,
)
from conformance.client.noise import PROTOCOL, Handshake, public_of
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

CONTENT_LIMIT = 4_259_840
UNKNOWN_TYPE = 200


def is_alive(link) -> bool:
    return link.until_beat() is not None


# -- Handshake ---------------------------------------------------------------------------------------------------------


def answered(connection, noise) -> bytes:
    """The node's proof, after the first message."""
    connection.write_sized(noise.write())
    return noise.read(connection.read_sized())


def test_handshake_proves_the_identity(connect, node):
    """The second message carries the public key of the node's id, and its signature over the static key of this handshake."""
    noise = Handshake(True, PROLOGUE)
    assert check_proof(answered(connect(), noise), noise.remote_static) == node.id


def test_handshakes_have_ephemeral_keys_of_their_own(connect):
    """No two second messages begin alike."""
    first, second = Handshake(True, PROLOGUE), Handshake(True, PROLOGUE)
    answered(connect(), first)
    answered(connect(), second)
    assert first.remote_ephemeral != second.remote_ephemeral


def test_handshake_in_single_bytes_is_taken(connect):
    """How TCP cuts the stream does not matter."""
    connection, noise, identity = connect(), Handshake(True, PROLOGUE), Identity()
    connection.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    first = noise.write()
    for byte in len(first).to_bytes(2, "big") + first:
        connection.write(bytes((byte,)))
    noise.read(connection.read_sized())
    last = noise.write(proof(identity, noise.static_public))
    connection.write_sized(last)
    assert is_alive(Link(connection, *noise.split(), identity, b"").begin())


def test_hello_may_come_with_the_third_message(connect):
    """The dialler needs not wait for anything before its hello."""
    connection, noise, identity = connect(), Handshake(True, PROLOGUE), Identity()
    answered(connection, noise)
    last = noise.write(proof(identity, noise.static_public))
    link = Link(connection, *noise.split(), identity, b"")
    hello = link.segment(b"\0" + message(HELLO, HELLO_BODY))
    connection.write(len(last).to_bytes(2, "big") + last + hello)
    link.read_hello()
    assert is_alive(link)


@pytest.mark.parametrize(
    ("prologue", "protocol"),
    [(b"kodechain link v2", PROTOCOL), (b"", PROTOCOL), (PROLOGUE, b"Noise_XX_25519_AESGCM_SHA512")],
    ids=["another prologue", "no prologue", "another protocol"],
)
def test_handshake_is_bound_to_prologue_and_protocol(connect, prologue, protocol):
    """Whoever begins with another prologue or protocol cannot open the second message."""
    with pytest.raises(InvalidTag):
        answered(connect(), Handshake(True, prologue, protocol))


@pytest.mark.parametrize("size", [2, 31, 1025, 65_535])
def test_first_message_of_another_size_is_refused(connect, size):
    """Fewer than 32 bytes are no first message; more than 1,024 are refused before they are there."""
    connection = connect()
    connection.write(size.to_bytes(2, "big") + bytes(min(size, 40)))
    assert connection.is_closed()


def test_ephemeral_key_of_small_order_is_refused(connect):
    """An all-zero result of X25519 ends the handshake."""
    connection = connect()
    connection.write_sized(bytes(32))
    assert connection.is_closed()


@pytest.mark.parametrize("offset", [0, 47, 48, -1])
def test_third_message_that_was_changed_is_refused(connect, offset):
    """Every byte of it is authenticated: static key, tag, proof, tag."""
    connection, noise = connect(), Handshake(True, PROLOGUE)
    answered(connection, noise)
    connection.write_sized(changed(noise.write(proof(Identity(), noise.static_public)), offset))
    assert connection.is_closed()


def test_third_message_of_another_handshake_is_refused(connect):
    """What was recorded opens nothing: messages 1 and 3 again, in a new connection, are refused."""
    connection, noise = connect(), Handshake(True, PROLOGUE)
    first = noise.write()
    connection.write_sized(first)
    noise.read(connection.read_sized())
    last = noise.write(proof(Identity(), noise.static_public))
    again = connect()
    again.write_sized(first)
    again.read_sized()
    again.write_sized(last)
    assert again.is_closed()


def test_third_message_cut_short_is_refused(connect):
    """It is one byte shorter, and does not open."""
    connection, noise = connect(), Handshake(True, PROLOGUE)
    answered(connection, noise)
    connection.write_sized(noise.write(proof(Identity(), noise.static_public))[:-1])
    assert connection.is_closed()


def third_with(connection, make_payload) -> Link:
    noise = Handshake(True, PROLOGUE)
    answered(connection, noise)
    connection.write_sized(noise.write(make_payload(noise)))
    return Link(connection, *noise.split(), Identity(), b"")


@pytest.mark.parametrize(
    "make_payload",
    [
        lambda noise: changed(proof(Identity(), noise.static_public), 40),
        lambda noise: changed(proof(Identity(), noise.static_public), 0),
        lambda noise: proof(Identity(), public_of(X25519PrivateKey.generate())),
        lambda noise: proof(Identity(), noise.static_public, b"kodechain record v1"),
        lambda noise: proof(Identity(), noise.static_public)[:-1],
        lambda noise: b"",
    ],
    ids=["signature", "public key", "another static key", "another context", "cut short", "none"],
)
def test_identity_without_proof_is_refused(connect, make_payload):
    """An identity that has not signed the static key of this handshake gets no link, and no hello."""
    link = third_with(connect(), make_payload)
    assert link.connection.is_closed()


def test_bytes_after_the_proof_are_accepted(connect):
    """A payload may be longer: what follows is for later versions."""
    identity = Identity()
    link = third_with(connect(), lambda noise: proof(identity, noise.static_public) + b"later")
    assert is_alive(link.begin())


def test_first_message_of_size_0_is_a_knock(connect):
    """It is followed by a nonce, is no handshake, and gets nothing: the connection is closed."""
    connection = connect()
    connection.write(bytes(2) + os.urandom(16))
    assert connection.is_closed()


def test_binding_request_over_tcp_is_answered(connect):
    """A first message of size 1 is the type of a STUN request: it tells where the connection comes from."""
    connection = connect()
    cookie = b"\x21\x12\xa4\x42"
    connection.write(b"\0\1\0\0" + cookie + b"transaction!")
    answer = connection.read(32)
    ip, port = connection.stream.getsockname()
    xored = bytes(a ^ b for a, b in zip(socket.inet_aton(ip), cookie, strict=True))
    assert answer == b"\1\1\0\x0c" + cookie + b"transaction!\0\x20\0\x08\0\1" + struct.pack(">H", port ^ 0x2112) + xored


def shaken(connection, identity, prologue=PROLOGUE, make_payload=proof) -> tuple[Handshake, bytes]:
    """The acceptor's side: its Noise state, and the dialler's third message."""
    noise = Handshake(False, prologue)
    noise.read(connection.read_sized())
    connection.write_sized(noise.write(make_payload(identity, noise.static_public)))
    return noise, connection.read_sized()


def test_dialler_begins_with_its_ephemeral_key_alone(dialled):
    """The payload of the first message is empty."""
    assert len(dialled(Identity().id).read_sized()) == 32


def test_dialler_proves_its_identity_and_greets(dialled, node):
    """The third message carries its proof; its hello needs no answer before."""
    identity = Identity()
    connection = dialled(identity.id)
    noise, last = shaken(connection, identity)
    assert check_proof(noise.read(last), noise.remote_static) == node.id
    link = Link(connection, *noise.split(), identity, node.id)
    link.read_hello()
    link.send(HELLO, HELLO_BODY)
    assert is_alive(link)


def test_dialler_takes_no_other_identity(dialled):
    """If another id than that which was dialled is proved, there is no third message."""
    with pytest.raises(Ended):
        shaken(dialled(Identity().id), Identity())


@pytest.mark.parametrize(
    "make_payload",
    [
        lambda identity, static: changed(proof(identity, static), -1),
        lambda identity, static: proof(identity, new_key()),
        lambda identity, static: proof(identity, static, b"kodechain record v1"),
        lambda identity, static: identity.public,
    ],
    ids=["signature", "another static key", "another context", "no signature"],
)
def test_dialler_takes_no_identity_without_proof(dialled, make_payload):
    """Nor if it is not proved for this static key."""
    identity = Identity()
    with pytest.raises(Ended):
        shaken(dialled(identity.id), identity, make_payload=make_payload)


def test_dialler_takes_no_other_prologue(dialled):
    """Nor if the second message does not open."""
    identity = Identity()
    with pytest.raises(Ended):
        shaken(dialled(identity.id), identity, prologue=b"kodechain link v2")


def test_dialler_is_not_answered_by_itself(dialled):
    """A reflection of its own message opens nothing."""
    connection = dialled(Identity().id)
    first = connection.read_sized()
    connection.write_sized(first + bytes(192 - len(first)))
    assert connection.is_closed()


# -- Frames ------------------------------------------------------------------------------------------------------------


def heartbeat(number: int) -> bytes:
    return message(HEARTBEAT, [0, number])


def beats_of(link, count: int) -> list[int]:
    """The next answers to heartbeats."""
    beats: list[int] = []
    while len(beats) < count:
        direction, number = msgpack.unpack(link.next(HEARTBEAT))
        if direction == 1:
            beats.append(number)
    return beats


def test_messages_of_a_frame_are_taken_in_order(link):
    """A frame holds several messages."""
    link.send_content(heartbeat(1) + heartbeat(2) + heartbeat(3))
    assert beats_of(link, 3) == [1, 2, 3]


def test_frame_may_have_several_segments(link):
    """A message may be cut anywhere between them, within its size too."""
    content = message(UNKNOWN_TYPE, bytes(200)) + heartbeat(5)
    link.send_segment(MORE_FOLLOWS, content[:2])
    link.send_segment(MORE_FOLLOWS, content[2:150])
    link.send_segment(0, content[150:])
    assert beats_of(link, 1) == [5]


def test_frame_without_messages_is_taken(link):
    """Flags alone are a frame with nothing in it."""
    link.send_segment(0)
    assert is_alive(link)


WANT_NOTHING = message(SYNC, [WANT, b""])


def test_frame_of_4096_messages_is_taken(link):
    """A frame holds up to 4,096 messages."""
    link.send_content(WANT_NOTHING * 4095 + heartbeat(9))
    assert beats_of(link, 1) == [9]


def test_frame_of_4097_messages_is_refused(link):
    """One more ends the link, and none of them is taken."""
    link.send_content(heartbeat(9) + WANT_NOTHING * 4096)
    assert link.ending() == PROTOCOL_ERROR
    assert [1, 9] not in link.beats


def test_frame_of_the_largest_size_is_taken(link):
    """The content of a frame has up to 4,259,840 bytes."""
    link.send_content(message(UNKNOWN_TYPE, bytes(CONTENT_LIMIT - 5)))
    assert is_alive(link)


def test_frame_over_the_largest_size_is_refused(link):
    """One byte more ends the link, while the frame still comes."""
    link.send_content(message(UNKNOWN_TYPE, bytes(CONTENT_LIMIT - 4)))
    assert link.ending() == PROTOCOL_ERROR


def test_size_may_have_more_bytes_than_it_needs(link):
    """LEB128 need not be in its shortest form."""
    body = msgpack.pack([0, 3])
    link.send_content(bytes((HEARTBEAT, len(body) | 0x80, 0x80, 0)) + body)
    assert beats_of(link, 1) == [3]


@pytest.mark.parametrize(
    "content",
    [
        bytes((UNKNOWN_TYPE,)) + b"\x80" * 9 + b"\0",
        bytes((UNKNOWN_TYPE,)) + b"\xff" * 9 + b"\1",
        bytes((UNKNOWN_TYPE,)) + b"\xff" * 8 + b"\x7f",
        bytes((UNKNOWN_TYPE, 6)) + bytes(5),
        bytes((UNKNOWN_TYPE, 0x80)),
        bytes((UNKNOWN_TYPE,)),
    ],
    ids=["ten bytes", "2^63 and more", "2^63 - 1", "one byte missing", "size cut short", "no size"],
)
def test_message_that_its_frame_does_not_hold_is_refused(link, content):
    """A size of more than nine bytes, or beyond the end of the frame, ends the link."""
    link.send_content(content)
    assert link.ending() == PROTOCOL_ERROR


@pytest.mark.parametrize("size", [0, 1, 16])
def test_segment_of_less_than_17_bytes_is_refused(link, size):
    """It cannot have flags and a tag: it ends the link unread."""
    assert is_alive(link)
    link.connection.write(size.to_bytes(2, "big"))
    assert link.ending() == PROTOCOL_ERROR


@pytest.mark.parametrize("flags", [4, 8, 0x80, 0xFC])
def test_unknown_flag_is_refused(link, flags):
    """Flag bits other than 0 and 1 are zero."""
    link.send_segment(flags, heartbeat(1))
    assert link.ending() == PROTOCOL_ERROR


def test_empty_segment_that_promises_more_is_refused(link):
    """Who promises more sends something."""
    link.send_segment(MORE_FOLLOWS)
    assert link.ending() == PROTOCOL_ERROR


def test_segment_that_was_changed_is_refused(link):
    """What does not open ends the link."""
    link.connection.write(changed(link.segment(b"\0" + heartbeat(1)), -1))
    assert link.ending() == PROTOCOL_ERROR


def test_segment_sent_twice_is_refused(link):
    """So does a repetition."""
    segment = link.segment(b"\0" + heartbeat(1))
    link.connection.write(segment + segment)
    assert link.ending() == PROTOCOL_ERROR


def test_segments_in_another_order_are_refused(link):
    """So does another order."""
    first, second = link.segment(b"\0" + heartbeat(1)), link.segment(b"\0" + heartbeat(2))
    link.connection.write(second + first)
    assert link.ending() == PROTOCOL_ERROR


def test_compressed_frame_is_taken(link):
    """With bit 0 the frame is one zstd frame."""
    link.send_content(zstd.frame(heartbeat(4) + heartbeat(6)), COMPRESSED)
    assert beats_of(link, 2) == [4, 6]


def test_compressed_frame_may_have_several_segments(link):
    """The bytes of the segments are joined first; bit 0 counts in the first one only."""
    packed = zstd.frame(heartbeat(4))
    link.send_segment(COMPRESSED | MORE_FOLLOWS, packed[:9])
    link.send_segment(0, packed[9:])
    link.send_segment(MORE_FOLLOWS, heartbeat(5)[:2])
    link.send_segment(COMPRESSED, heartbeat(5)[2:])
    assert beats_of(link, 2) == [4, 5]


def test_window_of_8_mib_is_taken(link):
    """A zstd frame may need a window of 8 MiB."""
    link.send_content(zstd.frame_with_window(heartbeat(4), 23), COMPRESSED)
    assert beats_of(link, 1) == [4]


@pytest.mark.parametrize(
    "packed",
    [
        zstd.frame_of_unknown_size(heartbeat(1)),
        zstd.frame(heartbeat(1), size=CONTENT_LIMIT + 1),
        zstd.frame(heartbeat(1), size=1 << 63),
        zstd.frame(heartbeat(1), size=len(heartbeat(1)) + 1),
        zstd.frame(heartbeat(1), size=len(heartbeat(1)) - 1),
        zstd.frame_with_window(heartbeat(1), 24),
        zstd.repeated(b"\0", 64 << 20),
        zstd.frame(heartbeat(1))[:-1],
        zstd.frame(heartbeat(1)) + zstd.frame(heartbeat(2)),
        b"not a zstd frame",
        b"",
    ],
    ids=[
        "no size declared",
        "too much declared",
        "2^63 declared",
        "more declared",
        "less declared",
        "window",
        "bomb",
        "cut short",
        "two frames",
        "no frame",
        "nothing",
    ],
)
def test_compressed_frame_out_of_its_limits_is_refused(link, packed):
    """It is one zstd frame that declares its size, no more than a frame may have, and no larger window."""
    link.send_content(packed, COMPRESSED)
    assert link.ending() == PROTOCOL_ERROR


def test_hello_is_the_first_message_and_complete(link, node):
    """The node tells its versions, client, network, capabilities and ports."""
    assert 1 in link.hello["versions"]
    assert 1 <= len(link.hello["client"]) <= 64
    assert link.hello["network"] == "kodechain"
    assert link.hello["ports"] == {"tcp": node.tcp, "udp": node.udp}
    assert len(link.hello["capabilities"]) <= 32


@pytest.mark.parametrize(
    "changes",
    [
        {"versions": [7, 1, 65_535]},
        {"versions": list(range(16))},
        {"capabilities": []},
        {"capabilities": ["x" * 32] * 32},
        {"client": "c" * 64},
        {"client": "~ any printable ASCII !"},
        {"ports": {"tcp": 0, "udp": 65_535, "quic": 1}},
        {"later": {"a": [1, None]}},
    ],
    ids=["versions", "16 versions", "no capabilities", "32 capabilities", "64", "printable", "ports", "unknown field"],
)
def test_hello_within_its_limits_is_taken(make_link, changes):
    """Unknown versions, capabilities and fields are passed over."""
    assert is_alive(make_link(greeted=False).begin({**HELLO_BODY, **changes}))


def refusal_of(link, kind, body) -> int | None:
    link.send(kind, body)
    link.read_hello()
    return link.ending()


@pytest.mark.parametrize(
    "changes",
    [
        {"versions": []},
        {"versions": [1] * 17},
        {"versions": ["1"]},
        {"versions": [-1, 1]},
        {"client": ""},
        {"client": "c" * 65},
        {"client": "two\nlines"},
        {"network": ""},
        {"capabilities": ["c"] * 33},
        {"capabilities": ["x" * 33]},
        {"capabilities": ["two words"]},
        {"ports": {"tcp": 65_536, "udp": 0}},
        {"ports": {"tcp": 0}},
        {"versions": None},
        {"later": "x" * 4096},
    ],
    ids=[
        "no versions",
        "17 versions",
        "text",
        "below 0",
        "no client",
        "long client",
        "control character",
        "no network",
        "33 capabilities",
        "long capability",
        "capability with a space",
        "port",
        "one port",
        "null",
        "4,096 bytes and more",
    ],
)
def test_hello_over_its_limits_is_refused(make_link, changes):
    """It ends the link with protocol_error."""
    assert refusal_of(make_link(greeted=False), HELLO, {**HELLO_BODY, **changes}) == PROTOCOL_ERROR


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"\xff"], ids=["empty", "no fields", "array", "no UTF-8"])
def test_hello_that_is_none_is_refused(make_link, body):
    """So does what is not the documented object."""
    assert refusal_of(make_link(greeted=False), HELLO, body) == PROTOCOL_ERROR


@pytest.mark.parametrize("kind", [HEARTBEAT, BLOCK, UNKNOWN_TYPE])
def test_first_message_that_is_no_hello_is_refused(make_link, kind):
    """The hello is the first message of both sides."""
    assert refusal_of(make_link(greeted=False), kind, HELLO_BODY) == PROTOCOL_ERROR


def test_second_hello_is_refused(link):
    """And comes once."""
    link.send(HELLO, HELLO_BODY)
    assert link.ending() == PROTOCOL_ERROR


def test_messages_may_follow_the_hello_in_its_frame(make_link):
    """A frame with the hello may have others in it."""
    link = make_link(greeted=False)
    link.send_content(message(HELLO, HELLO_BODY) + heartbeat(8))
    link.read_hello()
    assert beats_of(link, 1) == [8]


def test_another_network_is_refused(make_link):
    """With the reason wrong_network."""
    assert refusal_of(make_link(greeted=False), HELLO, {**HELLO_BODY, "network": "another"}) == WRONG_NETWORK


def test_no_common_version_is_refused(make_link):
    """With the reason incompatible_version."""
    assert refusal_of(make_link(greeted=False), HELLO, {**HELLO_BODY, "versions": [2, 3]}) == INCOMPATIBLE_VERSION


def test_messages_of_unknown_types_are_ignored(link):
    """So are their bodies."""
    for kind in (11, UNKNOWN_TYPE, 255):
        link.send(kind, os.urandom(50))
    assert is_alive(link)


def test_announcement_over_a_link_ends_nothing(link):
    """Whether it is taken or not is the receiver's affair."""
    link.send(ANNOUNCEMENT, b'{"type":"announcement"}')
    assert is_alive(link)


def test_heartbeat_is_answered_with_its_id(link):
    """Whatever the id is, below 2^63."""
    for number in (0, 1, 2**63 - 1):
        link.send(HEARTBEAT, [0, number])
        assert beats_of(link, 1) == [number]


def test_new_link_is_asked_for_a_heartbeat(make_link):
    """Heartbeats go out at once on a new link: before anything that has come over it is answered."""
    link = make_link(greeted=False)
    link.send_content(message(HELLO, HELLO_BODY) + heartbeat(8))
    link.read_hello()
    beats_of(link, 1)
    assert link.beats[0][0] == 0


def test_heartbeat_answer_that_nobody_asked_for_is_ignored(link):
    """An answer with another id means nothing."""
    link.send(HEARTBEAT, [1, 123_456])
    assert is_alive(link)


def test_later_elements_are_ignored_over_links(link):
    """Elements past those that are known are ignored in every array."""
    link.send(HEARTBEAT, [0, 77, "later", [1]])
    assert beats_of(link, 1) == [77]


@pytest.mark.parametrize(
    "body",
    [b"", [0], [2, 1], [0, "1"], [0, 1 << 63], {"a": 1}],
    ids=["empty", "one missing", "direction", "text", "2^63", "an object"],
)
def test_malformed_heartbeat_is_refused(link, body):
    """A body of a known type that does not decode ends the link."""
    link.send(HEARTBEAT, body)
    assert link.ending() == PROTOCOL_ERROR


def test_peer_request_over_a_link_is_answered(link, node):
    """The answer names others, never who asks, and not more than were asked for."""
    link.send(PEER_REQUEST, {"type": "peer_request", "requested_count": 1, "later": 1})
    answer = json.loads(link.next(PEER_RESPONSE))
    assert answer["type"] == "peer_response"
    assert len(answer["peers"]) <= 1
    assert not [text for text in answer["peers"] if link.identity.id.hex() in text]


@pytest.mark.parametrize("kind", [PEER_REQUEST, PEER_RESPONSE])
def test_malformed_peer_exchange_is_refused(link, kind):
    """What is not the documented object ends the link."""
    link.send(kind, b'{"type":"other"}')
    assert link.ending() == PROTOCOL_ERROR


def test_peer_response_that_nobody_asked_for_is_ignored(link):
    """Nobody is dialled because of it, and the link goes on."""
    with socket.create_server((link.connection.stream.getsockname()[0], 0)) as here:
        ip, port = here.getsockname()
        enode = f"enode://{new_key().hex()}@{ip}:{port}?discport={port}"
        link.send(PEER_RESPONSE, {"type": "peer_response", "peers": [enode]})
        assert is_alive(link)
        here.setblocking(False)
        with pytest.raises(BlockingIOError):
            here.accept()


@pytest.mark.parametrize("body", [[10, "that was all"], [0], [10, "", ["enode://" + "00" * 32 + "@192.0.2.1:1"]]])
def test_disconnect_ends_the_link(link, body):
    """The node closes, and says nothing more."""
    link.send(DISCONNECT, body)
    assert link.ending() is None


def test_disconnect_with_an_unknown_reason_ends_the_link(link):
    """A reason of a later version is unspecified."""
    link.send(DISCONNECT, [999, "later"])
    assert link.ending() is None


@pytest.mark.parametrize(
    "body",
    [b"", [-1], ["1"], [10, "x" * 201], [10, "", ["e"] * 9], [10, "", ["e" * 257]]],
    ids=["empty", "below 0", "text for a number", "long text", "nine enodes", "a long enode"],
)
def test_malformed_disconnect_is_refused(link, body):
    """What is over its limits is answered by protocol_error."""
    link.send(DISCONNECT, b"\x91\xff" if body == [-1] else body)
    assert link.ending() == PROTOCOL_ERROR


def test_disconnect_in_the_place_of_hello_ends_the_connection(make_link):
    """A dialler may refuse before it has greeted."""
    link = make_link(greeted=False)
    link.send(DISCONNECT, [10, ""])
    link.read_hello()
    assert link.ending() is None


def test_newer_link_replaces_the_older(make_link):
    """The older one is closed with duplicate_connection."""
    identity = Identity()
    older = make_link(identity)
    assert is_alive(older)
    newer = make_link(identity)
    assert older.ending() == DUPLICATE_CONNECTION
    assert is_alive(newer)


def test_control_messages_in_masses_are_refused(link):
    """More than 50 at once of types that are neither broadcast nor request end the link."""
    link.send_content(message(UNKNOWN_TYPE, b"") * 500)
    assert link.ending() == PROTOCOL_ERROR
