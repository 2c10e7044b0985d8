"""One UDP socket of a probe, and the questions that were asked from it.

Unlike `StunClient`, which repeats a transaction until it is answered, every sending here is a transaction of its own: only so
is it known which of them were lost.
"""

from __future__ import annotations

from collections.abc import Iterable

from kodectl.core.silence import SENDINGS
from kodectl.core.stun_transactions import BindingAnswer, StunRefused, Transaction, Transactions
from kodectl.errors import EnvironmentFault
from kodectl.runtime.base import Address, DatagramSocket, Event, Runtime
from kodectl.wire.stun import ID_SIZE, Change, Message, MessageClass, Method, encode

PAUSE_S = 0.1
"""Between two sendings to somebody who has not answered yet. Less than RFC 8489's half a second, as RFC 5780 has few requests
and a user who waits: a dead server must be known as such within two seconds."""
LAST_WAIT_S = 0.6
"""After the last sending: for a round trip over a satellite."""

FIRST_PORT, LAST_PORT = 20_000, 59_999
PORT_ATTEMPTS = 8

UNCHANGED = Change(False, False)


class Question:
    """One request. `answer` and `refusal` stay None for one that is lost, or still under way."""

    __slots__ = ("_news", "answer", "endpoint", "refusal", "sent_at", "transaction")

    def __init__(self, endpoint: Address, transaction: Transaction, sent_at: float, news: Event) -> None:
        self.endpoint = endpoint
        self.transaction = transaction
        self.sent_at = sent_at
        self.answer: BindingAnswer | None = None
        self.refusal: StunRefused | None = None
        self._news = news

    def take(self, outcome: BindingAnswer | StunRefused) -> None:
        if isinstance(outcome, BindingAnswer):
            self.answer = outcome
        else:
            self.refusal = outcome
        self._news.set()


class Inquiry:
    """Opens the socket; `close` ends it. `longest_rtt_s` is of all answers so far."""

    def __init__(self, runtime: Runtime, wildcard: str) -> None:
        """Raises EnvironmentFault."""
        self._runtime = runtime
        self._transactions = Transactions(runtime.random_bytes)
        self._questions: dict[bytes, Question] = {}
        self._knocks: set[bytes] = set()
        self._knocked: Event | None = None
        self.longest_rtt_s = 0.0
        self._socket = self._open(wildcard)

    def _open(self, wildcard: str) -> DatagramSocket:
        # Systems may number ports upwards, and a NAT that keeps them would then show to a server, with the port of one
        # socket, those of the others.
        for _ in range(PORT_ATTEMPTS):
            port = self._runtime.rng.randint(FIRST_PORT, LAST_PORT)
            try:
                return self._runtime.open_datagram((wildcard, port), self._received)
            except EnvironmentFault as fault:
                if fault.code != "port_in_use":
                    raise
        return self._runtime.open_datagram((wildcard, 0), self._received)

    @property
    def local_port(self) -> int:
        return self._socket.local[1]

    def ask(self, endpoint: Address, change: Change = UNCHANGED, news: Event | None = None) -> Question:
        """Sends once and does not wait; `news` is set when an answer comes. To be given to `forget` afterwards."""
        transaction = self._transactions.begin(endpoint, change)
        now = self._runtime.now()
        question = Question(endpoint, transaction, now, news or self._runtime.event())
        self._questions[transaction.transaction_id] = question
        transaction.sent(now)
        self._socket.send(transaction.packet, endpoint)
        return question

    def forget(self, questions: Iterable[Question]) -> None:
        for question in questions:
            self._transactions.end(question.transaction)
            self._questions.pop(question.transaction.transaction_id, None)

    def exchange(
        self, endpoint: Address, change: Change = UNCHANGED, *, ends: float, sendings: int = SENDINGS
    ) -> BindingAnswer | None:
        """Asks until an answer comes; None when none did, or a refusal. Waits, at most until the time `ends`."""
        news = self._runtime.event()
        questions: list[Question] = []
        try:
            for number in range(1, sendings + 1):
                if self._runtime.now() >= ends:
                    break
                questions.append(self.ask(endpoint, change, news))
                pause_s = PAUSE_S if number < sendings else LAST_WAIT_S
                if news.wait(min(pause_s, max(0.0, ends - self._runtime.now()))):
                    break
        finally:
            self.forget(questions)
        return next((question.answer for question in questions if question.answer is not None), None)

    def await_knock(self, knocked: Event) -> bytes:
        """The token of a datagram that is expected from a stranger; `knocked` is set when it comes."""
        token = self._runtime.random_bytes(ID_SIZE)
        self._knocks.add(token)
        self._knocked = knocked
        return token

    def knock(self, address: Address, token: bytes) -> None:
        """Sends a datagram that the socket which gave the token waits for."""
        self._socket.send(encode(Message(MessageClass.INDICATION, Method.BINDING, token)), address)

    def _received(self, data: bytes, sender: Address) -> None:
        if data[8:20] in self._knocks and self._knocked is not None:
            self._knocked.set()
            return
        received = self._transactions.receive(data, sender, self._runtime.now())
        if received is None or received.outcome is None:
            return
        question = self._questions[received.transaction.transaction_id]
        question.take(received.outcome)
        if question.answer is not None:
            self.longest_rtt_s = max(self.longest_rtt_s, question.answer.rtt_s)

    def close(self) -> None:
        self._socket.close()
