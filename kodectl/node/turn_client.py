"""Allocations on TURN servers: got, kept, and got again when the server has lost them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from kodectl.core.turn_client import State, TurnClient
from kodectl.core.turn_events import (
    Allocated,
    DataReceived,
    Event,
    Lost,
    Mismatched,
    PeerRefused,
    Redirected,
    Step,
)
from kodectl.core.turn_refusals import Refusal, TurnRefused, no_answer
from kodectl.errors import EnvironmentFault, KodectlError, LocalMisuse, NegativeAnswer, PeerFault
from kodectl.node.turn_lines import DatagramLine, DatagramSender, Line, StreamLine, open_datagram_line
from kodectl.runtime.base import Address, ConnectFailed, Mailbox, Runtime, Scope, Stopped, Stream, Timer
from kodectl.wire.addresses import address_text
from kodectl.wire.turn_server import TurnServer, parse_turn

__all__ = ["Allocation", "TurnServer", "allocate", "parse_turn"]

log = logging.getLogger(__name__)

RESOLVE_LIMIT_S = 5.0
CONNECT_LIMIT_S = 10.0
"""For TCP and TLS each."""
MAX_ATTEMPTS = 4
"""At one address: once, after one redirection, and from two more ports."""
MISMATCH_PAUSE_S = 1.0
"""On a shared socket, before asking again: servers need a while to forget what they have just been told to."""
RENEWAL_PAUSE_S = 30.0
"""Between two allocations that were got because the one before was lost: a server that gives and takes is left alone."""


class Allocation:
    """A relayed address, from `establish` on. `on_data`, `on_moved` and `on_lost` run in the hub or in a task of the client;
    they must not wait.

    With `socket` the allocation shares it with others: its owner hands every datagram to `received`. `ca_file`: whom a server
    over TLS has to be vouched for by, in place of the machine's authorities."""

    def __init__(
        self,
        runtime: Runtime,
        scope: Scope,
        server: TurnServer,
        *,
        family: int = 4,
        socket: DatagramSender | None = None,
        ca_file: str | None = None,
    ) -> None:
        if socket is not None and server.transport != "udp":
            raise LocalMisuse("a UDP socket cannot be shared with a TURN server over TCP or TLS")
        self.relayed: Address = ("0.0.0.0", 0)
        self.mapped: Address = ("0.0.0.0", 0)
        self.server: Address = ("0.0.0.0", 0)
        self.on_data: Callable[[bytes, Address], None] = lambda data, peer: None
        """Data, and the peer that it comes from."""
        self.on_lost: Callable[[KodectlError], None] = lambda error: None
        """The allocation is gone and could not be had back."""
        self.on_moved: Callable[[], None] = lambda: None
        """The server had lost the allocation and gave another: `relayed` has changed. Permissions were asked for again."""
        self._runtime = runtime
        self._scope = scope
        self._server = server
        self._family = family
        self._shared = socket
        self._ca_file = ca_file
        self._client: TurnClient | None = None
        self._line: Line | None = None
        self._outcomes: Mailbox[Event] | None = None
        """Of an establishing under way."""
        self._timer: Timer | None = None
        self._got_at = 0.0
        self._is_closed = False
        self._error: KodectlError | None = None
        self._on_scope_close: Timer | None = None

    @property
    def host(self) -> str:
        """Of the server, as it was named."""
        return self._server.host

    # --- Getting it -------------------------------------------------------------------------------------------------------

    def establish(self) -> None:
        """Waits, at most some 40 s for each of the server's addresses (one of a family). Raises NegativeAnswer (no_answer,
        name_not_resolved), NotAuthorised (turn_unauthorised), PeerFault (turn_refused, ...), EnvironmentFault, or Stopped."""
        self._on_scope_close = self._scope.on_close(self.close)
        try:
            self._establish_anywhere()
            if self._error is not None:  # lost again before anybody could listen to `on_lost`
                raise self._error
        except BaseException:
            self.close()
            raise

    def _establish_anywhere(self) -> None:
        silence: KodectlError | None = None
        for ip in self._addresses():
            try:
                return self._establish_at((ip, self._server.port))
            except (NegativeAnswer, EnvironmentFault) as error:  # this machine may have one family only
                silence = silence or error
        raise silence or no_answer((self._server.host, self._server.port))

    def _addresses(self) -> list[str]:
        """One of each family; IPv4 first, where there is a way out by it."""
        ips = self._runtime.resolve(self._server.host, RESOLVE_LIMIT_S, self._scope)
        network = self._runtime.local_network()
        order = (True, False) if network.source is None and network.source6 is not None else (False, True)
        firsts = [next((ip for ip in ips if (":" in ip) == is_ipv6), None) for is_ipv6 in order]
        return [ip for ip in firsts if ip is not None]

    def _establish_at(self, address: Address) -> None:
        was_redirected = False
        error: KodectlError = no_answer(address)
        for _ in range(MAX_ATTEMPTS):
            event = self._ask(address)
            if isinstance(event, Allocated):
                return
            if isinstance(event, Redirected):
                if was_redirected:
                    raise _sent_on(address)
                was_redirected, address = True, event.server
            elif isinstance(event, Mismatched):
                error = event.error
                if self._shared is not None:  # otherwise the line of the next attempt has another port
                    self._scope.sleep(MISMATCH_PAUSE_S)
            elif isinstance(event, Lost):
                raise event.error
        raise error

    def _ask(self, address: Address) -> Event:
        """What became of one Allocate, with all that it took."""
        if self._is_closed:
            raise Stopped
        self._let_go()
        outcomes = self._outcomes = self._runtime.mailbox(1)
        try:
            line = self._open_line(address)
            if self._is_closed:
                line.close()
                raise Stopped
            self._line, self.server = line, address
            credentials = self._server.username, self._server.password
            self._client = TurnClient(
                address,
                credentials,
                self._runtime.random_bytes,
                family=self._family,
                is_stream=self._server.transport != "udp",
                before=self._client,
            )
            self._follow(self._client.start(self._runtime.now()))
            return outcomes.get()
        finally:
            self._outcomes = None

    def _open_line(self, address: Address) -> Line:
        if self._shared is not None:
            return DatagramLine(self._shared, address, None)
        if self._server.transport == "udp":
            return open_datagram_line(self._runtime, address, self.received)
        return StreamLine(self._runtime, self._scope, self._connect(address), self.received, self._line_broken)

    def _connect(self, address: Address) -> Stream:
        try:
            if self._server.transport == "tls":
                # After a redirection too it has to be the server that was named (RFC 8489, section 10).
                return self._runtime.connect_tls(address, CONNECT_LIMIT_S, self._server.host, self._ca_file)
            return self._runtime.connect(address, CONNECT_LIMIT_S)
        except ConnectFailed as error:
            if error.reason == "untrusted":
                raise PeerFault(
                    f"the TURN server at {address_text(*address)} does not prove to be {self._server.host}: {error.detail}",
                    code="turn_untrusted",
                    hint="check its name; for authorities of your own set SSL_CERT_FILE",
                ) from error
            raise NegativeAnswer(
                f"no connection to the TURN server at {address_text(*address)}: {error}", code="no_answer"
            ) from error

    # --- Using it ---------------------------------------------------------------------------------------------------------

    def permit(self, ips: Iterable[str]) -> None:
        """Lets these addresses send to `relayed`, for as long as the allocation lives; does not wait. Others that the server
        does not relay to are logged and left."""
        if self._client is not None:
            self._follow(self._client.permit(ips, self._runtime.now()))

    def send(self, data: bytes, peer: Address) -> None:
        """Never waits; lost where there is no allocation (any more), as a datagram would be."""
        if self._client is None or self._line is None:
            return
        step = self._client.send(data, peer, self._runtime.now())
        if len(step.packets) == 1:  # no request beside it, so that no deadline has come nearer
            self._line.send(step.packets)
        else:
            self._follow(step)

    def received(self, data: bytes, source: Address) -> bool:
        """Takes a datagram if it is the server's answer, or data from it; does not wait."""
        if source != self.server or self._client is None:
            return False
        step = self._client.receive(data, self._runtime.now())
        if step is None:
            return False
        self._follow(step)
        if self._is_closed:
            self._end_if_left()
        return True

    def close(self) -> None:
        """Lets the allocation go, best effort; does not wait. One that was just being asked for goes as soon as it is there:
        whoever waits in `establish` does so until then, half a second at most."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._on_scope_close is not None:
            self._on_scope_close.cancel()
        if self._client is not None and self._line is not None:
            self._line.send(self._client.close(self._runtime.now()).packets)
            self._arm()
        self._end_if_left()

    def _end_if_left(self) -> None:
        """After `close`: nothing more is to be said to the server."""
        if self._line is None or self._client is None or self._client.state is State.ENDED:
            self._let_go()
            if self._outcomes is not None:
                self._outcomes.close()

    # --- Keeping it -------------------------------------------------------------------------------------------------------

    def _follow(self, step: Step) -> None:
        if step.packets:
            if self._line is not None:
                self._line.send(step.packets)
            self._arm()
        for event in step.events:
            self._happened(event)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._client.next_deadline() if self._client is not None else None
        if deadline is not None:
            self._timer = self._runtime.call_later(max(0.0, deadline - self._runtime.now()), self._tick)

    def _tick(self) -> None:
        if self._client is not None:
            step = self._client.tick(self._runtime.now())
            self._arm()
            self._follow(step)
            if self._is_closed:
                self._end_if_left()

    def _happened(self, event: Event) -> None:
        if isinstance(event, DataReceived):
            self.on_data(event.data, event.peer)
        elif isinstance(event, PeerRefused):
            log.info("turn: %s", event.error)
        elif isinstance(event, Allocated):
            self._got(event)
        elif isinstance(event, Lost | Mismatched | Redirected):
            if self._outcomes is not None:
                self._outcomes.put(event)
            elif isinstance(event, Lost):
                self._lost(event.error)
            else:
                self._renew()

    def _got(self, event: Allocated) -> None:
        before, self.relayed, self.mapped = self.relayed, event.relayed, event.mapped
        is_first, self._got_at = not before[1], self._runtime.now()
        if self._outcomes is not None:
            self._outcomes.put(event)
            self._outcomes = None  # what happens from now on happens to the allocation
        if not is_first and before != event.relayed:
            self.on_moved()

    def _line_broken(self) -> None:
        if self._outcomes is not None:
            self._outcomes.put(Lost(no_answer(self.server)))
        else:
            self._renew()

    def _renew(self) -> None:
        """The allocation is gone, and has to be got by other means than a request on the same line."""
        if self._runtime.now() < self._got_at + RENEWAL_PAUSE_S:
            self._lost(no_answer(self.server))
            return
        try:
            self._scope.spawn(f"turn again {self._server.host}", self._establish_again)
        except Stopped:
            self.close()

    def _establish_again(self) -> None:
        try:
            self._establish_anywhere()
        except KodectlError as error:
            self._lost(error)

    def _lost(self, error: KodectlError) -> None:
        if not self._is_closed:
            self._error = error
            self.close()
            self.on_lost(error)

    def _let_go(self) -> None:
        """Of the line: nothing of it comes in any more."""
        line, self._line = self._line, None
        if line is not None:
            line.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def allocate(
    runtime: Runtime,
    scope: Scope,
    server: TurnServer,
    *,
    family: int = 4,
    socket: DatagramSender | None = None,
    ca_file: str | None = None,
) -> Allocation:
    """An established allocation; it ends with `scope`. See `Allocation.establish` for what it waits and raises. Who shares a
    socket makes the `Allocation`, hands it what arrives, and calls `establish`."""
    allocation = Allocation(runtime, scope, server, family=family, socket=socket, ca_file=ca_file)
    allocation.establish()
    return allocation


def _sent_on(server: Address) -> TurnRefused:
    words = f"the TURN server at {address_text(*server)} sends on again: one redirection is followed, not more"
    return TurnRefused(Refusal.TRY_ALTERNATE, words, hint="name the server at the end of the chain")
