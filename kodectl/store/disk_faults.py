"""What the system says when something cannot be written, as the error that says what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from kodectl.errors import EnvironmentFault

FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
LEAST_ROOM = 64 * 1024
"""Bytes: SQLite needs half of that for its index of the log before it writes anything."""


def unwritable(message: str, error: OSError, hint: str | None = None) -> EnvironmentFault:
    """path_unwritable; disk_full where there is no space, or no place for another file. `message` without the reason."""
    if error.errno in FULL_ERRNOS:
        return disk_full(message)
    return EnvironmentFault(f"{message}: {error.strerror}", code="path_unwritable", hint=hint)


def disk_full(message: str) -> EnvironmentFault:
    return EnvironmentFault(f"{message}: no space left on the disk", code="disk_full", hint="free some space")


def has_no_room(directory: Path) -> bool:
    """Space or names have run out there. SQLite does not always say so."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return False
    # Some file systems count no names, and have 0 of 0.
    return found.f_bavail * found.f_frsize < LEAST_ROOM or (found.f_files > 0 and found.f_favail == 0)
