"""The keys of STUN's integrity, from user names and passwords (RFC 8489, section 9)."""

from __future__ import annotations

import hashlib
import unicodedata

from kodectl.errors import LocalMisuse

MD5, SHA256 = 1, 2
"""Numbers of the password algorithms (section 18.5); the first where a server names none."""


def short_term_key(password: str) -> bytes:
    """Section 9.1.1; ICE's passwords are used so."""
    return opaque_string(password).encode()


def long_term_key(username: str, realm: str, password: str, algorithm: int = MD5) -> bytes:
    """Section 9.2.2: 16 bytes by MD5, 32 by SHA-256."""
    joined = ":".join(opaque_string(part) for part in (username, realm, password)).encode()
    if algorithm == SHA256:
        return hashlib.sha256(joined).digest()
    if algorithm == MD5:
        return hashlib.md5(joined, usedforsecurity=False).digest()
    raise LocalMisuse(f"password algorithm {algorithm}; 1 (MD5) and 2 (SHA-256) are known")


def userhash(username: str, realm: str) -> bytes:
    """What stands in USERHASH for a name that is not to be seen (section 14.4)."""
    return hashlib.sha256(f"{opaque_string(username)}:{opaque_string(realm)}".encode()).digest()


def opaque_string(text: str) -> str:
    """The OpaqueString profile (RFC 8265, section 4.2): every kind of space becomes U+0020, and the form is NFC. Case stays.

    Of what PRECIS disallows, only control characters and unassigned code points are refused; the full tables would be
    there to refuse passwords that nobody has."""
    spaced = "".join(" " if unicodedata.category(char) == "Zs" else char for char in text)
    if any(unicodedata.category(char) in ("Cc", "Cn", "Cs") for char in spaced):
        raise LocalMisuse("control characters cannot be part of a STUN user name, realm or password")
    return unicodedata.normalize("NFC", spaced)
