"""What a router says of itself before anything is asked of it: UPnP Device Architecture 1.1.

    M-SEARCH (UDP)   ->  a search answer, which names the URL of a description      (section 1.3)
    GET (TCP)        ->  an HTTP response, whose body is the description, XML       (section 2)

Whoever is on the local network can answer a search. So nothing here is lenient: one IPv4 address is the answer's, the
description's and the service's; names are not looked up, redirects not followed, entities not known.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple
from xml.parsers import expat

from kodectl.errors import WireError

SEARCH_TARGETS = (
    "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
    "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
)
"""A device of a later version answers to the earlier ones, or should; some answer to their service alone."""
SEARCH_GROUP = ("239.255.255.250", 1900)

MAX_DATAGRAM = 2_048
"""Search answers have 300 to 500 bytes."""
MAX_HEAD = 8_192
MAX_BODY = 256 * 1024
"""Descriptions have 2 to 20 KiB."""
MAX_URL = 127
"""What miniupnpc keeps of a URL or a service type; it cuts what is longer, without a sign."""
MAX_DEPTH = 32
"""Ten are in use."""
MAX_TEXT = 512
"""Characters of one element's text that are looked at."""
MAX_NAME = 64
"""Characters shown of what a router calls itself."""
MAX_SERVICES = 8
"""Routers have one or two that map ports."""

_PATH = re.compile(r"/[!#-;=?-~]*")
"""Printable ASCII without what would end an XML element, or a quotation."""
_URL = re.compile(rf"[Hh][Tt][Tt][Pp]://([0-9.]{{7,15}})(?::([0-9]{{1,5}}))?({_PATH.pattern})?")
_SERVICE_TYPE = re.compile(r"urn:schemas-upnp-org:service:WAN(?:IP|PPP)Connection:[1-9]")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: .*)?")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,6})[ \t]*(?:;[^\r\n]*)?\r?\n")
_CHUNK_END = re.compile(rb"\r?\n")


class Url(NamedTuple):
    """`http://`, and a numeric IPv4 address."""

    ip: str
    port: int
    path: str

    def __str__(self) -> str:
        return f"http://{self.ip}:{self.port}{self.path}"


class Service(NamedTuple):
    """One that maps ports: WANIPConnection or WANPPPConnection."""

    type: str
    control: Url

    @property
    def version(self) -> int:
        return int(self.type[-1])


class Description(NamedTuple):
    name: str
    """What the device calls itself; may be empty."""
    services: tuple[Service, ...]
    """At least one, in the device's order."""


def pack_search(target: str) -> bytes:
    """Section 1.3.2. Devices answer within a random part of one second (MX)."""
    host, port = SEARCH_GROUP
    lines = ("M-SEARCH * HTTP/1.1", f"HOST: {host}:{port}", 'MAN: "ssdp:discover"', "MX: 1", f"ST: {target}")
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii")


def unpack_search_answer(data: bytes, sender_ip: str) -> Url:
    """Where the description is. Raises WireError, also when that is at any address but the sender's."""
    head, _ = _split_head(data[:MAX_DATAGRAM])
    status, headers = _unpack_head(head)
    if status != 200:
        raise WireError(f"a search answer with status {status}")
    location = parse_url(_only(headers, b"location").decode("latin-1"))
    if location.ip != sender_ip:
        raise WireError(f"it sends us to another address, {location.ip}")
    return location


def pack_request(url: Url) -> bytes:
    lines = (f"GET {url.path} HTTP/1.1", f"Host: {url.ip}:{url.port}", "Connection: close", "Accept: text/xml")
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii")


def is_whole(data: bytes | bytearray) -> bool:
    """Whether a response has all the bytes that it announces; False too for one that ends with its connection.

    Raises WireError when it can be none."""
    beginning = bytes(data[:MAX_HEAD])
    if not _HEAD_END.search(beginning):
        if len(beginning) == MAX_HEAD:
            raise WireError(f"a head of more than {MAX_HEAD} bytes")
        return False
    head, begin = _split_head(beginning)
    _, headers = _unpack_head(head)
    length = _content_length(headers)
    if length is not None:
        return len(data) >= begin + length
    # The line before may be the head's last.
    return b"transfer-encoding" in headers and data.endswith(b"\n0\r\n\r\n", begin - 1)


def unpack_response(data: bytes) -> bytes:
    """The body of a whole response. Raises WireError: another status than 200, a length that is not kept."""
    head, begin = _split_head(data)
    status, headers = _unpack_head(head)
    if 300 <= status < 400:
        raise WireError(f"it redirects (status {status}), which is not followed")
    if status != 200:
        raise WireError(f"it answers with status {status}")
    if any(encoding != b"identity" for encoding in headers.get(b"content-encoding", ())):
        raise WireError("a compressed body, which nobody asked for")
    body, length = data[begin:], _content_length(headers)
    if b"transfer-encoding" in headers:
        if length is not None or _only(headers, b"transfer-encoding").lower() != b"chunked":
            raise WireError("a transfer encoding that is not understood")
        return _join_chunks(body)
    if length is not None and len(body) < length:
        raise WireError(f"{len(body)} of {length} bytes")
    if len(body) > MAX_BODY:
        raise WireError(f"more than {MAX_BODY} bytes")
    return body[:length]


def unpack_description(body: bytes, location: Url) -> Description:
    """Raises WireError: no XML, a document type (where entities are made), no service that maps ports, or one at
    another address than the description's."""
    if len(body) > MAX_BODY:
        raise WireError(f"more than {MAX_BODY} bytes")
    elements = _Elements()
    parser = expat.ParserCreate()
    parser.StartElementHandler = elements.begin
    parser.EndElementHandler = elements.end
    parser.CharacterDataHandler = elements.text
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        # As text, so that expat asks no codec for an encoding that the document names.
        parser.Parse(body.decode("utf-8", errors="replace"), True)
    except expat.ExpatError as error:
        raise WireError(f"its description is no XML: {error}") from error
    if not elements.services:
        raise WireError("it has no service that maps ports")
    base = parse_url(elements.base) if elements.base else location
    services = tuple(Service(type_, _resolve(control, base)) for type_, control in elements.services)
    for service in services:
        if service.control.ip != location.ip:
            raise WireError(f"its service is at another address, {service.control.ip}")
    return Description(elements.name, services)


def pack_description(service: Service) -> bytes:
    """The least description from which miniupnpc takes the service. Its parser knows no entities either: an ampersand in
    the path stands for itself."""
    base = service.control._replace(path="/")
    xml = (
        f'<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><URLBase>{base}</URLBase><device>'
        f"<serviceList><service><serviceType>{service.type}</serviceType><controlURL>{service.control.path}</controlURL>"
        "</service></serviceList></device></root>"
    )
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(xml)}\r\nConnection: close\r\n\r\n{xml}".encode("ascii")


def parse_url(text: str) -> Url:
    """Raises WireError for anything but `http://IPv4[:port][/path]`."""
    match = _URL.fullmatch(text)
    if match is None or len(text) > MAX_URL:
        raise WireError("a URL that is not http:// at a numeric IPv4 address, or too long")
    ip, port, path = match.group(1), int(match.group(2) or 80), match.group(3) or "/"
    try:
        address = ipaddress.IPv4Address(ip)
    except ValueError as error:
        raise WireError("a URL without a valid address") from error
    if not 0 < port < 65_536:
        raise WireError(f"a URL with port {port}")
    return Url(str(address), port, path)


class _Elements:
    """Takes what is of interest from the elements, whatever their namespace."""

    def __init__(self) -> None:
        self.name = ""
        self.base = ""
        self.services: list[tuple[str, str]] = []
        self._depth = 0
        self._text = ""
        self._type = ""
        self._control = ""

    def begin(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise WireError(f"its description is nested more than {MAX_DEPTH} deep")
        self._text = ""
        if _local(name) == "service":
            self._type = self._control = ""

    def text(self, data: str) -> None:
        self._text += data[: MAX_TEXT - len(self._text)]

    def end(self, name: str) -> None:
        self._depth -= 1
        value, self._text = self._text.strip(), ""
        match _local(name):
            case "friendlyName" if not self.name:
                self.name = value[:MAX_NAME]
            case "URLBase":
                self.base = value
            case "serviceType":
                self._type = value
            case "controlURL":
                self._control = value
            case "service":
                self._end_service()

    def _end_service(self) -> None:
        if _SERVICE_TYPE.fullmatch(self._type) and self._control and len(self.services) < MAX_SERVICES:
            self.services.append((self._type, self._control))


def _local(name: str) -> str:
    return name.rpartition(":")[2]


def _refuse_doctype(*_: object) -> None:
    raise WireError("its description has a document type, which could hold entities")


def _resolve(control: str, base: Url) -> Url:
    """As routers mean it and libraries do it: what does not begin with a slash is below the root."""
    if control[:7].lower() == "http://":
        return parse_url(control)
    path = control if control.startswith("/") else f"/{control}"
    if not _PATH.fullmatch(path):
        raise WireError("a control URL with characters that no URL has")
    return parse_url(str(base._replace(path=path)))


_Headers = dict[bytes, list[bytes]]


def _split_head(data: bytes) -> tuple[bytes, int]:
    """The head, and where the body begins."""
    end = _HEAD_END.search(data, 0, MAX_HEAD)
    if end is None:
        raise WireError("a head without an end")
    return data[: end.start()], end.end()


def _unpack_head(head: bytes) -> tuple[int, _Headers]:
    first, *lines = head.split(b"\n")
    status = _STATUS.fullmatch(first.rstrip(b"\r"))
    if status is None:
        raise WireError("no HTTP response")
    headers: _Headers = {}
    for line in lines:
        name, _, value = line.rstrip(b"\r").partition(b":")
        headers.setdefault(name.strip().lower(), []).append(value.strip())
    return int(status.group(1)), headers


def _only(headers: _Headers, name: bytes) -> bytes:
    values = headers.get(name, [])
    if len(set(values)) != 1:
        raise WireError(f"{'several' if values else 'no'} {name.decode()} headers")
    return values[0]


def _content_length(headers: _Headers) -> int | None:
    if b"content-length" not in headers:
        return None
    text = _only(headers, b"content-length")
    if not text.isdigit():
        raise WireError("a length that is no number")
    # Ten digits are enough to be too many, but for zeros before them.
    length = int(text.lstrip(b"0")[:10] or b"0")
    if length > MAX_BODY:
        raise WireError(f"it announces more than {MAX_BODY} bytes")
    return length


def _join_chunks(body: bytes) -> bytes:
    """RFC 9112, section 7.1; what follows the last chunk does not matter."""
    chunks: list[bytes] = []
    offset = total = 0
    while True:
        begin = _match(_CHUNK, body, offset)
        size = int(begin.group(1), 16)
        if not size:
            return b"".join(chunks)
        total += size
        if total > MAX_BODY:
            raise WireError(f"more than {MAX_BODY} bytes")
        chunks.append(body[begin.end() : begin.end() + size])
        # A chunk that is cut short has no end either.
        offset = _match(_CHUNK_END, body, begin.end() + size).end()


def _match(pattern: re.Pattern[bytes], data: bytes, offset: int) -> re.Match[bytes]:
    found = pattern.match(data, offset)
    if found is None:
        raise WireError("a chunk that is malformed, or cut short")
    return found
