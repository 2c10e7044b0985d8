"""Looking for a router by UPnP; runs in the UPnP worker only.

Here and not in miniupnpc, because its `discover` tells neither who answered nor what, and waits for several seconds in
any case, and its `selectigd` then reads whatever description it was pointed to, of any size and from anywhere.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Iterator

from kodectl.errors import WireError
from kodectl.runtime.upnp_calls import Find, Found, Search
from kodectl.runtime.upnp_igd import Igd, RouterSilent
from kodectl.wire.upnp import (
    MAX_BODY,
    MAX_DATAGRAM,
    MAX_HEAD,
    SEARCH_GROUP,
    SEARCH_TARGETS,
    Description,
    Service,
    Url,
    is_whole,
    pack_request,
    pack_search,
    unpack_description,
    unpack_response,
    unpack_search_answer,
)

SEARCHES_AT_S = (0.0, 0.4)
"""Twice, for what gets lost."""
SEARCH_S = 2.0
"""Devices answer within one second (MX); the default gateway is taken at once, others when this has passed."""
DESCRIPTION_S = 1.0
"""For one whole description; it takes a few milliseconds."""
SHORTEST_WAIT_S = 0.001
MAX_DEVICES = 4
"""Descriptions read of the default gateway, and of all others; a home has one router with one description."""
MAX_REFUSED = 8
"""Answers told of that were not believed."""
MAX_RESPONSE = 2 * (MAX_HEAD + MAX_BODY)
"""With room for the sizes of small chunks."""
READ_SIZE = 65_536


def find(ask: Find) -> Search:
    """The default gateway if it is one, else another router of the local network."""
    refused: list[str] = []
    for location in _locations(ask, refused):
        try:
            description = fetch(location)
            service, uptime_s = choose(description)
        except (WireError, OSError) as error:
            _note(refused, f"{location.ip}: {error}")
        except RouterSilent:
            _note(refused, f"{location.ip}: its service does not answer")
        else:
            return Search(Found(service, description.name, uptime_s), tuple(refused))
    return Search(None, tuple(refused))


def fetch(url: Url) -> Description:
    """Reads a description and vets it. Raises WireError; OSError when it cannot be had in time."""
    ends = time.monotonic() + DESCRIPTION_S
    data = bytearray()
    with socket.create_connection((url.ip, url.port), DESCRIPTION_S) as connection:
        connection.sendall(pack_request(url))
        while not is_whole(data):
            connection.settimeout(max(SHORTEST_WAIT_S, ends - time.monotonic()))
            received = connection.recv(READ_SIZE)
            if not received:
                break
            data += received
            if len(data) > MAX_RESPONSE:
                raise WireError(f"more than {MAX_BODY} bytes")
    return unpack_description(unpack_response(bytes(data)), url)


def choose(description: Description) -> tuple[Service, int | None]:
    """The first service that is connected, else the first; a router can have one for each kind of line."""
    chosen: tuple[Service, int | None] | None = None
    for service in description.services:
        igd = Igd(service)
        if igd.is_connected():
            return service, igd.uptime_s()
        chosen = chosen or (service, igd.uptime_s())
    assert chosen is not None, "a description has a service"
    return chosen


def _locations(ask: Find, refused: list[str]) -> Iterator[Url]:
    """Where descriptions are, each once: the default gateway's as they come, then those of others."""
    gateways: list[Url] = []
    others: list[Url] = []
    for location in _answers(ask, refused):
        known = gateways if location.ip == ask.gateway else others
        if location in known or len(known) >= MAX_DEVICES:
            continue
        known.append(location)
        if known is gateways:
            yield location
    yield from others


def _answers(ask: Find, refused: list[str]) -> Iterator[Url]:
    """Searches by the interface of the default route, and takes answers from its network alone."""
    network = ipaddress.ip_network(ask.network)
    began = time.monotonic()
    searches = list(SEARCHES_AT_S)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(ask.source))
        channel.bind((ask.source, 0))
        while (passed_s := time.monotonic() - began) < SEARCH_S:
            if searches and passed_s >= searches[0]:
                searches.pop(0)
                _search(channel, ask.gateway)
            channel.settimeout(max(SHORTEST_WAIT_S, (searches[0] if searches else SEARCH_S) - passed_s))
            try:
                data, (sender, _) = channel.recvfrom(MAX_DATAGRAM)
                if ipaddress.ip_address(sender) not in network and sender != ask.gateway:
                    raise WireError("it is not of the local network")
                yield unpack_search_answer(data, sender)
            except WireError as error:
                _note(refused, f"{sender}: {error}")
            except OSError:
                # The wait is over, or a datagram was not wanted where it went.
                continue


def _search(channel: socket.socket, gateway: str | None) -> None:
    """By multicast, and at the default gateway itself: some networks keep multicast back."""
    destinations = [SEARCH_GROUP, *([(gateway, SEARCH_GROUP[1])] if gateway else [])]
    for destination in destinations:
        for target in SEARCH_TARGETS:
            try:
                channel.sendto(pack_search(target), destination)
            except OSError:
                # The same as a datagram that is lost; whether anybody answers decides.
                continue


def _note(refused: list[str], why: str) -> None:
    if why not in refused and len(refused) < MAX_REFUSED:
        refused.append(why)
