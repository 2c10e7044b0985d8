"""Key files: what is written can be read by others too, and every bad file has its own answer."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from Crypto.PublicKey import ECC, RSA
from Crypto.Util.asn1 import DerObjectId, DerOctetString, DerSequence
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from kodectl.errors import EnvironmentFault, LocalMisuse
from kodectl.store import keyfile
from kodectl.store.keyfile import create_key, load_key, load_seed, read_passphrase, save_seed
from kodectl.store.whole_file import write_whole

RFC_8410_KEY = """-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
"""
RFC_8410_SEED = "d4ee72dbf913584ad5b6d8f1f769f8ad3afe7c28cbf1d4fbe097a88f44755842"
RFC_8410_PUBLIC = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1"


@pytest.fixture(autouse=True)
def _cheap_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyfile, "SCRYPT_COST", 1 << 4)


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "node.key"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(0o600)
    return path


def test_reads_the_example_of_rfc_8410(tmp_path: Path) -> None:
    key = load_key(written(tmp_path, RFC_8410_KEY))
    assert key.seed.hex() == RFC_8410_SEED
    assert key.public_key.hex() == RFC_8410_PUBLIC
    assert not key.encrypted
    assert key.seed.hex() not in repr(key)


@pytest.mark.parametrize("passphrase", [None, b"correct horse", "Schlüssel".encode()])
def test_what_is_made_is_read_here_and_by_openssl(tmp_path: Path, passphrase: bytes | None) -> None:
    path = tmp_path / "node.key"
    seed = create_key(path, passphrase)
    assert load_seed(path, passphrase) == seed
    assert load_key(path, passphrase).encrypted == (passphrase is not None)
    assert load_pem_private_key(path.read_bytes(), passphrase).private_bytes_raw() == seed  # type: ignore[union-attr]


def test_the_file_is_the_owners_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        create_key(tmp_path / "node.key")
    finally:
        os.umask(before)
    assert (tmp_path / "node.key").stat().st_mode & 0o777 == 0o600


def test_nothing_is_overwritten_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    first = create_key(path)
    with pytest.raises(EnvironmentFault) as raised:
        create_key(path)
    assert raised.value.code == "key_exists"
    assert load_seed(path) == first
    assert create_key(path, force=True) != first
    assert os.listdir(tmp_path) == ["node.key"]


def test_of_many_that_race_one_wins_and_the_file_is_its_own(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    start = threading.Barrier(8)
    seeds, losers = [], []

    def race() -> None:
        start.wait()
        try:
            seeds.append(create_key(path))
        except EnvironmentFault as error:
            losers.append(error.code)

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seeds == [load_seed(path)]
    assert losers == ["key_exists"] * 7
    assert os.listdir(tmp_path) == ["node.key"]


def test_the_name_is_taken_exclusively_even_after_the_first_look(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    path.write_bytes(b"somebody was faster")
    with pytest.raises(EnvironmentFault) as raised:
        write_whole(path, b"mine", replace=False)
    assert raised.value.code == "file_exists"
    assert path.read_bytes() == b"somebody was faster"


def test_who_is_killed_before_the_file_is_whole_leaves_nothing_behind(tmp_path: Path) -> None:
    try:
        os.close(os.open(tmp_path, os.O_TMPFILE | os.O_WRONLY))
    except OSError:
        pytest.skip("this file system has no files without a name")
    killed = "import os, sys; os.fsync = lambda _: os.kill(os.getpid(), 9); from pathlib import Path; "
    killed += "from kodectl.store.keyfile import create_key; create_key(Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", killed, tmp_path / "node.key"], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == []


def test_without_hard_links_it_is_still_exclusive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: str, target: Path, **directories: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "node.key"
    seed = create_key(path)
    assert load_seed(path) == seed
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(EnvironmentFault):
        write_whole(path, b"mine", replace=False)


def test_a_failed_write_leaves_the_old_file_and_nothing_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "node.key"
    first = create_key(path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentFault) as raised:
        create_key(path, force=True)
    assert raised.value.code == "disk_full"
    assert load_seed(path) == first
    assert os.listdir(tmp_path) == ["node.key"]


def encrypted_pem(passphrase: str = "right") -> str:
    key = ECC.construct(curve="Ed25519", seed=bytes.fromhex(RFC_8410_SEED))
    params = {"iteration_count": 16}
    return str(key.export_key(format="PEM", passphrase=passphrase, protection=keyfile.PROTECTION, prot_params=params))  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("content", "passphrase", "code"),
    [
        ("", None, "key_malformed"),
        ("hello", None, "key_malformed"),
        (b"\xff\xfe\x00" * 50, None, "key_malformed"),
        ("x" * (keyfile.MAX_KEY_FILE_SIZE + 1), None, "key_malformed"),
        (RFC_8410_KEY.replace("-----END PRIVATE KEY-----", ""), None, "key_malformed"),
        (RFC_8410_KEY[:60], None, "key_malformed"),
        (RFC_8410_KEY.replace("MC4C", "!!!!"), None, "key_malformed"),
        (RFC_8410_KEY.replace("MC4C", "\xff" * 4), None, "key_malformed"),
        (RFC_8410_KEY.replace("MC4C", "AAAA"), None, "key_malformed"),
        (RFC_8410_KEY.replace("PRIVATE", "PUBLIC"), None, "key_wrong_kind"),
        (ECC.generate(curve="P-256").export_key(format="PEM"), None, "key_wrong_kind"),
        (ECC.generate(curve="Ed448").export_key(format="PEM"), None, "key_wrong_kind"),
        (RSA.generate(1024).export_key(pkcs=8), None, "key_wrong_kind"),
        (RSA.generate(1024).export_key(), None, "key_wrong_kind"),
        (encrypted_pem(), None, "key_encrypted"),
        (encrypted_pem(), b"wrong", "key_wrong_passphrase"),
        (encrypted_pem(), b"", "key_wrong_passphrase"),
    ],
)
def test_every_bad_file_has_its_own_answer(
    tmp_path: Path, content: str | bytes, passphrase: bytes | None, code: str
) -> None:
    with pytest.raises(EnvironmentFault) as raised:
        load_seed(written(tmp_path, content), passphrase)
    assert raised.value.code == code
    assert "node.key" in raised.value.message


def sealed_at(cost: list[int], scheme: str = keyfile.SCRYPT) -> str:
    """As its cost says, nobody could have made it."""
    function = DerSequence([DerObjectId(scheme), DerSequence([DerOctetString(bytes(8)), *cost])])
    cipher = DerSequence([DerObjectId("2.16.840.1.101.3.4.1.42"), DerOctetString(bytes(16))])
    algorithm = DerSequence([DerObjectId(keyfile.PBES2), DerSequence([function, cipher])])
    der = DerSequence([algorithm, DerOctetString(bytes(64))]).encode()
    return f"-----BEGIN {keyfile.ENCRYPTED}-----\n{base64.b64encode(der).decode()}\n-----END {keyfile.ENCRYPTED}-----\n"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (sealed_at([1 << 30, 8, 1]), "key_too_costly"),
        (sealed_at([1 << 14, 8, 1 << 20]), "key_too_costly"),
        (sealed_at([1 << 4, 1 << 29, 1, 32]), "key_too_costly"),
        (sealed_at([1 << 4000, 8, 1]), "key_too_costly"),
        (sealed_at([2_000_000_000], "1.2.840.113549.1.5.12"), "key_too_costly"),
        (sealed_at([1 << 10, 8, 1]), "key_wrong_passphrase"),
        (sealed_at([-(1 << 30), 8, 1]), "key_wrong_passphrase"),
        (sealed_at([]), "key_wrong_passphrase"),
    ],
)
def test_what_it_costs_to_open_a_file_is_bounded(tmp_path: Path, content: str, code: str) -> None:
    path = tmp_path / "node.key"
    path.write_text(content)
    with pytest.raises(EnvironmentFault) as caught:
        load_key(path, b"passphrase")
    assert caught.value.code == code


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, code in ((tmp_path / "fifo", "key_unreadable"), (tmp_path, "key_unreadable")):
        with pytest.raises(EnvironmentFault) as raised:
            load_seed(path)
        assert raised.value.code == code
    with pytest.raises(EnvironmentFault) as raised:
        load_seed(tmp_path / "absent")
    assert raised.value.code == "key_missing"
    with pytest.raises(EnvironmentFault) as raised:
        create_key(tmp_path / "absent" / "node.key")
    assert raised.value.code == "path_unwritable"


def test_exposure_is_told(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    create_key(path)
    assert not load_key(path).exposed
    path.chmod(0o640)
    assert load_key(path).exposed


def test_a_known_seed_can_be_sealed_again(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    seed = create_key(path)
    save_seed(path, seed, b"new", force=True)
    assert load_key(path, b"new").encrypted
    assert load_seed(path, b"new") == seed


def test_the_passphrase_is_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "passphrase"
    for content, expected in ((b"abc", b"abc"), (b"abc\r\nrest\n", b"abc"), (b" a b \n", b" a b ")):
        path.write_bytes(content)
        assert read_passphrase(path) == expected
    for content in (b"", b"\nabc", b"a" * 2000):
        path.write_bytes(content)
        with pytest.raises(LocalMisuse):
            read_passphrase(path)
    with pytest.raises(EnvironmentFault):
        read_passphrase(tmp_path / "absent")
