"""What the checks are told of the machine that only its operating system knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


def _no_hops(target: str, count: int, limit_s: float) -> list[str | None]:
    return [None] * count


def _says_nothing(*_: object) -> None:
    return None


class Machine(NamedTuple):
    clock_synchronised: bool | None = None
    """By the kernel's word; None: it has none."""
    set_clock: str = "timedatectl set-ntp true"
    """The command that sets the clock right."""
    let_in: Callable[[str, int], str | None] = _says_nothing
    """The command that lets a transport (udp, tcp) and port through this machine's firewall; None where it has none."""
    let_out: Callable[[str], str | None] = _says_nothing
    """The same for a transport on its way out."""
    may_send: Callable[[str, int], bool] = lambda host, port: True
    """Whether this machine lets a datagram to there leave at all. Sends one."""
    first_hops: Callable[[str, int, float], list[str | None]] = _no_hops
    """Blocks; see `runtime.hops`."""
