"""The node's WebSocket as a command sees it: one connection, and going on after it has broken."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Ping, TextMessage

from kodectl.cli.client import MAX_ANSWER, NodeClient
from kodectl.errors import DeadlineReached, EnvironmentFault, KodectlError, LocalMisuse, NodeUnreachable

if TYPE_CHECKING:
    from kodectl.cli.node_events import Place

SILENT_LIMIT_S = 75.0
"""The node asks after half a minute of silence whether its subscriber is there: with nothing for so long it is gone."""
TAKE_UP_LIMIT_S = 60.0
"""For a connection that broke while the node still runs: a suspended machine, a network that changes."""
MOST_IN_VAIN = 5
"""Connections in a row that end before anything was said: what is there brings no events."""
PAUSE_FIRST_S = 0.2
PAUSE_MOST_S = 5.0
READ_SIZE = 65536


class Broken(Exception):
    """The connection has ended."""


class EventStream:
    """The messages of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sock.settimeout(SILENT_LIMIT_S)
        self._connection = Connection(ConnectionType.CLIENT)

    def subscribe(self, topics: Sequence[str], place: Place) -> None:
        order: dict[str, Any] = {"op": "subscribe", "since": place.seq}
        if topics:
            order["topics"] = topics
        if place.run is not None:
            order["run"] = place.run
        self._send(TextMessage(msgspec.json.encode(order).decode()))

    def messages(self) -> Iterator[dict[str, Any]]:
        """Until the connection ends: then Broken."""
        parts: list[str] = []
        while True:
            for event in self._read():
                if isinstance(event, TextMessage):
                    parts.append(event.data)
                    if event.message_finished:
                        yield _message("".join(parts))
                        parts = []
                    elif sum(map(len, parts)) > MAX_ANSWER:
                        raise Broken("a message without an end")
                elif isinstance(event, Ping):
                    self._send(event.response())
                elif isinstance(event, CloseConnection):
                    raise Broken(f"closed with {int(event.code)}")

    def close(self) -> None:
        self._sock.close()

    def _read(self) -> Iterator[Any]:
        try:
            data = self._sock.recv(READ_SIZE)
        except OSError as error:
            raise Broken(error.strerror or type(error).__name__) from error
        if not data:
            raise Broken("ended")
        self._connection.receive_data(data)
        yield from self._connection.events()

    def _send(self, event: Any) -> None:
        try:
            self._sock.sendall(self._connection.send(event))
        except OSError as error:
            raise Broken(error.strerror or type(error).__name__) from error


def _message(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise NodeUnreachable("what is on the WebSocket are no events of a node", code="not_a_node") from error


class Follower:
    """Events and gaps in order, over as many connections as it takes. `place` is behind the last one that was given out."""

    def __init__(self, client: NodeClient, topics: Sequence[str], place: Place) -> None:
        self._client = client
        self._topics = topics
        self._heard = False
        self.place = place

    def messages(self) -> Iterator[dict[str, Any]]:
        """Raises NodeUnreachable when the node has left, and whatever keeps the first connection from being made."""
        stream = self._open()
        in_vain = 0
        while True:
            self._heard = False
            try:
                yield from self._messages_of(stream)
            except Broken as error:
                in_vain = 0 if self._heard else in_vain + 1
                if in_vain == MOST_IN_VAIN:
                    raise NodeUnreachable(f"the WebSocket brings nothing: {error}", code="not_a_node") from error
            finally:
                stream.close()
            time.sleep(in_vain * PAUSE_FIRST_S)
            stream = self._open_again()

    def _messages_of(self, stream: EventStream) -> Iterator[dict[str, Any]]:
        stream.subscribe(self._topics, self.place)
        for message in stream.messages():
            self._heard = True
            kind = message.get("type")
            if "seq" in message:
                self.place = self.place._replace(seq=message["seq"])
                yield message
            elif kind == "gap":
                yield message
            elif kind == "subscribed":
                self.place = self.place._replace(run=message["run"])
            elif kind == "error":
                raise LocalMisuse(message["message"], code=message["code"], hint=message["hint"])

    def _open(self) -> EventStream:
        return EventStream(self._client.upgrade("/ws"))

    def _open_again(self) -> EventStream:
        """Once nothing listens any more, the node has left; all else may pass."""
        until = time.monotonic() + TAKE_UP_LIMIT_S
        pause_s = PAUSE_FIRST_S
        while True:
            try:
                return self._open()
            except (DeadlineReached, EnvironmentFault, NodeUnreachable) as error:
                if _has_left(error) or time.monotonic() + pause_s > until:
                    raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MOST_S)


def _has_left(error: KodectlError) -> bool:
    return isinstance(error.__cause__, FileNotFoundError | ConnectionRefusedError) or error.code == "node_stopping"
