"""The world as an interface: clock, randomness, tasks, sockets.

Procedures in `kodectl.node` are written in straight lines over these verbs. `kodectl.runtime.green` implements them
on gevent, `kodectl.sim` on virtual time with a virtual network; a procedure cannot tell which.

Two rules hold in every implementation:

* A callback (`receive` of a datagram socket, `call_later`) runs in the hub and must not wait.
* Nothing is thrown into a task from outside. A task that waits is woken because what it waits on was closed, and then
  the wait itself raises `Stopped` or `StreamClosed`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

T = TypeVar("T")

Address = tuple[str, int]
"""A numeric IP address as text (IPv6 without brackets, IPv4-mapped shown as IPv4) and a port."""


class Stopped(Exception):
    """The scope or mailbox that was waited on has been closed: unwind."""


class TimedOut(Exception):
    """The wait reached its limit."""


class StreamClosed(Exception):
    """The stream ended, was reset, or was closed on this side."""


class ConnectFailed(Exception):
    """A stream could not be opened; `reason` is refused | timeout | unreachable | stopped, over TLS untrusted too."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class LocalNetwork(NamedTuple):
    """What the machine knows of its own place in the network. Addresses are numeric text, without a zone."""

    addresses: tuple[str, ...]
    """Of all interfaces that are up, loopback too."""
    source: str | None
    """The IPv4 address that the default route leaves by; None without one. The same for IPv6 below."""
    gateway: str | None
    """The next hop of the IPv4 default route."""
    source6: str | None
    gateway6: str | None
    zones: tuple[tuple[str, str], ...] = ()
    """Of the link-local IPv6 addresses among them: address and interface. A socket is bound to `ADDRESS%INTERFACE`."""


class Event(Protocol):
    """A flag to wait for; used only for "look again"."""

    def set(self) -> None: ...
    def clear(self) -> None: ...
    def is_set(self) -> bool: ...
    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits until set; false when the limit passed first."""
        ...


class Mailbox(Protocol, Generic[T]):
    """A bounded queue of work or answers."""

    def put(self, item: T) -> bool:
        """Adds without waiting; false (and the item is dropped) when full or closed."""
        ...

    def get(self, timeout_s: float | None = None) -> T:
        """Waits for the next item. Raises TimedOut, or Stopped when closed and empty."""
        ...

    def close(self) -> None: ...
    def __len__(self) -> int: ...


class Timer(Protocol):
    def cancel(self) -> None: ...


class Scope(Protocol):
    """The owner of tasks. The first failure of a task closes the scope and is raised by `join`."""

    @property
    def closed(self) -> bool: ...

    def spawn(self, name: str, function: Callable[..., Any], *args: Any) -> None:
        """Starts a task. `Stopped` raised by the task ends it quietly; anything else is the scope's failure.

        Raises Stopped when the scope is closed."""
        ...

    def sleep(self, seconds: float) -> None:
        """Waits; raises Stopped at once when the scope is, or gets, closed."""
        ...

    def close(self) -> None:
        """Asks every task to end: `sleep` raises Stopped. Does not wait."""
        ...

    def on_close(self, callback: Callable[[], None]) -> Timer:
        """Runs `callback` when the scope closes (at once, if it has), unless it is cancelled before; it must not wait.

        For what a task of the scope waits on and can only be ended by ending it: a name server, another process."""
        ...

    def join(self, timeout_s: float | None = None) -> list[str]:
        """Waits until all tasks have ended, and raises the first failure.

        Returns the names of the tasks still running when the limit passed (they are leaks)."""
        ...


class DatagramSocket(Protocol):
    @property
    def local(self) -> Address: ...

    def send(self, data: bytes, address: Address) -> None:
        """Never waits: with a full buffer, or an unreachable address, the datagram is lost."""
        ...

    def send_many(self, datagrams: Sequence[bytes], address: Address) -> None:
        """As `send` for each of them in order; cheaper where most have one size, and only the last of such a row is
        smaller."""
        ...

    def close(self) -> None: ...


class LanSocket(Protocol):
    """Broadcast and multicast on the local networks."""

    def announce(self, data: bytes) -> None:
        """Sends to the multicast group and to the broadcast address of every interface; never waits."""
        ...

    def close(self) -> None: ...


class Stream(Protocol):
    """A reliable byte stream; one task reads, one writes."""

    @property
    def local(self) -> Address: ...
    @property
    def remote(self) -> Address: ...

    def read_exactly(self, size: int) -> bytes:
        """Waits for `size` bytes; raises StreamClosed when the stream ends before."""
        ...

    def write(self, data: bytes) -> None:
        """Waits until the transport has taken all; raises StreamClosed."""
        ...

    def close(self) -> None:
        """Closes both directions; readers and writers get StreamClosed. May be called twice."""
        ...


class Connection(Stream, Protocol):
    """A stream over TCP, dialled or accepted."""

    def reset(self) -> None:
        """Closes it without a word more to the other side than a reset: nothing of it is left, and its two ends can be
        connected anew at once. Does nothing after `close`."""
        ...


class Listener(Protocol):
    @property
    def local(self) -> Address: ...
    def close(self) -> None: ...


class Runtime(Protocol):
    rng: random.Random
    """For decisions (sampling, jitter); secrets come from `random_bytes`."""

    def now(self) -> float:
        """Monotonic seconds."""
        ...

    def unix_time(self) -> float:
        """Wall clock, seconds since 1970 UTC; may jump."""
        ...

    def take_turn(self) -> None:
        """For a task that could go on without waiting for anything: waits when tasks, all of them together, have kept the hub
        from its timers and sockets for long."""
        ...

    def task_count(self) -> int:
        """How many of all scopes have not ended."""
        ...

    def random_bytes(self, size: int) -> bytes: ...
    def scope(self, name: str) -> Scope: ...
    def event(self) -> Event: ...
    def mailbox(self, limit: int) -> Mailbox[Any]: ...

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Runs `callback` in the hub after `delay_s`; it must not wait."""
        ...

    def open_datagram(self, local: Address, receive: Callable[[bytes, Address], None]) -> DatagramSocket:
        """Binds a UDP socket; `receive(data, sender)` runs for every datagram and must not wait.

        Raises EnvironmentFault (port_in_use, address_not_available, permission)."""
        ...

    def open_lan(self, port: int, receive: Callable[[bytes, Address], None]) -> LanSocket:
        """Joins the announcement group on every interface. Raises EnvironmentFault."""
        ...

    def listen(self, local: Address, accept: Callable[[Connection], None]) -> Listener:
        """Binds a TCP listener; `accept(stream)` runs in the hub for every connection and must not wait (it spawns).

        Raises EnvironmentFault."""
        ...

    def connect(
        self, remote: Address, timeout_s: float, local_port: int | None = None, scope: Scope | None = None
    ) -> Connection:
        """Waits for a TCP connection. Raises ConnectFailed, and Stopped as soon as `scope` is closed.

        With `local_port` it leaves from that port, beside a listener of this runtime that has it. Two that dial each other
        so at once get one stream, each by its own call (simultaneous open, RFC 9293, section 3.5)."""
        ...

    def connect_tls(self, remote: Address, timeout_s: float, name: str, ca_file: str | None = None) -> Stream:
        """Waits for a TLS connection, to a server that proves to be `name` (a host name or a numeric address) to the
        machine's authorities, or to those in `ca_file` alone. Raises ConnectFailed, and EnvironmentFault (ca_unreadable).

        The simulated network has none: there it raises ConnectFailed (unreachable)."""
        ...

    def resolve(self, host: str, timeout_s: float, scope: Scope | None = None) -> list[str]:
        """Numeric addresses of a host name (a numeric address gives itself), without waiting in the hub.

        Raises NegativeAnswer (code name_not_resolved), and Stopped as soon as `scope` is closed."""
        ...

    def local_network(self) -> LocalNetwork:
        """Read anew at every call; does not wait."""
        ...

    def in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """Runs blocking work (disk, key derivation) off the hub and waits for its value."""
        ...
