"""What strangers can send to a discovery socket, by kind and size, and from how many addresses."""

from __future__ import annotations

import os
import socket
import struct
import time
import zlib
from collections.abc import Callable

from kodectl.core.identity import Identity
from kodectl.wire import packets
from kodectl.wire.stun import Attribute, Message, MessageClass, Method, encode
from kodectl.wire.suite import RealSuite

IP_PKTINFO = 8
HEADERS = 28
"""Of IPv4 and UDP."""
COOKIE = b"\x21\x12\xa4\x42"

Make = Callable[[bytes, int], bytes]
"""From the node's id and a size to a packet, of this size where that kind has it."""


def source(number: int) -> str:
    """One of the sixteen million addresses of this machine, none of them this machine's usual one."""
    return f"127.{1 + (number >> 16) % 200}.{(number >> 8) & 255}.{number & 255}"


class Strangers:
    """One socket, and every address of 127.0.0.0/8 as its own."""

    def __init__(self, node_id: bytes, address: tuple[str, int]) -> None:
        self.node_id = node_id
        self._address = address
        self._own_id = Identity(RealSuite(), os.urandom(32)).node_id
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._socket.bind(("0.0.0.0", 0))
        self._socket.settimeout(20.0)

    def send(self, packet: bytes, number: int) -> None:
        note = struct.pack("I4s4s", 0, socket.inet_aton(source(number)), bytes(4))
        self._socket.sendmsg([packet], [(socket.IPPROTO_IP, IP_PKTINFO, note)], 0, self._address)

    def answers_to(self, packet: bytes, number: int) -> list[bytes]:
        """All that comes for a packet: a node answers packets in the order in which they come, and the next one is answered."""
        self.send(packet, number)
        return self.until_answered(number)

    def until_answered(self, number: int) -> list[bytes]:
        """What comes before the answer to a packet that is sent now."""
        end = os.urandom(16)
        self.send(self.hail(end), number)
        answers = []
        while True:
            answer = self._socket.recv(65_536)
            if answer[:1] == bytes((packets.CHALLENGE,)) and answer[4:20] == end:
                return answers
            answers.append(answer)

    def hail(self, nonce: bytes) -> bytes:
        return packets.pack_hail(packets.Hail(self.node_id, self._own_id, nonce))

    def close(self) -> None:
        self._socket.close()


def _filled(head: bytes) -> Make:
    return lambda node_id, size: (head + os.urandom(size))[:size]


def _hail(node_id: bytes, size: int) -> bytes:
    return packets.pack_hail(packets.Hail(node_id, os.urandom(32), os.urandom(16))).ljust(size, b"\0")[:size]


def _hail_to_anybody(node_id: bytes, size: int) -> bytes:
    return _hail(bytes(32), size)


def _handshake(node_id: bytes, size: int) -> bytes:
    """With a cookie of now, which nobody gave."""
    cookie = int(time.monotonic() * 1000).to_bytes(8) + os.urandom(16)
    body = packets.Handshake(0, os.urandom(16), cookie, os.urandom(32), os.urandom(32), 1, os.urandom(64))
    return (packets.pack_handshake_head(body)[:176] + os.urandom(size))[:size]


def _challenge(node_id: bytes, size: int) -> bytes:
    return (bytes((packets.CHALLENGE, 1, 0, 0)) + os.urandom(size))[:size]


def stun(kind: int, *attributes: bytes, classic: bool = False) -> Make:
    """A message of the type, lengthened by SOFTWARE where the size lets it."""

    def make(node_id: bytes, size: int) -> bytes:
        body = b"".join(attributes)
        room = (size - 20 - len(body) - 4) // 4 * 4
        if room >= 0:
            body += struct.pack("!HH", 0x8022, room) + b"x" * room
        id_ = os.urandom(16) if classic else COOKIE + os.urandom(12)
        return struct.pack("!HH", kind, len(body)) + id_ + body

    return make


def _fingerprinted(node_id: bytes, size: int) -> bytes:
    packet = bytearray(stun(0x0001)(node_id, size - 8))
    packet[2:4] = (len(packet) - 20 + 8).to_bytes(2)
    return bytes(packet) + struct.pack("!HHI", 0x8028, 4, zlib.crc32(packet) ^ 0x5354554E)


def _unknown_attributes(node_id: bytes, size: int) -> bytes:
    """Each of them has to be named in the answer."""
    count = max(0, size - 20) // 4
    body = b"".join(struct.pack("!HH", 0x7000 + number, 0) for number in range(count))
    return struct.pack("!HH", 1, len(body)) + COOKIE + os.urandom(12) + body


def _check(node_id: bytes, size: int) -> bytes:
    """Of ICE, for a name that nobody has."""
    name = "aaaabbbb:ccccdddd".ljust(max(17, min(500, size - 80)), "x")
    contents = ((Attribute.USERNAME, name), (Attribute.PRIORITY, 1), (Attribute.USE_CANDIDATE, None))
    message = Message(MessageClass.REQUEST, Method.BINDING, os.urandom(12), contents)
    return encode(message, key=os.urandom(16), fingerprint=True)


def _guessed(node_id: bytes, size: int) -> bytes:
    """An Allocate with credentials that nobody gave."""
    contents = (
        (Attribute.REQUESTED_TRANSPORT, 17),
        (Attribute.USERNAME, "9999999999:" + "a" * 32),
        (Attribute.REALM, "kodechain"),
        (Attribute.NONCE, b"n" * max(1, min(120, size - 160))),
    )
    message = Message(MessageClass.REQUEST, Method.ALLOCATE, os.urandom(12), contents)
    return encode(message, key=os.urandom(16), integrity=(Attribute.MESSAGE_INTEGRITY,))


TRANSPORT = b"\0\x19\0\4\x11\0\0\0"

KINDS: dict[str, Make] = {
    "hail": _hail,
    "hail to anybody": _hail_to_anybody,
    "challenge": _challenge,
    "handshake": _handshake,
    "message": _filled(bytes((packets.MESSAGE,))),
    "reset": _filled(bytes((packets.RESET,))),
    "knock": _filled(bytes((packets.KNOCK,))),
    "Allocate": stun(0x0003, TRANSPORT),
    "Allocate, guessed": _guessed,
    "Refresh": stun(0x0004),
    "CreatePermission": stun(0x0008, b"\0\x12\0\x08\0\1\0\0\0\0\0\0"),
    "ChannelBind": stun(0x0009, b"\0\x0c\0\4\x40\0\0\0"),
    "Send": stun(0x0016, b"\0\x12\0\x08\0\1\0\0\0\0\0\0"),
    "ChannelData": lambda node_id, size: (b"\x40\0" + max(0, size - 4).to_bytes(2) + bytes(size))[:size],
    "ICE check": _check,
    "STUN answer": stun(0x0101),
    "STUN indication": stun(0x0011),
    "Initial": _filled(b"\xc3\0\0\0\1\x08" + bytes(8) + b"\x08" + bytes(8)),
    "0-RTT": _filled(b"\xd3\0\0\0\1\x08" + bytes(8) + b"\x08" + bytes(8)),
    "QUIC Handshake": _filled(b"\xe3\0\0\0\1\x08" + bytes(8) + b"\x08" + bytes(8)),
    "Retry": _filled(b"\xf3\0\0\0\1\x08" + bytes(8) + b"\x08" + bytes(8)),
    "Version Negotiation": _filled(b"\x80\0\0\0\0\x08" + bytes(8) + b"\x08" + bytes(8)),
    "another version": _filled(b"\xc3\x1a\x2a\x3a\x4a\x08" + bytes(8) + b"\x08" + bytes(8)),
    "short header": _filled(b"\x43"),
    "DTLS": _filled(b"\x16\xfe\xfd"),
    "random": _filled(b""),
}
"""Of which none may be answered with more than it has."""

BINDINGS: dict[str, Make] = {
    "Binding": stun(0x0001),
    "Binding, classic": stun(0x0001, classic=True),
    "Binding, FINGERPRINT": _fingerprinted,
    "Binding, CHANGE-REQUEST": stun(0x0001, b"\0\3\0\4\0\0\0\6"),
    "Binding, RESPONSE-ADDRESS": stun(0x0001, b"\0\2\0\x08\0\1\x12\x34\x7f\0\0\1", classic=True),
    "Binding, unknown attributes": _unknown_attributes,
}
"""Answered by every node with up to 1.5 times the request, headers counted, at a limited rate."""
