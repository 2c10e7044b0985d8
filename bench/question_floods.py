"""What whoever has a session can flood a node with over UDP: the part of bench/flood.py that asks what everybody may ask."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator

from kodectl.core.identity import Identity
from kodectl.core.sessions import Address, Sessions
from kodectl.wire import rpc
from kodectl.wire.record import pack_record, record_statement
from kodectl.wire.suite import RealSuite

VALUE = bytes(100)
EXPIRY_S = 3600
PATIENCE_S = 1.0
ATTEMPTS = 4


class Asker:
    """One stranger with a session, at one address."""

    def __init__(self, node_id: bytes, address: Address) -> None:
        self._identity = Identity(RealSuite(), os.urandom(32))
        self._sessions = Sessions(self._identity, os.urandom)
        self._node_id, self._address = node_id, address
        self._asked = 0
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.settimeout(PATIENCE_S)

    def sealed(self, body: rpc.Body) -> bytes:
        self._asked += 1
        message = rpc.pack_message(self._asked, body)
        packet = self._sessions.seal(self._node_id, self._address, message, time.monotonic(), retry=True)
        assert packet is not None
        return packet

    def ask(self, body: rpc.Body) -> bytes:
        """The packed answer; makes the session where there is none."""
        for _ in range(ATTEMPTS):
            self.sock.sendto(self.sealed(body), self._address)
            try:
                return self._answer()
            except TimeoutError:  # a flood of a moment ago was still in front of it
                continue
        raise TimeoutError("the node does not answer")

    def _answer(self) -> bytes:
        while True:
            data, sender = self.sock.recvfrom(2048)
            received = self._sessions.receive(data, sender, time.monotonic(), time.time())
            for packet in received.replies:
                self.sock.sendto(packet, self._address)
            if received.message is not None:
                kind, request_id, packed = rpc.unpack_message(received.message)
                if not rpc.is_request(kind) and request_id == self._asked:
                    return packed

    def records(self) -> Iterator[rpc.Body]:
        """Ever newer ones under one key."""
        key = os.urandom(32)
        token = rpc.unpack_body(rpc.Kind.VALUES, self.ask(rpc.FindValue(key, 0, False))).token
        sequence, expiry = 0, int(time.time()) + EXPIRY_S
        while True:
            sequence += 1
            statement = record_statement(self._identity.public_key, key, sequence, expiry, VALUE)
            yield rpc.Store(token, pack_record(statement, self._identity.sign(statement)))


def _pings(asker: Asker) -> Iterator[rpc.Body]:
    while True:
        yield rpc.Ping(0, 0)


def _lookups(asker: Asker) -> Iterator[rpc.Body]:
    while True:
        yield rpc.FindNode(os.urandom(32))


def _reads(asker: Asker) -> Iterator[rpc.Body]:
    while True:
        yield rpc.FindValue(os.urandom(32), 0, True)


QUESTION_FLOODS: dict[str, Callable[[Asker], Iterator[rpc.Body]]] = {
    "ask_ping": _pings,
    "ask_find_node": _lookups,
    "ask_find_value": _reads,
    "ask_store": Asker.records,
}


def questions(kind: str, node_id: bytes, address: Address) -> tuple[socket.socket, Iterator[bytes]]:
    """The socket of a session that stands, and packets for it without end. Whoever reads no answer loses them to the kernel."""
    asker = Asker(node_id, address)
    asker.ask(rpc.Ping(0, 0))
    return asker.sock, (asker.sealed(body) for body in QUESTION_FLOODS[kind](asker))
