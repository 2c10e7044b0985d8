"""Real servers inside a lab: coturn for STUN, miniupnpd for port mappings. Nothing of theirs is written to disk."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable
from subprocess import DEVNULL, PIPE, STDOUT, Popen
from typing import Any

from .netns import LabError, Namespace

START_LIMIT_S = 10.0
_PAUSE_S = 0.02
_BINDING_REQUEST = struct.pack("!HHI12s", 0x0001, 0, 0x2112A442, b"natlab ready")


def coturn(namespace: Namespace, addresses: list[str], port: int) -> Popen[Any]:
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
    process = namespace.popen(command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    for address in addresses:
        _wait(process, "coturn", lambda address=address: _answers_stun(namespace, socket.SOCK_DGRAM, (address, port)))
        _wait(process, "coturn", lambda address=address: _answers_stun(namespace, socket.SOCK_STREAM, (address, port)))
    return process


def _answers_stun(namespace: Namespace, form: socket.SocketKind, server: tuple[str, int]) -> bool:
    with namespace.entered(), socket.socket(socket.AF_INET, form) as client:
        client.settimeout(0.2)
        client.connect(server)
        client.send(_BINDING_REQUEST)
        return client.recv(1500)[:2] == b"\x01\x01"


def miniupnpd(namespace: Namespace, outer: str, inner: str, protocols: tuple[str, ...]) -> Popen[Any]:
    raise NotImplementedError


def _wait(process: Popen[Any], name: str, is_ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        try:
            if is_ready():
                return
        except OSError:
            pass  # it does not listen yet, or has not answered
        if process.poll() is not None:
            raise LabError(f"{name} ended with {process.returncode}")
        if time.monotonic() > deadline:
            raise LabError(f"{name} does not answer")
        time.sleep(_PAUSE_S)
