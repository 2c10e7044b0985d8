"""Long-term credentials, asking side: challenges and what they are answered with."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kodectl.core.turn_credentials import Seal, seal_for, security_features
from kodectl.errors import WireError
from kodectl.wire.stun import Attribute, Message, MessageClass, Method, PasswordAlgorithm, decode, encode, verifies
from kodectl.wire.stun_credentials import long_term_key, userhash

USER, PASSWORD, REALM = "alice", "wonderland", "rabbit hole"
ID = b"twelve bytes"
MD5, SHA256, UNKNOWN = PasswordAlgorithm(1), PasswordAlgorithm(2), PasswordAlgorithm(99)


def nonce_with(features: int) -> bytes:
    return b"obMatJos2" + b64encode(features.to_bytes(3)) + b"rest"


def challenge(nonce: bytes | None = b"plain", realm: str | None = REALM, offered: Any = None) -> Message:
    contents = [(Attribute.REALM, realm), (Attribute.NONCE, nonce), (Attribute.PASSWORD_ALGORITHMS, offered)]
    given_ = tuple((number, value) for number, value in contents if value is not None)
    return Message(MessageClass.ERROR, Method.ALLOCATE, ID, given_)


def sealed(seal: Seal) -> tuple[bytes, Message]:
    packet = seal.packed(Message(MessageClass.REQUEST, Method.REFRESH, ID, ((Attribute.LIFETIME, 600),)))
    return packet, decode(packet)


def test_a_server_of_rfc_5389_gets_md5_and_sha_1() -> None:
    packet, message = sealed(seal_for(challenge(), USER, PASSWORD))
    assert message.get(Attribute.USERNAME) == USER
    assert (message.get(Attribute.REALM), message.get(Attribute.NONCE)) == (REALM, b"plain")
    assert message.get(Attribute.PASSWORD_ALGORITHM) is None
    assert verifies(packet, long_term_key(USER, REALM, PASSWORD), Attribute.MESSAGE_INTEGRITY)


@pytest.mark.parametrize(
    ("offered", "chosen"), [((SHA256, MD5), SHA256), ((MD5, SHA256), MD5), ((UNKNOWN, SHA256), SHA256)]
)
def test_the_first_algorithm_that_is_known_is_taken(
    offered: tuple[PasswordAlgorithm, ...], chosen: PasswordAlgorithm
) -> None:
    packet, message = sealed(seal_for(challenge(nonce_with(1 << 23), offered=offered), USER, PASSWORD))
    assert message.get(Attribute.PASSWORD_ALGORITHMS) == offered
    assert message.get(Attribute.PASSWORD_ALGORITHM) == chosen
    assert message.get(Attribute.MESSAGE_INTEGRITY) is None
    key = long_term_key(USER, REALM, PASSWORD, chosen.number)
    assert verifies(packet, key, Attribute.MESSAGE_INTEGRITY_SHA256)


def test_a_name_is_hidden_where_the_server_wants_it_so() -> None:
    _, message = sealed(seal_for(challenge(nonce_with(3 << 22), offered=(SHA256,)), USER, PASSWORD))
    assert message.get(Attribute.USERNAME) is None
    assert message.get(Attribute.USERHASH) == userhash(USER, REALM)


@pytest.mark.parametrize(
    "wrong",
    [
        challenge(nonce=None),
        challenge(realm=None),
        challenge(realm="a\nrealm"),
        challenge(nonce_with(1 << 23)),
        challenge(nonce_with(1 << 23), offered=()),
        challenge(nonce_with(1 << 23), offered=(UNKNOWN,)),
        challenge(nonce_with(1 << 23), offered=(PasswordAlgorithm(2, b"salt"),)),
    ],
)
def test_what_cannot_be_answered_is_an_error(wrong: Message) -> None:
    with pytest.raises(WireError):
        seal_for(wrong, USER, PASSWORD)


def test_a_stale_nonce_may_come_without_the_realm() -> None:
    before = seal_for(challenge(), USER, PASSWORD)
    assert seal_for(challenge(b"fresh", realm=None), USER, PASSWORD, before).realm == REALM


def test_a_seal_shows_no_key() -> None:
    seal = seal_for(challenge(), USER, PASSWORD)
    assert repr(seal) == "Seal(realm='rabbit hole', integrity=MESSAGE_INTEGRITY)"


def test_a_seal_vouches_for_its_own_integrity_only() -> None:
    seal = seal_for(challenge(nonce_with(1 << 23), offered=(SHA256,)), USER, PASSWORD)
    answer = Message(MessageClass.SUCCESS, Method.REFRESH, ID, ((Attribute.LIFETIME, 600),))
    assert seal.vouches(encode(answer, key=seal.key, integrity=(Attribute.MESSAGE_INTEGRITY_SHA256,)))
    assert not seal.vouches(encode(answer, key=seal.key))
    assert not seal.vouches(encode(answer))


@pytest.mark.parametrize(
    ("nonce", "features"),
    [
        (b"", 0),
        (b"plain", 0),
        (b"obMatJos2", 0),
        (b"obMatJos2AAA", 0),
        (b"obMatJos2!!!!", 0),
        (b"obMatJos2gAAArest", 1 << 23),
        (b"obMatJos2AAAA", 0),
    ],
)
def test_security_features_are_read(nonce: bytes, features: int) -> None:
    assert security_features(nonce) == features


@given(st.binary(max_size=100), st.text(max_size=20))
def test_any_challenge_is_answered_or_an_error(nonce: bytes, realm: str) -> None:
    for start in (b"", b"obMatJos2"):
        try:
            seal_for(challenge(start + nonce, realm), USER, PASSWORD)
        except WireError:
            continue
