"""Two places that have a socket each and a QUIC endpoint on it, for tests on virtual time and on loopback."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kodectl.core.quic_paths import Path
from kodectl.node.quic import QuicEndpoint
from kodectl.node.quic_stream import QuicStream, Send
from kodectl.runtime.base import Address, Runtime


class Place:
    """`streams` gets what others open; `drop(data)` tells what of the outgoing is lost."""

    def __init__(self, runtime: Runtime, ip: str, port: int = 0, *, accepts: bool = True) -> None:
        self.runtime = runtime
        self.scope = runtime.scope("place")
        self.streams = runtime.mailbox(2_000)
        self.sent = 0
        self.heard = 0
        self.drop: Callable[[bytes], bool] = lambda _data: False
        self.socket = runtime.open_datagram((ip, port), self._receive)
        self.endpoint = QuicEndpoint(runtime, self.scope, self.streams.put if accepts else None, self._reply)

    @property
    def address(self) -> Address:
        return self.socket.local

    def _receive(self, data: bytes, sender: Address) -> None:
        self.heard += 1
        if self.endpoint.is_quic(data):
            self.endpoint.received(data, Path(self.address, sender))

    def _reply(self, datagrams: Sequence[bytes], path: Path) -> None:
        self.send(datagrams, path.remote)

    def send(self, datagrams: Sequence[bytes], address: Address) -> None:
        self.sent += len(datagrams)
        self.socket.send_many([data for data in datagrams if not self.drop(data)], address)

    def path_to(self, remote: Address) -> tuple[Path, Send]:
        return Path(self.address, remote), lambda datagrams: self.send(datagrams, remote)

    def connect(self, remote: Address, timeout_s: float = 5.0) -> QuicStream:
        return self.endpoint.connect(*self.path_to(remote), timeout_s)

    def close(self) -> None:
        self.endpoint.close()
        self.socket.close()
        self.scope.close()


def connected(near: Place, far: Place, remote: Address | None = None) -> tuple[QuicStream, Any]:
    """Both ends of a new connection; `remote` where the far place is seen elsewhere than where it is."""
    stream = near.connect(remote or far.address)
    return stream, far.streams.get(5.0)
