"""The store of a node that lives on: one SQLite file in its data directory.

A write is a transaction in a write-ahead log: killed at any instant, the file holds the last whole one. It is synced before it
counts as done (`synchronous = FULL`): what a node has acknowledged to its operator outlives a power cut too.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from kodectl.errors import EnvironmentFault
from kodectl.node.persistence import StoredBan, StoredPeer, StoredSeed, record_owner
from kodectl.store.datadir import HINT
from kodectl.store.disk_faults import disk_full, has_no_room, unwritable

T = TypeVar("T", bound=msgspec.Struct)

log = logging.getLogger(__name__)

DAMAGED_SUFFIX = ".damaged"
"""A file that could not be read is kept under this name; the next one replaces it, so that two are the most."""
FILE_MODE = 0o600
APPLICATION_ID = 0x6B6F6465
"""In the header of the file, and by it told from the databases of other programs. Those of the first version have none."""
SUFFIXES = ("", "-wal", "-shm", "-journal")
"""Of the files that SQLite has for one database."""
BUSY_LIMIT_S = 5.0
"""For another writer of this process; a transaction takes milliseconds."""
MAX_IDLE_CONNECTIONS = 2
"""One thread writes peers while another writes records."""
CHECKPOINT_PAGES = 1000
"""The log goes back into the file after 4 MB (SQLite's default, made visible)."""

MIGRATIONS = (
    """
    CREATE TABLE peers (
        node_id BLOB PRIMARY KEY, host TEXT NOT NULL, tcp INTEGER NOT NULL, udp INTEGER NOT NULL,
        static INTEGER NOT NULL, linked INTEGER NOT NULL, reached INTEGER NOT NULL, last_seen REAL NOT NULL,
        linked_s REAL NOT NULL, observed_s REAL NOT NULL, response_ms REAL, succeeded REAL NOT NULL,
        asked REAL NOT NULL, trust_time REAL NOT NULL, failures INTEGER NOT NULL, retry_at REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE bans (node_id BLOB PRIMARY KEY, until REAL) WITHOUT ROWID;
    CREATE TABLE records (
        publisher BLOB NOT NULL, key BLOB NOT NULL, record BLOB NOT NULL, PRIMARY KEY (publisher, key)
    );
    CREATE TABLE seeds (enode TEXT PRIMARY KEY, last_seen REAL NOT NULL) WITHOUT ROWID;
    CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    """,
)
"""From each schema version to the next; the file's `user_version` counts those that have run. Only ever appended to."""

_PEER_COLUMNS = StoredPeer.__struct_fields__
_SAVE_PEER = (
    f"INSERT OR REPLACE INTO peers ({', '.join(_PEER_COLUMNS)}) VALUES ({', '.join('?' for _ in _PEER_COLUMNS)})"
)
_FLAGS = ("static", "linked", "reached")


class _StoredRecord(msgspec.Struct):
    record: bytes


_TABLES: dict[type[msgspec.Struct], str] = {
    StoredPeer: "peers",
    StoredBan: "bans",
    _StoredRecord: "records",
    StoredSeed: "seeds",
}
"""Where the values of each type are; their fields are columns of it."""


class SqliteStore:
    """See `persistence.Store`. Any thread may call; SQLite's own lock puts writers in a row. That no other node uses the
    data directory is for its holder to see to.

    Raises EnvironmentFault: path_unwritable, store_too_new, store_foreign when opened; disk_full, store at any time."""

    def __init__(self, path: Path) -> None:
        self.warnings: list[str] = []
        self._path = path
        self._idle: list[sqlite3.Connection] = []
        self._open_or_replace()
        opened = path.stat()
        self._file = opened.st_dev, opened.st_ino

    # -- peers and bans --------------------------------------------------------------------------------------------

    def load_peers(self) -> list[StoredPeer]:
        return self._load(StoredPeer)

    def save_peers(self, changed: Sequence[StoredPeer], removed: Sequence[bytes] = ()) -> None:
        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM peers WHERE node_id = ?", [(node_id,) for node_id in removed])
            rows = [tuple(getattr(peer, column) for column in _PEER_COLUMNS) for peer in changed]
            connection.executemany(_SAVE_PEER, rows)

        self._write(write)

    def load_bans(self) -> list[StoredBan]:
        return self._load(StoredBan)

    def save_bans(self, bans: Sequence[StoredBan]) -> None:
        def write(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM bans")
            connection.executemany("INSERT INTO bans VALUES (?, ?)", [(ban.node_id, ban.until) for ban in bans])

        self._write(write)

    # -- records of the DHT ----------------------------------------------------------------------------------------

    def load_records(self) -> list[bytes]:
        return [stored.record for stored in self._load(_StoredRecord)]

    def save_records(self, changed: Sequence[bytes], removed: Sequence[tuple[bytes, bytes]] = ()) -> None:
        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM records WHERE publisher = ? AND key = ?", removed)
            rows = [(*record_owner(raw), raw) for raw in changed]
            connection.executemany("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", rows)

        self._write(write)

    # -- seeds and the rest ----------------------------------------------------------------------------------------

    def load_seeds(self) -> list[StoredSeed]:
        return sorted(self._load(StoredSeed), key=lambda seed: -seed.last_seen)

    def save_seeds(self, seeds: Sequence[StoredSeed]) -> None:
        def write(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM seeds")
            rows = [(seed.enode, seed.last_seen) for seed in seeds]
            connection.executemany("INSERT OR REPLACE INTO seeds VALUES (?, ?)", rows)

        self._write(write)

    def load_meta(self, name: str) -> bytes | None:
        rows = self._read("SELECT value FROM meta WHERE name = ?", name)
        return rows[0][0] if rows else None

    def save_meta(self, name: str, value: bytes) -> None:
        self._write(lambda connection: connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value)))

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    # -- transactions ----------------------------------------------------------------------------------------------

    def _load(self, shape: type[T]) -> list[T]:
        """All values of a type. SQLite checks its structure, not what is in it: rows that are not what was written are
        left out."""
        rows = self._read(_select(shape))
        values = [value for row in rows if (value := _value_of(shape, row)) is not None]
        if len(values) < len(rows):
            log.warning(
                "%s: %d damaged of %d %s left out", self._path, len(rows) - len(values), len(rows), _TABLES[shape]
            )
        return values

    def _read(self, query: str, *values: object) -> list[tuple]:
        with self._connection() as connection:
            return connection.execute(query, values).fetchall()

    def _write(self, write: Callable[[sqlite3.Connection], object]) -> None:
        """All of it or nothing."""
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                write(connection)
                connection.execute("COMMIT")
            except BaseException:
                # A full disk has rolled back by itself, and then there is nothing to roll back.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """An idle one or a new one; one that met an error is not used again."""
        self._check_place()
        try:
            connection = self._idle.pop() if self._idle else _connect(self._path)
        except sqlite3.Error as error:
            raise _fault(error, self._path) from error
        try:
            yield connection
        except sqlite3.Error as error:
            connection.close()
            raise _fault(error, self._path) from error
        except BaseException:
            connection.close()
            raise
        if len(self._idle) < MAX_IDLE_CONNECTIONS:
            self._idle.append(connection)
        else:
            connection.close()

    def _check_place(self) -> None:
        """What is written into a file without a name is lost, and SQLite goes on writing."""
        try:
            found = self._path.stat()
        except OSError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != self._file:
            raise EnvironmentFault(
                f"{self._path} has been removed or replaced; nothing is saved any more",
                code="store",
                hint="put it back, or restart the node",
            )

    # -- opening ---------------------------------------------------------------------------------------------------

    def _open_or_replace(self) -> None:
        """Opens the file, or, where it cannot be read, puts it aside and begins a new one."""
        try:
            self._idle.append(_open(self._path))
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if not _is_damage(error):
                raise _fault(error, self._path) from error
            damaged = _put_aside(self._path)
            self.warnings.append(f"{self._path} was damaged ({error}); it is kept as {damaged}, and a new one is begun")
            self._open_new()

    def _open_new(self) -> None:
        try:
            self._idle.append(_open(self._path))
        except sqlite3.Error as error:
            raise _fault(error, self._path) from error


def _open(path: Path) -> sqlite3.Connection:
    """Raises DatabaseError, and UnicodeDecodeError where a damaged file is quoted in the message of one."""
    try:
        # Before SQLite does, with the mode of the umask.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, FILE_MODE))
    except OSError as error:
        raise unwritable(f"cannot use {path}", error, HINT) from error
    _check_files(path)
    _check_owner(path)
    connection = _connect(path)
    try:
        # Not quick_check, which does not compare indices with their tables: what is wrong with one shows with the first write
        # only, and with each after it. This takes 30 ms for a full store.
        with closing(connection.execute("PRAGMA integrity_check(1)")) as check:
            verdict = check.fetchone()[0]
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        _migrate(connection, path)
        for shape in _TABLES:
            connection.execute(f"EXPLAIN {_select(shape)}")
    except BaseException:
        connection.close()
        raise
    return connection


def _check_files(path: Path) -> None:
    """SQLite would only say that it cannot open the database, or wait."""
    for place in (path.with_name(path.name + suffix) for suffix in SUFFIXES):
        try:
            mode = (place.stat if place == path else place.lstat)().st_mode
        except OSError:
            continue
        if not stat.S_ISREG(mode):
            raise EnvironmentFault(
                f"{place} is in the way: it is no regular file", code="path_unwritable", hint=f"move {place} away"
            )


def _check_owner(path: Path) -> None:
    """Before anything is written into it. Raises EnvironmentFault (store_foreign), and DatabaseError for a damaged file."""
    with closing(sqlite3.connect(path, timeout=BUSY_LIMIT_S)) as connection:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application == APPLICATION_ID or (application == 0 and (version > 0 or not tables)):
        return
    raise EnvironmentFault(
        f"{path} is the database of another program",
        code="store_foreign",
        hint=f"move {path} away, or give another --datadir",
    )


def _connect(path: Path) -> sqlite3.Connection:
    # Autocommit: transactions are written out. Used by one thread at a time, but not always the same one.
    connection = sqlite3.connect(path, timeout=BUSY_LIMIT_S, isolation_level=None, check_same_thread=False)
    try:
        # Text that is none any more is for `_value_of` and for who uses it to judge, not a reason to read nothing.
        connection.text_factory = lambda raw: raw.decode(errors="replace")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise EnvironmentFault(
            f"{path} was written by a later kodectl (schema {version}, this one knows {len(MIGRATIONS)})",
            code="store_too_new",
            hint="run the later kodectl, or use another --datadir",
        )
    owner = f"PRAGMA application_id = {APPLICATION_ID}"
    for number, script in enumerate(MIGRATIONS[version:], version + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {script} {owner}; PRAGMA user_version = {number}; COMMIT;")
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        connection.execute(owner)


def _put_aside(path: Path) -> Path:
    damaged = path.with_name(path.name + DAMAGED_SUFFIX)
    try:
        os.replace(path, damaged)
        # The log belongs to the damaged file; beside a new one SQLite would apply it.
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(f"cannot put {path} aside", error, HINT) from error
    return damaged


def _select(shape: type[msgspec.Struct]) -> str:
    return f"SELECT {', '.join(shape.__struct_fields__)} FROM {_TABLES[shape]}"


def _value_of(shape: type[T], row: tuple) -> T | None:
    fields = dict(zip(shape.__struct_fields__, row, strict=True))
    fields.update((flag, bool(fields[flag])) for flag in _FLAGS if flag in fields)
    try:
        return msgspec.convert(fields, shape, builtin_types=(bytes,))
    except msgspec.ValidationError:
        return None


def _is_damage(error: Exception) -> bool:
    """Of the file, and not of the disk under it. A schema that is not ours makes a plain SQLITE_ERROR."""
    if not isinstance(error, sqlite3.OperationalError):
        return True
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR


def _fault(error: Exception, path: Path) -> EnvironmentFault:
    # Errors of the module itself, not of the library under it, carry no code.
    code = getattr(error, "sqlite_errorcode", None)
    # Extended codes have the primary one in their last byte.
    unsaid = code is not None and code & 0xFF in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
    if code == sqlite3.SQLITE_FULL or (unsaid and has_no_room(path.parent)):
        return disk_full(str(path))
    hint = f"look at the disk under {path.parent}"
    if code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        hint = "restart the node: it puts a damaged file aside, and begins a new one"
    return EnvironmentFault(f"{path}: {error}", code="store", hint=hint)
