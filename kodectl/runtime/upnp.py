"""Port mapping by UPnP IGD, as seen from the node: a gateway whose calls wait, and never in the hub.

The work is done by `runtime.upnp_worker`, in a process for each call; why, it says there.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
from gevent import Timeout
from gevent.subprocess import DEVNULL, PIPE, Popen

import kodectl
from kodectl.core.gateway_epoch import NATPMP_DRIFT, EpochWatch
from kodectl.core.mapping import Method, PortMapping, Transport, Wish
from kodectl.core.refusals import refused
from kodectl.errors import NegativeAnswer, WireError
from kodectl.runtime import upnp_calls as calls
from kodectl.runtime.base import Runtime

log = logging.getLogger(__name__)

PACKAGE_ROOT = str(Path(kodectl.__file__).parents[1])
"""The worker is to be of the same installation, wherever it is started."""
WORKER = ("-P", "-m", "kodectl.runtime.upnp_worker")
"""-P: whatever lies about in the current directory is not imported."""
FIND_LIMIT_S = 6.0
"""Two seconds of search, and a second for a description, of which the default gateway's comes first."""
CALL_LIMIT_S = 5.0
"""A call needs a few exchanges of some milliseconds; slow routers take one second for all of them."""
LIST_LIMIT_S = 12.0
"""For 256 exchanges."""
MAX_ANSWER = 256 * 1024
"""Bytes; 256 mappings have 50,000."""
DESCRIPTION = "kodectl"
"""Shown in the router's own list."""
NO_ADDRESS = "0.0.0.0"
STATE_FRESH_S = 2.0
"""Who looks after mappings asks for a restart and for the outer address, one after the other: that is one call."""

T = TypeVar("T", bound=calls.Answer)


def find_upnp(runtime: Runtime) -> UpnpGateway:
    """Searches by multicast, on the interface of the default route alone. Raises NegativeAnswer (no_gateway)."""
    here = runtime.local_network()
    if here.source is None:
        raise _no_gateway("there is no IPv4 default route, so no router to ask")
    call = calls.Find(here.source, _network_of(here.source), here.gateway)
    try:
        outcome = _ask(call, calls.Search, FIND_LIMIT_S)
    except (_RouterRefuses, _Silence, WireError) as error:
        raise _no_gateway("what answered a search does not answer as a router should") from error
    if outcome.found is not None:
        return UpnpGateway(runtime, outcome.found, here.source)
    why = f"; not believed: {', '.join(outcome.refused)}" if outcome.refused else ""
    raise _no_gateway(f"no router of this network answered a search{why}")


class UpnpGateway:
    """See `core.mapping.Gateway`."""

    method = Method.UPNP

    def __init__(self, runtime: Runtime, found: calls.Found, source: str) -> None:
        self.address = found.service.control.ip
        self.name = found.name or self.address
        self._runtime = runtime
        self._service = found.service
        self._source = source
        self._epoch = EpochWatch(NATPMP_DRIFT)
        self._uptime_s: int | None = None
        self._state: calls.State | None = None
        self._state_read_at = float("-inf")
        self._observe(found.uptime_s)

    def external_ip(self) -> str | None:
        state = self._state
        if state is None or self._runtime.now() - self._state_read_at > STATE_FRESH_S:
            state = self._read_state()
        return state.external_ip

    def add(self, wish: Wish) -> PortMapping:
        if self._runtime.local_network().source != self._source:
            raise _no_gateway(f"this host is no longer {self._source}, as which it found the router {self.address}")
        call = calls.Add(
            self._service,
            self._source,
            wish.transport.value,
            wish.internal_port,
            wish.external_port,
            wish.lease_s,
            DESCRIPTION,
        )
        given = self._ask(call, calls.Given, f"{wish.internal_port}/{wish.transport.value}")
        return PortMapping(
            method=self.method,
            transport=wish.transport,
            internal=(self._source, wish.internal_port),
            external=(given.external_ip or NO_ADDRESS, given.external_port),
            lease_s=given.lease_s,
            gateway=self.address,
            description=DESCRIPTION,
        )

    def verify(self, mapping: PortMapping) -> bool:
        call = calls.Read(self._service, mapping.transport.value, mapping.external[1])
        entries = self._ask(call, calls.Listed).entries
        return any((entry.client, entry.internal_port) == mapping.internal for entry in entries)

    def remove(self, mapping: PortMapping) -> None:
        """Raises MappingRefused (mapping_conflict) when the port is by now another host's."""
        call = calls.Remove(self._service, self._source, mapping.transport.value, mapping.external[1])
        self._ask(call, calls.Done, f"{mapping.internal[1]}/{mapping.transport.value}")

    def mappings(self) -> list[PortMapping]:
        """At most 256."""
        external_ip = self.external_ip()
        entries = self._ask(calls.List(self._service), calls.Listed, limit_s=LIST_LIMIT_S).entries
        return [self._mapping_of(entry, external_ip) for entry in entries]

    def has_restarted(self) -> bool:
        """By its uptime, which has to grow as our clock does. Some routers count from when their line came up: then that
        is what has begun anew, and making the mappings again does no harm."""
        self._read_state()
        return self._epoch.take_reset()

    def _read_state(self) -> calls.State:
        self._state = self._ask(calls.Status(self._service), calls.State)
        self._state_read_at = self._runtime.now()
        self._observe(self._state.uptime_s)
        return self._state

    def _observe(self, uptime_s: int | None) -> None:
        # Some give the same number always, which is no uptime.
        if uptime_s is not None and uptime_s != self._uptime_s:
            self._uptime_s = uptime_s
            self._epoch.observe(uptime_s, self._runtime.now())

    def _mapping_of(self, entry: calls.Entry, external_ip: str | None) -> PortMapping:
        return PortMapping(
            method=self.method,
            transport=Transport(entry.transport),
            internal=(entry.client, entry.internal_port),
            external=(external_ip or NO_ADDRESS, entry.external_port),
            lease_s=entry.lease_s,
            gateway=self.address,
            description=entry.description,
        )

    def _ask(self, call: calls.Call, kind: type[T], what: str = "a question", limit_s: float | None = None) -> T:
        """`what` it is about, for the message when the router refuses."""
        try:
            return _ask(call, kind, limit_s or CALL_LIMIT_S)
        except _RouterRefuses as refusal:
            raise refused(self.method, refusal.number, what) from refusal
        except _Silence as silence:
            raise _no_gateway(f"the router {self.address} has stopped answering by UPnP") from silence


class _RouterRefuses(Exception):
    def __init__(self, number: int | None) -> None:
        super().__init__(number)
        self.number = number


class _Silence(Exception):
    pass


def _ask(call: calls.Call, kind: type[T], limit_s: float) -> T:
    """Raises _RouterRefuses, _Silence, or WireError."""
    data = _run_worker(calls.pack(call), limit_s)
    if data is None:
        raise _Silence
    match answer := calls.unpack_answer(data, kind):
        case calls.Refused():
            raise _RouterRefuses(answer.number)
        case calls.Silent():
            raise _Silence
        case calls.Malformed():
            raise WireError(f"by UPnP, {answer.why}")
    return answer


def _run_worker(line: bytes, limit_s: float) -> bytes | None:
    """What the worker writes; None when it had to be ended. Whatever happens, it is gone afterwards."""
    worker = _start_worker()
    try:
        with Timeout(limit_s, False):
            worker.stdin.write(line)
            return b"".join(_pieces(worker.stdout))
        return None
    except BrokenPipeError:
        # It has ended without reading, and so without an answer.
        return b""
    finally:
        worker.kill()
        worker.stdin.close()
        worker.stdout.close()
        worker.wait()


def _start_worker() -> Any:
    try:
        return Popen(
            [sys.executable, *WORKER],
            bufsize=0,
            stdin=PIPE,
            stdout=PIPE,
            # The library's own complaints, or a traceback: of use to nobody else.
            stderr=None if log.isEnabledFor(logging.DEBUG) else DEVNULL,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, (PACKAGE_ROOT, os.environ.get("PYTHONPATH")))),
            },
            # Ctrl-C is the caller's to answer; he may want to remove a mapping because of it.
            start_new_session=True,
        )
    except OSError as error:
        raise _no_gateway(f"UPnP runs in a process of its own, and none can be started: {error.strerror}") from error


def _pieces(stream: Any) -> Iterator[bytes]:
    """Until the end, or until it is too much."""
    left = MAX_ANSWER
    while left > 0 and (piece := stream.read(left)):
        left -= len(piece)
        yield piece


def _network_of(source: str) -> str:
    """The network of this address; without a mask, it alone, and then nobody but the gateway is listened to."""
    for entries in psutil.net_if_addrs().values():
        for entry in entries:
            if entry.address == source and entry.netmask:
                return str(ipaddress.ip_network(f"{source}/{entry.netmask}", strict=False))
    return source


def _no_gateway(why: str) -> NegativeAnswer:
    return NegativeAnswer(
        why, code="no_gateway", hint="switch on UPnP in the router, or forward the port there by hand"
    )
