"""STUN servers that lie, each in one way. `Liar` answers in place of a `BindingResponder`, over any sockets; as a program it
serves over real ones:  python lying_servers.py LIE IP [OTHER_IP] [--third IP:PORT]"""

from __future__ import annotations

import argparse
import random
import select
import socket
import time
from enum import Enum

from kodectl.core.limits import SharedBudget, TokenBucket
from kodectl.core.stun_answers import FIRST, BindingResponder, Grid, Place, Reply
from kodectl.wire.stun import Address, Attribute, Change, Message, decode, encode

PORT = 3478
PLACES = (FIRST, Place(0, 1), Place(1, 0), Place(1, 1))
FALSE_IP = "20.99.99.9"
_MAPPED = (Attribute.XOR_MAPPED_ADDRESS, Attribute.MAPPED_ADDRESS)
_OTHER = (Attribute.OTHER_ADDRESS, Attribute.CHANGED_ADDRESS)


class Lie(Enum):
    HONEST = "honest"
    # of the other address
    OWN_OTHER_ADDRESS = "own_other_address"
    THIRD_PARTY = "third_party"
    PRIVATE_OTHER_ADDRESS = "private_other_address"
    CHANGING_OTHER_ADDRESS = "changing_other_address"
    # of the mapped address
    FALSE_MAPPED_PORT = "false_mapped_port"
    FALSE_MAPPED_IP = "false_mapped_ip"
    RANDOM_PORTS = "random_ports"
    """Another one in each answer."""
    PORT_BY_PLACE = "port_by_place"
    """As behind a symmetric NAT: the same false port whenever the same socket asks the same address."""
    ONE_FOR_ALL = "one_for_all"
    """The same at all its addresses, whoever asks: as behind a cone."""
    PREVIOUS_PORT = "previous_port"
    """What a NAT with sequential ports may have shown to whoever was asked before."""
    GUESSED_LOCAL = "guessed_local"
    """As if there were no NAT: the address that most hosts have."""
    # of what it does
    SILENT_TO_CHANGE_REQUEST = "silent_to_change_request"
    DEAF_TO_CHANGE_REQUEST = "deaf_to_change_request"
    """Answers, but not from elsewhere."""
    REFUSING = "refusing"


class Liar:
    """`third`: whom it names as its other address where it names somebody else."""

    def __init__(self, lie: Lie, grid: Grid | None, third: Address = ("20.98.98.9", PORT + 1), seed: int = 0) -> None:
        self._lie = lie
        self._grid = grid
        self._third = third
        self._rng = random.Random(seed)
        self._shift = self._rng.randint(1, 60_000)
        self._honest = BindingResponder(SharedBudget(TokenBucket(1e6, 1e6), 1e6, 1e6), grid)

    def reply(self, data: bytes, source: Address, now: float, place: Place = FIRST) -> Reply | None:
        request = decode(data)
        change = request.get(Attribute.CHANGE_REQUEST) or Change(False, False)
        if any(change) and self._lie is Lie.SILENT_TO_CHANGE_REQUEST:
            return None
        if any(change) and self._lie is Lie.DEAF_TO_CHANGE_REQUEST:
            data = encode(request._replace(attributes=()))
        if self._lie is Lie.REFUSING:
            data = encode(request._replace(attributes=((0x7FFF, b""),)))
        reply = self._honest.reply(data, source, now, place)
        if reply is None:
            return None
        answer = decode(reply.data)
        attributes = tuple((number, self._said(number, value, place)) for number, value in answer.attributes)
        if self._lie in (Lie.OWN_OTHER_ADDRESS, Lie.THIRD_PARTY, Lie.PRIVATE_OTHER_ADDRESS) and self._grid is None:
            attributes += ((Attribute.OTHER_ADDRESS, self._other(("", 0), place)),)
        return reply._replace(data=encode(Message(answer.kind, answer.method, answer.transaction_id, attributes)))

    def _said(self, number: int, value: object, place: Place) -> object:
        if number in _MAPPED:
            assert isinstance(value, tuple)
            return self._mapped(value[0], value[1], place)
        return self._other(value, place) if number in _OTHER else value

    def _mapped(self, ip: str, port: int, place: Place) -> Address:
        match self._lie:
            case Lie.FALSE_MAPPED_PORT:
                return ip, _shifted(port, self._shift)
            case Lie.FALSE_MAPPED_IP:
                return FALSE_IP, port
            case Lie.RANDOM_PORTS:
                return ip, self._rng.randint(1024, 65_535)
            case Lie.PORT_BY_PLACE:
                return ip, _shifted(port, 997 * (1 + place.ip * 2 + place.port))
            case Lie.ONE_FOR_ALL:
                return ip, 1024 + self._shift
            case Lie.PREVIOUS_PORT:
                return ip, _shifted(port, -1)
            case Lie.GUESSED_LOCAL:
                return "192.168.1.2", port
        return ip, port

    def _other(self, value: object, place: Place) -> object:
        match self._lie:
            case Lie.OWN_OTHER_ADDRESS:
                return self._grid.address(place) if self._grid else ("20.97.97.9", PORT)
            case Lie.THIRD_PARTY:
                return self._third
            case Lie.PRIVATE_OTHER_ADDRESS:
                return "192.168.1.1", PORT + 1
            case Lie.CHANGING_OTHER_ADDRESS:
                return f"20.96.{self._rng.randrange(256)}.1", PORT + 1
        return value


def _shifted(port: int, by: int) -> int:
    return 1024 + (port - 1024 + by) % (65_536 - 1024)


def serve(lie: Lie, ips: list[str], third: Address) -> None:
    grid = Grid((ips[0], ips[1]), (PORT, PORT + 1)) if len(ips) == 2 else None
    liar = Liar(lie, grid, third, seed=random.randrange(2**32))
    sockets: dict[Place, socket.socket] = {}
    for place in PLACES if grid else PLACES[:1]:
        sockets[place] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sockets[place].bind((ips[place.ip], PORT + place.port))
    print("ready", flush=True)
    while True:
        for ready in select.select(list(sockets.values()), [], [])[0]:
            place = next(place for place, one in sockets.items() if one is ready)
            data, source = ready.recvfrom(2048)
            reply = liar.reply(data, source, time.monotonic(), place)
            if reply is not None:
                sockets[reply.place].sendto(reply.data, reply.target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("lie", type=Lie)
    parser.add_argument("ips", nargs="+")
    parser.add_argument("--third", default="20.98.98.9:3479")
    options = parser.parse_args()
    third_ip, _, third_port = options.third.partition(":")
    serve(options.lie, options.ips, (third_ip, int(third_port)))
