"""The peers' programs: each in an environment of its own, spoken to in JSON lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PEERS = Path(__file__).parents[1] / "peers"
PACKAGES = {
    "kademlia": ("kademlia~=2.2.3",),
    "pyipv8": ("pyipv8~=3.2.0",),
    "opendht": ("opendht~=4.4.0", "msgpack"),
    "libp2p": ("libp2p~=0.8.0",),
}
INSTALL_LIMIT_S = 600.0
END_LIMIT_S = 60.0


class Failed(Exception):
    """A peer that could not be measured, and why."""


def install(peer: str, environments: Path) -> str:
    """The Python that runs the peer; what is there already is not installed anew."""
    if peer not in PACKAGES:
        return sys.executable
    where = environments / peer
    python = where / "bin" / "python"
    if not (where / "installed").exists():
        venv.create(where, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "--quiet", *PACKAGES[peer]]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_LIMIT_S)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"cannot be installed within {INSTALL_LIMIT_S:g} s") from error
        if ended.returncode:
            raise Failed(f"cannot be installed: {last_line(ended.stderr)}")
        (where / "installed").touch()
    return str(python)


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no word of why"])[-1][:200]


class Program:
    """A process of a peer. `ask` sends an order, a line, and waits for the answer, one more."""

    def __init__(self, python: str, peer: str, order: dict[str, object]) -> None:
        command = [python, str(PEERS / f"{peer}_peer.py"), json.dumps(order)]
        quiet = subprocess.DEVNULL if peer in PACKAGES else None
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=quiet, text=True
        )

    def tell(self, order: object) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def answer(self) -> Any:
        """Raises Failed."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        return json.loads(line)

    def ask(self, order: object) -> Any:
        self.tell(order)
        return self.answer()

    def cpu_s(self) -> float:
        """User's and system's time of all of its threads."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _ended(self) -> Failed:
        return Failed(f"ended with {self._process.wait(END_LIMIT_S)}")


@contextmanager
def programs(python: str, peer: str, how_many: int, **order: object) -> Iterator[list[Program]]:
    started: list[Program] = []
    try:
        for number in range(how_many):
            started.append(Program(python, peer, {**order, "number": number} if how_many > 1 else order))
        yield started
    finally:
        for one in started:
            one.end()


@contextmanager
def program(python: str, peer: str, **order: object) -> Iterator[Program]:
    with programs(python, peer, 1, **order) as [started]:
        yield started
