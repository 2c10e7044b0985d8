"""Asking STUN servers, over a UDP socket that others use too, or over TCP."""

from __future__ import annotations

from collections.abc import Callable

from kodectl.core.stun_transactions import BindingAnswer, StunRefused, Transactions, read_answer
from kodectl.errors import NegativeAnswer, PeerFault
from kodectl.node.stun_framing import read_framed
from kodectl.runtime.base import Address, ConnectFailed, Mailbox, Runtime, Stopped, StreamClosed, TimedOut
from kodectl.wire.addresses import address_text
from kodectl.wire.stun import Change

__all__ = ["DEFAULT_SCHEDULE", "BindingAnswer", "StunClient", "StunRefused", "ask_over_tcp"]

DEFAULT_SCHEDULE = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 8.0)
"""Pauses after each sending (RFC 8489, section 6.2.1: RTO 500 ms, Rc 7, Rm 16): an answer within 39.5 s, or none."""

MAX_TCP_ANSWER = 2048
"""Bytes of attributes; a Binding answer with everything in it has some hundred."""


class StunClient:
    """Binding transactions over one UDP socket; several may be under way.

    The owner of the socket hands every datagram that may be STUN to `received`; `send` is the socket's."""

    def __init__(self, runtime: Runtime, send: Callable[[bytes, Address], None]) -> None:
        self._runtime = runtime
        self._send = send
        self._transactions = Transactions(runtime.random_bytes)
        self._asking: dict[bytes, Mailbox[BindingAnswer | StunRefused]] = {}
        self._closed = False

    def received(self, data: bytes, sender: Address) -> bool:
        """Takes a datagram if it answers a transaction of ours; does not wait."""
        found = self._transactions.receive(data, sender, self._runtime.now())
        if found is None:
            return False
        if found.outcome is not None:
            self._asking[found.transaction.transaction_id].put(found.outcome)
        return True

    def ask(
        self,
        server: Address,
        *,
        change_ip: bool = False,
        change_port: bool = False,
        schedule: tuple[float, ...] = DEFAULT_SCHEDULE,
    ) -> BindingAnswer:
        """Waits for the answer; sends once at the beginning of each pause of `schedule`. Raises NegativeAnswer
        (no_answer), StunRefused, PeerFault (malformed: the server answered, and never in a way that can be used), or
        Stopped. With `change_ip` or `change_port` an answer from anywhere is taken: its `source` tells whether the server
        did what it was asked. A 300 (try another server) is a refusal like any other, and is not followed."""
        if self._closed:
            raise Stopped
        transaction = self._transactions.begin(server, Change(change_ip, change_port))
        outcomes = self._asking[transaction.transaction_id] = self._runtime.mailbox(1)
        try:
            outcome = None
            for pause_s in schedule:
                transaction.sent(self._runtime.now())
                self._send(transaction.packet, server)
                try:
                    outcome = outcomes.get(pause_s)
                except TimedOut:
                    continue
                break
        finally:
            self._transactions.end(transaction)
            del self._asking[transaction.transaction_id]
        if isinstance(outcome, BindingAnswer):
            return outcome
        raise outcome or transaction.fault or _no_answer(server, "over UDP")

    def close(self) -> None:
        """Ends all waits with Stopped."""
        self._closed = True
        for outcomes in self._asking.values():
            outcomes.close()


def ask_over_tcp(runtime: Runtime, server: Address, timeout_s: float, local_port: int | None = None) -> BindingAnswer:
    """One Binding transaction on a connection of its own (RFC 8489, section 6.2.2), which leaves from `local_port` if one is
    given. Raises NegativeAnswer (no_answer),
    StunRefused or PeerFault (malformed)."""
    transaction = Transactions(runtime.random_bytes).begin(server, Change(False, False))
    ends = runtime.now() + timeout_s
    try:
        stream = runtime.connect(server, timeout_s, local_port)
    except ConnectFailed as error:
        raise _no_answer(server, f"over TCP: {error.reason}") from error
    limit = runtime.call_later(max(0.0, ends - runtime.now()), stream.close)
    try:
        transaction.sent(runtime.now())
        stream.write(transaction.packet)
        data = read_framed(stream, MAX_TCP_ANSWER)
    except StreamClosed as error:
        raise _no_answer(server, "over TCP") from error
    finally:
        limit.cancel()
        stream.close()
    # The stream is between us and the server alone: what comes over it can be nothing else than its answer.
    outcome = read_answer(data, transaction, server, runtime.now())
    if isinstance(outcome, PeerFault):
        raise outcome
    return outcome


def _no_answer(server: Address, how: str) -> NegativeAnswer:
    return NegativeAnswer(f"no answer from the STUN server at {address_text(*server)} {how}", code="no_answer")
