"""A runtime whose waits fail, in every way that `kodectl.runtime.base` documents, at every place that waits.

A place is the file and line in `kodectl/node` or `kodectl/store` that waits, with that of its caller: one function that reads
from a stream is as many places as there are readings."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from kodectl.errors import EnvironmentFault, NegativeAnswer
from kodectl.runtime.base import ConnectFailed, Connection, StreamClosed, TimedOut
from kodectl.sim.runtime import SimRuntime

DEPTH = 2
"""Frames that name a place."""
OURS = ("kodectl/node/", "kodectl/store/")

Place = tuple[str, str]
"""What waits, and where."""


class Saboteur:
    """Decides which wait fails. `choose(place, count)`: whether the `count`th time at that place does, from 1."""

    def __init__(self, choose: Callable[[Place, int], bool]) -> None:
        self.armed = False
        self.waits: Callable[[float], object] = lambda seconds: None
        """What a limit is reached by: time passes, or a loop that tries again would have none."""
        self.visits: Counter[Place] = Counter()
        self.struck: Counter[Place] = Counter()
        self._choose = choose

    def strikes(self, what: str) -> bool:
        if not self.armed:
            return False
        place = what, _caller()
        self.visits[place] += 1
        if not self._choose(place, self.visits[place]):
            return False
        self.struck[place] += 1
        return True


@contextmanager
def sabotaged(runtime: SimRuntime, saboteur: Saboteur) -> Iterator[None]:
    """All that waits on `runtime` asks `saboteur` first; before the node is made."""
    verbs = ("connect", "resolve", "in_thread", "listen", "open_datagram", "mailbox")
    saboteur.waits = lambda seconds: runtime.event().wait(seconds)
    for verb in verbs:
        setattr(runtime, verb, partial(globals()[f"_{verb}"], saboteur, getattr(runtime, verb)))
    try:
        yield
    finally:
        for verb in verbs:
            delattr(runtime, verb)


def _connect(
    saboteur: Saboteur, connect: Callable[..., Connection], remote: Any, timeout_s: float, *args: Any, **settings: Any
) -> Any:
    for reason in ("refused", "timeout", "unreachable"):
        if saboteur.strikes(f"connect, {reason}"):
            saboteur.waits(timeout_s if reason == "timeout" else 0.0)
            raise ConnectFailed(reason, "sabotage")
    return BrittleStream(connect(remote, timeout_s, *args, **settings), saboteur)


def _listen(saboteur: Saboteur, listen: Callable[..., Any], local: Any, accept: Callable[[Any], None]) -> Any:
    if saboteur.strikes("listen"):
        raise EnvironmentFault("sabotage: the port is in use", code="port_in_use")
    return listen(local, lambda stream: accept(BrittleStream(stream, saboteur)))


def _resolve(saboteur: Saboteur, resolve: Callable[..., Any], *args: Any, **settings: Any) -> Any:
    if saboteur.strikes("resolve"):
        raise NegativeAnswer("sabotage: no such name", code="name_not_resolved")
    return resolve(*args, **settings)


def _in_thread(saboteur: Saboteur, in_thread: Callable[..., Any], function: Callable[..., Any], *args: Any) -> Any:
    if saboteur.strikes(f"in_thread, {function.__name__}"):
        raise EnvironmentFault("sabotage: the disk is full", code="disk_full")
    return in_thread(function, *args)


def _open_datagram(saboteur: Saboteur, open_datagram: Callable[..., Any], *args: Any) -> Any:
    if saboteur.strikes("open_datagram"):
        raise EnvironmentFault("sabotage: no such address", code="address_not_available")
    return open_datagram(*args)


def _mailbox(saboteur: Saboteur, mailbox: Callable[[int], Any], limit: int) -> Any:
    return ForgetfulMailbox(mailbox(limit), saboteur)


class BrittleStream:
    """A TCP connection that may break at each reading and writing."""

    def __init__(self, stream: Connection, saboteur: Saboteur) -> None:
        self._stream = stream
        self._saboteur = saboteur

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def read_exactly(self, size: int) -> bytes:
        self._break("read")
        return self._stream.read_exactly(size)

    def write(self, data: bytes) -> None:
        self._break("write")
        self._stream.write(data)

    def _break(self, what: str) -> None:
        if self._saboteur.strikes(what):
            self._stream.reset()
            raise StreamClosed("sabotage")


class ForgetfulMailbox:
    """A mailbox whose waits with a limit may reach it, with nothing."""

    def __init__(self, mailbox: Any, saboteur: Saboteur) -> None:
        self._mailbox = mailbox
        self._saboteur = saboteur

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mailbox, name)

    def __len__(self) -> int:
        return len(self._mailbox)

    def get(self, timeout_s: float | None = None) -> Any:
        if timeout_s is not None and self._saboteur.strikes("get"):
            self._saboteur.waits(timeout_s)
            raise TimedOut
        return self._mailbox.get(timeout_s)


def _caller() -> str:
    names: list[str] = []
    frame = sys._getframe(1)
    while frame is not None and len(names) < DEPTH:
        path = frame.f_code.co_filename
        for ours in OURS:
            if (at := path.find(ours)) >= 0:
                names.append(f"{path[at + len('kodectl/') :]}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back  # type: ignore[assignment]
    return " < ".join(names)
