"""A router's port mapping service, through miniupnpc; runs in the UPnP worker only.

The library is given a description of our own making with the one service that was chosen, from a socket on the
loopback interface: so it never reads a description that we have not read, and there is nothing for a router to change
in between. What it does read are the answers to its calls.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import miniupnpc

from kodectl.errors import WireError
from kodectl.runtime.upnp_calls import Add, Entry, Given, Remove
from kodectl.wire.upnp import MAX_HEAD, Service, pack_description

MAX_ENTRIES = 256
"""Mappings listed. Routers have room for 16 to 128; some answer every index."""
MAX_PORT = 65_535

NO_SUCH_ENTRY = 714
CONFLICT = 718
SAME_PORTS = 724
TAKEN = frozenset({CONFLICT, 729})
"""By another, or by the router itself: another outer port may be free."""
WITHOUT_END = frozenset({402, 501, 725})
"""725 says that a lease must be endless; others of that kind say only that they do not take the arguments, or fail."""

NUMBERS = {
    "Invalid Action": 401,
    "Invalid Args": 402,
    "Action Failed": 501,
    "Argument Value Invalid": 600,
    "Argument Value Out of Range": 601,
    "Optional Action Not Implemented": 602,
    "Out of Memory": 603,
    "Human Intervention Required": 604,
    "String Argument Too Long": 605,
    "Action not authorized": 606,
    "SpecifiedArrayIndexInvalid": 713,
    "NoSuchEntryInArray": 714,
    "WildCardNotPermittedInSrcIP": 715,
    "WildCardNotPermittedInExtPort": 716,
    "ConflictInMappingEntry": 718,
    "SamePortValuesRequired": 724,
    "OnlyPermanentLeasesSupported": 725,
    "RemoteHostOnlySupportsWildcard": 726,
    "ExternalPortOnlySupportsWildcard": 727,
    "NoPortMapsAvailable": 728,
    "ConflictWithOtherMechanisms": 729,
    "PortMappingNotFound": 730,
    "ReadOnly": 731,
    "WildCardNotPermittedInIntPort": 732,
    "InconsistentParameters": 733,
}
"""The library's Python binding lets out the text of an error only."""
NO_ANSWER = ("Miniupnpc HTTP error", "No UPnP device discovered")
"""No connection, nothing within five seconds, or more than there is memory for."""
NONSENSE = ("Miniupnpc Unknown Error", "Miniupnpc Invalid response", "Miniupnpc Invalid Arguments")


class ActionRefused(Exception):
    """The router answered with a UPnP error."""

    def __init__(self, number: int | None) -> None:
        super().__init__(number)
        self.number = number


class RouterSilent(Exception):
    """No answer that could be used."""


class Igd:
    """The actions, one call each. They raise ActionRefused, RouterSilent, or WireError for nonsense."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._upnp = miniupnpc.UPnP()
        with _served(pack_description(service)) as url:
            control = _call(self._upnp.selectigd, url)
        assert control == str(service.control), control

    def uptime_s(self) -> int | None:
        """None where the router does not tell. Raises RouterSilent."""
        status = self._status()
        # 0 is also what the library makes of a text that is no number.
        return None if status is None else status[1] or None

    def is_connected(self) -> bool:
        status = self._status()
        return status is not None and status[0] in ("Connected", "Up")

    def external_ip(self) -> str | None:
        try:
            text = _call(self._upnp.externalipaddress)
        except ActionRefused:
            return None
        return _outer_address(text)

    def entry(self, port: int, transport: str) -> Entry | None:
        try:
            found = _call(self._upnp.getspecificportmapping, port, transport.upper())
        except UnicodeDecodeError:
            return Entry(transport, port, "", 0, 0, "")
        if found is None:
            self._raise_if_silent()
            return None
        client, internal_port, description, _, lease_s = found
        return Entry(transport, port, client, internal_port, max(0, lease_s), description)

    def entries(self) -> list[Entry]:
        """At most MAX_ENTRIES, and none twice."""
        found: dict[tuple[str, int], Entry] = {}
        for index in range(MAX_ENTRIES):
            try:
                row = _call(self._upnp.getgenericportmapping, index)
            except UnicodeDecodeError:
                continue
            if row is None:
                self._raise_if_silent()
                break
            port, protocol, (client, internal_port), description, _, _, lease_s = row
            transport = protocol.lower()
            if (transport, port) in found:
                break
            if transport in ("tcp", "udp"):
                found[transport, port] = Entry(transport, port, client, internal_port, lease_s, description)
        return list(found.values())

    def add(self, ask: Add, port: int, lease_s: int) -> None:
        _call(
            self._upnp.addportmapping,
            port,
            ask.transport.upper(),
            ask.client,
            ask.internal_port,
            ask.description,
            "",
            lease_s,
        )

    def add_any(self, ask: Add, port: int) -> int:
        """Answers the port that the router has chosen; the binding can ask for no lease."""
        arguments = (port, ask.transport.upper(), ask.client, ask.internal_port, ask.description, "")
        chosen: int = _call(self._upnp.addanyportmapping, *arguments)
        if not 0 < chosen <= MAX_PORT:
            raise WireError("the router gives a port that is none")
        return chosen

    def delete(self, port: int, transport: str) -> None:
        try:
            _call(self._upnp.deleteportmapping, port, transport.upper())
        except ActionRefused as refusal:
            if refusal.number != NO_SUCH_ENTRY:
                raise

    def _raise_if_silent(self) -> None:
        """Where the binding answers None for an entry that is not there, and for a router that says nothing."""
        self._status()

    def _status(self) -> tuple[str, int, str] | None:
        try:
            status: tuple[str, int, str] = _call(self._upnp.statusinfo)
        except (ActionRefused, UnicodeDecodeError, WireError):
            return None
        return status


def map_port(igd: Igd, ask: Add) -> Given:
    """At the port asked for, else (version 2) at one that the router chooses."""
    # Asked first: a router that hangs is to hang before anything is mapped.
    external_ip = igd.external_ip()
    port, lease_s = _map(igd, ask)
    return Given(port, _listed_lease_s(igd, ask, port) or lease_s, external_ip)


def unmap_port(igd: Igd, ask: Remove) -> None:
    """Raises ActionRefused (a conflict) for the mapping of another host, which many routers would remove."""
    found = igd.entry(ask.external_port, ask.transport)
    if found is None:
        return
    if found.client != ask.client:
        raise ActionRefused(CONFLICT)
    igd.delete(ask.external_port, ask.transport)


_Mapped = tuple[int, int]
"""The outer port, and the lease that was taken."""


def _map(igd: Igd, ask: Add) -> _Mapped:
    wanted = ask.external_port or ask.internal_port
    try:
        return _map_at(igd, ask, wanted)
    except ActionRefused as refusal:
        if refusal.number == SAME_PORTS and wanted != ask.internal_port:
            return _map_at(igd, ask, ask.internal_port)
        if refusal.number not in TAKEN or igd.service.version < 2:
            raise
    return _map_anywhere(igd, ask, wanted)


def _map_at(igd: Igd, ask: Add, port: int) -> _Mapped:
    """Looks first: some routers take a port away from whoever has it."""
    found = igd.entry(port, ask.transport)
    if found is not None and not _is_ours(found, ask):
        raise ActionRefused(CONFLICT)
    try:
        return port, _add(igd, ask, port)
    except ActionRefused as refusal:
        if refusal.number != CONFLICT or found is None:
            raise
    # Ours from before, and the router changes no mapping that it has.
    igd.delete(port, ask.transport)
    return port, _add(igd, ask, port)


def _map_anywhere(igd: Igd, ask: Add, port: int) -> _Mapped:
    found = igd.entry(port, ask.transport)
    if found is not None and found.client == ask.client:
        # miniupnpd takes a port away from another program of the same host, and calls that another port.
        raise ActionRefused(CONFLICT)
    chosen = igd.add_any(ask, port)
    try:
        # The same again, with an end.
        return chosen, _add(igd, ask, chosen)
    except ActionRefused:
        return chosen, 0


def _add(igd: Igd, ask: Add, port: int) -> int:
    """The lease that was taken."""
    try:
        igd.add(ask, port, ask.lease_s)
    except ActionRefused as refusal:
        if refusal.number not in WITHOUT_END or not ask.lease_s:
            raise
        igd.add(ask, port, 0)
        return 0
    return ask.lease_s


def _listed_lease_s(igd: Igd, ask: Add, port: int) -> int:
    """0 where none is listed: that alone does not say that the mapping has no end."""
    found = igd.entry(port, ask.transport)
    return found.lease_s if found is not None and _is_ours(found, ask) else 0


def _is_ours(entry: Entry, ask: Add) -> bool:
    return (entry.client, entry.internal_port) == (ask.client, ask.internal_port)


def _outer_address(text: str) -> str | None:
    if text.strip() in ("", "0.0.0.0"):
        return None
    try:
        return str(ipaddress.IPv4Address(text.strip()))
    except ValueError as error:
        raise WireError("the router gives an outer address that is none") from error


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception as error:
        # The binding has no type of its own; what has one is another's: UnicodeDecodeError, for what it cannot hand over.
        if type(error) is not Exception:
            raise
        text = str(error)
        if text in NO_ANSWER:
            raise RouterSilent from error
        if text in NONSENSE:
            raise WireError("the router's answer is no answer to what was asked") from error
        raise ActionRefused(NUMBERS.get(text)) from error


@contextmanager
def _served(response: bytes) -> Iterator[str]:
    """The URL of a response that whoever asks once on the loopback interface gets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve_once, args=(listener, response), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


def _serve_once(listener: socket.socket, response: bytes) -> None:
    try:
        connection, _ = listener.accept()
        with connection:
            connection.recv(MAX_HEAD)
            connection.sendall(response)
    except OSError:
        # Whoever was to read it says that it could not.
        pass
