"""A QUIC stream over the paths that ICE has found, for a link to run on.

QUIC knows a path by a value; here is kept which base each one leaves from. A path over discovery's socket has no name of
its own, since every session uses that socket; one over a relay or another socket is named after its base.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import count

from kodectl.core.quic_paths import Path
from kodectl.node.ice import SendingBase
from kodectl.node.quic_stream import LINGER_S, QuicStream
from kodectl.node.routes import Route
from kodectl.runtime.base import Address, Runtime, Timer


class PathBook:
    """Every base is known from its first use until `forget`."""

    def __init__(
        self, path_of_shared: Callable[[Address], Path], send_shared: Callable[[Sequence[bytes], Address], None]
    ):
        """`path_of_shared` names, and `send_shared` serves, the paths over discovery's socket."""
        self._path_of_shared = path_of_shared
        self._send_shared = send_shared
        self._names: dict[SendingBase, str] = {}
        self._bases: dict[str, SendingBase] = {}
        self._numbers = count(1)

    def path(self, base: SendingBase, remote: Address, *, is_shared: bool) -> Path:
        if is_shared:
            return self._path_of_shared(remote)
        name = self._names.get(base)
        if name is None:
            name = self._names[base] = f"base {next(self._numbers)}"
            self._bases[name] = base
        return Path(base.address, remote, name)

    def send(self, datagrams: Sequence[bytes], path: Path) -> None:
        """By the path; nothing is sent over a base that is gone."""
        if not path.via:
            self._send_shared(datagrams, path.remote)
            return
        base = self._bases.get(path.via)
        if base is not None:
            for datagram in datagrams:
                base.send(datagram, path.remote)

    def base_of(self, path: Path) -> SendingBase | None:
        """None for discovery's socket, and for one that is gone."""
        return self._bases.get(path.via)

    def forget(self, bases: Iterable[SendingBase]) -> None:
        for base in bases:
            name = self._names.pop(base, None)
            if name is not None:
                del self._bases[name]


class IceStream:
    """See `runtime.base.Stream` and `node.routes.RoutedStream`. `on_closed` is called once, after `close`, when
    the connection is gone, or what was written has had its time to arrive."""

    def __init__(
        self, runtime: Runtime, stream: QuicStream, route: Callable[[], Route], on_closed: Callable[[], None]
    ) -> None:
        self._runtime = runtime
        self._stream = stream
        self._route = route
        self._on_closed = on_closed
        self._is_closed = False
        self._ending: Timer | None = None

    @property
    def local(self) -> Address:
        local = self._route().local
        return local.address if local is not None else self._stream.local

    @property
    def remote(self) -> Address:
        remote = self._route().remote
        return remote.address if remote is not None else self._stream.remote

    @property
    def route(self) -> Route:
        return self._route()

    def read_exactly(self, size: int) -> bytes:
        return self._stream.read_exactly(size)

    def write(self, data: bytes) -> None:
        self._stream.write(data)

    def close(self) -> None:
        self._stream.close()
        if self._is_closed:
            return
        self._is_closed = True
        self._ending = self._runtime.call_later(0.0 if self._stream.is_gone else LINGER_S, self._end)
        self._stream.on_gone = self._end

    def _end(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None
            self._on_closed()
