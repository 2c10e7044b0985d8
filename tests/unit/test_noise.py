"""Noise XX: published vectors, a foreign implementation, and everything that must not be accepted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kodectl.errors import WireError
from kodectl.wire.noise import CipherState, Handshake, Transport
from kodectl.wire.suite import RealSuite

SUITE = RealSuite()
PROLOGUE = b"prologue"
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "noise.json").read_text())["vectors"]


def side(initiator: bool, seed: int = 0, prologue: bytes = PROLOGUE) -> Handshake:
    """Both secrets of a side follow from its role and the seed."""
    role = 1 if initiator else 2
    return Handshake(
        SUITE,
        initiator=initiator,
        static=SUITE.exchange_keypair(bytes((role, 0, seed)) * 10 + b"ss"),
        ephemeral_secret=bytes((role, 1, seed)) * 10 + b"ee",
        prologue=prologue,
    )


def talk(initiator: Handshake, responder: Handshake) -> tuple[Transport, Transport]:
    responder.read_message(initiator.write_message())
    initiator.read_message(responder.write_message(b"two"))
    responder.read_message(initiator.write_message(b"three"))
    return initiator.split(), responder.split()


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["source"] for vector in VECTORS])
def test_published_vector(vector):
    def from_vector(role: str) -> Handshake:
        return Handshake(
            SUITE,
            initiator=role == "init",
            static=SUITE.exchange_keypair(bytes.fromhex(vector[f"{role}_static"])),
            ephemeral_secret=bytes.fromhex(vector[f"{role}_ephemeral"]),
            prologue=bytes.fromhex(vector[f"{role}_prologue"]),
        )

    messages = [(bytes.fromhex(m["payload"]), bytes.fromhex(m["ciphertext"])) for m in vector["messages"]]
    writer, reader = from_vector("init"), from_vector("resp")
    for payload, ciphertext in messages[:3]:
        assert writer.write_message(payload) == ciphertext
        assert reader.read_message(ciphertext) == payload
        writer, reader = reader, writer
    # Message 4 comes from the responder, which is where the roles stand after three swaps.
    sender, receiver = writer.split(), reader.split()
    assert sender.handshake_hash == receiver.handshake_hash
    assert vector.get("handshake_hash") in (None, sender.handshake_hash.hex())
    for payload, ciphertext in messages[3:]:
        assert sender.send.encrypt(payload) == ciphertext
        assert receiver.receive.decrypt(ciphertext) == payload
        sender, receiver = receiver, sender


@pytest.mark.parametrize("we_initiate", [True, False])
def test_foreign_implementation(we_initiate):
    noise = pytest.importorskip("noise.connection", reason="noiseprotocol is not installed")
    foreign = noise.NoiseConnection.from_name(b"Noise_XX_25519_AESGCM_SHA256")
    foreign.set_prologue(PROLOGUE)
    foreign.set_keypair_from_private_bytes(noise.Keypair.STATIC, bytes(range(32)))
    (foreign.set_as_responder if we_initiate else foreign.set_as_initiator)()
    foreign.start_handshake()
    ours = side(we_initiate)

    for number in range(3):
        payload = b"payload %d" % number
        if (number % 2 == 0) == we_initiate:
            assert foreign.read_message(ours.write_message(payload)) == payload
        else:
            assert ours.read_message(bytes(foreign.write_message(payload))) == payload

    assert ours.remote_static == SUITE.exchange_keypair(bytes(range(32)))[1]
    transport = ours.split()
    assert transport.handshake_hash == foreign.get_handshake_hash()
    for text in (b"", b"a", bytes(60_000)):
        assert foreign.decrypt(transport.send.encrypt(text)) == text
        assert transport.receive.decrypt(bytes(foreign.encrypt(text))) == text


def test_other_prologue_is_refused():
    initiator, responder = side(True), side(False, prologue=b"another")
    responder.read_message(initiator.write_message())
    with pytest.raises(WireError, match="not sealed"):
        initiator.read_message(responder.write_message())


def messages_of_a_run() -> list[bytes]:
    initiator, responder = side(True), side(False)
    first = initiator.write_message()
    responder.read_message(first)
    second = responder.write_message(b"two")
    initiator.read_message(second)
    return [first, second, initiator.write_message(b"three")]


def waiting_for(number: int) -> Handshake:
    """The side that is to read message `number` (0, 1, 2) of the run above."""
    reader = side(number == 1)
    if number == 1:
        reader.write_message()
    if number == 2:
        reader.read_message(messages_of_a_run()[0])
        reader.write_message(b"two")
    return reader


@pytest.mark.parametrize("number", [0, 1, 2])
def test_truncation_at_every_byte(number):
    message = messages_of_a_run()[number]
    for size in range(len(message)):
        reader = waiting_for(number)
        with pytest.raises(WireError):
            reader.read_message(message[:size])
        with pytest.raises(WireError, match="has failed"):
            reader.read_message(message)


@pytest.mark.parametrize("number", [1, 2])
def test_change_of_any_byte(number):
    message = messages_of_a_run()[number]
    for position in range(len(message)):
        changed = bytearray(message)
        changed[position] ^= 1
        with pytest.raises(WireError):
            waiting_for(number).read_message(bytes(changed))


def test_changed_first_message_fails_at_the_second():
    initiator, responder = side(True), side(False)
    message = bytearray(initiator.write_message())
    message[0] ^= 1
    responder.read_message(bytes(message))
    with pytest.raises(WireError, match="not sealed"):
        initiator.read_message(responder.write_message())


def test_replayed_first_message_leads_nowhere():
    """The replayer gets an answer, but cannot make the third message."""
    first, _, third = messages_of_a_run()
    responder = side(False, seed=9)
    responder.read_message(first)
    responder.write_message(b"two")
    with pytest.raises(WireError, match="not sealed"):
        responder.read_message(third)


def test_reflected_messages_are_refused():
    initiator = side(True)
    first = initiator.write_message()
    with pytest.raises(WireError):
        initiator.read_message(first)
    _, second, _ = messages_of_a_run()
    responder = waiting_for(2)
    with pytest.raises(WireError):
        responder.read_message(second)


def test_small_order_key_is_refused():
    responder = side(False)
    responder.read_message(bytes(32))
    with pytest.raises(WireError, match="small order"):
        responder.write_message()
    with pytest.raises(WireError, match="has failed"):
        responder.write_message()


@pytest.mark.parametrize(
    "misuse",
    [
        lambda: side(False).write_message(),
        lambda: side(True).read_message(bytes(32)),
        lambda: side(True).split(),
        lambda: side(True).write_message(bytes(65_535)),
        lambda: side(False).read_message(bytes(65_536)),
    ],
    ids=["responder first", "initiator listens", "split early", "payload too long", "message too long"],
)
def test_out_of_turn_or_too_long(misuse):
    with pytest.raises(WireError):
        misuse()


def test_keys_are_given_once():
    initiator, responder = side(True), side(False)
    talk(initiator, responder)
    for handshake in (initiator, responder):
        with pytest.raises(WireError):
            handshake.split()
        with pytest.raises(WireError):
            handshake.write_message()


def test_directions_have_their_own_keys():
    ours, _ = talk(side(True), side(False))
    with pytest.raises(WireError):
        ours.receive.decrypt(ours.send.encrypt(b"reflected"))


def test_transport_refuses_replay_and_reordering_and_goes_on():
    ours, theirs = talk(side(True), side(False))
    first, second = ours.send.encrypt(b"1"), ours.send.encrypt(b"2")
    with pytest.raises(WireError):
        theirs.receive.decrypt(second)
    assert theirs.receive.decrypt(first) == b"1"
    with pytest.raises(WireError):
        theirs.receive.decrypt(first)
    assert theirs.receive.decrypt(second) == b"2"


def test_counter_ends_before_it_wraps():
    state = CipherState(SUITE.aead(bytes(32)), counter=2**64 - 2)
    state.encrypt(b"the last one")
    with pytest.raises(WireError, match="used up"):
        state.encrypt(b"one too many")
    with pytest.raises(WireError, match="used up"):
        state.decrypt(bytes(32))


@given(number=st.sampled_from([0, 1, 2]), data=st.binary(max_size=400))
def test_any_bytes_give_a_payload_or_a_wire_error(number, data):
    try:
        assert isinstance(waiting_for(number).read_message(data), bytes)
    except WireError:
        pass


@given(data=st.binary(max_size=100))
def test_transport_takes_no_bytes_but_its_own(data):
    with pytest.raises(WireError):
        CipherState(SUITE.aead(bytes(32))).decrypt(data)
