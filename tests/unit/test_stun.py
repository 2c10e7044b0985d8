"""STUN messages: published vectors byte for byte, hand-made bytes, seals, and any bytes give a value or WireError."""

from __future__ import annotations

import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kodectl.errors import LocalMisuse, WireError
from kodectl.wire import stun_credentials
from kodectl.wire.stun import (
    COOKIE,
    MAX_ATTRIBUTES,
    Attribute,
    Change,
    Message,
    MessageClass,
    Method,
    PasswordAlgorithm,
    StunError,
    decode,
    encode,
    looks_like_stun,
    pack_type,
    unpack_type,
    verifies,
)
from kodectl.wire.stun_attributes import CODECS, AddressError

VECTORS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parents[1] / "vectors" / "stun.json").read_text())
ID = bytes(range(12))
KEY = b"key"
SHA1, SHA256 = Attribute.MESSAGE_INTEGRITY, Attribute.MESSAGE_INTEGRITY_SHA256
SEALS = (SHA1, SHA256, Attribute.FINGERPRINT)


def message(*attributes: tuple[int, Any], kind: MessageClass = MessageClass.REQUEST) -> Message:
    return Message(kind, Method.BINDING, ID, attributes)


def with_attributes(packed: bytes, head: bytes = b"\0\x01", block: bytes = COOKIE + ID) -> bytes:
    return head + len(packed).to_bytes(2) + block + packed


def value_of(name: str, value: Any) -> Any:
    """A vector's value as the codec gives it."""
    match name:
        case "NONCE" | "USERHASH":
            return bytes.fromhex(value)
        case "XOR_MAPPED_ADDRESS":
            return tuple(value)
        case "PASSWORD_ALGORITHM":
            return PasswordAlgorithm(value[0], bytes.fromhex(value[1]))
    return value


def key_of(vector: dict[str, Any], seal: Attribute) -> bytes:
    if "realm" not in vector:
        return stun_credentials.short_term_key(vector["password"])
    algorithm = stun_credentials.SHA256 if seal is SHA256 else stun_credentials.MD5
    return stun_credentials.long_term_key(vector["username"], vector["realm"], vector["password"], algorithm)


@pytest.mark.parametrize("name", VECTORS)
class TestVectors:
    def test_is_read(self, name: str) -> None:
        vector = VECTORS[name]
        read = decode(bytes.fromhex(vector["message"]))
        assert (read.kind.name, read.method, read.is_classic) == (vector["kind"], Method.BINDING, False)
        assert read.transaction_id.hex() == vector["transaction_id"]
        unsealed = [entry for entry in read.attributes if entry[0] not in SEALS]
        assert unsealed == [(Attribute[attribute], value_of(attribute, v)) for attribute, v in vector["attributes"]]

    def test_is_written_byte_for_byte(self, name: str) -> None:
        vector = VECTORS[name]
        data = bytes.fromhex(vector["message"])
        read = decode(data)
        seal = SHA256 if read.get(SHA1) is None else SHA1
        written = encode(
            read._replace(attributes=tuple(entry for entry in read.attributes if entry[0] not in SEALS)),
            key=key_of(vector, seal),
            integrity=(seal,),
            fingerprint=read.get(Attribute.FINGERPRINT) is not None,
            padding=bytes.fromhex(vector["padding"]),
        )
        assert written == data

    def test_only_the_right_key_verifies_and_only_what_was_sealed(self, name: str) -> None:
        vector = VECTORS[name]
        data = bytes.fromhex(vector["message"])
        seal = SHA256 if decode(data).get(SHA1) is None else SHA1
        key = key_of(vector, seal)
        assert verifies(data, key, seal)
        assert not verifies(data, key + b"x", seal)
        assert not verifies(data, key, SHA1 if seal is SHA256 else SHA256)


def test_the_userhash_of_the_vector() -> None:
    vector = VECTORS["rfc8489_request"]
    hashed = dict(vector["attributes"])["USERHASH"]
    assert stun_credentials.userhash(vector["username"], vector["realm"]).hex() == hashed


def test_layout_by_hand() -> None:
    """type | length | cookie | id | 0x0020, 8, 0, family 1, port ^ 0x2112, ip ^ cookie | 0x7fff, 1, x, padding"""
    packed = bytes.fromhex("0101 0014 2112a442") + ID
    packed += bytes.fromhex("0020 0008 00 01 a147 e112a643") + bytes.fromhex("7fff 0001 78 000000")
    read = decode(packed)
    mapped = (Attribute.XOR_MAPPED_ADDRESS, ("192.0.2.1", 32853))
    assert read == message(mapped, (0x7FFF, b"x"), kind=MessageClass.SUCCESS)
    assert encode(read) == packed


def test_types_by_hand() -> None:
    """RFC 8489, section 5: the class bits stand between the method's."""
    table = {0x0001: ("REQUEST", 1), 0x0011: ("INDICATION", 1), 0x0101: ("SUCCESS", 1), 0x0111: ("ERROR", 1)}
    table |= {0x0113: ("ERROR", 3), 0x0016: ("INDICATION", 6), 0x3EEF: ("REQUEST", 0xFFF)}
    for head, (kind, method) in table.items():
        assert unpack_type(head) == (MessageClass[kind], method)
        assert pack_type(MessageClass[kind], method) == head


class TestClassic:
    """RFC 3489: no cookie, an id of 16 bytes."""

    BLOCK = bytes(range(100, 116))

    def test_is_told_by_the_missing_cookie(self) -> None:
        data = with_attributes(bytes.fromhex("0003 0004 00000006"), block=self.BLOCK)
        read = decode(data)
        assert read.is_classic
        assert read.transaction_id == self.BLOCK
        assert read.get(Attribute.CHANGE_REQUEST) == Change(ip=True, port=True)
        assert encode(read) == data
        assert not looks_like_stun(data)

    def test_addresses_are_xored_with_the_id_where_the_cookie_would_be(self) -> None:
        address = ("2001:db8::1", 1234)
        mapped = ((Attribute.OLD_XOR_MAPPED_ADDRESS, address), (Attribute.MAPPED_ADDRESS, address))
        classic = Message(MessageClass.SUCCESS, Method.BINDING, self.BLOCK, mapped)
        data = encode(classic)
        assert decode(data) == classic
        assert data[28:44] == bytes(a ^ b for a, b in zip(data[52:68], self.BLOCK, strict=True))


EXAMPLES: dict[int, tuple[Any, str]] = {
    Attribute.MAPPED_ADDRESS: (("192.0.2.1", 258), "00010102c0000201"),
    Attribute.RESPONSE_ADDRESS: (("192.0.2.1", 258), "00010102c0000201"),
    Attribute.CHANGE_REQUEST: (Change(ip=True, port=False), "00000004"),
    Attribute.SOURCE_ADDRESS: (("192.0.2.1", 258), "00010102c0000201"),
    Attribute.CHANGED_ADDRESS: (("192.0.2.1", 258), "00010102c0000201"),
    Attribute.REFLECTED_FROM: (("2001:db8::1", 1), "00020001" + "20010db8" + "00" * 11 + "01"),
    Attribute.USERNAME: ("a:b", "613a62"),
    Attribute.MESSAGE_INTEGRITY: (bytes(20), "00" * 20),
    Attribute.ERROR_CODE: (StunError(420, "No"), "000004144e6f"),
    Attribute.UNKNOWN_ATTRIBUTES: ((3, 0x7FFF), "00037fff"),
    Attribute.REALM: ("example.org", b"example.org".hex()),
    Attribute.NONCE: (b"\xff\0", "ff00"),
    Attribute.MESSAGE_INTEGRITY_SHA256: (bytes(32), "00" * 32),
    Attribute.PASSWORD_ALGORITHM: (PasswordAlgorithm(2), "00020000"),
    Attribute.USERHASH: (bytes(32), "00" * 32),
    Attribute.XOR_MAPPED_ADDRESS: (("192.0.2.1", 32853), "0001a147e112a643"),
    Attribute.PASSWORD_ALGORITHMS: ((PasswordAlgorithm(2), PasswordAlgorithm(9, b"x")), "000200000009000178000000"),
    Attribute.ALTERNATE_DOMAIN: ("example.org", b"example.org".hex()),
    Attribute.OLD_XOR_MAPPED_ADDRESS: (("192.0.2.1", 32853), "0001a147e112a643"),
    Attribute.SOFTWARE: ("x", "78"),
    Attribute.ALTERNATE_SERVER: (("192.0.2.1", 258), "00010102c0000201"),
    Attribute.CHANNEL_NUMBER: (0x4001, "40010000"),
    Attribute.LIFETIME: (600, "00000258"),
    Attribute.XOR_PEER_ADDRESS: (("192.0.2.1", 32853), "0001a147e112a643"),
    Attribute.DATA: (b"\0x", "0078"),
    Attribute.XOR_RELAYED_ADDRESS: (("192.0.2.1", 32853), "0001a147e112a643"),
    Attribute.REQUESTED_ADDRESS_FAMILY: (2, "02000000"),
    Attribute.EVEN_PORT: (128, "80"),
    Attribute.REQUESTED_TRANSPORT: (17, "11000000"),
    Attribute.DONT_FRAGMENT: (True, ""),
    Attribute.RESERVATION_TOKEN: (bytes(8), "00" * 8),
    Attribute.ADDITIONAL_ADDRESS_FAMILY: (2, "02000000"),
    Attribute.ADDRESS_ERROR_CODE: (AddressError(2, 440, "No"), "020004284e6f"),
    Attribute.ICMP: (bytes(8), "00" * 8),
    Attribute.PRIORITY: (0x6E0001FF, "6e0001ff"),
    Attribute.USE_CANDIDATE: (True, ""),
    Attribute.ICE_CONTROLLED: (1, "0000000000000001"),
    Attribute.ICE_CONTROLLING: (2, "0000000000000002"),
    Attribute.PADDING: (b"abc", "616263"),
    Attribute.RESPONSE_PORT: (258, "0102"),
    Attribute.RESPONSE_ORIGIN: (("192.0.2.1", 258), "00010102c0000201"),
    Attribute.OTHER_ADDRESS: (("192.0.2.1", 258), "00010102c0000201"),
}


class TestAttributes:
    def test_each_has_a_codec_and_each_codec_an_example(self) -> None:
        assert set(CODECS) == set(Attribute)
        assert set(EXAMPLES) == set(Attribute) - {Attribute.FINGERPRINT}

    @pytest.mark.parametrize("number", EXAMPLES)
    def test_value_and_bytes(self, number: int) -> None:
        value, packed = EXAMPLES[number]
        data = encode(message((number, value)))
        size = len(packed) // 2
        assert data[20:24] == number.to_bytes(2) + size.to_bytes(2)
        assert data[24 : 24 + size].hex() == packed
        assert len(data) % 4 == 0
        assert decode(data) == message((number, value))

    @pytest.mark.parametrize("number", EXAMPLES)
    def test_no_cut_value_is_anything_but_a_value_or_a_wire_error(self, number: int) -> None:
        packed = bytes.fromhex(EXAMPLES[number][1])
        for size in range(len(packed)):
            framed = number.to_bytes(2) + size.to_bytes(2) + packed[:size] + bytes(-size % 4)
            try:
                decode(with_attributes(framed))
            except WireError as error:
                assert error.message  # noqa: PT017 - the absence of an error is as good

    @pytest.mark.parametrize(
        ("framed", "complaint"),
        [
            ("0001 0008 0003 0001 c0000201", "STUN address of family 3"),
            ("0001 0008 0002 0001 c0000201", "STUN address cut short"),
            ("0001 0004 0001 0001", "STUN address cut short"),
            ("0003 0002 0000 0000", "CHANGE-REQUEST cut short"),
            ("0009 0004 00000200", "STUN error 2/0"),
            ("0009 0004 00000464", "STUN error 4/100"),
            ("0009 0002 0000 0000", "STUN error cut short"),
            ("0006 0004 ff000000", "STUN text that is not UTF-8"),
            ("0008 0004 00000000", "STUN attribute of 4 bytes, not 20 to 20"),
            ("0024 0002 0000 0000", "STUN attribute of 2 bytes; 4 are needed"),
            ("8002 0008 0001 0008 00000000", "password algorithm cut short"),
            ("001d 0000", "password algorithm cut short"),
            ("0006 0200 " + "61" * 0x200, "STUN text of 512 bytes; the limit is 508"),
            ("8002 0044 " + "00010000" * 17, "more than 16 password algorithms"),
        ],
    )
    def test_what_is_wrong_is_said(self, framed: str, complaint: str) -> None:
        with pytest.raises(WireError) as caught:
            decode(with_attributes(bytes.fromhex(framed)))
        assert caught.value.message == complaint

    def test_words_for_people_may_be_no_text(self) -> None:
        """A server whose name is in Latin-1 is a server all the same."""
        assert decode(with_attributes(bytes.fromhex("8022 0001 e9000000"))).get(Attribute.SOFTWARE) == "\ufffd"

    def test_what_is_not_known_stays_visible(self) -> None:
        read = message((0x7FFF, b"x"), (0xC0DE, b""), (0x7FFF, b"y"), (Attribute.PRIORITY, 1), (0x0077, b""))
        assert decode(encode(read)) == read
        assert read.unknown_required(CODECS) == (0x7FFF, 0x0077)
        assert read.unknown_required(()) == (0x7FFF, Attribute.PRIORITY, 0x0077)

    def test_the_first_of_several_counts(self) -> None:
        assert message((Attribute.PRIORITY, 1), (Attribute.PRIORITY, 2)).get(Attribute.PRIORITY) == 1
        assert message().get(Attribute.PRIORITY) is None


class TestFraming:
    @pytest.mark.parametrize(
        ("data", "complaint"),
        [
            (b"", "STUN message cut short"),
            (bytes(19), "STUN message cut short"),
            (with_attributes(b"", head=b"\x40\x01"), "not STUN: the first two bits are not zero"),
            (with_attributes(b"")[:2] + b"\0\x02" + COOKIE + ID + b"ab", "STUN length 2 is no multiple of four"),
            (with_attributes(b"")[:2] + b"\0\x04" + COOKIE + ID + b"abc", "STUN message cut short"),
            (with_attributes(b"\0\x06\0\x05abcd"), "STUN attribute 0x0006 cut short"),
            (with_attributes(b"\x7f\xff\0\0" * (MAX_ATTRIBUTES + 1)), f"more than {MAX_ATTRIBUTES} STUN attributes"),
        ],
    )
    def test_what_is_wrong_is_said(self, data: bytes, complaint: str) -> None:
        with pytest.raises(WireError) as caught:
            decode(data)
        assert caught.value.message == complaint

    def test_what_follows_is_left_off(self) -> None:
        assert decode(encode(message()) + b"more") == message()

    def test_as_many_attributes_as_are_allowed_are_read(self) -> None:
        assert len(decode(with_attributes(b"\x7f\xff\0\0" * MAX_ATTRIBUTES)).attributes) == MAX_ATTRIBUTES

    def test_what_cannot_be_said_is_not_written(self) -> None:
        with pytest.raises(WireError, match="65540 bytes"):
            encode(message((Attribute.DATA, bytes(0xFFFF))))

    @pytest.mark.parametrize(
        ("data", "is_stun"),
        [
            (encode(message()), True),
            (encode(message())[:19], False),
            (b"\x08" + encode(message())[1:], False),
            (encode(message()).replace(COOKIE, b"cook"), False),
        ],
    )
    def test_is_told_from_other_traffic(self, data: bytes, is_stun: bool) -> None:
        assert looks_like_stun(data) is is_stun


class TestSeals:
    CONTENT = message((Attribute.SOFTWARE, "x"))

    def test_all_three_stand_in_order_and_hold(self) -> None:
        data = encode(self.CONTENT, key=KEY, integrity=(SHA256, SHA1), fingerprint=True)
        assert [number for number, _ in decode(data).attributes] == [Attribute.SOFTWARE, *SEALS]
        assert verifies(data, KEY)
        assert verifies(data, KEY, SHA256)

    @pytest.mark.parametrize("seal", [SHA1, SHA256])
    def test_any_changed_bit_before_the_seal_breaks_it(self, seal: Attribute) -> None:
        data = encode(message((0x7FFF, b"abcd")), key=KEY, integrity=(seal,))
        for at in (1, *range(8, 20), *range(24, 28)):
            changed = bytearray(data)
            changed[at] ^= 2
            assert not verifies(bytes(changed), KEY, seal)

    def test_an_unsealed_message_does_not_verify(self) -> None:
        assert not verifies(encode(self.CONTENT), KEY)

    def test_a_shortened_seal_does_not_verify(self) -> None:
        """However right it is: a shorter one is easier to guess."""
        content = encode(self.CONTENT)[20:]
        whole = with_attributes(content + bytes.fromhex("001c 0010") + bytes(16))
        mac = hmac.digest(KEY, whole[:-20], "sha256")
        shortened = whole[:-16] + mac[:16]
        assert decode(shortened).get(SHA256) == mac[:16]
        assert not verifies(shortened, KEY, SHA256)

    def test_what_follows_a_seal_is_dropped(self) -> None:
        """Whoever is on the way could add it."""
        data = encode(self.CONTENT, key=KEY)
        added = with_attributes(data[20:] + bytes.fromhex("0024 0004 00000001 8028 0004 00000000"))
        with pytest.raises(WireError, match="wrong STUN FINGERPRINT"):
            decode(added)
        added = with_attributes(data[20:] + bytes.fromhex("0024 0004 00000001 001c 0010") + bytes(16))
        assert [number for number, _ in decode(added).attributes] == [Attribute.SOFTWARE, SHA1, SHA256]
        assert verifies(added, KEY)

    def test_a_seal_of_the_other_order_is_dropped(self) -> None:
        data = encode(self.CONTENT, key=KEY, integrity=(SHA256,))
        added = with_attributes(data[20:] + bytes.fromhex("0008 0014") + bytes(20))
        assert [number for number, _ in decode(added).attributes] == [Attribute.SOFTWARE, SHA256]

    def test_a_fingerprint_must_be_right_and_last(self) -> None:
        data = encode(self.CONTENT, fingerprint=True)
        decode(data)
        with pytest.raises(WireError, match="wrong STUN FINGERPRINT"):
            decode(data[:-1] + bytes((data[-1] ^ 1,)))
        with pytest.raises(WireError, match="FINGERPRINT is not the last STUN attribute"):
            decode(with_attributes(data[20:] + bytes.fromhex("8022 0000")))


class TestCredentials:
    def test_every_space_is_one_and_forms_are_composed(self) -> None:
        assert stun_credentials.opaque_string("a\u00a0b\u3000c") == "a b c"
        assert stun_credentials.opaque_string("e\u0301") == "\u00e9"
        assert stun_credentials.opaque_string("Aa") == "Aa"

    @pytest.mark.parametrize("text", ["a\0b", "a\nb", "\ud800", "\u0378"])
    def test_what_no_password_has_is_refused(self, text: str) -> None:
        with pytest.raises(LocalMisuse):
            stun_credentials.short_term_key(text)

    def test_an_unknown_algorithm_is_refused(self) -> None:
        with pytest.raises(LocalMisuse, match="password algorithm 3"):
            stun_credentials.long_term_key("u", "r", "p", 3)


ports = st.integers(0, 65535)
addresses = st.tuples(st.ip_addresses().map(str), ports)
attributes = st.one_of(
    st.tuples(st.sampled_from((Attribute.MAPPED_ADDRESS, Attribute.XOR_MAPPED_ADDRESS)), addresses),
    st.tuples(st.just(Attribute.ERROR_CODE), st.builds(StunError, st.integers(300, 699), st.text(max_size=20))),
    st.tuples(st.just(Attribute.CHANGE_REQUEST), st.builds(Change, st.booleans(), st.booleans())),
    st.tuples(st.just(Attribute.UNKNOWN_ATTRIBUTES), st.lists(ports, max_size=9).map(tuple)),
    st.tuples(st.integers(0x7000, 0x7FFF), st.binary(max_size=30)),
)
messages = st.builds(
    Message,
    st.sampled_from(MessageClass),
    st.integers(0, 0xFFF),
    st.one_of(st.binary(min_size=12, max_size=12), st.binary(min_size=16, max_size=16)),
    st.lists(attributes, max_size=8).map(tuple),
).filter(lambda read: not (read.is_classic and read.transaction_id.startswith(COOKIE)))


@given(messages, st.booleans(), st.sampled_from([(), (SHA1,), (SHA256,), (SHA1, SHA256)]))
def test_what_is_written_is_read(written: Message, fingerprint: bool, integrity: tuple[Attribute, ...]) -> None:
    data = encode(written, key=KEY, integrity=integrity, fingerprint=fingerprint)
    read = decode(data)
    count = len(written.attributes)
    assert read._replace(attributes=read.attributes[:count]) == written
    assert [number for number, _ in read.attributes[count:]] == [
        *integrity,
        *([Attribute.FINGERPRINT] if fingerprint else []),
    ]
    assert all(verifies(data, KEY, seal) for seal in integrity)


@given(st.binary(max_size=600))
def test_any_bytes_give_a_value_or_a_wire_error(data: bytes) -> None:
    try:
        decode(data)
    except WireError as error:
        assert error.message  # noqa: PT017 - the absence of an error is as good


@given(st.lists(st.tuples(st.sampled_from([*map(int, Attribute), 0x7FFF]), st.binary(max_size=40)), max_size=70))
def test_any_attributes_give_a_value_or_a_wire_error(framed: list[tuple[int, bytes]]) -> None:
    """Past the header, where random bytes seldom come."""
    packed = b"".join(n.to_bytes(2) + len(v).to_bytes(2) + v + bytes(-len(v) % 4) for n, v in framed)
    data = with_attributes(packed)
    try:
        read = decode(data)
        assert isinstance(verifies(data, KEY), bool)
    except WireError as error:
        assert error.message  # noqa: PT017 - the absence of an error is as good
    else:
        assert len(read.attributes) <= len(framed)
