"""One UPnP errand in a process of its own: `python -m kodectl.runtime.upnp_worker`, a call on stdin, an answer on stdout.

miniupnpc is C that blocks. It waits up to five seconds for each piece of an answer and for as many pieces as a router likes to
send, keeps all of them in memory, and looks through all headers again with every piece: an answer without an end filled
64 MiB in 0.1 s, headers without an end took a whole core. A thread that is in there cannot be ended, and what it has taken
cannot be taken back; a process can be killed, has limits of its own, and a fault in it costs one answer. It costs 50 ms of
a core, and starting it holds up the node's hub for 7 ms. So there is one for each call, and none between.

It ends by itself when its time is up or when nobody holds its stdin any more, so it outlives no one who was killed.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading

from kodectl.errors import WireError
from kodectl.runtime import upnp_calls as calls
from kodectl.runtime.upnp_igd import ActionRefused, Igd, RouterSilent, map_port, unmap_port
from kodectl.runtime.upnp_search import find

MEMORY_LIMIT = 64 * 1024 * 1024
"""Of addresses; 20 MiB are in use. What a router may make it hold is the rest."""
CPU_LIMIT_S = 3
"""A search needs 0.1; sixty thousand hostile datagrams need one."""
LIFE_LIMIT_S = 20
"""Longer than any caller waits: for when the caller has hung up without an end of stdin."""
STACK_SIZE = 256 * 1024
"""Of the two threads beside the main one, which hardly need any."""


def main() -> None:
    _limit()
    call = calls.unpack_call(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_caller, daemon=True).start()
    sys.stdout.buffer.write(calls.pack(answer_to(call)))
    sys.stdout.buffer.flush()
    # Not by way of the interpreter's end, which waits for what a thread holds.
    os._exit(0)


def _limit() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(LIFE_LIMIT_S)
    for kind, limit in (
        (resource.RLIMIT_AS, MEMORY_LIMIT),
        (resource.RLIMIT_CPU, CPU_LIMIT_S),
        (resource.RLIMIT_CORE, 0),
    ):
        _, most = resource.getrlimit(kind)
        least = limit if most == resource.RLIM_INFINITY else min(limit, most)
        resource.setrlimit(kind, (least, least))
    threading.stack_size(STACK_SIZE)


def _end_with_caller() -> None:
    """The library lets other threads run while it waits."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def answer_to(call: calls.Call) -> calls.Answer:
    try:
        return _do(call)
    except ActionRefused as refusal:
        return calls.Refused(refusal.number)
    except RouterSilent:
        return calls.Silent()
    except WireError as error:
        return calls.Malformed(str(error))
    except UnicodeDecodeError:
        return calls.Malformed("the router answers with text that is none")


def _do(call: calls.Call) -> calls.Answer:
    if isinstance(call, calls.Find):
        return find(call)
    igd = Igd(call.service)
    match call:
        case calls.Add():
            return map_port(igd, call)
        case calls.Remove():
            unmap_port(igd, call)
            return calls.Done()
        case calls.Read():
            entry = igd.entry(call.external_port, call.transport)
            return calls.Listed(() if entry is None else (entry,))
        case calls.List():
            return calls.Listed(tuple(igd.entries()))
        case calls.Status():
            return calls.State(igd.external_ip(), igd.uptime_s())


if __name__ == "__main__":
    main()
