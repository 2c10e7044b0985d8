"""Network namespaces without names: each lives by a descriptor that this process holds open.

So nothing has to be swept after a crash. When the owner is gone, however it went, the kernel closes the descriptor, and
a namespace that no process is in and no descriptor refers to goes too, with its interfaces, rules and connections."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_CLONE_NEWNET = 0x40000000
_MINE = "/proc/thread-self/ns/net"
_OWNER = "NATLAB_OWNER"
"""In the environment of whatever is started inside, and so of what that starts in turn."""
_NETLINK_NETFILTER = 12
_DELETE_CONNECTIONS = (1 << 8) | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE
_REQUEST_AND_ACKNOWLEDGE = 0x1 | 0x4
_SIOCGIFFLAGS = 0x8913
_IFF_RUNNING = 0x40
_CARD_LIMIT_S = 10.0
_LOOK_EVERY_S = 0.001
_END_S = 5.0
_libc = ctypes.CDLL(None, use_errno=True)


class LabError(Exception):
    """The lab itself failed: the tools, the kernel, or a call that makes no sense."""


def _call(answer: int, what: str) -> None:
    if answer:
        number = ctypes.get_errno()
        raise LabError(f"{what}: {os.strerror(number)}")


class Namespace:
    """A network of its own. `with namespace.entered():` puts the calling thread inside: sockets, files under
    /proc/sys/net and processes made there belong to it for good."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.processes: list[subprocess.Popen[Any]] = []
        before = os.open(_MINE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call(_libc.unshare(_CLONE_NEWNET), "unshare")
            try:
                self._descriptor = os.open(_MINE, os.O_RDONLY | os.O_CLOEXEC)
            finally:
                _call(_libc.setns(before, _CLONE_NEWNET), "setns")
        finally:
            os.close(before)
        self._identity = os.fstat(self._descriptor).st_ino

    @property
    def path(self) -> str:
        """For `ip link ... netns PATH` and `nsenter --net=PATH`, as long as this process holds it."""
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"

    @contextmanager
    def entered(self) -> Iterator[None]:
        before = os.open(_MINE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call(_libc.setns(self._descriptor, _CLONE_NEWNET), "setns")
            try:
                yield
            finally:
                _call(_libc.setns(before, _CLONE_NEWNET), "setns")
        finally:
            os.close(before)

    def popen(self, command: list[str], **options: Any) -> subprocess.Popen[Any]:
        """Dies with the thread that calls, and at the latest with the lab. In a session of its own, so that Ctrl-C
        reaches the tests only, which end it in order."""
        options.setdefault("start_new_session", True)
        options["env"] = {**(options.get("env") or os.environ), _OWNER: _this_process()}
        with self.entered():
            process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *command], **options)
        self.processes.append(process)
        return process

    def run(self, command: list[str], *, timeout_s: float = 30.0, **options: Any) -> subprocess.CompletedProcess[str]:
        """Raises `subprocess.TimeoutExpired`, with what was written until then, when the limit is over."""
        given = options.pop("input", None)
        channel = subprocess.PIPE if given is not None else subprocess.DEVNULL
        options = {"stdin": channel, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
        process = self.popen(command, **options)
        try:
            stdout, stderr = process.communicate(given, timeout_s)
        finally:
            end(process)
            self.processes.remove(process)
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    def configure(self, command: list[str], lines: str) -> None:
        """`ip -batch -` or `nft -f -`."""
        with self.entered():
            done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(f"{' '.join(command)} in {self.label}: {done.stderr.strip()}\n{lines}")

    def sysctl(self, name: str, value: object) -> None:
        with self.entered():
            Path("/proc/sys/net", name).write_text(str(value))

    def wait_for_card(self, card: str) -> None:
        """Until it runs: the kernel finishes putting a card up, and its port in a bridge, some time after it was asked,
        and what is sent before that is lost."""
        request = struct.pack("16sH14x", card.encode(), 0)
        deadline = time.monotonic() + _CARD_LIMIT_S
        with self.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            while not struct.unpack_from("16xH", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request))[0] & _IFF_RUNNING:
                if time.monotonic() > deadline:
                    raise LabError(f"{card} in {self.label} does not come up")
                time.sleep(_LOOK_EVERY_S)

    def forget_connections(self) -> None:
        """What `conntrack -F` does: one netlink message that asks to delete whatever matches no condition at all."""
        with self.entered(), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as kernel:
            kernel.send(struct.pack("=IHHIIBBH", 20, _DELETE_CONNECTIONS, _REQUEST_AND_ACKNOWLEDGE, 1, 0, 0, 0, 0))
            (error,) = struct.unpack_from("=i", kernel.recv(1024), 16)
        if error:
            raise LabError(f"forgetting connections in {self.label}: {os.strerror(-error)}")

    def has_sysctl(self, name: str) -> bool:
        with self.entered():
            return Path("/proc/sys/net", name).exists()

    def inhabitants(self) -> list[int]:
        """Processes inside, whoever started them."""
        return [pid for pid in _processes() if pid != os.getpid() and _network_of(pid) == self._identity]

    def close(self) -> None:
        for process in self.processes:
            end(process)
        for pid in self.inhabitants():
            _kill(pid)
        os.close(self._descriptor)


def end(process: subprocess.Popen[Any]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait(_END_S)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def sweep() -> list[int]:
    """Ends what labs left running whose owner was killed: the children of their children, which nobody else ends."""
    swept = []
    for pid in _processes():
        owner = _owner_of(pid)
        if owner is not None and not _is_alive(owner):
            _kill(pid)
            swept.append(pid)
    return swept


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _network_of(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return None  # it has ended


def _owner_of(pid: int) -> str | None:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    prefix = f"{_OWNER}=".encode()
    return next((variable[len(prefix) :].decode() for variable in variables if variable.startswith(prefix)), None)


def _this_process() -> str:
    return f"{os.getpid()}-{_start_of(os.getpid())}"


def _is_alive(owner: str) -> bool:
    pid, _, start = owner.partition("-")
    return _start_of(int(pid)) == start


def _start_of(pid: int) -> str | None:
    """In clock ticks since boot: tells a process from a later one with the same id. None where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *others = stat.rpartition(")")[2].split()
    return None if state == "Z" else others[18]


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
