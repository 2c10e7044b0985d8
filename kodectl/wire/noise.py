"""The secure channel: Noise_XX_25519_AESGCM_SHA256 (Noise Protocol Framework, revision 34), without I/O.

Error contract: every failure is a WireError. A handshake that failed once is unusable: whatever is asked of it
afterwards is a WireError too, so no key of a half-finished handshake can leak into use. A CipherState whose `decrypt`
failed keeps its counter (section 5.1); what to do with the connection is its owner's decision.

The ephemeral secret comes in as a parameter; nothing here is random.
"""

from __future__ import annotations

import hashlib
import hmac
from enum import Enum
from typing import Any, NamedTuple

from kodectl.errors import WireError
from kodectl.wire.suite import KEY_SIZE, TAG_SIZE, Aead, AeadFailure, Suite

PROTOCOL_NAME = b"Noise_XX_25519_AESGCM_SHA256"
MAX_MESSAGE = 65_535
"""Section 3: no Noise message is longer."""

_NONCE_SIZE = 12
_LAST_COUNTER = 2**64 - 1
"""Reserved (section 5.1); a state that gets there is used up."""

_MESSAGES = (("e",), ("e", "ee", "s", "es"), ("s", "se"))
"""The XX pattern: the tokens of the three messages, the first from the initiator."""

KeyPair = tuple[Any, bytes]
"""A suite's private half and the public key (32), from `Suite.exchange_keypair`."""


class CipherState:
    """One key and its counter: one direction of a channel."""

    __slots__ = ("_aead", "_counter")

    def __init__(self, aead: Aead, counter: int = 0) -> None:
        self._aead = aead
        self._counter = counter

    def encrypt(self, plaintext: bytes, associated_data: bytes | None = None) -> bytes:
        sealed = self._aead.encrypt(self._nonce(), plaintext, associated_data)
        self._counter += 1
        return sealed

    def decrypt(self, sealed: bytes, associated_data: bytes | None = None) -> bytes:
        try:
            plaintext = self._aead.decrypt(self._nonce(), sealed, associated_data)
        except AeadFailure as error:
            raise WireError("not sealed with the key and counter of this channel") from error
        self._counter += 1
        return plaintext

    def _nonce(self) -> bytes:
        if self._counter >= _LAST_COUNTER:
            raise WireError("the key is used up: its counter has reached 2^64 - 1")
        # Section 12.3: 32 bits of zeros and the 64-bit counter, big-endian. As one 96-bit number it is the counter.
        return self._counter.to_bytes(_NONCE_SIZE)


class Transport(NamedTuple):
    """What a finished handshake leaves: the two directions, and a hash that names this channel and no other."""

    send: CipherState
    receive: CipherState
    handshake_hash: bytes


class _SymmetricState:
    """Section 5.2: the chaining key, the hash of all that was said, and the key once there is one."""

    __slots__ = ("_chaining_key", "_cipher", "_suite", "hash")

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self.hash = PROTOCOL_NAME.ljust(hashlib.sha256().digest_size, b"\0")
        self._chaining_key = self.hash
        self._cipher: CipherState | None = None

    def mix_hash(self, data: bytes) -> None:
        self.hash = hashlib.sha256(self.hash + data).digest()

    def mix_key(self, secret: bytes) -> None:
        self._chaining_key, key = _hkdf(self._chaining_key, secret)
        self._cipher = CipherState(self._suite.aead(key))

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        sealed = plaintext if self._cipher is None else self._cipher.encrypt(plaintext, self.hash)
        self.mix_hash(sealed)
        return sealed

    def decrypt_and_hash(self, sealed: bytes) -> bytes:
        plaintext = sealed if self._cipher is None else self._cipher.decrypt(sealed, self.hash)
        self.mix_hash(sealed)
        return plaintext

    def sealed_size(self, size: int) -> int:
        return size if self._cipher is None else size + TAG_SIZE

    def split(self) -> tuple[CipherState, CipherState]:
        first, second = _hkdf(self._chaining_key, b"")
        return CipherState(self._suite.aead(first)), CipherState(self._suite.aead(second))


class _State(Enum):
    RUNNING = "is still running"
    DONE = "is done"
    SPLIT = "has been split"
    FAILED = "has failed"


class Handshake:
    """One side of an XX handshake: `write_message` and `read_message` in turn, then `split`.

    The initiator writes, reads, writes; the responder reads, writes, reads. Anything out of turn, and any message that
    does not check, raises WireError and ends the handshake for good.
    """

    __slots__ = (
        "_ephemeral",
        "_initiator",
        "_remote_ephemeral",
        "_state",
        "_static",
        "_step",
        "_suite",
        "_symmetric",
        "remote_static",
    )

    def __init__(
        self, suite: Suite, *, initiator: bool, static: KeyPair, ephemeral_secret: bytes, prologue: bytes
    ) -> None:
        self._suite = suite
        self._initiator = initiator
        self._static = static
        self._ephemeral: KeyPair = suite.exchange_keypair(ephemeral_secret)
        self._remote_ephemeral = b""
        self.remote_static = b""
        """Empty until the message that carries it has been read."""
        self._symmetric = _SymmetricState(suite)
        self._symmetric.mix_hash(prologue)
        self._step = 0
        self._state = _State.RUNNING

    def write_message(self, payload: bytes = b"") -> bytes:
        self._require_turn(self._initiator, "written")
        try:
            message = self._write(payload)
        except WireError:
            self._state = _State.FAILED
            raise
        self._advance()
        return message

    def read_message(self, message: bytes) -> bytes:
        """The payload; authentic from the second message on."""
        self._require_turn(not self._initiator, "read")
        try:
            payload = self._read(message)
        except WireError:
            self._state = _State.FAILED
            raise
        self._advance()
        return payload

    def split(self) -> Transport:
        """The keys of the channel; once."""
        if self._state is not _State.DONE:
            raise self._fail(f"handshake {self._state.value}: no keys yet")
        self._state = _State.SPLIT  # A second split would use keys and counters twice.
        first, second = self._symmetric.split()
        send, receive = (first, second) if self._initiator else (second, first)
        return Transport(send, receive, self._symmetric.hash)

    def _write(self, payload: bytes) -> bytes:
        parts = []
        for token in _MESSAGES[self._step]:
            if token == "e":
                parts.append(self._ephemeral[1])
                self._symmetric.mix_hash(self._ephemeral[1])
            elif token == "s":
                parts.append(self._symmetric.encrypt_and_hash(self._static[1]))
            else:
                self._symmetric.mix_key(self._agree(token))
        parts.append(self._symmetric.encrypt_and_hash(payload))
        message = b"".join(parts)
        if len(message) > MAX_MESSAGE:
            raise WireError(f"handshake message of {len(message)} bytes; the limit is {MAX_MESSAGE}")
        return message

    def _read(self, message: bytes) -> bytes:
        if len(message) > MAX_MESSAGE:
            raise WireError(f"handshake message of {len(message)} bytes; the limit is {MAX_MESSAGE}")
        rest = message
        for token in _MESSAGES[self._step]:
            if token == "e":
                self._remote_ephemeral, rest = _take(rest, KEY_SIZE)
                self._symmetric.mix_hash(self._remote_ephemeral)
            elif token == "s":
                sealed, rest = _take(rest, self._symmetric.sealed_size(KEY_SIZE))
                self.remote_static = self._symmetric.decrypt_and_hash(sealed)
            else:
                self._symmetric.mix_key(self._agree(token))
        if len(rest) < self._symmetric.sealed_size(0):
            raise WireError("handshake message cut short")
        return self._symmetric.decrypt_and_hash(rest)

    def _agree(self, token: str) -> bytes:
        """The first letter of the token is the initiator's key, the second the responder's."""
        mine, theirs = (token[0], token[1]) if self._initiator else (token[1], token[0])
        private = (self._ephemeral if mine == "e" else self._static)[0]
        return self._suite.exchange(private, self._remote_ephemeral if theirs == "e" else self.remote_static)

    def _require_turn(self, even: bool, action: str) -> None:
        if self._state is not _State.RUNNING:
            raise self._fail(f"handshake {self._state.value}: nothing more can be {action}")
        if (self._step % 2 == 0) is not even:
            raise self._fail(f"handshake message {self._step + 1} is not to be {action} by this side")

    def _advance(self) -> None:
        self._step += 1
        if self._step == len(_MESSAGES):
            self._state = _State.DONE

    def _fail(self, why: str) -> WireError:
        self._state = _State.FAILED
        return WireError(why)


def _take(data: bytes, size: int) -> tuple[bytes, bytes]:
    if len(data) < size:
        raise WireError("handshake message cut short")
    return data[:size], data[size:]


def _hkdf(chaining_key: bytes, secret: bytes) -> tuple[bytes, bytes]:
    """Section 4.3, with two outputs."""
    temporary = hmac.digest(chaining_key, secret, "sha256")
    first = hmac.digest(temporary, b"\x01", "sha256")
    return first, hmac.digest(temporary, first + b"\x02", "sha256")
