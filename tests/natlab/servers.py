"""Real servers inside a lab: coturn for STUN, miniupnpd for port mappings. Nothing of theirs is written to disk."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Iterable
from functools import partial
from subprocess import DEVNULL, STDOUT
from typing import Any

from .netns import LabError, Namespace, end

START_LIMIT_S = 10.0
_LOOK_EVERY_S = 0.02
_ANSWER_S = 0.2
_LOG_LIMIT = 1_000_000
_BINDING_REQUEST = struct.pack("!HHI12s", 0x0001, 0, 0x2112A442, b"natlab ready")
_BINDING_SUCCESS = b"\x01\x01"

IGD_PROTOCOLS = ("upnp", "natpmp", "pcp")
_IGD_HTTP_PORT = 5000
_PORT_MAPPING_PORT = 5351


class Server:
    """A process, what it has said, and how to end it before the lab does."""

    def __init__(self, namespace: Namespace, command: list[str], **options: Any) -> None:
        self._name = command[0]
        self._log = os.fdopen(os.memfd_create(f"{self._name}.log"), "rb")
        self.process = namespace.popen(command, stdin=DEVNULL, stdout=self._log, stderr=STDOUT, **options)

    def log(self) -> str:
        """Read in place: the process writes where its own position in the file is, which is the same one."""
        return os.pread(self._log.fileno(), _LOG_LIMIT, 0).decode(errors="replace")

    def stop(self) -> None:
        end(self.process)

    def wait_until(self, is_ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while not _is_true(is_ready):
            if self.process.poll() is not None:
                raise LabError(f"{self._name} ended with {self.process.returncode}:\n{self.log()}")
            if time.monotonic() > deadline:
                raise LabError(f"{self._name} does not answer:\n{self.log()}")
            time.sleep(_LOOK_EVERY_S)


def _is_true(is_ready: Callable[[], bool]) -> bool:
    try:
        return is_ready()
    except OSError:
        return False  # it does not listen yet, or has not answered


# --- STUN -----------------------------------------------------------------------------------------------------------------


def coturn(namespace: Namespace, addresses: list[str], port: int) -> Server:
    """With two addresses it serves RFC 5780 by itself. Over UDP and TCP, without TLS and without relaying."""
    command = [
        "turnserver",
        "-n",
        "--no-cli",
        "--stun-only",
        "--no-auth",
        "--no-tls",
        "--no-dtls",
        "--log-file",
        "stdout",
    ]
    command += ["--pidfile", "/dev/null", "--listening-port", str(port), "--alt-listening-port", str(port + 1)]
    for address in addresses:
        command += ["--listening-ip", address]
    server = Server(namespace, command)
    for endpoint in ((address, port + offset) for address in addresses for offset in range(len(addresses))):
        for form in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            server.wait_until(partial(_answers_stun, namespace, form, endpoint))
    return server


def _answers_stun(namespace: Namespace, form: socket.SocketKind, endpoint: tuple[str, int]) -> bool:
    return _answer(namespace, form, endpoint, _BINDING_REQUEST)[:2] == _BINDING_SUCCESS


# --- Port mapping ---------------------------------------------------------------------------------------------------------

_CHAINS = """
table inet miniupnpd
delete table inet miniupnpd
table inet miniupnpd {
  chain forward { type filter hook forward priority filter; policy accept; jump upnp_forward; }
  chain arriving { type nat hook prerouting priority dstnat; policy accept; jump upnp_arriving; }
  chain leaving { type nat hook postrouting priority srcnat; policy accept; jump upnp_leaving; }
  # The daemon's own, which it expects to find.
  chain upnp_forward { }
  chain upnp_arriving { }
  chain upnp_leaving { }
  # It speaks NAT-PMP and PCP on one port, both or none. The first byte is the version: 0 and 2.
  chain speaking {
    type filter hook input priority filter - 10; policy accept;
    {deaf}
  }
}
"""
_DEAF = {"natpmp": "udp dport 5351 @th,64,8 0 drop\n", "pcp": "udp dport 5351 @th,64,8 2 drop\n"}

_SETTINGS = """
ext_ifname=outer
listening_ip=inner
http_port=5000
enable_upnp={upnp}
enable_natpmp={natpmp}
system_uptime=no
notify_interval=30
uuid=6e61746c-6162-4000-8000-000000000001
upnp_table_name=miniupnpd
upnp_nat_table_name=miniupnpd
upnp_forward_chain=upnp_forward
upnp_nat_chain=upnp_arriving
upnp_nat_postrouting_chain=upnp_leaving
"""


def miniupnpd(namespace: Namespace, inner: str, protocols: Iterable[str], settings: Iterable[str]) -> Server:
    """Without a lease file: its mappings are gone when it is. Settings are lines of miniupnpd.conf that come last."""
    speaks = set(protocols)
    namespace.configure(
        ["nft", "-f", "-"],
        _CHAINS.replace("{deaf}", "".join(rule for protocol, rule in _DEAF.items() if protocol not in speaks)),
    )
    yes = {True: "yes", False: "no"}
    text = _SETTINGS.format(upnp=yes["upnp" in speaks], natpmp=yes[bool(speaks & {"natpmp", "pcp"})])
    file = os.memfd_create("miniupnpd.conf")
    try:
        os.write(file, "\n".join([text, *settings, ""]).encode())
        command = ["miniupnpd", "-d", "-P", "/dev/null", "-f", f"/proc/self/fd/{file}"]
        server = Server(namespace, command, pass_fds=[file])
        _wait_for_igd(server, namespace, inner, speaks)
    finally:
        os.close(file)
    return server


def _wait_for_igd(server: Server, namespace: Namespace, inner: str, speaks: set[str]) -> None:
    if "upnp" in speaks:
        description = b"GET /rootDesc.xml HTTP/1.0\r\n\r\n"
        http = (inner, _IGD_HTTP_PORT)
        server.wait_until(lambda: _answer(namespace, socket.SOCK_STREAM, http, description).startswith(b"HTTP/"))
    if speaks & {"natpmp", "pcp"}:
        # A PCP announcement or a question for the public address, whichever it hears: both are always allowed.
        question = (
            b"\0\0"
            if "natpmp" in speaks
            else b"\2\0\0\0" + bytes(4) + b"\0" * 10 + b"\xff\xff" + socket.inet_aton(inner)
        )
        mapper = (inner, _PORT_MAPPING_PORT)
        server.wait_until(lambda: _answer(namespace, socket.SOCK_DGRAM, mapper, question) != b"")


def _answer(namespace: Namespace, form: socket.SocketKind, endpoint: tuple[str, int], question: bytes) -> bytes:
    with namespace.entered():
        client = socket.socket(socket.AF_INET, form)
    with client:
        client.settimeout(_ANSWER_S)
        client.connect(endpoint)
        client.send(question)
        return client.recv(1500)
