"""What pystun3 makes of the NAT: the procedure of RFC 3489, section 10.1, by the hand of others, as a cross-check.

pystun3 is given a socket that is none, but a line over the runtime. So its known faults cannot do harm:

* It ends in KeyError on a datagram that is not STUN, and fails on attributes that do not add up: what it gets to see answers
  its last request, and is written anew from what our own decoder read.
* It takes an answer from the very address that it asked for one from another: that is kept from it.
* It knows no XOR-MAPPED-ADDRESS: what a server says only there is written down as MAPPED-ADDRESS.
* It waits four times 2 s for each silent test: here its clock runs faster, and it ends with the probe.
* It sends to whatever a server names as its other address: it gets to see only one that has proved to be the server's.

It does not know of loss, so its word decides nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import stun

from kodectl.core.nat import NatType
from kodectl.errors import WireError
from kodectl.runtime.base import Address, Mailbox, Runtime, TimedOut
from kodectl.wire.stun import CLASSIC_ID_SIZE, Attribute, Message, MessageClass, Method, decode, encode

WAIT_S = 0.4
"""For an answer, four times for each test: three tests that are silent take 5 s."""
MAX_WAITING = 16
"""Datagrams; one is waited for at a time."""

_TYPES = {
    stun.Blocked: NatType.BLOCKED,
    stun.OpenInternet: NatType.OPEN,
    stun.FullCone: NatType.FULL_CONE,
    stun.SymmetricUDPFirewall: NatType.FIREWALLED,
    stun.RestricNAT: NatType.RESTRICTED,
    stun.RestricPortNAT: NatType.PORT_RESTRICTED,
    stun.SymmetricNAT: NatType.SYMMETRIC,
}


class ClassicAnswer(NamedTuple):
    """`words` are pystun3's own; `nat_type` None where it ended without one, for the reason `trouble`."""

    server: str
    words: str | None
    nat_type: NatType | None
    mapped: Address | None
    trouble: str | None


class _Over(Exception):
    """Ends pystun3: it catches only some of what `sendto` raises. Its text is the reason's code."""


def ask_classic(
    runtime: Runtime, name: str, server: Address, other: Address | None, source_ip: str | None, ends: float
) -> ClassicAnswer:
    """Waits, at most until the time `ends`. `other`: the server's other address, if it has proved to have one; `source_ip`:
    what pystun3 compares the outer address with."""
    if ":" in server[0] or source_ip is None:
        return ClassicAnswer(name, None, None, None, "ipv4_only")
    line = _Line(runtime, other, ends)
    try:
        words, _ = stun.get_nat_type(line, source_ip, line.port, stun_host=server[0], stun_port=server[1])
    except _Over as over:
        return ClassicAnswer(name, None, None, line.mapped, str(over))
    except (KeyError, TypeError, ValueError, IndexError):  # what it fails with on what it did not expect
        return ClassicAnswer(name, None, None, line.mapped, "failed")
    finally:
        line.close()
    nat_type = _TYPES.get(words)
    return ClassicAnswer(name, words, nat_type, line.mapped, None if nat_type else "no_answer")


class _Line:
    """As much of a socket as pystun3 uses. `mapped`: what the server said first."""

    def __init__(self, runtime: Runtime, other: Address | None, ends: float) -> None:
        self._runtime = runtime
        self._other = other
        self._ends = ends
        self._arrived: Mailbox[tuple[bytes, Address]] = runtime.mailbox(MAX_WAITING)
        self._socket = runtime.open_datagram(("0.0.0.0", 0), self._received)
        self._request = Message(MessageClass.REQUEST, Method.BINDING, bytes(CLASSIC_ID_SIZE))
        self._target: Address | None = None
        self.mapped: Address | None = None

    @property
    def port(self) -> int:
        return self._socket.local[1]

    def close(self) -> None:
        self._socket.close()

    def _received(self, data: bytes, sender: Address) -> None:
        self._arrived.put((data, sender))

    def sendto(self, data: bytes, address: tuple[str | None, int | None]) -> None:
        ip, port = address
        if ip is None or port is None:
            raise _Over("server_has_one_address")
        if self._runtime.now() >= self._ends:
            raise _Over("deadline")
        self._request = decode(data)
        self._target = (ip, port)
        self._socket.send(data, (ip, port))

    def recvfrom(self, size: int) -> tuple[bytes, Address]:
        """Raises TimeoutError, after which pystun3 sends again, four times in all."""
        limit = min(self._runtime.now() + WAIT_S, self._ends)
        while True:
            try:
                data, sender = self._arrived.get(max(0.0, limit - self._runtime.now()))
            except TimedOut as error:
                raise TimeoutError from error
            answer = self._rewritten(data, sender)
            if answer is not None:
                return answer, sender

    def _rewritten(self, data: bytes, sender: Address) -> bytes | None:
        """The answer as RFC 3489 has it; None for what answers nothing."""
        try:
            answer = decode(data)
        except WireError:
            return None
        is_changed = self._request.get(Attribute.CHANGE_REQUEST) is not None
        mapped = _first(answer, Attribute.MAPPED_ADDRESS, Attribute.XOR_MAPPED_ADDRESS)
        if (
            answer.transaction_id != self._request.transaction_id
            or answer.kind is not MessageClass.SUCCESS
            or mapped is None
            or (sender == self._target) == is_changed
        ):
            return None
        self.mapped = self.mapped or mapped
        attributes = [(Attribute.MAPPED_ADDRESS, mapped)]
        changed = _first(answer, Attribute.CHANGED_ADDRESS, Attribute.OTHER_ADDRESS)
        if changed is not None and changed == self._other:
            attributes.append((Attribute.CHANGED_ADDRESS, changed))
        return encode(answer._replace(attributes=tuple(attributes)))


def _first(answer: Message, *attributes: Attribute) -> Address | None:
    found: Address | None = next((value for name in attributes if (value := answer.get(name)) is not None), None)
    return found if found is None or ":" not in found[0] else None
