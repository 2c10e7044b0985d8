"""Discovery's codecs: layouts against hand-made bytes, round trips, and any bytes give a value or WireError."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kodectl.errors import WireError
from kodectl.wire import announcement, contacts, packets, record, rpc
from kodectl.wire.contacts import Contact

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "discovery.json").read_text())

DECODERS = {
    "hail": packets.unpack_hail,
    "challenge": packets.unpack_challenge,
    "handshake": packets.unpack_handshake,
    "message head": packets.unpack_message_head,
    "reset": packets.unpack_reset,
    "knock": packets.unpack_knock,
    "message": rpc.unpack_message,
    "contacts": lambda data: contacts.unpack_contacts(data, 16),
    "ip": contacts.unpack_ip,
    "record": record.unpack_record,
    "announcement": announcement.unpack_announcement,
    **{f"body {kind}": (lambda data, kind=kind: rpc.unpack_body(kind, data)) for kind in range(len(rpc.Kind) + 1)},
}


@pytest.mark.parametrize("name", DECODERS)
@given(data=st.binary(max_size=1400))
def test_any_bytes_give_a_value_or_a_wire_error(name, data):
    try:
        DECODERS[name](data)
    except WireError as error:
        assert error.message  # noqa: PT017 - the absence of an error is as good


@pytest.mark.parametrize("name", DECODERS)
@given(data=st.binary(max_size=300), head=st.sampled_from([8, 9, 10, 11, 12]))
def test_plausible_heads_change_nothing_about_that(name, data, head):
    try:
        DECODERS[name](bytes((head, 1)) + data)
    except WireError as error:
        assert error.message  # noqa: PT017


@given(
    text=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_json_is_an_announcement_or_a_wire_error(text):
    with pytest.raises(WireError):
        announcement.unpack_announcement(json.dumps(text).encode())


def test_hail_layout():
    recipient, sender, nonce = bytes(range(32)), bytes(range(32, 64)), bytes(range(16))
    packed = packets.pack_hail(packets.Hail(recipient, sender, nonce))
    assert packed == b"\x08\x01\0\0" + recipient + sender + nonce + bytes(100)
    assert packets.unpack_hail(packed) == (recipient, sender, nonce)


def test_answer_to_a_hail_is_no_larger_than_the_hail():
    assert packets.CHALLENGE_SIZE <= packets.HAIL_SIZE
    with pytest.raises(WireError, match="shorter than its answer"):
        packets.unpack_hail(packets.pack_hail(packets.Hail(bytes(32), bytes(32), bytes(16)))[:-1])


def test_challenge_layout():
    challenge = packets.Challenge(1, b"n" * 16, b"c" * 24, b"p" * 32, b"k" * 32, 0x0102030405060708, 0x7663, b"s" * 64)
    packed = packets.pack_challenge(challenge)
    assert packed[:4] == b"\x09\x01\x01\x00"
    assert packed[108:120] == bytes.fromhex("0102030405060708 7663 0000")
    assert len(packed) == 184
    assert packets.unpack_challenge(packed) == challenge
    assert challenge.signed_part() == packets.PREKEY_CONTEXT + b"\x01" + packed[76:120]


def test_trailing_bytes_of_fixed_layouts_are_left_off():
    challenge = packets.Challenge(0, b"n" * 16, b"c" * 24, b"p" * 32, b"k" * 32, 1, 2, b"s" * 64)
    assert packets.unpack_challenge(packets.pack_challenge(challenge) + b"later version") == challenge


@pytest.mark.parametrize(("ip", "size"), [("192.0.2.7", 41), ("2001:db8::7", 53)])
def test_contact_round_trip(ip, size):
    contact = Contact(bytes(range(32)), ip, 30301, 30303)
    assert len(contact.packed) == size
    (read,) = contacts.unpack_contacts(contact.packed, 16)
    assert read == contact
    assert (read.ip, read.address, read.tcp_port) == (ip, (ip, 30301), 30303)


def test_contact_limits():
    contact = Contact(bytes(32), "192.0.2.7", 1, 2).packed
    assert len(contacts.unpack_contacts(contact * 16, 16)) == 16
    with pytest.raises(WireError, match="more than 16"):
        contacts.unpack_contacts(contact * 17, 16)
    with pytest.raises(WireError, match="cut short"):
        contacts.unpack_contacts(contact[:-1], 16)
    with pytest.raises(WireError, match="family 5"):
        contacts.unpack_contacts(b"\x05" + contact[1:], 16)
    assert contacts.unpack_contacts(Contact(bytes(32), "192.0.2.7", 0, 2).packed, 16) == []


@pytest.mark.parametrize(
    "ip", ["0.0.0.0", "0.1.2.3", "224.0.0.1", "239.255.75.67", "240.0.0.1", "255.255.255.255", "::", "ff02::1"]
)
def test_contacts_at_a_group_are_passed_over(ip):
    good = Contact(bytes(32), "192.0.2.7", 1, 2)
    packed = Contact(bytes(32), ip, 1, 2).packed
    assert contacts.unpack_contacts(packed + good.packed + packed, 16) == [good]
    assert not contacts.is_unicast(ip)


def test_ipv4_in_the_clothes_of_ipv6_is_passed_over():
    packed = b"\x06" + bytes(10) + b"\xff\xff" + bytes((192, 0, 2, 7)) + bytes.fromhex("00010002") + bytes(32)
    assert contacts.unpack_contacts(packed, 16) == []


@pytest.mark.parametrize(
    "ip", ["127.0.0.1", "10.0.0.255", "192.168.1.1", "223.255.255.255", "::1", "fe80::1%2", "fd00::1", "2001:db8::1"]
)
def test_loopback_and_private_contacts_are_taken(ip):
    assert contacts.is_unicast(ip)
    assert len(contacts.unpack_contacts(Contact(bytes(32), ip, 1, 2).packed, 16)) == 1


@pytest.mark.parametrize("text", ["", "host", "1.2.3", "1.2.3.4.5", "::g"])
def test_what_is_no_address_is_nobodys(text):
    assert not contacts.is_unicast(text)


def test_bodies_ignore_later_elements_and_refuse_wrong_ones():
    import msgspec

    assert rpc.unpack_body(rpc.Kind.PING, msgspec.msgpack.encode([0, 30303, "new"])) == rpc.Ping(0, 30303)
    with pytest.raises(WireError, match="ping"):
        rpc.unpack_body(rpc.Kind.PING, msgspec.msgpack.encode([0]))
    with pytest.raises(WireError, match="find_node"):
        rpc.unpack_body(rpc.Kind.FIND_NODE, msgspec.msgpack.encode([bytes(31)]))
    with pytest.raises(WireError, match="message kind 200"):
        rpc.unpack_body(200, b"")


def test_peer_exchange_is_the_documented_json():
    packed = rpc.pack_message(7, rpc.PeerRequest(20))
    assert packed == b"\x09\0\0\0\x07" + b'{"type":"peer_request","requested_count":20}'
    assert rpc.unpack_body(10, b'{"type":"peer_response","peers":["enode://x"],"later":1}') == rpc.PeerResponse(
        ["enode://x"]
    )


def test_largest_record_fits_its_packets():
    statement = record.record_statement(bytes(32), bytes(32), 2**64 - 1, 2**64 - 1, b"v" * 1000)
    packed = record.pack_record(statement, bytes(64))
    assert len(packed) == record.MAX_RECORD == rpc.MAX_RECORD
    overhead = packets.MESSAGE_HEAD + packets.TAG_SIZE
    assert len(rpc.pack_message(1, rpc.Store(bytes(16), packed))) + overhead <= packets.MAX_PACKET
    assert len(rpc.pack_message(1, rpc.Values(2**32 - 1, bytes(16), [packed], b""))) + overhead <= packets.MAX_PACKET


def test_record_limits():
    with pytest.raises(WireError, match="limit is 1000"):
        record.record_statement(bytes(32), bytes(32), 1, 1, b"v" * 1001)
    statement = record.record_statement(b"p" * 32, b"k" * 32, 5, 6, b"value")
    packed = record.pack_record(statement, b"s" * 64)
    read = record.unpack_record(packed + b"after")
    assert (read.publisher, read.key, read.sequence, read.expiry, read.value) == (b"p" * 32, b"k" * 32, 5, 6, b"value")
    assert read.statement() == statement
    assert read.packed == packed
    for size in range(len(packed)):
        with pytest.raises(WireError):
            record.unpack_record(packed[:size])


@pytest.mark.parametrize("digits", ["ab" * 32, "cd" * 32, "00" * 64])
def test_announcement_with_a_line_end_behind_hex_digits_is_refused(digits):
    data = announcement.EnodeData("ab" * 32, "0.0.0.0", announcement.Ports(1, 2), "net", "cd" * 32)
    packed = announcement.pack_announcement(data, 1_790_000_000, bytes(64))
    with pytest.raises(WireError):
        announcement.unpack_announcement(packed.replace(digits.encode(), digits.encode() + b"\\n"))


def test_announcement_duplicate_keys_are_refused():
    data = announcement.EnodeData("ab" * 32, "0.0.0.0", announcement.Ports(1, 2), "net", "cd" * 32)
    packed = announcement.pack_announcement(data, 1_790_000_000, bytes(64))
    read = announcement.unpack_announcement(packed)
    assert read.data == data
    assert read.statement == announcement.announcement_statement(data, 1_790_000_000)
    doubled = packed.replace(b'"timestamp":', b'"timestamp":1,"timestamp":')
    with pytest.raises(WireError, match="twice"):
        announcement.unpack_announcement(doubled)
    inner = packed.replace(b'"network":"net"', b'"network":"net","network":"other"')
    with pytest.raises(WireError, match="twice"):
        announcement.unpack_announcement(inner)


def test_vectors_read_as_written():
    contact = VECTORS["contact"]
    assert (
        Contact(bytes.fromhex(contact["id"]), contact["ip"], contact["udp"], contact["tcp"]).packed.hex()
        == contact["packed"]
    )
    for vector in VECTORS["messages"]:
        kind, request_id, body = rpc.unpack_message(bytes.fromhex(vector["packed"]))
        assert (kind, request_id) == (vector["kind"], vector["request_id"])
        assert rpc.pack_message(request_id, rpc.unpack_body(kind, body)).hex() == vector["packed"]
    knock = VECTORS["knock"]
    assert packets.pack_knock(bytes.fromhex(knock["nonce"])).hex() == knock["packed"]
    assert packets.unpack_knock(bytes.fromhex(knock["packed"])).hex() == knock["nonce"]
