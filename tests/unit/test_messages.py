"""Bodies of link messages: vectors, round trips, limits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kodectl.errors import LocalMisuse, WireError
from kodectl.wire.announcement import Ports
from kodectl.wire.messages import (
    MAX_BLOCK,
    MAX_DIGEST_SLOTS,
    MAX_REFERRED,
    MAX_REFERRED_ENODE,
    MAX_SYNC_IDS,
    MAX_TRANSACTION,
    BroadcastMode,
    DigestSlot,
    Disconnect,
    DisconnectReason,
    Envelope,
    Heartbeat,
    Hello,
    MessageKind,
    SyncDigest,
    SyncHave,
    SyncWant,
    common_version,
    envelope_is_signed,
    new_envelope,
    pack_disconnect,
    pack_envelope,
    pack_heartbeat,
    pack_hello,
    pack_peer_request,
    pack_peer_response,
    pack_sync,
    unpack_disconnect,
    unpack_envelope,
    unpack_heartbeat,
    unpack_hello,
    unpack_peer_request,
    unpack_peer_response,
    unpack_sync,
)
from kodectl.wire.rpc import PeerRequest, PeerResponse
from kodectl.wire.suite import RealSuite

SUITE = RealSuite()
SEED = bytes(range(32))
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "messages.json").read_text())

HELLO = Hello((1,), "kodectl/0.1.0", "kodechain", ("gossip", "sync"), Ports(30303, 30301))

UNPACKERS: dict[str, Callable[[bytes], Any]] = {
    "hello": unpack_hello,
    "heartbeat": unpack_heartbeat,
    "disconnect": unpack_disconnect,
    "peer_request": unpack_peer_request,
    "peer_response": unpack_peer_response,
    "sync": unpack_sync,
    "block": lambda body: unpack_envelope(MessageKind.BLOCK, body),
    "transaction": lambda body: unpack_envelope(MessageKind.TRANSACTION, body),
}
PACKERS: dict[str, Callable[[Any], bytes]] = {
    "hello": pack_hello,
    "heartbeat": pack_heartbeat,
    "disconnect": pack_disconnect,
    "peer_request": pack_peer_request,
    "peer_response": pack_peer_response,
    "sync": pack_sync,
    "block": pack_envelope,
    "transaction": pack_envelope,
}


def envelope(payload: bytes = b"payload", kind: MessageKind = MessageKind.TRANSACTION) -> Envelope:
    return new_envelope(
        kind,
        payload,
        BroadcastMode.GOSSIP,
        origin=SUITE.public_key(SEED),
        time_ms=1_790_000_000_000,
        nonce=b"12345678",
        sign=lambda message: SUITE.sign(SEED, message),
    )


def ids(count: int) -> tuple[bytes, ...]:
    return tuple(bytes((number % 256,)) * 32 for number in range(count))


VALUES = {
    "hello": [HELLO, Hello((1, 2, 65_535), "c", "n", (), Ports(0, 65_535))],
    "heartbeat": [Heartbeat(0, 0), Heartbeat(1, 2**63 - 1)],
    "disconnect": [Disconnect(reason, "text") for reason in DisconnectReason]
    + [Disconnect(DisconnectReason.TOO_MANY_PEERS, "", ("enode://one", "enode://other"))],
    "peer_request": [PeerRequest(20)],
    "peer_response": [PeerResponse([]), PeerResponse(["enode://a@b:1?discport=1"] * 64)],
    "sync": [
        SyncHave(()),
        SyncHave(ids(3)),
        SyncWant(ids(MAX_SYNC_IDS)),
        SyncDigest(tuple(DigestSlot(number, 2, bytes(32)) for number in range(MAX_DIGEST_SLOTS))),
    ],
    "transaction": [envelope(b""), envelope(bytes(MAX_TRANSACTION))],
    "block": [envelope(bytes(MAX_BLOCK), MessageKind.BLOCK)],
}


@pytest.mark.parametrize("vector", VECTORS["accepted"], ids=lambda vector: vector["name"])
def test_vector(vector):
    body = bytes.fromhex(vector["body"])
    value = UNPACKERS[vector["type"]](body)
    assert json.loads(msgspec.json.encode(value)) == vector["value"]
    if vector["packs"]:
        assert PACKERS[vector["type"]](value) == body


@pytest.mark.parametrize("vector", VECTORS["refused"], ids=lambda vector: vector["name"])
def test_refused_vector(vector):
    with pytest.raises(WireError):
        UNPACKERS[vector["type"]](bytes.fromhex(vector["body"]))


@pytest.mark.parametrize(
    ("kind", "value"), [(kind, value) for kind, values in VALUES.items() for value in values], ids=lambda _: ""
)
def test_round_trip(kind, value):
    assert UNPACKERS[kind](PACKERS[kind](value)) == value


# Bytes that are nearly right get further into a decoder than random ones.
_SEEDS = {kind: PACKERS[kind](values[0]) for kind, values in VALUES.items() if kind != "block"} | {"block": b""}


@pytest.mark.parametrize("kind", UNPACKERS)
@given(data=st.data())
def test_any_bytes_give_a_value_or_a_wire_error(kind, data):
    body = bytearray(data.draw(st.one_of(st.binary(max_size=300), st.just(_SEEDS[kind]))))
    for position, byte in data.draw(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4)):
        if position < len(body):
            body[position] = byte
    try:
        UNPACKERS[kind](bytes(body))
    except WireError:
        pass


@pytest.mark.parametrize("kind", [kind for kind in UNPACKERS if kind not in ("block", "transaction")])
def test_body_cut_short_is_refused(kind):
    body = PACKERS[kind](VALUES[kind][-1])
    for size in range(min(len(body), 200)):
        with pytest.raises(WireError):
            UNPACKERS[kind](body[:size])


@pytest.mark.parametrize("kind", ["hello", "peer_request"])
def test_unknown_json_fields_are_ignored(kind):
    body = PACKERS[kind](VALUES[kind][0])
    assert UNPACKERS[kind](body[:-1] + b',"later":{"a":[1]}}') == VALUES[kind][0]


@pytest.mark.parametrize("kind", ["hello", "peer_request"])
def test_nesting_is_refused_not_followed(kind):
    with pytest.raises(WireError):
        UNPACKERS[kind](b'{"later":' + b"[" * 4000 + b"]" * 4000 + b"}")


@pytest.mark.parametrize(
    ("kind", "body"),
    [("heartbeat", "93000105"), ("disconnect", "940aa1619005"), ("sync", "9300c40005")],
)
def test_elements_past_the_known_ones_are_ignored(kind, body):
    UNPACKERS[kind](bytes.fromhex(body))


@pytest.mark.parametrize(
    "change",
    [
        {"versions": []},
        {"versions": list(range(17))},
        {"versions": [65_536]},
        {"versions": [True]},
        {"client": ""},
        {"client": "x" * 65},
        {"client": "line\n"},
        {"client": "\x1b[2J"},
        {"network": "größe"},
        {"capabilities": ["x"] * 33},
        {"capabilities": ["with space"]},
        {"capabilities": ["x" * 33]},
        {"ports": {"tcp": 65_536, "udp": 1}},
        {"ports": {"tcp": 1}},
        {"ports": None},
    ],
    ids=str,
)
def test_hello_out_of_bounds_is_refused(change):
    with pytest.raises(WireError):
        unpack_hello(msgspec.json.encode(msgspec.to_builtins(HELLO) | change))


@pytest.mark.parametrize("missing", ["versions", "client", "network", "capabilities", "ports"])
def test_hello_without_a_field_is_refused(missing):
    fields = msgspec.to_builtins(HELLO)
    del fields[missing]
    with pytest.raises(WireError, match=missing):
        unpack_hello(msgspec.json.encode(fields))


def test_long_hello_is_refused_unread():
    with pytest.raises(WireError, match="5000 bytes; the limit is 4096"):
        unpack_hello(b"{" + b" " * 4998 + b"}")


def test_highest_common_version_counts():
    def speaks(*versions: int) -> Hello:
        return msgspec.structs.replace(HELLO, versions=versions)

    assert common_version(speaks(1, 2, 3), speaks(2, 3, 4)) == 3
    assert common_version(speaks(1), speaks(2)) is None


def test_unknown_reason_is_unspecified():
    assert unpack_disconnect(msgspec.msgpack.encode([99, "new"])) == Disconnect(DisconnectReason.UNSPECIFIED, "new")


def test_reason_alone_is_enough():
    assert unpack_disconnect(msgspec.msgpack.encode([2])) == Disconnect(DisconnectReason.TOO_MANY_PEERS, "")


def test_a_disconnect_names_few_others():
    many = Disconnect(DisconnectReason.TOO_MANY_PEERS, "", tuple(f"enode://{number}" for number in range(20)))
    assert unpack_disconnect(pack_disconnect(many)).peers == many.peers[:MAX_REFERRED]
    for peers in (["e"] * (MAX_REFERRED + 1), ["e" * (MAX_REFERRED_ENODE + 1)], [1], "enode"):
        with pytest.raises(WireError):
            unpack_disconnect(msgspec.msgpack.encode([2, "", peers]))


def test_text_of_a_disconnect_is_cut_and_made_printable():
    assert unpack_disconnect(pack_disconnect(Disconnect(DisconnectReason.SLOW, "x" * 300))).text == "x" * 200
    assert unpack_disconnect(pack_disconnect(Disconnect(DisconnectReason.SLOW, "a\x1b[2J\n"))).text == "a?[2J?"


def test_sync_over_its_limits_is_refused():
    with pytest.raises(WireError):
        unpack_sync(pack_sync(SyncWant(ids(MAX_SYNC_IDS + 1))))
    with pytest.raises(WireError):
        unpack_sync(pack_sync(SyncDigest((DigestSlot(1, 1, bytes(32)),) * (MAX_DIGEST_SLOTS + 1))))
    with pytest.raises(WireError, match="no whole number of ids"):
        unpack_sync(msgspec.msgpack.encode([0, bytes(33)]))


# Envelopes


def test_envelope_is_signed_over_its_id():
    message = envelope()
    assert envelope_is_signed(SUITE, message)
    assert unpack_envelope(MessageKind.TRANSACTION, pack_envelope(message)) == message


@pytest.mark.parametrize("position", [0, 32, 40, 48, 49, 113])
def test_every_part_of_an_envelope_is_covered(position):
    body = bytearray(pack_envelope(envelope()))
    body[position] ^= 1
    assert not envelope_is_signed(SUITE, unpack_envelope(MessageKind.TRANSACTION, bytes(body)))


def test_a_transaction_is_no_block():
    message = envelope()
    assert not envelope_is_signed(SUITE, unpack_envelope(MessageKind.BLOCK, pack_envelope(message)))


@pytest.mark.parametrize(
    ("kind", "limit"), [(MessageKind.BLOCK, MAX_BLOCK), (MessageKind.TRANSACTION, MAX_TRANSACTION)]
)
def test_payload_over_the_limit(kind, limit):
    with pytest.raises(LocalMisuse) as refusal:
        envelope(bytes(limit + 1), kind)
    assert refusal.value.code == "payload_too_large"
    with pytest.raises(WireError, match="the limit is"):
        unpack_envelope(kind, bytes(113 + limit + 1))


@pytest.mark.parametrize(
    ("kind", "body", "why"),
    [
        (4, bytes(112), "cut short"),
        (5, bytes(48) + b"\x02" + bytes(64), "broadcast mode 2"),
        (6, bytes(113), "type 6"),
    ],
)
def test_bad_envelope_is_refused(kind, body, why):
    with pytest.raises(WireError, match=why):
        unpack_envelope(kind, body)
