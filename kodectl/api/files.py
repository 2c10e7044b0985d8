"""The API's files in a data directory: the unix socket and the token.

Imported by the node and by its clients: no gevent here."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOCKET_FILE = "api.sock"
TOKEN_FILE = "api.token"
MAX_PATH_BYTES = 107 if sys.platform == "linux" else 103
"""sun_path without its final zero (unix(7))."""


@contextmanager
def socket_address(path: Path) -> Iterator[str]:
    """An address for `bind` or `connect`: the path, or a short detour through an open descriptor of its folder.

    A data directory may lie deep; /proc is there on Linux only, elsewhere the long path is left to fail."""
    if len(os.fsencode(path)) <= MAX_PATH_BYTES or sys.platform != "linux":
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
