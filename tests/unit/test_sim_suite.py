"""The simulator's cryptography fails where the real one fails: the same questions to both."""

from __future__ import annotations

import pytest

from kodectl.errors import WireError
from kodectl.sim.suite import SimSuite
from kodectl.wire.suite import KEY_SIZE, SIGNATURE_SIZE, TAG_SIZE, AeadFailure, RealSuite, Suite

SEED, OTHER_SEED = bytes(range(32)), bytes(range(1, 33))
MESSAGE = b"kodechain"


@pytest.fixture(params=[RealSuite, SimSuite], ids=["real", "simulated"])
def suite(request: pytest.FixtureRequest) -> Suite:
    return request.param()


def flipped(data: bytes) -> list[bytes]:
    """`data` with one bit changed, at each place in turn."""
    return [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(len(data))]


def test_sizes(suite: Suite) -> None:
    assert len(suite.public_key(SEED)) == KEY_SIZE
    assert len(suite.sign(SEED, MESSAGE)) == SIGNATURE_SIZE
    private, public = suite.exchange_keypair(SEED)
    assert len(public) == KEY_SIZE
    assert len(suite.exchange(private, suite.exchange_keypair(OTHER_SEED)[1])) == 32
    assert len(suite.aead(bytes(16)).encrypt(bytes(12), MESSAGE, None)) == len(MESSAGE) + TAG_SIZE


def test_a_signature_holds_for_its_message_and_key_alone(suite: Suite) -> None:
    public, signature = suite.public_key(SEED), suite.sign(SEED, MESSAGE)
    assert suite.verify(public, MESSAGE, signature)
    assert not any(suite.verify(public, changed, signature) for changed in flipped(MESSAGE))
    assert not any(suite.verify(public, MESSAGE, changed) for changed in flipped(signature))
    assert not any(suite.verify(changed, MESSAGE, signature) for changed in flipped(public))
    assert not suite.verify(suite.public_key(OTHER_SEED), MESSAGE, signature)


def test_signatures_are_those_of_rfc_8032() -> None:
    """Section 7.1, TEST 3."""
    suite = RealSuite()
    seed = bytes.fromhex("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7")
    public = bytes.fromhex("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025")
    signature = bytes.fromhex(
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
    )
    assert suite.public_key(seed) == public
    assert suite.sign(seed, b"\xaf\x82") == signature
    assert suite.verify(public, b"\xaf\x82", signature)


def test_nobody_signs_under_a_key_of_small_order() -> None:
    """The neutral element: S = 0 and R = itself satisfy the equation for every message."""
    neutral = bytes([1]) + bytes(31)
    assert not RealSuite().verify(neutral, MESSAGE, neutral + bytes(32))


@pytest.mark.parametrize("size", [0, 31, 33, 100])
def test_wrong_sizes_do_not_verify(suite: Suite, size: int) -> None:
    assert not suite.verify(bytes(size), MESSAGE, suite.sign(SEED, MESSAGE))
    assert not suite.verify(suite.public_key(SEED), MESSAGE, bytes(size))


def test_both_sides_agree_on_a_secret_of_their_own(suite: Suite) -> None:
    mine, my_public = suite.exchange_keypair(SEED)
    theirs, their_public = suite.exchange_keypair(OTHER_SEED)
    secret = suite.exchange(mine, their_public)
    assert secret == suite.exchange(theirs, my_public)
    third, third_public = suite.exchange_keypair(bytes(32))
    assert secret not in (suite.exchange(mine, third_public), suite.exchange(third, their_public))


def test_a_changed_public_key_gives_another_secret(suite: Suite) -> None:
    mine, _ = suite.exchange_keypair(SEED)
    _, their_public = suite.exchange_keypair(OTHER_SEED)
    secret = suite.exchange(mine, their_public)
    for changed in flipped(their_public):
        assert suite.exchange(mine, changed) != secret


def test_a_key_of_small_order_is_refused(suite: Suite) -> None:
    mine, _ = suite.exchange_keypair(SEED)
    with pytest.raises(WireError, match="small order"):
        suite.exchange(mine, bytes(KEY_SIZE))


def test_what_was_sealed_otherwise_does_not_open(suite: Suite) -> None:
    sealed = suite.aead(bytes(16)).encrypt(bytes(12), MESSAGE, b"associated")
    assert suite.aead(bytes(16)).decrypt(bytes(12), sealed, b"associated") == MESSAGE
    for key, nonce, data, associated in (
        (b"k" * 16, bytes(12), sealed, b"associated"),
        (bytes(16), b"n" * 12, sealed, b"associated"),
        (bytes(16), bytes(12), sealed[:-1], b"associated"),
        (bytes(16), bytes(12), sealed, b"other"),
    ):
        with pytest.raises(AeadFailure):
            suite.aead(key).decrypt(nonce, data, associated)
