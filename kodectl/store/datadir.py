"""A data directory and who holds it: one node at a time, told by a lock that the kernel drops however a process ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kodectl.errors import EnvironmentFault
from kodectl.store.disk_faults import unwritable
from kodectl.store.whole_file import sync_directory

LOCK_FILE = "lock"
"""Holds the process id of its last holder, for people; the lock on it is what counts."""
DATADIR_MODE = 0o700
LOCK_MODE = 0o600
HINT = "give a --datadir that this user may write to"


@contextmanager
def hold(datadir: Path) -> Iterator[None]:
    """Makes the data directory if need be, and keeps other nodes out of it while inside.

    Raises EnvironmentFault (path_unwritable, disk_full, datadir_in_use)."""
    lock = datadir / LOCK_FILE
    is_new = not os.path.isdir(datadir)
    try:
        datadir.mkdir(mode=DATADIR_MODE, parents=True, exist_ok=True)
        if is_new:
            sync_directory(datadir.parent)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, LOCK_MODE)
    except FileExistsError as error:
        raise EnvironmentFault(
            f"cannot use {datadir}: it is no directory", code="path_unwritable", hint=HINT
        ) from error
    except OSError as error:
        raise unwritable(f"cannot use {lock if os.path.isdir(datadir) else datadir}", error, HINT) from error
    try:
        _lock(descriptor, datadir)
        yield
    finally:
        os.close(descriptor)


def is_held(datadir: Path) -> bool:
    """Whether a node's process is there, even one that does not answer any more."""
    try:
        descriptor = os.open(datadir / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _lock(descriptor: int, datadir: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
        raise EnvironmentFault(
            f"{datadir} is in use by another node{f' (process {holder})' if holder.isdigit() else ''}",
            code="datadir_in_use",
            hint=f"give this one its own --datadir, or stop the other: kodectl node stop --datadir {datadir}",
        ) from error
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    except OSError:
        pass  # a full disk; whoever needs it for more will say so
