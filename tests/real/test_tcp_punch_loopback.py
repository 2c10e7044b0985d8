"""The TCP punch with kernels; through real NATs it is in tests/lab."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import gevent
import psutil
import pytest

from kodectl.node.tcp_base import TcpBase
from kodectl.node.tcp_punch import UNREACHABLE_PAUSE_S, TcpPunch
from kodectl.runtime.base import ConnectFailed, Mailbox, Stream
from kodectl.runtime.green import GreenRuntime

HOST = "127.0.0.1"
NOWHERE = ("255.255.255.255", 9)


@pytest.fixture
def runtime() -> Iterator[GreenRuntime]:
    made = GreenRuntime()
    with gevent.Timeout(20.0):
        yield made
    made.close()


def test_one_connection_comes_of_two_that_dial_each_other(runtime: GreenRuntime) -> None:
    """Here a listener is always there before the own dial, which finds its two ends connected already."""
    scope = runtime.scope("punch")
    punches: list[TcpPunch] = []

    def accept(number: int, stream: Stream) -> None:
        assert punches[number].accepted(stream)

    listeners = [runtime.listen((HOST, 0), partial(accept, number)) for number in range(2)]
    ports = [listener.local[1] for listener in listeners]
    for own, other in (ports, ports[::-1]):
        punches.append(TcpPunch(runtime, scope, own, [(HOST, other)]))
    for punch in punches:
        punch.start(5.0)
    near, far = (punch.wait() for punch in punches)
    assert (near.local, near.remote) == (far.remote, far.local) == ((HOST, ports[0]), (HOST, ports[1]))
    far.write(b"hello")
    assert near.read_exactly(5) == b"hello"
    for closable in (near, far, *punches, *listeners):
        closable.close()
    assert scope.join(2.0) == []
    assert not runtime.faults.counts


def test_where_there_is_no_way_it_rests(runtime: GreenRuntime) -> None:
    scope = runtime.scope("punch")
    punch = TcpPunch(runtime, scope, 0, [NOWHERE])
    punch.start(2.5 * UNREACHABLE_PAUSE_S)
    with pytest.raises(ConnectFailed, match=r"3 dials .* unreachable") as failed:
        punch.wait()
    assert failed.value.reason == "timeout"
    punch.close()
    assert scope.join(2.0) == []


@pytest.mark.parametrize("end", ["base", "scope"])
def test_the_two_ends_can_be_connected_again_at_once(runtime: GreenRuntime, end: str) -> None:
    """No half of the connection is left in TIME-WAIT, whoever ended it, and how."""
    accepted: Mailbox[Stream] = runtime.mailbox(1)
    listener = runtime.listen((HOST, 0), lambda stream: None if accepted.put(stream) else stream.close())
    dialled = runtime.connect(listener.local, 5.0)
    scopes = [runtime.scope("near"), runtime.scope("far")]
    bases = [
        TcpBase(runtime, scope, stream, lambda base, data, sender: None)
        for scope, stream in zip(scopes, (dialled, accepted.get()), strict=True)
    ]
    if end == "base":
        bases[0].close()
    else:
        scopes[0].close()
    for scope in scopes:
        assert scope.join(5.0) == []
    ports = {listener.local[1], bases[0].address[1]}
    left = [
        one.status for one in psutil.net_connections("tcp4") if one.raddr and {one.laddr.port, one.raddr.port} == ports
    ]
    assert left == []
    listener.close()
