"""What the runtime and its UPnP worker say to each other: one JSON line each way, then the worker ends."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from kodectl.errors import WireError
from kodectl.wire.upnp import Service


class Find(msgspec.Struct, frozen=True, tag=True):
    """Look for a router that maps ports. Answered by Search."""

    source: str
    """This host's address; the search goes out by its interface."""
    network: str
    """The local network, in CIDR notation: others' answers are not listened to."""
    gateway: str | None


class Add(msgspec.Struct, frozen=True, tag=True):
    """Answered by Given."""

    service: Service
    client: str
    transport: str
    internal_port: int
    external_port: int
    """0: any."""
    lease_s: int
    description: str


class Read(msgspec.Struct, frozen=True, tag=True):
    """One mapping, by its outer port. Answered by Listed, with one entry or none."""

    service: Service
    transport: str
    external_port: int


class Remove(msgspec.Struct, frozen=True, tag=True):
    """Answered by Done; only what belongs to the client is removed."""

    service: Service
    client: str
    transport: str
    external_port: int


class List(msgspec.Struct, frozen=True, tag=True):
    """Answered by Listed."""

    service: Service


class Status(msgspec.Struct, frozen=True, tag=True):
    """Answered by State."""

    service: Service


Call = Find | Add | Read | Remove | List | Status


class Entry(msgspec.Struct, frozen=True):
    """A mapping as the router lists it."""

    transport: str
    external_port: int
    client: str
    """The inner host; empty where the router's text for it cannot be read."""
    internal_port: int
    lease_s: int
    description: str


class Found(msgspec.Struct, frozen=True):
    service: Service
    name: str
    uptime_s: int | None


class Search(msgspec.Struct, frozen=True, tag=True):
    found: Found | None
    refused: tuple[str, ...]
    """Who was not believed, and why."""


class Given(msgspec.Struct, frozen=True, tag=True):
    external_port: int
    lease_s: int
    """0: for ever."""
    external_ip: str | None


class Listed(msgspec.Struct, frozen=True, tag=True):
    entries: tuple[Entry, ...]


class Done(msgspec.Struct, frozen=True, tag=True):
    pass


class State(msgspec.Struct, frozen=True, tag=True):
    """None: the router does not tell."""

    external_ip: str | None
    uptime_s: int | None


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The router answered with a UPnP error; None: one without a number that is known."""

    number: int | None


class Silent(msgspec.Struct, frozen=True, tag=True):
    """The router gave no answer that could be used."""


class Malformed(msgspec.Struct, frozen=True, tag=True):
    """The router answered nonsense."""

    why: str


Trouble = Refused | Silent | Malformed
Answer = Search | Given | Listed | Done | State | Trouble
T = TypeVar("T", bound=Answer)


def pack(message: Call | Answer) -> bytes:
    return msgspec.json.encode(message) + b"\n"


def unpack_call(line: bytes) -> Call:
    call: Call = msgspec.json.decode(line, type=Call)
    return call


def unpack_answer(data: bytes, kind: type[T]) -> T | Trouble:
    """What a worker wrote, which a router may have led astray. Raises WireError."""
    try:
        answer: Any = msgspec.json.decode(data, type=kind | Trouble)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError("what the router answered by UPnP was too much for the process that read it") from error
    return answer
