"""One encrypted connection to one peer: messages out through a bounded queue, messages in to a handler.

A link has a reader (whoever calls `run`) and, only while there is something to write, a writer task of its own. What
goes wrong in either ends this link and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from kodectl.errors import PeerFault, WireError
from kodectl.node.handshake import Channel, LinkClosed, LocalEnd, open_inbound, open_outbound
from kodectl.node.outbox import Outbox
from kodectl.node.routes import PLAIN_TCP, Route, RoutedStream
from kodectl.runtime.base import Address, Runtime, Stopped, Stream, StreamClosed, TimedOut, Timer
from kodectl.wire.frames import Message, check_segment_size, encode_message
from kodectl.wire.messages import (
    Disconnect,
    DisconnectReason,
    Hello,
    MessageKind,
    pack_disconnect,
    unpack_disconnect,
)

log = logging.getLogger(__name__)

CLOSING_LIMIT_S = 1.0
"""From the decision to disconnect to the closed stream: the reason goes out and the other side closes within a round
trip. Closing at once, with data unread, makes TCP reset the connection and lose the reason."""
_DISCARD_SIZE = 4096

_HELLO = int(MessageKind.HELLO)
_DISCONNECT = int(MessageKind.DISCONNECT)

Handler = Callable[["Link", int, bytes], None]
"""Gets the link, the type of a message (perhaps one not known here) and its body."""


def dial(runtime: Runtime, local: LocalEnd, stream: Stream, expected_id: bytes | None, hello: Hello) -> Link:
    """The link over a stream that this side opened; see `open_outbound` for what it checks and raises."""
    return Link(runtime, stream, open_outbound(runtime, local, stream, expected_id, hello), outbound=True)


def accept(runtime: Runtime, local: LocalEnd, stream: Stream, hello: Hello) -> Link:
    """The link over a stream that the other side opened; see `open_inbound`."""
    return Link(runtime, stream, open_inbound(runtime, local, stream, hello), outbound=False)


class Link:
    """Open until `close_reason` is set, by either side; from then on `send` answers False and nothing is handled.

    `closed_by_peer` tells who ended it, `close_text` what was said. Bytes are those of frames, without the handshake.
    """

    __slots__ = (
        "_closing_timer",
        "_decoder",
        "_early",
        "_outbox",
        "_routed",
        "_runtime",
        "_scope",
        "_stream",
        "bytes_received",
        "close_reason",
        "close_text",
        "closed_by_peer",
        "hello",
        "messages_received",
        "node_id",
        "opened_at",
        "opened_unix",
        "outbound",
        "public_key",
        "referred",
    )

    def __init__(self, runtime: Runtime, stream: Stream, channel: Channel, *, outbound: bool) -> None:
        self.node_id = channel.node_id
        self.public_key = channel.public_key
        self.hello = channel.hello
        self.outbound = outbound
        self.opened_at = runtime.now()
        self.opened_unix = runtime.unix_time()
        self.bytes_received = 0
        self.messages_received = 0
        self.close_reason: DisconnectReason | None = None
        self.close_text = ""
        self.closed_by_peer = False
        self.referred: tuple[str, ...] = ()
        """Enodes that the other side named when it closed."""
        self._runtime = runtime
        self._stream = stream
        self._routed = stream if isinstance(stream, RoutedStream) else None
        self._scope = runtime.scope(f"link {channel.node_id.hex()[:8]}")
        self._outbox = Outbox(runtime, self._scope, stream, channel.encoder, self._writing_failed)
        self._decoder = channel.decoder
        self._early = channel.early
        self._closing_timer: Timer | None = None

    @property
    def remote(self) -> Address:
        """Changes when the stream goes on by another way."""
        return self._stream.remote

    @property
    def route(self) -> Route:
        return self._routed.route if self._routed is not None else PLAIN_TCP

    @property
    def closed(self) -> bool:
        return self.close_reason is not None

    @property
    def bytes_sent(self) -> int:
        return self._outbox.bytes_sent

    @property
    def messages_sent(self) -> int:
        return self._outbox.messages_sent

    @property
    def queued_bytes(self) -> int:
        return self._outbox.queued_bytes

    def send(self, kind: int, body: bytes) -> bool:
        """Queues a message and never waits. False when the link is closed, or closes (slow) over a full queue."""
        return self.send_encoded(encode_message(kind, body))

    def send_encoded(self, message: bytes) -> bool:
        """As `send`, for a message from `encode_message`; links share it without copying."""
        if self._outbox.put(message):
            return True
        self.disconnect(DisconnectReason.SLOW, f"{self.queued_bytes} bytes wait to be read")
        return False

    def wait_room(self, timeout_s: float) -> None:
        """Waits until little is queued: for producers that could fill the queue. Raises TimedOut, LinkClosed."""
        self._outbox.wait_room(timeout_s)
        if self.close_reason is not None:
            raise LinkClosed(self.close_reason, self.close_text)

    def disconnect(self, reason: DisconnectReason, text: str = "", peers: tuple[str, ...] = ()) -> None:
        """Closes without waiting: what is queued and then the reason go out in the background, for CLOSING_LIMIT_S
        at most. `peers`: enodes of others to try. Nothing happens on a link that is closed already."""
        if self.close_reason is not None:
            return
        self.close_reason, self.close_text = reason, text
        if reason is DisconnectReason.SLOW:
            self._outbox.drop()
        self._outbox.seal(encode_message(_DISCONNECT, pack_disconnect(Disconnect(reason, text, peers))))
        self._closing_timer = self._runtime.call_later(CLOSING_LIMIT_S, self._stream.close)

    def run(self, handle: Handler) -> DisconnectReason:
        """Reads until the link has ended, and all of it: the stream is closed and the writer gone.

        A PeerFault from a decoder or from `handle` closes with protocol_error; any other exception of `handle` is
        logged and closes too. Stopped closes with shutting_down."""
        try:
            self._receive(handle)
            self._discard()
        except StreamClosed:
            self._end(DisconnectReason.UNSPECIFIED, "the stream ended", by_peer=True)
        finally:
            self._release()
        assert self.close_reason is not None
        return self.close_reason

    def _receive(self, handle: Handler) -> None:
        """Until the link is closed. Raises StreamClosed."""
        try:
            early, self._early = self._early, []
            self._dispatch(early, handle)
            while self.close_reason is None:
                self._open_segment(self._read_segment(), handle)
        except StreamClosed:
            raise
        except PeerFault as fault:
            self.disconnect(DisconnectReason.PROTOCOL_ERROR, str(fault))
        except Stopped:
            self.disconnect(DisconnectReason.SHUTTING_DOWN)
        except Exception:
            # The boundary of faults: a bug met in one message costs this link, and the node goes on.
            log.exception("handling a message of %s failed", self.node_id.hex())
            self.disconnect(DisconnectReason.UNSPECIFIED, "internal error")

    def _read_segment(self) -> bytes:
        size = int.from_bytes(self._stream.read_exactly(2))
        check_segment_size(size)
        segment = self._stream.read_exactly(size)
        self.bytes_received += 2 + size
        return segment

    def _open_segment(self, segment: bytes, handle: Handler) -> None:
        """Not part of the loop above, where the last segment would be held while the next is waited for."""
        self._dispatch(self._decoder.open(segment), handle)

    def _dispatch(self, messages: list[Message], handle: Handler) -> None:
        take_turn = self._runtime.take_turn
        for kind, body in messages:
            # One chunk of input can hold a gigabyte compressed, or hundreds of signatures to check.
            take_turn()
            if self.close_reason is not None:
                return
            self.messages_received += 1
            if kind == _DISCONNECT:
                ended = unpack_disconnect(body)
                self.referred = ended.peers
                self._end(ended.reason, ended.text, by_peer=True)
            elif kind == _HELLO:
                raise WireError("a second hello")
            else:
                handle(self, kind, body)

    def _discard(self) -> None:
        """Reads on until the stream ends, so that the other side can read our reason. Raises StreamClosed."""
        while True:
            self._stream.read_exactly(_DISCARD_SIZE)

    def _writing_failed(self, error: Exception) -> None:
        if isinstance(error, TimedOut):
            self.disconnect(DisconnectReason.SLOW, str(error))
        elif isinstance(error, StreamClosed):
            self._end(DisconnectReason.UNSPECIFIED, "the stream ended", by_peer=True)
        else:
            # As for the reader, but half a frame may be out: nothing more can be said.
            log.error("writing to %s failed", self.node_id.hex(), exc_info=error)
            self._end(DisconnectReason.UNSPECIFIED, "internal error", by_peer=False)

    def _end(self, reason: DisconnectReason, text: str, *, by_peer: bool) -> None:
        """Nothing more is read or said: the other side is gone or going, or our side of the channel is broken."""
        if self.close_reason is None:
            self.close_reason, self.close_text, self.closed_by_peer = reason, text, by_peer
        self._outbox.close()
        self._stream.close()

    def _release(self) -> None:
        self._stream.close()
        self._outbox.close()
        if self._closing_timer is not None:
            self._closing_timer.cancel()
        self._scope.close()
        self._scope.join(CLOSING_LIMIT_S)
