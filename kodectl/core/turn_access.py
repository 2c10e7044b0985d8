"""Long-term credentials, answering side (RFC 8489, section 9.2.4): who a request comes from, and what strangers are told.

Nothing is kept of anybody. A nonce says itself when and for whom it was made, and a keyed hash over both says that it was
made here, so ten thousand strangers leave as much behind as none.

cookie (9) | security features (4) | base64 of: time in s (4), HMAC-SHA256 of time and client, cut (8)
"""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from kodectl.core.turn_credentials import FEATURES_SIZE, NONCE_COOKIE, PASSWORD_ALGORITHMS
from kodectl.errors import WireError
from kodectl.wire.stun import Attribute, Message, Method, PasswordAlgorithm, StunError, verifies
from kodectl.wire.stun_credentials import MD5, SHA256, long_term_key

Client = tuple[str, int] | tuple[str, int, str]
"""(ip, port) over UDP, (ip, port, "tcp") over TCP: beside the server's one address the whole 5-tuple."""

KeyOf = Callable[[str, int], bytes | None]
"""From a user name and the number of a password algorithm, the long-term key; None for who is not known (any more)."""

NONCE_LIFETIME_S = 1800.0
"""RFC 8656, section 5, wants a new one at least every hour. What a nonce guards against is replay, and only from the
address of the client itself."""
SECRET_SIZE = 32
_MAC_SIZE = 8
"""Forging a nonce saves an attacker one round trip and no password: 2^64 tries are more than it is worth."""

_FEATURES = b64encode(PASSWORD_ALGORITHMS.to_bytes(3))
"""And not user name anonymity: names are looked up as they are."""
_STAMP_SIZE = 4
ALGORITHMS = (PasswordAlgorithm(SHA256), PasswordAlgorithm(MD5))
"""Best first. Clients that know neither the attribute nor the cookie take MD5."""


class Refused(Exception):
    """Carries what goes into the error answer. An event of the protocol: nobody outside the core sees it."""

    def __init__(self, code: int, reason: str, *attributes: tuple[int, Any]) -> None:
        super().__init__(code)
        self.attributes: tuple[tuple[int, Any], ...] = ((Attribute.ERROR_CODE, StunError(code, reason)), *attributes)


class Seal(NamedTuple):
    """What the answer to an authentic request is sealed with."""

    key: bytes
    integrity: Attribute


class Asker(NamedTuple):
    username: str
    account: str
    """Whose quota it is: of several user names, one person's."""
    seal: Seal


class Nonces:
    """`secret`: random bytes that nobody else has."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def issue(self, client: Client, now: float) -> bytes:
        stamp = (int(now) & 0xFFFFFFFF).to_bytes(_STAMP_SIZE)
        return NONCE_COOKIE + _FEATURES + b64encode(stamp + self._mac(stamp, client))

    def accepts(self, nonce: bytes, client: Client, now: float) -> bool:
        """Whether it was issued to this client, not too long ago."""
        try:
            content = b64decode(nonce[len(NONCE_COOKIE) + FEATURES_SIZE :], validate=True)
        except Base64Error:
            return False
        stamp, mac = content[:_STAMP_SIZE], content[_STAMP_SIZE:]
        is_ours = hmac.compare_digest(mac, self._mac(stamp, client))
        return is_ours and 0 <= int(now) - int.from_bytes(stamp) <= NONCE_LIFETIME_S

    def _mac(self, stamp: bytes, client: Client) -> bytes:
        return hmac.digest(self._secret, stamp + repr(client).encode(), "sha256")[:_MAC_SIZE]


class Gate:
    """Tells users from strangers. `held_key_of`: for requests about what is held already, where names stay good for that
    when they are good for nothing new any more. `account_of`: from a user name."""

    def __init__(
        self,
        realm: str,
        key_of: KeyOf,
        secret: bytes,
        held_key_of: KeyOf | None = None,
        account_of: Callable[[str], str] = str,
    ) -> None:
        self._realm = realm
        self._key_of = key_of
        self._held_key_of = held_key_of or key_of
        self._account_of = account_of
        self._nonces = Nonces(secret)

    def asker(self, request: Message, data: bytes, client: Client, now: float) -> Asker:
        """Who sent `data`, which is `request`. Raises Refused, with what the client needs to try again."""
        integrity = _integrity_of(request)
        if integrity is None:
            raise self._challenge(401, "Unauthenticated", client, now)
        username, nonce = request.get(Attribute.USERNAME), request.get(Attribute.NONCE)
        if username is None or nonce is None or request.get(Attribute.REALM) is None:
            raise Refused(400, "Bad Request")
        key_of = self._key_of if request.method == Method.ALLOCATE else self._held_key_of
        key = key_of(username, _algorithm_of(request))
        if key is None or not _verifies(data, key, integrity):
            raise self._challenge(401, "Unauthenticated", client, now)
        if not self._nonces.accepts(nonce, client, now):
            raise self._challenge(438, "Stale Nonce", client, now)
        return Asker(username, self._account_of(username), Seal(key, integrity))

    def _challenge(self, code: int, reason: str, client: Client, now: float) -> Refused:
        return Refused(
            code,
            reason,
            (Attribute.REALM, self._realm),
            (Attribute.NONCE, self._nonces.issue(client, now)),
            (Attribute.PASSWORD_ALGORITHMS, ALGORITHMS),
        )


def _integrity_of(request: Message) -> Attribute | None:
    """The strongest: the other one is then to be ignored (section 9.2.4)."""
    for attribute in (Attribute.MESSAGE_INTEGRITY_SHA256, Attribute.MESSAGE_INTEGRITY):
        if request.get(attribute) is not None:
            return attribute
    return None


def _algorithm_of(request: Message) -> int:
    """Raises Refused where what was offered comes back changed: somebody on the way would have the weaker one taken."""
    offered, chosen = request.get(Attribute.PASSWORD_ALGORITHMS), request.get(Attribute.PASSWORD_ALGORITHM)
    if offered is None and chosen is None:
        return MD5
    if offered != ALGORITHMS or chosen not in ALGORITHMS:
        raise Refused(400, "Bad Request")
    return int(chosen.number)


def _verifies(data: bytes, key: bytes, integrity: Attribute) -> bool:
    try:
        return verifies(data, key, integrity)
    except WireError:
        return False


def keys_of(passwords: Mapping[str, str], realm: str) -> KeyOf:
    """Of users known beforehand. The keys are made once, and the passwords are not kept. Raises LocalMisuse for one that
    cannot be a user name, realm or password."""
    keys = {
        (username, algorithm): long_term_key(username, realm, password, algorithm)
        for username, password in passwords.items()
        for algorithm in (MD5, SHA256)
    }
    return lambda username, algorithm: keys.get((username, algorithm))
