"""Host names to addresses, without waiting in the hub."""

from __future__ import annotations

from _socket import getaddrinfo
from socket import SOCK_STREAM

from gevent import Timeout
from gevent.event import AsyncResult
from gevent.hub import Hub
from gevent.lock import BoundedSemaphore

from kodectl.errors import NegativeAnswer
from kodectl.runtime.base import Address, Scope, Stopped
from kodectl.runtime.binding import numeric_text, shown
from kodectl.runtime.threads import Threads

RESOLVER_THREADS = 4
"""Names asked for at once. A question to a dead name server holds its thread for up to 30 seconds, whatever its asker's
limit; apart from the threads for disk work, so that it holds up nothing else."""


LOOK_EVERY_S = 0.2
"""While all threads are taken: whether the asker still waits."""
_STOPPED = object()


class Names:
    """Asks the system's resolver in threads of its own."""

    def __init__(self, hub: Hub) -> None:
        self._threads = Threads(RESOLVER_THREADS, hub)
        self._free = BoundedSemaphore(RESOLVER_THREADS)

    def resolve(self, host: str, timeout_s: float, scope: Scope | None = None) -> list[str]:
        """See `runtime.base.Runtime.resolve`."""
        numeric = numeric_text(host)
        if numeric is not None:
            return [numeric]
        told = AsyncResult()
        closer = scope.on_close(lambda: told.set(_STOPPED)) if scope is not None else None
        try:
            with Timeout(timeout_s, False):
                self._ask(host, told)
                found = told.get()
                if isinstance(found, list):
                    return found
                if found is _STOPPED:
                    raise Stopped
                raise _unresolved(host, found.strerror if isinstance(found, OSError) and found.strerror else str(found))
        finally:
            if closer is not None:
                closer.cancel()
        raise _unresolved(host, f"no answer within {timeout_s:g} s")

    def _ask(self, host: str, told: AsyncResult) -> None:
        """Waits for a free thread, unless `told` has been told something else meanwhile."""
        while not self._free.acquire(timeout=LOOK_EVERY_S):
            if told.ready():
                return
        try:
            answer = self._threads.spawn(_look_up, host)
        except BaseException:
            self._free.release()
            raise
        # The thread stays taken until the system answers, even if nobody waits any more.
        answer.rawlink(lambda _: self._free.release())
        answer.rawlink(lambda answer: told.set(answer.value))

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
