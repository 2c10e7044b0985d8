"""A router that speaks UPnP as a test tells it to: well, badly, or for ever.

The server's sockets belong to the network namespace that it is made in (loopback, or a host of `natlab`); its threads end
with `close`. Nothing here sends a multicast; `refuse_outside_a_namespace` is for the tests that make kodectl send one.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress

from kodectl.wire.upnp import SEARCH_GROUP, Service, Url

IP_SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:1"
IP_SERVICE_2 = "urn:schemas-upnp-org:service:WANIPConnection:2"
PPP_SERVICE = "urn:schemas-upnp-org:service:WANPPPConnection:1"
CONTROL = "/ctl/sick?a=1&b=2"
"""With the letters and signs that have been lost on the way before."""
PIECE = b"x" * 65_536


def _network() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


_NETWORK_AT_START = _network()
"""That the tests were started in; whether it is a real one, they cannot tell."""


def refuse_outside_a_namespace() -> None:
    """A search is multicast on the default route: no test may do that on a network that it has not made itself."""
    if _network() == _NETWORK_AT_START:
        raise AssertionError("this test would multicast on a real network; it belongs into a namespace")


def description(*services: tuple[str, str], base: str = "", name: str = "A router", head: str = "") -> bytes:
    """(type, control URL) each, as a router nests them."""
    listed = "".join(
        f"<service><serviceType>{type_}</serviceType><controlURL>{control.replace('&', '&amp;')}</controlURL></service>"
        for type_, control in services or ((IP_SERVICE, CONTROL),)
    )
    url_base = f"<URLBase>{base}</URLBase>" if base else ""
    return (
        f'<?xml version="1.0"?>{head}<root xmlns="urn:schemas-upnp-org:device-1-0">{url_base}<device>'
        f"<friendlyName>{name}</friendlyName><deviceList><device><friendlyName>inner</friendlyName><serviceList>{listed}"
        "</serviceList></device></deviceList></device></root>"
    ).encode()


def http(body: bytes, *headers: str, status: str = "200 OK", length: bool = True) -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, *([f"Content-Length: {len(body)}"] if length else [])]
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode() + body


def soap(action: str, **values: object) -> bytes:
    """The answer to an action."""
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in values.items())
    return http(
        f'<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>'
        f'<u:{action}Response xmlns:u="{IP_SERVICE}">{inner}</u:{action}Response></s:Body></s:Envelope>'.encode(
            errors="surrogateescape"
        )
    )


def fault(number: int, text: str = "no") -> bytes:
    """A UPnP error as the answer to an action."""
    return http(
        '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault>'
        "<faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail><UPnPError>"
        f"<errorCode>{number}</errorCode><errorDescription>{text}</errorDescription></UPnPError></detail></s:Fault>"
        "</s:Body></s:Envelope>".encode(),
        status="500 Internal Server Error",
    )


Answer = bytes | Callable[[socket.socket], None]
"""What is sent before the connection is closed, or who sends it."""


class HttpServer:
    """Answers each request in a thread of its own by `answer(request)`; counts the connections."""

    def __init__(self, ip: str, answer: Callable[[str], Answer]) -> None:
        self.answer = answer
        self.connections = 0
        self._listener = socket.create_server((ip, 0))
        self._open: set[socket.socket] = {self._listener}
        self.ip, self.port = self._listener.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, path: str = "/description.xml") -> Url:
        return Url(self.ip, self.port, path)

    def close(self) -> None:
        for opened in list(self._open):
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with self._listener, suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._open.add(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            answer = self.answer(_request(connection))
            if callable(answer):
                answer(connection)
            else:
                connection.sendall(answer)
        self._open.discard(connection)


def _request(connection: socket.socket) -> str:
    data = b""
    while (received := connection.recv(65_536)) and not _is_whole(data := data + received):
        pass
    return data.decode()


def _is_whole(data: bytes) -> bool:
    head, found, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: *([0-9]+)", head)
    return bool(found) and len(body) >= (int(length.group(1)) if length else 0)


# --- what a hostile server sends ---


def endless(beginning: bytes, piece: bytes = PIECE) -> Callable[[socket.socket], None]:
    def send(connection: socket.socket) -> None:
        connection.sendall(beginning)
        while True:
            connection.sendall(piece)

    return send


def trickle(beginning: bytes, piece: bytes = b" ", pause_s: float = 0.05) -> Callable[[socket.socket], None]:
    """Never so slow that a reader who waits for the next byte would give up."""

    def send(connection: socket.socket) -> None:
        connection.sendall(beginning)
        closed = threading.Event()
        while not closed.wait(pause_s):
            connection.sendall(piece)

    return send


def silence(connection: socket.socket) -> None:
    """Until the other side has had enough."""
    connection.recv(1)


class ScriptedIgd:
    """Mappings as a router of version 1 keeps them. `script` answers for actions by name instead: with an answer, or with a
    function of the arguments that gives one, or None to let the router do it."""

    def __init__(self, ip: str, *services: tuple[str, str]) -> None:
        self.script: dict[str, Answer | Callable[[dict[str, str]], Answer | None]] = {}
        self.description: Answer = http(description(*services))
        self.external_ip = "20.9.9.9"
        self.uptime_s: object = 1_000
        self.actions: list[tuple[str, dict[str, str]]] = []
        self.entries: dict[tuple[str, str], dict[str, str]] = {}
        """By outer port and protocol."""
        self.server = HttpServer(ip, self._answer)

    @property
    def service(self) -> Service:
        return Service(IP_SERVICE, self.server.url(CONTROL))

    @property
    def service_2(self) -> Service:
        return Service(IP_SERVICE_2, self.server.url(CONTROL))

    def names(self) -> list[str]:
        """Of the actions that were called, without the questions."""
        return [name for name, _ in self.actions if not name.startswith("Get")]

    def close(self) -> None:
        self.server.close()

    def occupy(self, port: int, transport: str, client: str, internal_port: int, text: str = "other") -> None:
        self.entries[str(port), transport.upper()] = {
            "NewInternalClient": client,
            "NewInternalPort": str(internal_port),
            "NewPortMappingDescription": text,
            "NewEnabled": "1",
            "NewLeaseDuration": "60",
        }

    def _answer(self, request: str) -> Answer:
        if request.startswith("GET"):
            return self.description
        name = re.search(r'(?i)soapaction: *"[^"#]*#(\w+)"', request)
        assert name is not None, request
        arguments = dict(re.findall(r"<(New\w+)>([^<]*)</", request))
        self.actions.append((name.group(1), arguments))
        scripted = self.script.get(name.group(1))
        if callable(scripted) and scripted.__code__.co_varnames[:1] == ("arguments",):
            scripted = scripted(arguments)
        if scripted is not None:
            return scripted
        return getattr(self, f"_{name.group(1)}", lambda _: fault(401))(arguments)

    def _GetStatusInfo(self, _: dict[str, str]) -> bytes:
        return soap(
            "GetStatusInfo",
            NewConnectionStatus="Connected",
            NewLastConnectionError="ERROR_NONE",
            NewUptime=self.uptime_s,
        )

    def _GetExternalIPAddress(self, _: dict[str, str]) -> bytes:
        return soap("GetExternalIPAddress", NewExternalIPAddress=self.external_ip)

    def _AddPortMapping(self, arguments: dict[str, str]) -> bytes:
        key = arguments["NewExternalPort"], arguments["NewProtocol"]
        known = self.entries.get(key)
        if known is not None and known["NewInternalClient"] != arguments["NewInternalClient"]:
            return fault(718)
        self.entries[key] = arguments
        return soap("AddPortMapping")

    def _GetSpecificPortMappingEntry(self, arguments: dict[str, str]) -> bytes:
        found = self.entries.get((arguments["NewExternalPort"], arguments["NewProtocol"]))
        return fault(714) if found is None else soap("GetSpecificPortMappingEntry", **found)

    def _GetGenericPortMappingEntry(self, arguments: dict[str, str]) -> bytes:
        listed = list(self.entries.items())
        index = int(arguments["NewPortMappingIndex"])
        if index >= len(listed):
            return fault(713)
        (port, protocol), entry = listed[index]
        return soap("GetGenericPortMappingEntry", **{**entry, "NewExternalPort": port, "NewProtocol": protocol})

    def _DeletePortMapping(self, arguments: dict[str, str]) -> bytes:
        found = self.entries.pop((arguments["NewExternalPort"], arguments["NewProtocol"]), None)
        return fault(714) if found is None else soap("DeletePortMapping")


class SearchAnswerer:
    """Answers searches with the datagrams it is given, from its own address."""

    def __init__(self, ip: str, answers: list[bytes], group_ip: str | None = None, deaf_to: int = 0) -> None:
        """`group_ip`: of the interface on which searches are heard, where that is not `ip`. `deaf_to`: so many datagrams
        are not heard at first."""
        self.answers = answers
        self._deaf_to = deaf_to
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("0.0.0.0", SEARCH_GROUP[1]))
        membership = struct.pack("=4s4s", socket.inet_aton(SEARCH_GROUP[0]), socket.inet_aton(group_ip or ip))
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        self._sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sender.bind((ip, 0))
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        with self._socket, self._sender, suppress(OSError):
            while True:
                data, sender = self._socket.recvfrom(2048)
                if not data:
                    return
                self._deaf_to -= 1
                for answer in self.answers if self._deaf_to < 0 else ():
                    self._sender.sendto(answer, sender)


def found_at(location: object) -> bytes:
    """A search answer."""
    lines = ("HTTP/1.1 200 OK", "ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1", f"LOCATION: {location}")
    return "".join(f"{line}\r\n" for line in (*lines, "EXT:", "")).encode()
