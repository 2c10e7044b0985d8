"""By which way a link runs, for those who are told of it."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol, runtime_checkable

from kodectl.runtime.base import Stream
from kodectl.wire.candidates import Candidate


class Route(NamedTuple):
    """`local` and `remote`: the candidate pair in use, of a link that was made by ICE (RFC 8445)."""

    path: Literal["direct", "relay"] = "direct"
    transport: Literal["tcp", "quic"] = "tcp"
    local: Candidate | None = None
    remote: Candidate | None = None


PLAIN_TCP = Route()
"""Of a stream that says nothing of its way: it is a connection to where it leads."""


@runtime_checkable
class RoutedStream(Stream, Protocol):
    """A stream whose way may change while it lives."""

    @property
    def route(self) -> Route: ...
