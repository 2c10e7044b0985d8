"""Forged STUN, TURN, QUIC and discovery packets at one port, as fast as they can be sent. Prints how many there were.

python tests/flooder.py HOST PORT SECONDS
"""

from __future__ import annotations

import os
import socket
import sys
import time

from kodectl.wire.stun import Attribute, Message, MessageClass, Method, encode

KINDS_OF_EACH = 50
USER = "aaaabbbb:ccccdddd"
VERSION_1 = b"\0\0\0\1"


def stun() -> list[bytes]:
    """Requests with nobody's credentials and with none, answers to nothing, and a TURN request."""
    transaction = os.urandom(12)
    named = ((Attribute.USERNAME, USER),)
    told = ((Attribute.XOR_MAPPED_ADDRESS, ("20.1.2.3", 4)),)
    allocating = ((Attribute.REQUESTED_TRANSPORT, 17),)
    return [
        encode(Message(MessageClass.REQUEST, Method.BINDING, transaction, named), key=os.urandom(16)),
        encode(Message(MessageClass.REQUEST, Method.BINDING, transaction, ())),
        encode(Message(MessageClass.SUCCESS, Method.BINDING, transaction, told)),
        encode(Message(MessageClass.REQUEST, Method.ALLOCATE, transaction, allocating)),
    ]


def quic() -> list[bytes]:
    """Initial packets that nobody can decrypt, and short headers with other connections' ids."""
    return [
        b"\xc0" + VERSION_1 + b"\x08" + os.urandom(1194),
        b"\x40" + os.urandom(60),
        b"\x45" + os.urandom(900),
        b"\x40\x01" + os.urandom(40),
    ]


def discovery() -> list[bytes]:
    return [b"\x08" + os.urandom(183), b"\x0b" + os.urandom(100), os.urandom(100)]


def main(host: str, port: int, seconds: float) -> None:
    packets = [packet for _ in range(KINDS_OF_EACH) for packet in (*stun(), *quic(), *discovery())]
    ends, sent = time.monotonic() + seconds, 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flooder:
        flooder.connect((host, port))
        while time.monotonic() < ends:
            for packet in packets:
                try:
                    flooder.send(packet)
                except OSError:
                    continue  # nobody listens there (ICMP), or the own buffer is full
                sent += 1
    print(sent)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
