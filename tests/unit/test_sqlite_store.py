"""The SQLite store: what is written is there after any end, and a disk that fails is told, not suffered."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from kodectl.errors import EnvironmentFault
from kodectl.node.persistence import MemoryStore, Store, StoredBan, StoredPeer, StoredSeed
from kodectl.store import sqlite as sqlite_store
from kodectl.store.sqlite import SqliteStore
from kodectl.wire.record import pack_record, record_statement


def stored_peer(number: int = 1, **changes: object) -> StoredPeer:
    fields: dict[str, object] = {
        "node_id": number.to_bytes(32),
        "host": "192.0.2.7",
        "tcp": 30303,
        "udp": 30301,
        "static": True,
        "linked": True,
        "last_seen": 1.79e9 + 0.25,
        "linked_s": 12.5,
        "observed_s": 20.0,
        "response_ms": 1.5,
        "trust_time": 1.79e9,
        "failures": 3,
        "retry_at": 1.79e9 + 8,
    }
    return StoredPeer(**(fields | changes))


def record(publisher: int, sequence: int = 1) -> bytes:
    statement = record_statement(publisher.to_bytes(32), bytes(32), sequence, 1_790_000_000, b"value")
    return pack_record(statement, bytes(64))


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path):
    made: Store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "node.db")
    yield made
    made.close()


class TestEveryStore:
    def test_begins_empty(self, store: Store) -> None:
        assert store.load_peers() == store.load_bans() == store.load_records() == store.load_seeds() == []
        assert store.load_meta("anything") is None
        assert list(store.warnings) == []

    def test_gives_peers_back_as_they_were(self, store: Store) -> None:
        peers = [stored_peer(1), stored_peer(2, response_ms=None, static=False, host="2001:db8::1")]
        store.save_peers(peers)
        assert sorted(store.load_peers(), key=lambda peer: peer.node_id) == peers

    def test_replaces_and_removes_peers(self, store: Store) -> None:
        store.save_peers([stored_peer(1), stored_peer(2)])
        store.save_peers([stored_peer(2, tcp=1)], [stored_peer(1).node_id])
        assert store.load_peers() == [stored_peer(2, tcp=1)]

    def test_keeps_one_record_for_publisher_and_key(self, store: Store) -> None:
        store.save_records([record(1, 1), record(2, 1)])
        store.save_records([record(1, 2)])
        assert sorted(store.load_records()) == [record(1, 2), record(2, 1)]
        store.save_records([], [((2).to_bytes(32), bytes(32))])
        assert store.load_records() == [record(1, 2)]

    def test_replaces_bans_and_seeds_as_a_whole(self, store: Store) -> None:
        store.save_bans([StoredBan(bytes(32), None)])
        store.save_bans([StoredBan(b"b" * 32, 1.79e9)])
        store.save_seeds([StoredSeed("enode://a", 1.0)])
        store.save_seeds([StoredSeed("enode://b", 2.0)])
        assert store.load_bans() == [StoredBan(b"b" * 32, 1.79e9)]
        assert store.load_seeds() == [StoredSeed("enode://b", 2.0)]

    def test_keeps_named_bytes(self, store: Store) -> None:
        store.save_meta("sequence", b"\x00\x01")
        store.save_meta("sequence", b"\x00\x02")
        assert store.load_meta("sequence") == b"\x00\x02"


def test_another_life_finds_everything(tmp_path: Path) -> None:
    first = SqliteStore(tmp_path / "node.db")
    first.save_peers([stored_peer()])
    first.save_records([record(1)])
    first.close()
    second = SqliteStore(tmp_path / "node.db")
    assert second.load_peers() == [stored_peer()]
    assert second.load_records() == [record(1)]
    second.close()


def test_files_are_for_the_owner_only(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "node.db")
    store.save_meta("name", b"value")
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"node.db": 0o600, "node.db-wal": 0o600, "node.db-shm": 0o600}
    store.close()


def test_a_failed_write_changes_nothing(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "node.db")
    store.save_peers([stored_peer(1)])
    broken = stored_peer(2, host=None)
    with pytest.raises(EnvironmentFault) as caught:
        store.save_peers([stored_peer(3), broken], [stored_peer(1).node_id])
    assert caught.value.code == "store"
    assert store.load_peers() == [stored_peer(1)]
    store.save_peers([stored_peer(4)])
    store.close()


WRITER = """
import sys
from pathlib import Path
from kodectl.node.persistence import StoredPeer
from kodectl.store.sqlite import SqliteStore

store = SqliteStore(Path(sys.argv[1]))
turn = 0
while True:
    turn += 1
    # Two hundred rows in one transaction, all with the same number.
    store.save_peers(
        [StoredPeer(node_id=number.to_bytes(32), host="192.0.2.1", tcp=1, udp=1, failures=turn) for number in range(200)]
    )
    print(turn, flush=True)
"""


def test_killed_while_writing_it_holds_the_last_whole_write(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / "node.db"], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    told = [int(writer.stdout.readline()) for _ in range(20)][-1]
    writer.send_signal(signal.SIGKILL)
    told = max([told, *(int(line) for line in writer.stdout.read().split())])
    writer.wait()
    writer.stdout.close()

    store = SqliteStore(tmp_path / "node.db")
    turns = {peer.failures for peer in store.load_peers()}
    assert len(turns) == 1
    assert turns.pop() in (told, told + 1)  # killed between the write and the word of it
    assert store.warnings == []
    store.close()


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(
            lambda path: path.write_bytes(b"no database at all, but long enough to be read as one" * 100), id="text"
        ),
        pytest.param(lambda path: overwrite(path, 0, bytes(100)), id="header"),
        pytest.param(lambda path: overwrite(path, 4096, b"\xff" * 8192), id="pages"),
        pytest.param(lambda path: os.truncate(path, path.stat().st_size // 2), id="cut short"),
        pytest.param(lambda path: execute(path, "DROP TABLE records"), id="a table is gone"),
        pytest.param(lambda path: execute(path, "PRAGMA user_version = 0"), id="version"),
        pytest.param(lambda path: overwrite(path, path.read_bytes().index(b"node_id BLOB"), b"\xff"), id="schema"),
    ],
)
def test_a_damaged_file_is_put_aside(tmp_path: Path, spoil) -> None:
    path = tmp_path / "node.db"
    store = SqliteStore(path)
    store.save_peers([stored_peer(number) for number in range(200)])
    store.close()
    spoil(path)
    damaged = path.read_bytes()

    store = SqliteStore(path)
    assert store.load_peers() == []
    assert "node.db.damaged" in store.warnings[0]
    assert (tmp_path / "node.db.damaged").read_bytes() == damaged
    store.save_peers([stored_peer()])
    store.close()
    again = SqliteStore(path)
    assert again.load_peers() == [stored_peer()]
    assert again.warnings == []
    again.close()


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize(
    "spoil",
    [
        "UPDATE peers SET host = CAST(x'fffe' AS BLOB)",
        "UPDATE peers SET response_ms = 'soon'",
        "UPDATE peers SET tcp = 'x'",
        "UPDATE bans SET until = 'later'",
        "UPDATE records SET record = 'text'",
        "UPDATE records SET record = CAST(x'fffe' AS TEXT)",
        "UPDATE seeds SET enode = x'00'",
        "UPDATE seeds SET last_seen = 'x'",
    ],
)
def test_rows_that_are_not_what_was_written_are_left_out(tmp_path: Path, spoil: str, caplog) -> None:
    path = tmp_path / "node.db"
    store = SqliteStore(path)
    store.save_peers([stored_peer(1)])
    store.save_bans([StoredBan(bytes(32), None)])
    store.save_records([record(1)])
    store.save_seeds([StoredSeed("enode://a", 1.0)])
    store.close()
    execute(path, spoil)
    store = SqliteStore(path)
    counts = [len(load()) for load in (store.load_peers, store.load_bans, store.load_records, store.load_seeds)]
    assert sorted(counts) == [0, 1, 1, 1]
    assert f"{path}: 1 " in caplog.text
    store.close()


def test_text_that_is_no_text_any_more_is_read_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    store = SqliteStore(path)
    store.save_peers([stored_peer(1), stored_peer(2)])
    store.close()
    execute(path, f"UPDATE peers SET host = CAST(x'fffe' AS TEXT) WHERE node_id = x'{1:064x}'")
    store = SqliteStore(path)
    first, second = sorted(store.load_peers(), key=lambda peer: peer.node_id)
    assert first.host == "\ufffd" * 2
    assert second == stored_peer(2)
    store.close()


@pytest.mark.parametrize("moved", [True, False])
def test_a_file_that_is_gone_is_told(tmp_path: Path, moved: bool) -> None:
    path = tmp_path / "node.db"
    store = SqliteStore(path)
    store.save_peers([stored_peer()])
    path.unlink()
    if moved:
        SqliteStore(path).close()
    with pytest.raises(EnvironmentFault, match="removed or replaced"):
        store.save_peers([stored_peer(2)])
    store.close()


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    execute(path, "CREATE TABLE notes (text)", "INSERT INTO notes VALUES ('mine')")
    for made in (path.read_bytes(), None):
        if made is None:  # one with a version, as programs count those of their own
            execute(path, "PRAGMA application_id = 7", "PRAGMA user_version = 1")
            made = path.read_bytes()
        with pytest.raises(EnvironmentFault, match="another program") as caught:
            SqliteStore(path)
        assert caught.value.code == "store_foreign"
        assert path.read_bytes() == made
    assert os.listdir(tmp_path) == ["node.db"]


def test_a_file_of_the_first_version_gets_the_mark_of_this_program(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    store = SqliteStore(path)
    store.save_meta("kept", b"yes")
    store.close()
    execute(path, "PRAGMA application_id = 0")
    for _ in range(2):
        store = SqliteStore(path)
        assert store.load_meta("kept") == b"yes"
        assert store._read("PRAGMA application_id") == [(sqlite_store.APPLICATION_ID,)]
        store.close()


def test_every_write_is_synced(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "node.db")
    assert store._read("PRAGMA synchronous") == [(2,)]  # FULL
    assert store._read("PRAGMA journal_mode") == [("wal",)]
    store.close()


@pytest.mark.parametrize("suffix", sqlite_store.SUFFIXES)
@pytest.mark.parametrize("kind", ["directory", "fifo", "device"])
def test_what_is_in_the_way_is_named(tmp_path: Path, suffix: str, kind: str) -> None:
    place = tmp_path / f"node.db{suffix}"
    {"directory": place.mkdir, "fifo": lambda: os.mkfifo(place), "device": lambda: place.symlink_to("/dev/null")}[
        kind
    ]()
    with pytest.raises(EnvironmentFault, match=f"{place}") as caught:
        SqliteStore(tmp_path / "node.db")
    assert caught.value.code == "path_unwritable"


def damage(file: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    at = rng.randrange(len(data))
    match rng.choice(["flip", "cut", "zeros", "noise", "swap", "more"]):
        case "flip":
            for _ in range(rng.choice([1, 1, 1, 5, 50, 500])):
                data[rng.randrange(rng.choice([len(data), min(len(data), 4096)]))] ^= 1 << rng.randrange(8)
        case "cut":
            del data[at:]
        case "zeros":
            data[at : at + 4096] = bytes(len(data[at : at + 4096]))
        case "noise":
            data[at : at + 512] = rng.randbytes(len(data[at : at + 512]))
        case "swap":
            one, other = (4096 * rng.randrange(1 + len(data) // 4096) for _ in range(2))
            data[one : one + 4096], data[other : other + 4096] = data[other : other + 4096], data[one : one + 4096]
        case "more":
            data += rng.randbytes(rng.choice([1, 4096, 10_000]))
    file.write_bytes(data)


def fill(store: SqliteStore, count: int) -> None:
    store.save_peers([stored_peer(number) for number in range(count)])
    store.save_records([record(number) for number in range(count)])
    store.save_bans([StoredBan(number.to_bytes(32), None) for number in range(count)])
    store.save_seeds([StoredSeed(f"enode://{number}", 1.0) for number in range(count)])


@pytest.mark.parametrize("count", [10, pytest.param(5_000, marks=pytest.mark.slow)])
def test_whatever_has_happened_to_the_files_it_opens_and_works_or_says_why(tmp_path: Path, count: int) -> None:
    """Of a node that has stopped, and of one that was killed: with most of it in the log."""
    stopped, killed, victim = (tmp_path / name for name in ("stopped", "killed", "victim"))
    stopped.mkdir()
    store = SqliteStore(stopped / "node.db")
    fill(store, 200)
    shutil.copytree(stopped, killed)
    store.close()
    rng = random.Random(9)
    for _ in range(count):
        shutil.copytree(rng.choice([stopped, killed]), victim)
        damage(rng.choice(sorted(victim.iterdir())), rng)
        try:
            store = SqliteStore(victim / "node.db")
        except EnvironmentFault as fault:
            # A bit of the header makes it somebody else's.
            if fault.code not in ("store_too_new", "store_foreign"):
                raise
        else:
            for load in (store.load_peers, store.load_records, store.load_bans, store.load_seeds):
                load()
            fill(store, 3)
            store.close()
            again = SqliteStore(victim / "node.db")
            assert again.warnings == []
            assert len(again.load_peers()) >= 3
            again.close()
        shutil.rmtree(victim)


def test_a_file_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    SqliteStore(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(EnvironmentFault, match="later kodectl") as caught:
        SqliteStore(path)
    assert caught.value.code == "store_too_new"
    assert not (tmp_path / "node.db.damaged").exists()


def test_a_file_of_an_earlier_version_is_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "node.db"
    store = SqliteStore(path)
    store.save_meta("kept", b"yes")
    store.close()
    later = (*sqlite_store.MIGRATIONS, "CREATE TABLE added (number INTEGER); INSERT INTO added VALUES (7);")
    monkeypatch.setattr(sqlite_store, "MIGRATIONS", later)
    for _ in range(2):  # the second time there is nothing left to do
        store = SqliteStore(path)
        assert store.load_meta("kept") == b"yes"
        assert store._read("SELECT number FROM added") == [(7,)]
        store.close()


def test_an_unwritable_directory_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EnvironmentFault, match="cannot use") as caught:
        SqliteStore(tmp_path / "file" / "node.db")
    assert caught.value.code == "path_unwritable"


in_own_mount_namespace = pytest.mark.skipif(
    os.geteuid() != 0
    or shutil.which("unshare") is None
    or subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0,
    reason="needs a mount namespace of its own",
)

FULL_DISK = """
import sys
from pathlib import Path
from kodectl.errors import EnvironmentFault
from kodectl.node.persistence import StoredPeer
from kodectl.store.sqlite import SqliteStore

def peers(first, count):
    return [StoredPeer(node_id=n.to_bytes(32), host="192.0.2.1", tcp=1, udp=1) for n in range(first, first + count)]

directory = Path(sys.argv[1])
store = SqliteStore(directory / "node.db")
store.save_peers(peers(0, 10))
ballast = directory / "ballast"
with ballast.open("wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(4096))
    except OSError:
        pass
try:
    store.save_peers(peers(10, 2000))
    print("not noticed")
except EnvironmentFault as fault:
    print(fault.code, len(store.load_peers()))
ballast.unlink()
store.save_peers(peers(10, 2000))
print(len(store.load_peers()))
store.close()
"""

OPENING = """
import sys
from pathlib import Path
from kodectl.errors import EnvironmentFault
from kodectl.store.sqlite import SqliteStore

try:
    SqliteStore(Path(sys.argv[1]) / "node.db")
except EnvironmentFault as fault:
    print(fault.code, fault.message)
"""


def run_mounted(tmp_path: Path, options: str, program: str) -> list[str]:
    """Runs a program with `tmp_path` as a small file system of its own; returns what it printed."""
    script = 'mount -t tmpfs -o "$1" tmpfs "$2" && exec "$3" -c "$4" "$2"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", options, tmp_path, sys.executable, program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@in_own_mount_namespace
def test_a_full_disk_is_told_and_costs_nothing_that_was_saved(tmp_path: Path) -> None:
    assert run_mounted(tmp_path, "size=512k", FULL_DISK) == ["disk_full 10", "2010"]


@in_own_mount_namespace
@pytest.mark.parametrize("options", ["size=16k", "nr_inodes=3"])
def test_a_disk_that_is_too_small_is_told(tmp_path: Path, options: str) -> None:
    """SQLite has other words for most of these."""
    (line,) = run_mounted(tmp_path, options, OPENING)
    assert line.startswith("disk_full")


@in_own_mount_namespace
def test_a_read_only_disk_is_a_clear_error(tmp_path: Path) -> None:
    (line,) = run_mounted(tmp_path, "ro", OPENING)
    assert line.startswith("path_unwritable")
    assert "Read-only" in line
