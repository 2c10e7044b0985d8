"""TCP through two NATs that let nobody in: both sides dial the outer address of the other's listening port, from their own.

Where the two SYNs cross, each opens the way for the other, and the two dials become one connection (RFC 9293, section 3.5).
A SYN that comes while its target is not dialling is accepted by the listener, whose port it was sent to; that is as good.
So `accepted` is shown what the listener gets.

    silent NAT         drops the SYN of a stranger: the first one that comes after its own side's gets in
    refusing NAT       answers it with a reset, against RFC 5382, REQ-4, and both boxes forget what was opened: only SYNs
                       that are under way at the same time get in

The second kind is met by dialling again as soon as the refusal is there: the own box is open for the round trip that a
dial takes, and so nearly always. Near each other, where a round trip is shorter than what lies between two dials, it is
open only now and then: there both sides dial in bursts, at the same times by the clock (`Bursts`).

A reset that crosses a SYN may leave a connection behind that only one side knows of, or that a box lets through in one
direction. So each side begins with an empty frame (RFC 4571), answers the other's with a second one, and takes a
connection for one when both of the other's have come.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence

from kodectl.runtime.base import (
    Address,
    ConnectFailed,
    Connection,
    Mailbox,
    Runtime,
    Scope,
    Stopped,
    StreamClosed,
    TimedOut,
)
from kodectl.wire.addresses import address_text
from kodectl.wire.stream_frames import pack_frame

log = logging.getLogger(__name__)

ATTEMPT_S = 3.0
"""Of one dial that nobody answers: the kernel repeats the SYN after a second. Longer than any round trip, since a dial that
ends while its answer is under way spoils the other side's."""
LEAST_ATTEMPT_S = 0.25
ROUND_TRIPS = 4.0
"""Where a round trip to the other side is known, or dials have been refused, silence for longer than four of the longest, and
a quarter of a second, is no refusing NAT's way, but a box that has lost the thread: the dial is ended, and the next one
begins anew. A silent NAT gets its SYNs sooner by it."""
NEAR_S = 0.002
"""A refusal that comes sooner is followed by the next burst, or within one: 20 times a second for 5 ms, which are 10 to 50
dials."""
BURST_S = 0.005
BURST_EVERY_S = 0.05
ALIGNED_SHARE = 0.75
"""Of the bursts; the others come at any time, for two whose clocks are apart."""
UNREACHABLE_PAUSE_S = 0.25
"""The machine has no way there at the moment, or these ends are just being connected by the listener."""
MAX_ATTEMPTS = 5_000
"""To one target: 5 s and more of the fastest refusals, all of any time where a round trip takes 2 ms or more."""
MAX_TARGETS = 4
"""The peer's address outside, and those of its own that may be nearer."""


GREETING = pack_frame(b"")
GREETING_LIMIT_S = 1.0
"""A round trip, and repetitions after a fifth of a second."""


class Bursts:
    """When to dial a near target again. Of two sides that are refused at once, both have their boxes open for a good part
    of a burst."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._until = 0.0

    def pause_s(self, now: float, unix_time: float) -> float:
        """Until the next dial."""
        if now < self._until:
            return 0.0
        pause_s = BURST_EVERY_S - unix_time % BURST_EVERY_S
        if self._rng.random() >= ALIGNED_SHARE:
            pause_s = self._rng.uniform(0.0, 2.0 * BURST_EVERY_S)
        self._until = now + pause_s + BURST_S
        return pause_s


class TcpPunch:
    """Dials all `targets` side by side, each until it is connected, refused too often, or the time is up.

    Of several connections the side that asked for them uses the first; the other side serves all that come, as it does
    with those that its listener accepts."""

    def __init__(
        self,
        runtime: Runtime,
        scope: Scope,
        local_port: int,
        targets: Sequence[Address],
        rtt_s: float | None = None,
    ) -> None:
        """`scope`: with which it ends. `rtt_s`: at least a round trip to the other side, where that is known."""
        self._runtime = runtime
        self._scope = runtime.scope("punch")
        self._ending = scope.on_close(self.close)
        self._attempt_s = ATTEMPT_S if rtt_s is None else _attempt_s(rtt_s)
        self._port = local_port
        self._targets = tuple(dict.fromkeys(targets))[:MAX_TARGETS]
        self._streams: Mailbox[Connection] = runtime.mailbox(MAX_TARGETS)
        self._ends_at = 0.0
        self._met: set[Address] = set()
        self._is_closed = False
        self.attempts = 0
        self.last_failure: ConnectFailed | None = None

    def start(self, limit_s: float) -> None:
        """Raises Stopped."""
        self._ends_at = self._runtime.now() + limit_s
        for target in self._targets:
            self._scope.spawn(f"punch {address_text(*target)}", self._dial, target)

    def accepted(self, stream: Connection) -> bool:
        """Whether a connection that the listener has got is the one that is dialled for; it is kept then. In the hub."""
        if self._is_closed or stream.remote not in self._targets:
            return False
        try:
            self._scope.spawn(f"punched by {address_text(*stream.remote)}", self._meet, stream)
        except Stopped:
            return False
        return True

    def wait(self) -> Connection:
        """The next connection. Raises ConnectFailed when the time is up, or after `close`."""
        try:
            return self._streams.get(max(0.0, self._ends_at - self._runtime.now()))
        except TimedOut:
            last = f"; the last one: {self.last_failure}" if self.last_failure is not None else ""
            raise ConnectFailed("timeout", f"{self.attempts} dials have met none of the other side's{last}") from None
        except Stopped:
            raise ConnectFailed("stopped") from None

    def close(self) -> None:
        """Ends what was not taken, at once, since the next punch needs the same ends. May be called twice."""
        self._is_closed = True
        self._ending.cancel()
        self._scope.close()
        self._streams.close()
        while len(self._streams):
            self._streams.get().reset()

    def _dial(self, target: Address) -> None:
        bursts = Bursts(self._runtime.rng)
        limit_s = self._attempt_s
        for _ in range(MAX_ATTEMPTS):
            began = self._runtime.now()
            if self._is_closed or target in self._met or began >= self._ends_at:
                return
            self.attempts += 1
            try:
                stream = self._runtime.connect(target, min(limit_s, self._ends_at - began), self._port, self._scope)
            except ConnectFailed as failure:
                self.last_failure = failure
                if failure.reason == "refused":
                    limit_s = self._limit_after(limit_s, self._runtime.now() - began)
                self._scope.sleep(self._pause_s(failure, began, bursts))
                continue
            self._meet(stream)

    def _meet(self, stream: Connection) -> None:
        """Waits for the other side's greeting, and its answer to this one's; without them, the dials go on.

        What came to nothing is reset: did it linger, its two ends could not be connected again."""
        limit = self._runtime.call_later(GREETING_LIMIT_S, stream.reset)
        stopping = self._scope.on_close(stream.reset)
        try:
            stream.write(GREETING)
            is_met = stream.read_exactly(len(GREETING)) == GREETING
            stream.write(GREETING)
            is_met = is_met and stream.read_exactly(len(GREETING)) == GREETING
        except StreamClosed as error:
            log.debug("punch: connection to %s was none: %s", address_text(*stream.remote), error)
            is_met = False
        finally:
            limit.cancel()
            stopping.cancel()
        if is_met and self._streams.put(stream):
            self._met.add(stream.remote)
        else:
            stream.reset()

    def _pause_s(self, failure: ConnectFailed, began: float, bursts: Bursts) -> float:
        if failure.reason == "unreachable":
            return UNREACHABLE_PAUSE_S
        now = self._runtime.now()
        is_near = failure.reason == "refused" and now - began < NEAR_S
        return bursts.pause_s(now, self._runtime.unix_time()) if is_near else 0.0

    def _limit_after(self, limit_s: float, refused_after_s: float) -> float:
        known_s = _attempt_s(refused_after_s)
        # Refused before, or told the round trip: the longest counts.
        return known_s if limit_s == ATTEMPT_S else max(known_s, limit_s)


def _attempt_s(rtt_s: float) -> float:
    return min(ATTEMPT_S, max(LEAST_ATTEMPT_S, ROUND_TRIPS * rtt_s))
