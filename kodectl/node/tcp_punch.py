"""TCP through two NATs that let nobody in: both sides dial the outer address of the other's listening port, from their own.

Where the two SYNs cross, each opens the way for the other, and the two dials become one connection (RFC 9293, section 3.5).
A SYN that comes while its target is not dialling is accepted by the listener, whose port it was sent to; that is as good.
So `accepted` is shown what the listener gets.

    silent NAT         drops the SYN of a stranger: the first one that comes after its own side's gets in
    refusing NAT       answers it with a reset, against RFC 5382, REQ-4, and both boxes forget what was opened: only SYNs
                       that are under way at the same time get in

The second kind is met by dialling again as soon as the refusal is there: the own box is open for the round trip that a
dial takes, and so nearly always.
"""

from __future__ import annotations

from collections.abc import Sequence

from kodectl.runtime.base import Address, ConnectFailed, Mailbox, Runtime, Scope, Stopped, Stream, TimedOut

ATTEMPT_S = 3.0
"""Of one dial that nobody answers: the kernel repeats the SYN after a second. Longer than any round trip, since a dial that
ends while its answer is under way spoils the other side's."""
LEAST_PERIOD_S = 0.001
"""From one dial to the next, on average, where refusals come sooner: then the boxes are mostly closed, and it takes as many
dials as the round trip is shorter than this, and some chance."""
UNREACHABLE_PAUSE_S = 0.25
"""The machine has no way there at the moment, or these ends are just being connected by the listener."""
MAX_ATTEMPTS = 3_000
"""To one target: 3 s of the fastest refusals, all of any time where a round trip takes 3 ms or more."""
MAX_TARGETS = 4
"""The peer's address outside, and those of its own that may be nearer."""


class TcpPunch:
    """Dials all `targets` side by side, each until it is connected, refused too often, or the time is up.

    Of several connections the side that asked for them uses the first; the other side serves all that come, as it does
    with those that its listener accepts."""

    def __init__(self, runtime: Runtime, scope: Scope, local_port: int, targets: Sequence[Address]) -> None:
        self._runtime = runtime
        self._scope = scope
        self._port = local_port
        self._targets = tuple(dict.fromkeys(targets))[:MAX_TARGETS]
        self._streams: Mailbox[Stream] = runtime.mailbox(MAX_TARGETS)
        self._ends_at = 0.0
        self._is_closed = False
        self.attempts = 0
        self.last_failure: ConnectFailed | None = None

    def start(self, limit_s: float) -> None:
        """Raises Stopped."""
        self._ends_at = self._runtime.now() + limit_s
        for target in self._targets:
            self._scope.spawn(f"punch {target[0]}:{target[1]}", self._dial, target)

    def accepted(self, stream: Stream) -> bool:
        """Whether a connection that the listener has got is the one that is dialled for; it is kept then. In the hub."""
        return stream.remote in self._targets and self._streams.put(stream)

    def wait(self) -> Stream:
        """The next connection. Raises ConnectFailed when the time is up, or after `close`."""
        try:
            return self._streams.get(max(0.0, self._ends_at - self._runtime.now()))
        except TimedOut:
            last = f"; the last one: {self.last_failure}" if self.last_failure is not None else ""
            raise ConnectFailed("timeout", f"{self.attempts} dials have met none of the other side's{last}") from None
        except Stopped:
            raise ConnectFailed("stopped") from None

    def close(self) -> None:
        """Ends what was not taken. May be called twice."""
        self._is_closed = True
        self._streams.close()
        while len(self._streams):
            self._streams.get().close()

    def _dial(self, target: Address) -> None:
        for _ in range(MAX_ATTEMPTS):
            began = self._runtime.now()
            if self._is_closed or began >= self._ends_at:
                return
            self.attempts += 1
            try:
                stream = self._runtime.connect(target, min(ATTEMPT_S, self._ends_at - began), self._port)
            except ConnectFailed as failure:
                self.last_failure = failure
                self._scope.sleep(self._pause_s(failure, self._runtime.now() - began))
                continue
            if not self._streams.put(stream):  # too late
                stream.close()
            return

    def _pause_s(self, failure: ConnectFailed, took_s: float) -> float:
        if failure.reason == "refused":
            return max(0.0, self._runtime.rng.uniform(0.5, 1.5) * LEAST_PERIOD_S - took_s)
        return UNREACHABLE_PAUSE_S if failure.reason == "unreachable" else 0.0
