"""The state file of a crawl: JSON lines, only ever added to, that outlive whatever ends the process.

A line is written with one system call before anybody hears of it, so a process that is killed loses nothing that it has told;
`sync` makes it outlive the machine too. A last line that was cut is taken away when the file is opened again. The
file itself is locked, and the kernel drops the lock however a process ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from kodectl.errors import EnvironmentFault, LocalMisuse
from kodectl.node.crawl_views import BegunLine, StateLine

VERSION = 1
FILE_MODE = 0o600
MAX_LINE = 64 * 1024
"""The longest that a crawl writes has some 2,000 bytes."""
CRAWL_ID_SIZE = 8
BEGINNING = b'{"event":"crawl",'
"""Of the first line. What begins with something else is somebody's file, and not cut."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(StateLine).decode


class CrawlFile:
    """An open and locked state file. `begun` is its first line, None while it is empty."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.begun: BegunLine | None = None
        self._descriptor = descriptor
        self._size = 0

    def lines(self) -> Iterator[StateLine]:
        """Everything after the first line, once, before anything is added; cuts off an unfinished last line.

        Raises EnvironmentFault (crawl_file_unreadable) for a file that no crawl has written."""
        with os.fdopen(os.dup(self._descriptor), "rb") as stream:
            stream.seek(0)
            for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE), b""), 1):
                if not line.endswith(b"\n") and len(line) < MAX_LINE:
                    if number == 1 and line[: len(BEGINNING)] != BEGINNING[: len(line)]:
                        raise self.foreign(number, "it does not begin as a crawl does")
                    break
                decoded = self._decoded(number, line)
                self._size += len(line)
                if isinstance(decoded, BegunLine) is not (number == 1):
                    raise self.foreign(number, "the first line, and only that, begins a crawl")
                if isinstance(decoded, BegunLine):
                    self.begun = decoded
                else:
                    yield decoded
        with _faults(self.path):
            os.ftruncate(self._descriptor, self._size)

    def _decoded(self, number: int, line: bytes) -> StateLine:
        try:
            decoded: StateLine = _decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise self.foreign(number, str(error)) from error
        if isinstance(decoded, BegunLine) and decoded.version != VERSION:
            raise self.foreign(number, f"a crawl of version {decoded.version}; this is version {VERSION}")
        return decoded

    def foreign(self, number: int, why: str) -> EnvironmentFault:
        """The error of a line that no crawl has written."""
        return EnvironmentFault(
            f"line {number} of {self.path} is none of a crawl: {why}",
            code="crawl_file_unreadable",
            hint="begin a new crawl in another file",
        )

    def begin(self, network: str) -> None:
        """The first line of a new crawl, or the check that an old one is of this network."""
        if self.begun is None:
            started = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            self.begun = BegunLine(VERSION, os.urandom(CRAWL_ID_SIZE).hex(), network, started)
            self.append(self.begun)
        elif self.begun.network != network:
            raise LocalMisuse(
                f"{self.path} is a crawl of the network {self.begun.network!r}, not of {network!r}",
                code="crawl_of_other_network",
                hint="name its network with --network, or begin a new crawl in another file",
            )

    def append(self, line: StateLine) -> None:
        """Raises EnvironmentFault (crawl_file_unwritable); what was written of the line by then is taken away."""
        data = _encode(line) + b"\n"
        with _faults(self.path):
            try:
                written = os.write(self._descriptor, data)
            except OSError:
                os.ftruncate(self._descriptor, self._size)
                raise
            if written < len(data):
                os.ftruncate(self._descriptor, self._size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += len(data)

    def sync(self) -> None:
        with _faults(self.path):
            os.fsync(self._descriptor)


@contextmanager
def open_crawl(path: Path, *, resume: bool) -> Iterator[CrawlFile]:
    """The state file, made if need be, and kept from other crawls while inside.

    Raises EnvironmentFault: crawl_file_unwritable, crawl_in_use, and crawl_exists where there is one already that is not to be
    gone on with."""
    with _faults(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, FILE_MODE)
    try:
        _lock(descriptor, path)
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise EnvironmentFault(f"cannot write {path}: it is no regular file", code="crawl_file_unwritable")
        if state.st_size and not resume:
            raise EnvironmentFault(
                f"there is a crawl in {path} already",
                code="crawl_exists",
                hint="go on with it: --resume; or name another file",
            )
        yield CrawlFile(path, descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise EnvironmentFault(
            f"another crawl is writing {path}", code="crawl_in_use", hint="wait for it, or name another file"
        ) from error


@contextmanager
def _faults(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EnvironmentFault(f"cannot write {path}: {error.strerror}", code="crawl_file_unwritable") from error
