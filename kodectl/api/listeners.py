"""The listening sockets of the API: TCP, and a unix socket that only its owner can open."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from gevent import socket

from kodectl.api.files import socket_address
from kodectl.errors import EnvironmentFault
from kodectl.runtime.base import Address
from kodectl.runtime.binding import bind_stream

BACKLOG = 128
"""Connections not accepted yet; the hub accepts within milliseconds."""
SOCKET_MODE = 0o600
PROBE_LIMIT_S = 2.0
"""For the connection that tells a living owner of the unix socket from a dead one."""


def listen_tcp(address: Address) -> socket.socket:
    """Raises EnvironmentFault (port_in_use, address_not_available, permission)."""
    try:
        listener = socket.socket(fileno=bind_stream(address).detach())
    except EnvironmentFault as fault:
        hint = "--api 127.0.0.1:0 takes any free port" if fault.code == "port_in_use" else fault.hint
        raise EnvironmentFault(f"the API: {fault.message}", code=fault.code, hint=hint) from fault
    # pywsgi sends head and body apart; without this, which accepted sockets inherit, Nagle's algorithm holds the second
    # part back until the client's delayed acknowledgement, 40 ms later.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.listen(BACKLOG)
    return listener


def listen_unix(path: Path) -> socket.socket:
    """Replaces the socket that a dead process left; refuses one that still answers.

    Raises EnvironmentFault (datadir_in_use, unix_socket)."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        # On Linux the file takes the mode of the descriptor, so it is never open to others, not even for a moment.
        os.fchmod(listener.fileno(), SOCKET_MODE)
        with socket_address(path) as address:
            listener.bind(address)
        path.chmod(SOCKET_MODE)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise EnvironmentFault(f"cannot listen on {path}: {error.strerror or error}", code="unix_socket") from error
    except EnvironmentFault:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise EnvironmentFault(f"{path} is in the way: it is no socket", code="unix_socket", hint=f"move {path} away")
    if _answers(path):
        raise EnvironmentFault(
            f"another node runs in {path.parent}",
            code="datadir_in_use",
            hint="give this one its own --datadir, or stop the other: kodectl node stop --datadir DIR",
        )
    path.unlink()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, socket_address(path) as address:
        probe.settimeout(PROBE_LIMIT_S)
        try:
            probe.connect(address)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # Whatever keeps it from answering (a full backlog, permissions), it is not known to be dead.
    return True
