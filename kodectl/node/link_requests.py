"""Requests over links: discovery's messages between linked peers, for what a NAT or a firewall keeps from UDP.

in    REQUEST -> the handler of its kind -> ANSWER, at once or from a task that may wait
out   `request` or `ask` -> REQUEST -> the ANSWER with its id, or the end of the link, or of the patience
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

from kodectl.core.limits import TokenBucket
from kodectl.errors import KodectlError, NegativeAnswer, PeerFault, WireError
from kodectl.node.discovery import read_answer
from kodectl.node.peer import Peer
from kodectl.node.peering import Peering
from kodectl.runtime.base import Runtime, Scope, Stopped, Timer
from kodectl.wire import rpc
from kodectl.wire.messages import MessageKind
from kodectl.wire.rpc import ErrorAnswer, ErrorCode

log = logging.getLogger(__name__)

MAX_MESSAGE = 32 << 10
"""Sixteen records of the largest size, and contacts beside them, need 20 KiB."""
MAX_UNDER_WAY = 32
"""Questions to one peer that wait for their answers."""
SERVED_PER_S = 20.0
SERVED_BURST = 100.0
"""Of one peer; the rest are told that this node is busy. A connection through a rendezvous node takes ten."""
MESSAGES_PER_S = 100.0
MESSAGES_BURST = 1000.0
"""Of one peer, requests and answers; who sends more loses the link."""
MAX_TASKS_PER_PEER = 4
MAX_TASKS = 64
"""Handlers that wait at this moment."""

Handler = Callable[[Peer, Any], rpc.Body]
QuickHandler = Callable[[Peer, Any], rpc.Body | None]

Outcome = Any
"""The body of an answer, or the error that `ask` raises."""


class _Question:
    """One that waits for its answer."""

    __slots__ = ("kind", "peer", "tell", "timer")

    def __init__(self, peer: Peer, kind: int, tell: Callable[[Outcome], object], timer: Timer) -> None:
        self.peer = peer
        self.kind = kind
        self.tell = tell
        self.timer = timer


class _Served:
    """What one peer uses of this node."""

    __slots__ = ("messages", "requests", "tasks")

    def __init__(self) -> None:
        self.requests = TokenBucket(SERVED_PER_S, SERVED_BURST)
        self.messages = TokenBucket(MESSAGES_PER_S, MESSAGES_BURST)
        self.tasks = 0


class LinkRequests:
    """`handlers` by kind of request may wait; each call runs in a task of its own. `quick_handlers` must not wait, and
    answer in the call that brought the request, or leave it to the other one (None). Both raise a KodectlError to refuse."""

    def __init__(self, runtime: Runtime, scope: Scope, peering: Peering) -> None:
        self.handlers: dict[int, Handler] = {}
        self.quick_handlers: dict[int, QuickHandler] = {}
        self.counters: Counter[str] = Counter()
        self._runtime = runtime
        self._scope = scope
        self._next_id = 0
        self._questions: dict[int, _Question] = {}
        self._served: dict[Peer, _Served] = {}
        self._tasks = 0
        peering.handlers[MessageKind.REQUEST] = self._requested
        peering.handlers[MessageKind.ANSWER] = self._answered
        peering.on_disconnected.append(self._lost)

    # -- asking ----------------------------------------------------------------------------------------------------

    def request(self, peer: Peer, body: rpc.Body, tell: Callable[[Outcome], object], limit_s: float) -> None:
        """Asks without waiting. `tell` hears once, in the hub: the body of the answer, NegativeAnswer (code no_answer) or
        PeerFault."""
        if sum(question.peer is peer for question in self._questions.values()) >= MAX_UNDER_WAY:
            tell(_no_answer(peer, "too much is under way to it"))
            return
        self._next_id = (self._next_id + 1) & 0xFFFFFFFF
        request_id = self._next_id
        message = rpc.pack_message(request_id, body)
        timer = self._runtime.call_later(limit_s, lambda: self._give_up(request_id, "it does not answer in time"))
        self._questions[request_id] = _Question(peer, message[0], tell, timer)
        self.counters["asked"] += 1
        if not peer.send(MessageKind.REQUEST, message):
            self._give_up(request_id, "the link has ended")

    def ask(self, peer: Peer, body: rpc.Body, limit_s: float) -> Any:
        """Asks and waits for the body of the answer. Raises NegativeAnswer (code no_answer), PeerFault (refused, malformed
        answer) or Stopped."""
        outcomes = self._runtime.mailbox(1)
        self.request(peer, body, outcomes.put, limit_s)
        outcome = outcomes.get()
        if self._scope.closed:
            raise Stopped
        if isinstance(outcome, KodectlError):
            raise outcome
        return outcome

    def _give_up(self, request_id: int, why: str) -> None:
        question = self._questions.pop(request_id, None)
        if question is not None:
            question.timer.cancel()
            self.counters["given_up"] += 1
            question.tell(_no_answer(question.peer, why))

    def _answered(self, peer: Peer, message: bytes) -> None:
        self._count(peer)
        kind, request_id, packed = _unpack(message)
        question = self._questions.get(request_id)
        if question is None or question.peer is not peer or kind not in (question.kind + 1, rpc.Kind.ERROR):
            self.counters["unsolicited"] += 1
            return
        del self._questions[request_id]
        question.timer.cancel()
        outcome: Outcome
        try:
            outcome = read_answer(kind, packed)
        except PeerFault as fault:
            outcome = fault
        question.tell(outcome)

    def _lost(self, peer: Peer) -> None:
        self._served.pop(peer, None)
        for request_id in [number for number, question in self._questions.items() if question.peer is peer]:
            self._give_up(request_id, "the link has ended")

    # -- answering -------------------------------------------------------------------------------------------------

    def _requested(self, peer: Peer, message: bytes) -> None:
        served = self._count(peer)
        kind, request_id, packed = _unpack(message)
        if not served.requests.take(self._runtime.now()):
            self._refuse(peer, request_id, ErrorCode.BUSY, "too many requests")
            return
        if kind not in self.quick_handlers and kind not in self.handlers:
            self._refuse(peer, request_id, ErrorCode.UNKNOWN_KIND, f"message kind {kind}")
            return
        try:
            body = rpc.unpack_body(kind, packed)
        except WireError as error:
            self._refuse(peer, request_id, ErrorCode.MALFORMED, error.message)
            return
        self.counters["served"] += 1
        quick = self.quick_handlers.get(kind)
        answer = _called(quick, peer, body) if quick is not None else None
        if answer is not None:
            self._answer(peer, request_id, answer)
        else:
            self._begin(peer, served, request_id, self.handlers[kind], body)

    def _begin(self, peer: Peer, served: _Served, request_id: int, handler: Handler, body: Any) -> None:
        if served.tasks >= MAX_TASKS_PER_PEER or self._tasks >= MAX_TASKS:
            self._refuse(peer, request_id, ErrorCode.BUSY, "too much is under way")
            return
        served.tasks += 1
        self._tasks += 1
        name = f"request of {peer.node_id.hex()[:8]}"
        self._scope.spawn(name, self._serve, peer, served, request_id, handler, body)

    def _serve(self, peer: Peer, served: _Served, request_id: int, handler: Handler, body: Any) -> None:
        try:
            answer = _called(handler, peer, body)
            assert answer is not None
            self._answer(peer, request_id, answer)
        finally:
            served.tasks -= 1
            self._tasks -= 1

    def _refuse(self, peer: Peer, request_id: int, code: ErrorCode, text: str) -> None:
        self.counters[f"refused_{code.name.lower()}"] += 1
        self._answer(peer, request_id, ErrorAnswer(code, text[:200]))

    def _answer(self, peer: Peer, request_id: int, body: rpc.Body) -> None:
        peer.send(MessageKind.ANSWER, rpc.pack_message(request_id, body))

    def _count(self, peer: Peer) -> _Served:
        """Raises PeerFault, which ends the link."""
        served = self._served.get(peer)
        if served is None:
            served = self._served[peer] = _Served()
        if not served.messages.take(self._runtime.now()):
            raise PeerFault("too many requests and answers", code="flooding")
        return served


def _called(handler: QuickHandler, peer: Peer, body: Any) -> rpc.Body | None:
    try:
        return handler(peer, body)
    except WireError as error:
        return ErrorAnswer(ErrorCode.MALFORMED, error.message[:200])
    except KodectlError as error:
        return ErrorAnswer(ErrorCode.REFUSED, error.message[:200])
    except Stopped:
        raise
    except Exception:
        # The boundary of faults, as for a link's other messages: a bug met in one request costs this request.
        log.exception("a request of %s failed", peer.node_id.hex())
        return ErrorAnswer(ErrorCode.REFUSED, "internal error")


def _unpack(message: bytes) -> tuple[int, int, bytes]:
    """Raises WireError."""
    if len(message) > MAX_MESSAGE:
        raise WireError(f"request or answer of {len(message)} bytes; the limit is {MAX_MESSAGE}")
    return rpc.unpack_message(message)


def _no_answer(peer: Peer, why: str) -> NegativeAnswer:
    return NegativeAnswer(f"no answer from {peer.node_id.hex()} over its link: {why}", code="no_answer")
