"""What `nat punch` does once both sides know each other: a path, and pings on it."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import NamedTuple

from kodectl.node.ice import Description, IceSession, SelectedPair, SendingBase
from kodectl.runtime.base import Address, Mailbox, Runtime, Scope, TimedOut

PING = b"ping "
ECHO_WAIT_S = 0.5
SENDINGS = 4
"""Of one ping: the other side may still be agreeing on the pair when the first one comes."""
QUIET_S = 2.0
"""After the last ping; a side that waits for more than this waits for a program that has ended."""
LINGER_S = 0.5
"""The last echo may be lost, and be asked for again."""
MAX_WAITING = 64


class Connection(NamedTuple):
    pair: SelectedPair
    is_controlling: bool
    """As it was settled, if both began with the same role."""
    ms: float
    """Since both descriptions were known here."""


class Exchange(NamedTuple):
    echoed: int
    rtt_ms_median: float | None
    """Of the controlling side, which is who pings."""


class Punch:
    """One errand over one session. Data is taken from the beginning: the other side may be ready first."""

    def __init__(self, runtime: Runtime, scope: Scope, session: IceSession, count: int) -> None:
        self._runtime = runtime
        self._scope = scope
        self._session = session
        self._count = count
        self._echoes: Mailbox[bytes] = runtime.mailbox(MAX_WAITING)
        self._answered: set[bytes] = set()
        self._heard = runtime.event()
        session.on_data = self._received

    def connect(self, remote: Description, timeout_s: float) -> Connection:
        """Raises NegativeAnswer (ice_failed), WireError."""
        began = self._runtime.now()
        self._session.set_remote(remote)
        pair = self._session.wait_connected(timeout_s)
        return Connection(pair, self._is_controlling, (self._runtime.now() - began) * 1000)

    def exchange(self, first_within_s: float) -> Exchange:
        """The controlling side pings, the other one echoes until it has heard all, or nothing for a while."""
        return self._ping() if self._is_controlling else self._echo(first_within_s)

    def linger(self) -> None:
        self._scope.sleep(LINGER_S)

    @property
    def _is_controlling(self) -> bool:
        return self._session.agent.role.is_controlling

    def _received(self, data: bytes, base: SendingBase, sender: Address) -> None:
        if self._is_controlling:
            self._echoes.put(data)
        elif data.startswith(PING):
            self._session.send(data)
            if len(self._answered) < self._count:
                self._answered.add(data)
            self._heard.set()

    def _ping(self) -> Exchange:
        times = [rtt_ms for number in range(self._count) if (rtt_ms := self._ping_once(number)) is not None]
        return Exchange(len(times), round(median(times), 3) if times else None)

    def _ping_once(self, number: int) -> float | None:
        ping = PING + str(number).encode()
        for _ in range(SENDINGS):
            sent_at = self._runtime.now()
            self._session.send(ping)
            if self._await(lambda echo: echo == ping, sent_at + ECHO_WAIT_S):
                return (self._runtime.now() - sent_at) * 1000
        return None

    def _await(self, is_wanted: Callable[[bytes], bool], until: float) -> bool:
        while True:
            try:
                if is_wanted(self._echoes.get(max(0.0, until - self._runtime.now()))):
                    return True
            except TimedOut:
                return False

    def _echo(self, first_within_s: float) -> Exchange:
        patience_s = first_within_s
        while len(self._answered) < self._count and self._heard.wait(patience_s):
            self._heard.clear()
            patience_s = QUIET_S
        return Exchange(len(self._answered), None)
