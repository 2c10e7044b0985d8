"""One subscriber on a WebSocket: what it sends becomes what it is sent. Bytes in, bytes out; no socket, no clock.

The subscriber's place in the numbers of the events is all that is kept for it, beside the one batch that is on its way: who
reads slowly finds a gap, told as such, where events have left their shelf.
"""

from __future__ import annotations

import struct
from enum import Enum
from typing import Annotated

import msgspec
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.frame_protocol import CloseReason

from kodectl.core.limits import TokenBucket
from kodectl.errors import KodectlError, LocalMisuse
from kodectl.node.events import Events, Waiter, without_payload
from kodectl.node.topics import ALL_TYPES, TYPES_OF, types_of

MAX_MESSAGE_CHARS = 4096
"""Of one message from a subscriber: a subscription that names every type has 500."""
MAX_NAMES = 64
FRAMES_PER_S = 20.0
FRAME_BURST = 200.0
"""Frames, or parts of them, from a subscriber: each costs some 20 us, and it has hardly anything to say."""
MAX_REPLIES = 4096
"""Bytes of answers that wait to be sent; with more, nothing is read."""
BATCH_EVENTS = 64
"""Of one write, 0.2 ms of the hub: when all subscribers catch up at once, a timer waits 6 ms for them."""
BATCH_SIZE = 256 * 1024
"""The same in bytes: what a slow reader holds in memory, unless a single event is larger (a block)."""
REST_S = 0.01
"""After a write with which it has caught up: more gathers, and one write and one turn of the hub carry it all. Nobody sees a
hundredth of a second."""
PING_AFTER_S = 30.0
"""Of silence; below the minute that proxies allow."""
SILENT_LIMIT_S = 120.0
"""A subscriber from which nothing comes for so long is gone; one that works on a block for a minute is not."""
STALLED_LIMIT_S = 1800.0
"""A subscriber that takes nothing (a stopped process, a debugger) keeps its place for so long if nobody else needs it."""
CLOSE_LIMIT_S = 2.0
"""From our close to the other side's."""

Name = Annotated[str, msgspec.Meta(max_length=64)]


class Subscribe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="subscribe"):
    """`topics`: names of topics or types, all if left out. `since`: the number of the last event that is known, 0 for all
    that are kept; left out, what happens from now on. `run`: of which run of the node that number is. `payloads`: whether
    messages come with what is in them."""

    topics: Annotated[tuple[Name, ...], msgspec.Meta(max_length=MAX_NAMES)] | None = None
    since: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)] | None = None
    run: Name | None = None
    payloads: bool = True


class Unsubscribe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="unsubscribe"):
    pass


class Subscribed(msgspec.Struct, frozen=True, tag_field="type", tag="subscribed"):
    """What is sent from now on: the events of these topics after number `since`."""

    topics: list[str]
    since: int
    run: str


class Unsubscribed(msgspec.Struct, frozen=True, tag_field="type", tag="unsubscribed"):
    pass


class Gap(msgspec.Struct, frozen=True, tag_field="type", tag="gap"):
    """So many events, at most, are gone; None: nobody knows how many, they were of another run."""

    missed: int | None


class Refusal(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    code: str
    message: str
    hint: str | None


_operation = msgspec.json.Decoder(Subscribe | Unsubscribe)


class Phase(Enum):
    OPEN = "open"
    LEAVING = "leaving"
    """What there is to tell is told yet, then comes our close."""
    CLOSING = "closing"
    """Our close is on its way; the other side's is waited for."""
    OVER = "over"
    """As soon as what is to be sent has been."""


class Subscriber:
    """Give it what comes (`receive`, `lost`), send what `outgoing` says, say what was `sent`, call `tick` at `next_deadline`;
    until `over`. `waiter` is set when an event comes that is subscribed to."""

    def __init__(self, events: Events, waiter: Waiter, now: float) -> None:
        self._events = events
        self._waiter = waiter
        self._connection = Connection(ConnectionType.SERVER)
        self._deaf = False
        """What comes after a breach of the protocol has no meaning, and is not kept."""
        self._rate = TokenBucket(FRAMES_PER_S, FRAME_BURST)
        self._message: list[str] = []
        self._message_chars = 0
        self._phase = Phase.OPEN
        self._closing_since = now
        self._types: frozenset[str] = frozenset()
        self._place = 0
        self._run: str | None = None
        self._payloads = True
        self._replies = bytearray()
        self._pending = memoryview(b"")
        self._rest_until = now
        self._alive_at = now
        self._pinged = False
        self.stalled_since: float | None = None
        """Since when the socket takes nothing more; None while it does."""

    # -- what comes ------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> None:
        self._alive_at, self._pinged = now, False
        if self._deaf or self._phase is Phase.OVER:
            return
        self._connection.receive_data(data)
        for event in self._connection.events():
            if self._phase in (Phase.OPEN, Phase.LEAVING) and not self._rate.take(now):
                self._close(CloseReason.POLICY_VIOLATION, "too many messages", now)
            self._handle(event, now)

    def lost(self) -> None:
        """The connection has ended without a word."""
        self._pending = memoryview(b"")
        self._replies.clear()
        self._end()

    def _handle(self, event: Event, now: float) -> None:
        match event:
            case CloseConnection():
                self._other_closes(event, now)
            case _ if self._phase is not Phase.OPEN:
                pass  # We have said goodbye: only the other side's close is of interest.
            case TextMessage():
                self._take_text(event, now)
            case BytesMessage():
                self._close(CloseReason.UNSUPPORTED_DATA, "messages are JSON, in text frames", now)
            case Ping():
                self._replies += self._connection.send(event.response())
            case Pong():
                pass

    def _other_closes(self, event: CloseConnection, now: float) -> None:
        state = self._connection.state
        if state is ConnectionState.REMOTE_CLOSING:
            self._replies += self._connection.send(event.response())
            self._closing_since = now
            self._end()
        elif state is ConnectionState.OPEN:
            # It has broken the protocol; wsproto says so in this way.
            self._deaf = True
            self._close(CloseReason(event.code), event.reason or "", now)
        else:
            self._end()

    def _take_text(self, part: TextMessage, now: float) -> None:
        self._message_chars += len(part.data)
        if self._message_chars > MAX_MESSAGE_CHARS:
            self._close(CloseReason.MESSAGE_TOO_BIG, f"a message has at most {MAX_MESSAGE_CHARS} characters", now)
            return
        self._message.append(part.data)
        if part.message_finished:
            text = "".join(self._message)
            self._message, self._message_chars = [], 0
            try:
                self._obey(text)
            except KodectlError as error:
                self._reply(Refusal(error.code, error.message, error.hint))

    def _obey(self, text: str) -> None:
        match decode(text):
            case Subscribe(topics, since, run, payloads):
                # Everything is checked before anything changes: what is refused leaves the old subscription in place.
                self._types = ALL_TYPES if topics is None else types_of(topics)
                self._place = self._events.last if since is None else since
                self._run = run if since is not None else None
                self._payloads = payloads
                self._events.watch(self._waiter, self._types)
                self._waiter.set()
                self._reply(Subscribed(list(TYPES_OF if topics is None else topics), self._place, self._events.run))
            case Unsubscribe():
                self._types = frozenset()
                self._events.unwatch(self._waiter)
                self._reply(Unsubscribed())

    # -- what goes -------------------------------------------------------------------------------------------------

    @property
    def wants_input(self) -> bool:
        return self._phase is not Phase.OVER and len(self._replies) < MAX_REPLIES

    @property
    def over(self) -> bool:
        return self._phase is Phase.OVER and not self._pending and not self._replies

    def outgoing(self, now: float) -> memoryview:
        """What is to be sent; empty when there is nothing. The same again until all of it has been `sent`."""
        if not self._pending:
            chunk = self._replies
            self._replies = bytearray()
            if self._phase is Phase.LEAVING or (self._phase is Phase.OPEN and now >= self._rest_until):
                chunk += self._events_due(now)
            if self._phase is Phase.LEAVING and not self._has_news():
                self._close(CloseReason.GOING_AWAY, "the node is stopping", now)
                chunk += self._replies
                self._replies.clear()
            self._pending = memoryview(bytes(chunk))
        return self._pending

    def sent(self, size: int, now: float) -> None:
        """The socket has taken so many bytes of `outgoing`, and is full unless that was all."""
        self._pending = self._pending[size:]
        if self.stalled_since is not None and size:
            # It has read: else the socket would still be full.
            self._alive_at, self._pinged = now, False
        if not self._pending:
            self.stalled_since = None
        elif size or self.stalled_since is None:
            self.stalled_since = now

    def leave(self) -> None:
        """The node stops: tells what there is to tell, and closes."""
        if self._phase is Phase.OPEN:
            self._phase = Phase.LEAVING
            self._waiter.set()

    def _has_news(self) -> bool:
        return bool(self._types) and self._place != self._events.last

    def _events_due(self, now: float) -> bytearray:
        frames = bytearray()
        if not self._has_news():
            return frames
        page = self._events.since(self._place, BATCH_EVENTS, self._types, self._run, BATCH_SIZE)
        self._place, self._run = page.next, None
        if page.missed != 0:
            frames += text_frame(msgspec.json.encode(Gap(page.missed)))
        for event in page.events:
            frames += text_frame(msgspec.json.encode(event if self._payloads else without_payload(event)))
        if frames and not self._has_news():
            self._rest_until = now + REST_S
        return frames

    def _reply(self, message: msgspec.Struct) -> None:
        self._replies += text_frame(msgspec.json.encode(message))

    def _close(self, code: CloseReason, reason: str, now: float) -> None:
        """Our close, once."""
        if self._phase in (Phase.OPEN, Phase.LEAVING):
            self._phase, self._closing_since = Phase.CLOSING, now
            self._events.unwatch(self._waiter)
            self._replies += self._connection.send(CloseConnection(code, reason))

    def _end(self) -> None:
        self._phase = Phase.OVER
        self._events.unwatch(self._waiter)

    # -- time ------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """When to call `tick`, and to ask for `outgoing` again."""
        if self._phase in (Phase.CLOSING, Phase.OVER):
            return self._closing_since + CLOSE_LIMIT_S
        if self.stalled_since is not None:
            return self.stalled_since + STALLED_LIMIT_S
        silent = self._alive_at + (SILENT_LIMIT_S if self._pinged else PING_AFTER_S)
        return min(silent, self._rest_until) if self._has_news() else silent

    def tick(self, now: float) -> None:
        if self._phase in (Phase.CLOSING, Phase.OVER):
            if now >= self._closing_since + CLOSE_LIMIT_S:
                self.lost()
        elif self.stalled_since is not None:
            if now >= self.stalled_since + STALLED_LIMIT_S:
                self.lost()
        elif now >= self._alive_at + SILENT_LIMIT_S:
            self.lost()
        elif now >= self._alive_at + PING_AFTER_S and not self._pinged:
            self._pinged = True
            self._replies += self._connection.send(Ping())


def decode(text: str) -> Subscribe | Unsubscribe:
    """Raises LocalMisuse (malformed_message)."""
    try:
        return _operation.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise LocalMisuse(
            f"the message: {error}",
            code="malformed_message",
            hint='messages are {"op":"subscribe","topics":[...],"since":SEQ} and {"op":"unsubscribe"}',
        ) from error


def text_frame(payload: bytes) -> bytes:
    """A whole message in one frame, as a server sends it (RFC 6455, section 5.2).

    Not by wsproto, which takes text and copies it four times: 8 ms of the hub for a block, this 0.1 ms."""
    size = len(payload)
    if size < 126:
        return b"\x81%c%b" % (size, payload)
    if size < 65536:
        return b"\x81\x7e" + struct.pack("!H", size) + payload
    return b"\x81\x7f" + struct.pack("!Q", size) + payload
