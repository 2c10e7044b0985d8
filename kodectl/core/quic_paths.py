"""The paths of one QUIC connection, and the addresses that stand for them.

QUIC knows a path by two addresses; here it may as well be a relay's channel or a pair of an ICE session. So the
library is shown made-up addresses, one for each path. A path that appears by itself (a NAT gave its sender another
port) has an address of its own, and the library validates it before it follows; but not while the current path is
alive, for then it may be somebody who copies packets and is faster (RFC 9000, section 9.3.3), and the library does not
come back from a path that fails. A path that the owner moves to takes the place of the current one, under its address:
the owner knows that it works.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

Address = tuple[str, int]

ALIVE_S = 0.5
"""Since something came over the current path: until then another one is not followed. So long the answers to one whose
NAT has given him another port go astray, which QUIC repeats."""

MAX_PATHS = 8
"""Of one connection, the latest used: two or three are real, the others somebody's forgeries."""

_STAND_IN_IP = "192.0.2.1"
_PORTS = 65_535


class Path(NamedTuple):
    """From here to there. `via` names what carries it where that is not UDP between the two addresses, such as a relay."""

    local: Address
    remote: Address
    via: str = ""


class Paths:
    """Ordered by when they were last sent on: a forged sender is never sent to, and pushes out none but another."""

    __slots__ = ("_alive_at", "_behind", "_count", "_stand_ins")

    def __init__(self, path: Path) -> None:
        self._count = 0
        self._alive_at = float("-inf")
        self._stand_ins: OrderedDict[Path, Address] = OrderedDict()
        self._behind: OrderedDict[Address, Path] = OrderedDict()
        """More than stand for a path now: the library goes on using what a path had before it was moved to."""
        self.stand_in(path)

    def __contains__(self, path: Path) -> bool:
        return path in self._stand_ins

    def __len__(self) -> int:
        return len(self._behind)

    def stand_in(self, path: Path) -> Address:
        """The address that the library is to see for `path`."""
        address = self._stand_ins.get(path)
        if address is None:
            self._make_room()
            address = self._unused()
            self._enter(path, address)
            self._behind[address] = path
            self._behind.move_to_end(address, last=False)
        return address

    def heard(self, path: Path, now: float) -> Address:
        """The address under which the library is to see what came over `path`."""
        current = self._current
        if self._stand_ins.get(path) == current:
            self._alive_at = now
        elif now - self._alive_at >= ALIVE_S:
            return self.stand_in(path)
        return current

    @property
    def path(self) -> Path:
        """That was sent on last."""
        return self._behind[self._current]

    @property
    def _current(self) -> Address:
        return next(reversed(self._stand_ins.values()))

    def behind(self, address: Address) -> Path | None:
        """The path to send on where the library says `address`; None for one that is forgotten."""
        path = self._behind.get(address)
        if path is not None:
            self._stand_ins.move_to_end(path)
            self._behind.move_to_end(address)
        return path

    def move(self, path: Path) -> None:
        """What the library sends to any address it knows goes over `path` from now on; what still comes over another
        path is known under the same address as before, and moves nothing back."""
        address = self._current
        self._stand_ins.pop(path, None)
        self._enter(path, address)
        self._stand_ins.move_to_end(path)
        for known in self._behind:
            self._behind[known] = path

    def _enter(self, path: Path, address: Address) -> None:
        if len(self._stand_ins) >= MAX_PATHS:
            self._forget(next(iter(self._stand_ins)))
        self._stand_ins[path] = address
        self._stand_ins.move_to_end(path, last=False)

    def _forget(self, path: Path) -> None:
        del self._stand_ins[path]
        for address in [known for known, behind in self._behind.items() if behind == path]:
            del self._behind[address]

    def _make_room(self) -> None:
        if len(self._behind) >= MAX_PATHS:
            address, _ = self._behind.popitem(last=False)
            for path in [known for known, stand_in in self._stand_ins.items() if stand_in == address]:
                del self._stand_ins[path]

    def _unused(self) -> Address:
        while True:
            self._count = self._count % _PORTS + 1
            if (_STAND_IN_IP, self._count) not in self._behind:
                return _STAND_IN_IP, self._count
