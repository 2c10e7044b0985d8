"""The file that holds an identity: an Ed25519 key as PEM PKCS#8 (RFC 8410), encrypted with scrypt (RFC 7914) or plain.

Blocking (key derivation, fsync): a node calls it through its runtime's threads.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kodectl.errors import EnvironmentFault, LocalMisuse
from kodectl.store.whole_file import FileTaken, write_whole

SEED_SIZE = 32
MAX_KEY_FILE_SIZE = 16_384
"""An encrypted Ed25519 key has 400 bytes; a certificate chain before it would still fit."""
MAX_PASSPHRASE_SIZE = 1_024
"""More is a wrong file, not a passphrase."""
SCRYPT_COST = 1 << 15
"""32 MiB and 0.1 s here for one guess, 16 times what a laptop of 2009 could take (RFC 7914, section 2)."""
SCRYPT_BLOCK_SIZE = 8
PROTECTION = "scryptAndAES256-CBC"

MAX_SCRYPT_COST = 1 << 22
"""N * r * p: 16 times ours, some 2 s and, with one lane, 512 MiB. A file of somebody else's names its own cost."""
MAX_ITERATIONS = 10_000_000
"""Of PBKDF2: 16 times of what is advised today (OWASP: 600,000), some seconds."""
SCRYPT = "1.3.6.1.4.1.11591.4.11"
PBES2 = "1.2.840.113549.1.5.13"

ED25519 = "1.3.101.112"
_SEED_HEADER = b"\x04\x20"  # RFC 8410, section 7: the seed is an OCTET STRING in the OCTET STRING
PLAIN = "PRIVATE KEY"
ENCRYPTED = "ENCRYPTED PRIVATE KEY"
_BEGIN = "-----BEGIN "
_DASHES = "-----"


@dataclass(frozen=True)
class StoredKey:
    """What a key file holds; `repr` leaves the secret out."""

    seed: bytes
    public_key: bytes
    encrypted: bool
    mode: int
    """Permission bits of the file."""

    @property
    def node_id(self) -> bytes:
        # As wire.suite.node_id_of, which would bring OpenSSL's bindings along.
        return hashlib.sha256(self.public_key).digest()

    @property
    def exposed(self) -> bool:
        """Others than the owner may read or write it."""
        return bool(self.mode & 0o077)

    def __repr__(self) -> str:
        return f"StoredKey({self.node_id.hex()})"


def load_seed(path: Path, passphrase: bytes | None = None) -> bytes:
    """The private seed (32 bytes); errors as of `load_key`."""
    return load_key(path, passphrase).seed


def load_key(path: Path, passphrase: bytes | None = None) -> StoredKey:
    """Reads a key file; a passphrase for a plain file is not used.

    Raises EnvironmentFault: key_missing, key_unreadable, key_malformed, key_wrong_kind, key_encrypted (no passphrase
    given), key_wrong_passphrase, key_too_costly."""
    content, mode = _read(path)
    label, der = _unarmour(content, path)
    encrypted = label == ENCRYPTED
    if encrypted and passphrase is None:
        raise EnvironmentFault(
            f"{path}: the key is encrypted", code="key_encrypted", hint="give its passphrase with --passphrase-file"
        )
    if encrypted and _is_too_costly(der):
        raise EnvironmentFault(
            f"{path}: opening it would take more work or memory than any key is worth",
            code="key_too_costly",
            hint="seal the key again, with N = 32768: openssl pkcs8 -topk8 -scrypt",
        )
    return _import(der, passphrase if encrypted else None, path, mode)


def create_key(path: Path, passphrase: bytes | None = None, force: bool = False) -> bytes:
    """Makes a new identity, writes it, and answers its seed.

    Raises EnvironmentFault: key_exists (unless `force`), path_unwritable. Of two that race for one path, one wins and
    the other gets key_exists."""
    from Crypto.PublicKey import ECC

    seed: bytes = ECC.generate(curve="Ed25519").seed
    save_seed(path, seed, passphrase, force)
    return seed


def save_seed(path: Path, seed: bytes, passphrase: bytes | None = None, force: bool = False) -> None:
    """Writes an identity that exists; errors as of `create_key`."""
    if not force and path.exists():
        raise _exists(path)
    try:
        write_whole(path, _export(seed, passphrase), replace=force)
    except FileTaken as error:
        raise _exists(path) from error


def read_passphrase(path: Path) -> bytes:
    """The first line of the file. Raises EnvironmentFault (passphrase_unreadable) and LocalMisuse (passphrase_invalid)."""
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_PASSPHRASE_SIZE + 1)
    except OSError as error:
        raise EnvironmentFault(f"cannot read {path}: {error.strerror}", code="passphrase_unreadable") from error
    if len(content) > MAX_PASSPHRASE_SIZE:
        raise LocalMisuse(f"{path}: more than {MAX_PASSPHRASE_SIZE} bytes is no passphrase", code="passphrase_invalid")
    passphrase = content.split(b"\n", 1)[0].removesuffix(b"\r")
    if not passphrase:
        raise LocalMisuse(f"{path}: the first line, the passphrase, is empty", code="passphrase_invalid")
    return passphrase


def _export(seed: bytes, passphrase: bytes | None) -> bytes:
    from Crypto.PublicKey import ECC

    key = ECC.construct(curve="Ed25519", seed=seed)
    if passphrase is None:
        return f"{key.export_key(format='PEM')}\n".encode()
    pem = key.export_key(
        format="PEM",
        passphrase=passphrase,
        protection=PROTECTION,
        prot_params={"iteration_count": SCRYPT_COST, "block_size": SCRYPT_BLOCK_SIZE},
    )
    return f"{pem}\n".encode()


def _is_too_costly(der: bytes) -> bool:
    """What the file (EncryptedPrivateKeyInfo, RFC 5958 and 8018) asks of who opens it; libraries bound that late or not at all.
    What cannot be read is for `_import` to refuse."""
    from Crypto.Util.asn1 import DerObjectId, DerSequence

    def parts(encoded: Any) -> list[Any]:
        sequence: Any = DerSequence().decode(encoded)
        return list(sequence)

    try:
        scheme, parameters = parts(parts(der)[0])
        function = b""
        if DerObjectId().decode(scheme).value == PBES2:
            function, parameters = parts(parts(parameters)[0])
        numbers = [number for number in parts(parameters) if isinstance(number, int)]
        if function and DerObjectId().decode(function).value == SCRYPT:
            return math.prod(numbers[:3]) > MAX_SCRYPT_COST
    except (ValueError, IndexError, TypeError):
        return False
    return max(numbers, default=0) > MAX_ITERATIONS


def _import(der: bytes, passphrase: bytes | None, path: Path, mode: int) -> StoredKey:
    from Crypto.IO import PKCS8
    from Crypto.PublicKey import ECC

    try:
        algorithm, content, _ = PKCS8.unwrap(der, passphrase)
    except (ValueError, IndexError, TypeError) as error:
        # After decryption with a wrong key it is noise that fails to parse; the two look alike.
        if passphrase is not None:
            why = f"{path}: wrong passphrase, or a damaged file"
            raise EnvironmentFault(why, code="key_wrong_passphrase") from error
        raise _malformed(path, "the PEM holds no PKCS#8 structure") from error
    if algorithm != ED25519:
        raise EnvironmentFault(f"{path}: a private key, but not an Ed25519 one", code="key_wrong_kind")
    if len(content) != len(_SEED_HEADER) + SEED_SIZE or not content.startswith(_SEED_HEADER):
        raise _malformed(path, "the Ed25519 key in it has not 32 bytes")
    key = ECC.construct(curve="Ed25519", seed=content[len(_SEED_HEADER) :])
    return StoredKey(key.seed, key.public_key().export_key(format="raw"), passphrase is not None, mode)


def _read(path: Path) -> tuple[bytes, int]:
    try:
        with open(path, "rb", opener=_open_without_waiting) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise EnvironmentFault(f"{path} is not a regular file", code="key_unreadable")
            # None where a special file would have to be waited for.
            return stream.read(MAX_KEY_FILE_SIZE + 1) or b"", stat.S_IMODE(status.st_mode)
    except FileNotFoundError as error:
        hint = f"kodectl key gen {path}"
        raise EnvironmentFault(f"{path}: no such key file", code="key_missing", hint=hint) from error
    except OSError as error:
        raise EnvironmentFault(f"cannot read {path}: {error.strerror}", code="key_unreadable") from error


def _open_without_waiting(path: str, flags: int) -> int:
    """A FIFO of this name must not hold up the start of a node."""
    return os.open(path, flags | os.O_NONBLOCK)


def _unarmour(content: bytes, path: Path) -> tuple[str, bytes]:
    """The label and the bytes of the first PEM block (RFC 7468)."""
    if len(content) > MAX_KEY_FILE_SIZE:
        raise _malformed(path, f"larger than {MAX_KEY_FILE_SIZE} bytes")
    lines = [line.strip() for line in content.decode("ascii", errors="replace").splitlines()]
    begin = next((number for number, line in enumerate(lines) if line.startswith(_BEGIN)), None)
    if begin is None:
        raise _malformed(path, "no PEM (-----BEGIN ...-----) in it")
    label = lines[begin].removeprefix(_BEGIN).removesuffix(_DASHES)
    if label not in (PLAIN, ENCRYPTED):
        raise EnvironmentFault(f"{path}: a PEM of {label!r}, not a private key (PKCS#8)", code="key_wrong_kind")
    if f"-----END {label}-----" not in lines[begin:]:
        raise _malformed(path, "the PEM has no end; the file is cut short")
    end = lines.index(f"-----END {label}-----", begin)
    try:
        return label, base64.b64decode("".join(lines[begin + 1 : end]), validate=True)
    except ValueError as error:  # binascii.Error, or not even ASCII
        raise _malformed(path, "the PEM is not base64") from error


def _exists(path: Path) -> EnvironmentFault:
    return EnvironmentFault(
        f"{path} exists and is not overwritten",
        code="key_exists",
        hint="choose another file; --force replaces it, and the identity in it is lost",
    )


def _malformed(path: Path, why: str) -> EnvironmentFault:
    return EnvironmentFault(f"{path}: not a key file: {why}", code="key_malformed")
