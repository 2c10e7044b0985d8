"""A foreign ICE agent (libnice) that speaks the lines of `kodectl nat punch --jsonl`.

Run by the system's Python, which has PyGObject: /usr/bin/python3 tests/libnice_peer.py ROLE COUNT
[--stun HOST:PORT] [--turn USER:PASS@HOST:PORT] [--relay-only]
"""

import argparse
import ctypes
import json
import sys
import time

import gi

gi.require_version("Nice", "0.1")
from gi.repository import GLib, Nice  # noqa: E402

LIBRARY = ctypes.CDLL("libnice.so.10")
"""For what GObject introspection leaves out: receiving, and sending bytes that are no text."""
RECEIVE = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p
)
CONNECT_LIMIT_S = 20
ECHO_LIMIT_S = 5.0
COMPONENT = 1
PREFIX = "a="


def place(text):
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def tell(**fields):
    print(json.dumps(fields), flush=True)


class Peer:
    def __init__(self, arguments):
        self.arguments = arguments
        self.is_controlling = arguments.role == "controlling"
        self.loop = GLib.MainLoop()
        self.context = self.loop.get_context()
        self.agent = Nice.Agent.new_full(self.context, Nice.Compatibility.RFC5245, Nice.AgentOption.REGULAR_NOMINATION)
        self.agent.set_property("controlling-mode", self.is_controlling)
        self.agent.set_property("ice-tcp", False)
        self.agent.set_property("upnp", False)
        self.stream = self.agent.add_stream(1)
        self.agent.set_stream_name(self.stream, "application")
        if arguments.stun:
            host, port = place(arguments.stun)
            self.agent.set_property("stun-server", host)
            self.agent.set_property("stun-server-port", port)
        if arguments.turn:
            credentials, _, server = arguments.turn.rpartition("@")
            user, _, password = credentials.partition(":")
            self.agent.set_relay_info(self.stream, COMPONENT, *place(server), user, password, Nice.RelayType.UDP)
        if arguments.relay_only:
            self.agent.set_property("force-relay", True)
        self.agent.connect("candidate-gathering-done", self.gathered)
        self.agent.connect("component-state-changed", self.changed)
        self.pointer = ctypes.c_void_p(hash(self.agent))
        self.callback = RECEIVE(self.received)
        LIBRARY.nice_agent_attach_recv(self.pointer, self.stream, COMPONENT, None, self.callback, None)
        self.began = 0.0
        self.is_connected = False
        self.echoed = 0
        self.times = []
        self.sent_at = 0.0

    def run(self):
        self.agent.gather_candidates(self.stream)
        GLib.timeout_add_seconds(CONNECT_LIMIT_S, self.give_up)
        self.loop.run()

    def gathered(self, agent, stream):
        _, ufrag, password = agent.get_local_credentials(stream)
        lines = agent.generate_local_sdp().splitlines()
        candidates = [line.removeprefix(PREFIX) for line in lines if line.startswith("a=candidate:")]
        tell(ufrag=ufrag, pwd=password, candidates=candidates)
        theirs = json.loads(sys.stdin.readline())
        self.began = time.perf_counter()
        agent.set_remote_credentials(stream, theirs["ufrag"], theirs["pwd"])
        parsed = [agent.parse_remote_candidate_sdp(stream, PREFIX + text) for text in theirs["candidates"]]
        agent.set_remote_candidates(stream, COMPONENT, [candidate for candidate in parsed if candidate is not None])

    def changed(self, agent, stream, component, state):
        if state == int(Nice.ComponentState.FAILED):
            tell(event="failed", why="failed")
            self.loop.quit()
        elif state == int(Nice.ComponentState.READY):
            self.connected()

    def connected(self):
        if self.is_connected:
            return
        self.is_connected = True
        tell(event="connected", ms=(time.perf_counter() - self.began) * 1000)
        if self.is_controlling:
            self.ping()

    def ping(self):
        if len(self.times) == self.arguments.count:
            tell(event="done", echoed=len(self.times), rtt_ms_median=sorted(self.times)[len(self.times) // 2])
            self.loop.quit()
            return
        self.sent_at = time.perf_counter()
        self.send(b"ping %d" % len(self.times))

    def send(self, data):
        LIBRARY.nice_agent_send(self.pointer, self.stream, COMPONENT, len(data), data)

    def received(self, agent, stream, component, size, buffer, _):
        data = ctypes.string_at(buffer, size)
        self.connected()  # the other side may be ready, and send, before this one is told so
        if self.is_controlling:
            self.times.append((time.perf_counter() - self.sent_at) * 1000)
            self.ping()
            return
        self.send(data)
        self.echoed += 1
        if self.echoed == self.arguments.count:
            tell(event="done", echoed=self.echoed)
            GLib.timeout_add(200, self.loop.quit)

    def give_up(self):
        if not self.is_connected:
            tell(event="failed", why="time")
        self.loop.quit()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["controlling", "controlled"])
    parser.add_argument("count", type=int)
    parser.add_argument("--stun")
    parser.add_argument("--turn")
    parser.add_argument("--relay-only", action="store_true")
    Peer(parser.parse_args()).run()
