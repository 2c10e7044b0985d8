"""Host names to addresses, without waiting in the hub."""

from __future__ import annotations

from _socket import getaddrinfo
from socket import SOCK_STREAM

from gevent import Timeout
from gevent.event import AsyncResult
from gevent.hub import Hub
from gevent.lock import BoundedSemaphore

from kodectl.errors import NegativeAnswer
from kodectl.runtime.base import Address
from kodectl.runtime.binding import numeric_text, shown
from kodectl.runtime.threads import Threads

RESOLVER_THREADS = 4
"""Names asked for at once. A question to a dead name server holds its thread for up to 30 seconds, whatever its asker's
limit; apart from the threads for disk work, so that it holds up nothing else."""


class Names:
    """Asks the system's resolver in threads of its own."""

    def __init__(self, hub: Hub) -> None:
        self._threads = Threads(RESOLVER_THREADS, hub)
        self._free = BoundedSemaphore(RESOLVER_THREADS)

    def resolve(self, host: str, timeout_s: float) -> list[str]:
        """See `runtime.base.Runtime.resolve`."""
        numeric = numeric_text(host)
        if numeric is not None:
            return [numeric]
        with Timeout(timeout_s, False):
            found = self._ask(host).get()
            if isinstance(found, list):
                return found
            raise _unresolved(host, found.strerror if isinstance(found, OSError) and found.strerror else str(found))
        raise _unresolved(host, f"no answer within {timeout_s:g} s")

    def _ask(self, host: str) -> AsyncResult:
        self._free.acquire()
        try:
            answer = self._threads.spawn(_look_up, host)
        except BaseException:
            self._free.release()
            raise
        # The thread stays taken until the system answers, even if nobody waits any more.
        answer.rawlink(lambda _: self._free.release())
        return answer

    def close(self) -> None:
        """Lets the threads go, and waits for none that asks: it may hang on a dead name server for half a minute."""
        self._threads.end()


def _look_up(host: str) -> list[str] | Exception:
    """Runs in a thread. A failure is a value: the pool would print what is raised."""
    if not host:
        return ValueError("empty name")
    try:
        found = getaddrinfo(host, 0, 0, SOCK_STREAM)
    except (OSError, ValueError) as error:  # UnicodeError for what cannot be a host name
        return error
    addresses: list[Address] = [shown(entry[4]) for entry in found]
    return list(dict.fromkeys(address for address, _ in addresses))


def _unresolved(host: str, why: str) -> NegativeAnswer:
    return NegativeAnswer(
        f"host name {host!r} does not resolve: {why}",
        code="name_not_resolved",
        hint="check the name and this machine's name servers, or give a numeric address",
    )
