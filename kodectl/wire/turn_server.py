"""How TURN servers are named: `USER:PASS@HOST:PORT`, and the URIs of RFC 7065 with the credentials before the host.

turn:[USER:PASS@]HOST[:PORT][?transport=udp|tcp]        turns:[USER:PASS@]HOST[:PORT]        (TLS over TCP)

RFC 7065 leaves the credentials to a channel of their own; where there is none, they stand where other URIs have them,
percent-encoded as there. Without a scheme they stand as they are: the last @ ends them, the first colon parts them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from kodectl.errors import LocalMisuse, WireError
from kodectl.wire.addresses import address_text
from kodectl.wire.enode import parse_host
from kodectl.wire.stun_attributes import MAX_USERNAME
from kodectl.wire.stun_credentials import opaque_string

DEFAULT_PORT, DEFAULT_TLS_PORT = 3478, 5349
"""RFC 7065, section 3.1."""
MAX_PASSWORD = 1024
"""No protocol limits it; a file pasted by mistake is no password."""
EXPECTED = "USER:PASS@HOST:PORT, or turn: or turns: with the credentials before the host"

_PORT = re.compile(r"[0-9]{1,5}")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")

Transport = Literal["udp", "tcp", "tls"]


@dataclass(frozen=True)
class TurnServer:
    """The password is in no text that is made of it. Both credentials are empty for a server that asks for none."""

    host: str
    """A name or a numeric address without brackets."""
    port: int
    transport: Transport = "udp"
    username: str = ""
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        scheme = "turns" if self.transport == "tls" else "turn"
        query = "?transport=tcp" if self.transport == "tcp" else ""
        return f"{scheme}:{address_text(self.host, self.port)}{query}"


def parse_turn(text: str) -> TurnServer:
    """Raises WireError, which repeats nothing of the text: a password may stand anywhere in it."""
    scheme, colon, rest = text.partition(":")
    if colon and scheme.lower() in ("turn", "turns") and not _is_plain(rest):
        return _parse_uri(scheme.lower() == "turns", rest)
    credentials, at, place = text.rpartition("@")
    if not at or ":" not in credentials:
        raise WireError(f"a TURN server is {EXPECTED}")
    username, _, password = credentials.partition(":")
    host, port = _host_port(place, None)
    return _checked(TurnServer(host, port, "udp", username, password))


def _is_plain(rest: str) -> bool:
    """Whether a user is called "turn": `turn:PASS@HOST:PORT`. A URI's credentials have a colon, or are not there."""
    credentials, at, _ = rest.rpartition("@")
    return bool(at) and ":" not in credentials


def _parse_uri(is_secure: bool, rest: str) -> TurnServer:
    before, _, query = rest.rpartition("?") if "?" in rest.rpartition("@")[2] else (rest, "", "")
    credentials, _, place = before.rpartition("@")
    username, _, password = credentials.partition(":")
    host, port = _host_port(place, DEFAULT_TLS_PORT if is_secure else DEFAULT_PORT)
    return _checked(TurnServer(host, port, _transport(is_secure, query), _decoded(username), _decoded(password)))


def _decoded(text: str) -> str:
    """Without percent-encoding (RFC 3986, section 2.1), of UTF-8."""
    try:
        return _ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), text.encode()).decode()
    except UnicodeError:
        raise WireError("the credentials of a TURN URI are percent-encoded UTF-8") from None


def _transport(is_secure: bool, query: str) -> Transport:
    # RFC 7065, section 3.2: without a transport, turn is UDP and turns is TLS over TCP.
    name, _, value = query.partition("=")
    if query and (name.lower() != "transport" or value.lower() not in ("udp", "tcp")):
        raise WireError("a TURN URI may end in ?transport=udp or ?transport=tcp, and in nothing else")
    if is_secure:
        if value.lower() == "udp":
            raise WireError("turns: over UDP (DTLS) is not spoken; use ?transport=tcp")
        return "tls"
    return "tcp" if value.lower() == "tcp" else "udp"


def _host_port(place: str, default: int | None) -> tuple[str, int]:
    host, colon, port = place.rpartition(":")
    if not colon or (place.startswith("[") and place.endswith("]")):
        host, port = place, str(default or "")
    if not (_PORT.fullmatch(port) and 0 < int(port) <= 0xFFFF):
        raise WireError("a TURN server has a port from 1 to 65535")
    try:
        return parse_host(host), int(port)
    except WireError:  # whose text repeats what it was given
        raise WireError("a TURN server has a host name, an IPv4 address, or an IPv6 address in brackets") from None


def _checked(server: TurnServer) -> TurnServer:
    try:
        opaque_string(server.username)
        opaque_string(server.password)
        size = len(server.username.encode())
    except (LocalMisuse, UnicodeEncodeError):
        raise WireError("control characters cannot be part of a TURN user name or password") from None
    if bool(server.username) != bool(server.password):
        raise WireError("a TURN server's user name and password go together")
    if size > MAX_USERNAME or len(server.password) > MAX_PASSWORD:
        raise WireError(f"a TURN user name has at most {MAX_USERNAME} bytes, a password {MAX_PASSWORD} characters")
    return server
