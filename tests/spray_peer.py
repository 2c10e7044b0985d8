"""One side of a spray or of a prediction, as a program: `spray_peer.py ROLE LIMIT_S OWN_IP OUTER_IP [OBSERVER_IP...]`.

    many        opens many sockets            ports       tries many ports
    foretell    its ports come in a row       follow      goes where it is told to

Prints its description, reads the other side's; `foretell` prints its ports then, `follow` reads them. Both end with a
line that says how it went."""

from __future__ import annotations

import json
import sys
from typing import Any

from spray_places import PORT, Side

from kodectl.errors import NegativeAnswer
from kodectl.node.ice import Description
from kodectl.node.port_step import Way, foretell
from kodectl.runtime.base import Address
from kodectl.runtime.green import GreenRuntime
from kodectl.wire.candidates import decode_candidate, encode_candidate

STUN_PORT = 3478
GREETING_EVERY_S = 0.05


def say(told: Any) -> None:
    print(json.dumps(told), flush=True)


def read() -> Any:
    return json.loads(sys.stdin.readline())


class Peer:
    def __init__(self, role: str, limit_s: float, own_ip: str, outer_ip: str, observers: list[str]) -> None:
        self.runtime = GreenRuntime()
        self.role = role
        self.limit_s = limit_s
        self.outer_ip = outer_ip
        self.servers: list[Address] = [(ip, STUN_PORT) for ip in observers]
        self.side = Side(self.runtime, own_ip, (outer_ip, PORT), is_controlling=role in ("many", "foretell"))
        self.greeted = self.runtime.event()
        self.side.session.on_data = lambda data, *_: self.greeted.set()

    def run(self) -> None:
        ours = self.side.session.description
        text = [encode_candidate(candidate) for candidate in ours.candidates]
        say({"ufrag": ours.ufrag, "pwd": ours.password, "candidates": text, "outer_ip": self.outer_ip})
        told = read()
        theirs = Description(told["ufrag"], told["pwd"], tuple(map(decode_candidate, told["candidates"])))
        began = self.runtime.now()
        self.begin(theirs, told["outer_ip"])
        try:
            pair = self.side.session.wait_connected(self.limit_s)
        except NegativeAnswer as failure:
            say({"event": "failed", "why": failure.message, "sent": self.sent})
            return
        took_s = self.runtime.now() - began
        self.greet()
        remote = f"{pair.remote.address[0]}:{pair.remote.address[1]}"
        say({"event": "connected", "ms": round(1_000 * took_s, 1), "remote": remote, "sent": self.sent})

    def begin(self, theirs: Description, outer_ip: str) -> None:
        """`set_remote` of the side that foretells comes last: nothing hinges on when the agent begins."""
        side = self.side
        if self.role == "many":
            side.open(theirs, (outer_ip, PORT))
        elif self.role == "ports":
            side.try_ports(theirs, outer_ip)
        elif self.role == "foretell":
            way = Way(side.terms(theirs), side.ip, self.outer_ip, (outer_ip, PORT))
            foretold = foretell(self.runtime, self.servers, way, side.adopt, side.receive, is_verified=True)
            say([encode_candidate(candidate) for candidate in foretold.candidates] if foretold else [])
        side.session.set_remote(theirs)
        if self.role == "follow":
            for text in read():
                side.session.add_remote(decode_candidate(text))

    @property
    def sent(self) -> int:
        return self.side.spraying.sent if self.side.spraying is not None else 0

    def greet(self) -> None:
        """Until both have been heard; the other side may be a moment behind."""
        ends = self.runtime.now() + self.limit_s
        while not self.greeted.is_set() and self.runtime.now() < ends:
            self.side.session.send(b"hello")
            self.greeted.wait(GREETING_EVERY_S)
        assert self.greeted.is_set(), "connected, and nothing comes through"
        self.side.session.send(b"hello")


role, limit_s, *ips = sys.argv[1:]
Peer(role, float(limit_s), ips[0], ips[1], ips[2:]).run()
