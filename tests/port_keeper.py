"""The keeper of ports alone, in a process: `python port_keeper.py METHOD TCP_PORT UDP_PORT`.

Prints its view, one line of JSON, at the start and whenever an event has happened. SIGTERM ends it in order."""

import signal
import sys

import gevent
import msgspec
from gevent.event import Event

from kodectl.core.mapping import Method
from kodectl.node.events import Events
from kodectl.node.natpmp import find_natpmp
from kodectl.node.pcp import find_pcp
from kodectl.node.port_mapping import PortMappings
from kodectl.runtime.green import GreenRuntime


def main(method: str, tcp_port: int, udp_port: int) -> None:
    runtime, leave = GreenRuntime(), Event()
    gevent.signal_handler(signal.SIGTERM, leave.set)
    scope, events = runtime.scope("keeper"), Events(runtime)
    finders = {Method.NATPMP: lambda: find_natpmp(runtime), Method.PCP: lambda: find_pcp(runtime)}
    mappings = PortMappings(runtime, scope, events, method, finders)
    mappings.start(tcp_port, udp_port)
    seen = -1
    while not leave.is_set():
        found = events.since(max(seen, 0))
        if found.next != seen:
            seen = found.next
            print(msgspec.json.encode(mappings.view()).decode(), flush=True)
        leave.wait(0.02)
    mappings.stop()
    scope.close()
    assert scope.join(5.0) == []
    runtime.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
