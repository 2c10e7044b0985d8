"""Long-term credentials, asking side: what a server's challenge asks for, and how requests are sealed (RFC 8489, 9.2)."""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
from typing import Any, NamedTuple

from kodectl.errors import LocalMisuse, WireError
from kodectl.wire.stun import Attribute, Message, encode, verifies
from kodectl.wire.stun_attributes import PasswordAlgorithm
from kodectl.wire.stun_credentials import MD5, SHA256, long_term_key, userhash

NONCE_COOKIE = b"obMatJos2"
FEATURES_SIZE = 4
"""Base64 of 24 bits, which follow the cookie."""
PASSWORD_ALGORITHMS, USERNAME_ANONYMITY = 1 << 23, 1 << 22
"""Security features (section 18.1); bit 0 is the leftmost."""


class Seal(NamedTuple):
    """What makes requests to one server, in one realm, with one nonce, authentic; and its answers."""

    realm: str
    nonce: bytes
    attributes: tuple[tuple[int, Any], ...]
    key: bytes
    integrity: Attribute

    def packed(self, message: Message) -> bytes:
        return encode(
            message._replace(attributes=message.attributes + self.attributes), key=self.key, integrity=(self.integrity,)
        )

    def vouches(self, answer: bytes) -> bool:
        """Whether `answer` comes from who has the key. Raises WireError for what is not STUN."""
        return verifies(answer, self.key, self.integrity)

    def __repr__(self) -> str:
        return f"Seal(realm={self.realm!r}, integrity={self.integrity.name})"


def seal_for(challenge: Message, username: str, password: str, before: Seal | None = None) -> Seal:
    """What a 401 or 438 asks for (section 9.2.5). Raises WireError where it cannot be had: attributes are missing, have been
    taken out on the way, or ask for an algorithm that is not known here."""
    realm = challenge.get(Attribute.REALM) or (before.realm if before else None)
    nonce = challenge.get(Attribute.NONCE)
    if realm is None or nonce is None:
        raise WireError("the challenge has no realm or no nonce")
    features = security_features(nonce)
    offered = challenge.get(Attribute.PASSWORD_ALGORITHMS)
    if features & PASSWORD_ALGORITHMS and not offered:
        raise WireError("the challenge has lost its password algorithms: somebody on the way weakens it")
    algorithm = _first_known(offered) if offered else PasswordAlgorithm(MD5)
    try:
        key = long_term_key(username, realm, password, algorithm.number)
        name: tuple[int, Any] = (
            (Attribute.USERHASH, userhash(username, realm))
            if features & USERNAME_ANONYMITY
            else (Attribute.USERNAME, username)
        )
    except LocalMisuse as error:
        raise WireError("the challenge's realm cannot be one") from error
    attributes: tuple[tuple[int, Any], ...] = (name, (Attribute.REALM, realm), (Attribute.NONCE, nonce))
    if offered:
        attributes += ((Attribute.PASSWORD_ALGORITHMS, offered), (Attribute.PASSWORD_ALGORITHM, algorithm))
    integrity = Attribute.MESSAGE_INTEGRITY_SHA256 if offered else Attribute.MESSAGE_INTEGRITY
    return Seal(realm, nonce, attributes, key, integrity)


def security_features(nonce: bytes) -> int:
    """The 24 bits; 0 for a nonce of RFC 5389, which has none."""
    packed = nonce[len(NONCE_COOKIE) : len(NONCE_COOKIE) + FEATURES_SIZE]
    if not nonce.startswith(NONCE_COOKIE) or len(packed) < FEATURES_SIZE:
        return 0
    try:
        return int.from_bytes(b64decode(packed, validate=True))
    except Base64Error:
        return 0


def _first_known(offered: tuple[PasswordAlgorithm, ...]) -> PasswordAlgorithm:
    for algorithm in offered:
        # Neither has parameters (section 18.5.1); with some it would be another algorithm.
        if algorithm.number in (MD5, SHA256) and not algorithm.parameters:
            return algorithm
    raise WireError("the challenge asks for password algorithms that are not known")
