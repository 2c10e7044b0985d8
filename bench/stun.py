"""What a Binding answer costs the node or server that gives it.

    python bench/stun.py

One JSON line each: CPU microseconds per request of the answering process, beside those of a bare UDP echo of the same
size in the same run. The asker is another process, with 16 requests under way; the rate limits are lifted.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable

from kodectl.core.limits import SharedBudget, TokenBucket
from kodectl.core.stun_answers import BindingResponder, Grid
from kodectl.runtime.base import Address, DatagramSocket
from kodectl.runtime.green import GreenRuntime
from kodectl.wire.stun import Attribute, Message, MessageClass, Method, encode

SECONDS = 3.0
UNDER_WAY = 16
HOST = "127.0.0.1"
GRID = Grid((HOST, "127.0.0.2"), (3478, 3479))

Answer = Callable[[bytes, Address, float], bytes | None]


def unlimited() -> SharedBudget:
    return SharedBudget(TokenBucket(1e9, 1e9), 1e9, 1e9)


REQUESTS = {
    "udp echo": bytes(20),
    "binding": encode(Message(MessageClass.REQUEST, Method.BINDING, bytes(12))),
    "binding, classic": encode(Message(MessageClass.REQUEST, Method.BINDING, b"x" * 16)),
    "binding, two addresses": encode(Message(MessageClass.REQUEST, Method.BINDING, bytes(12))),
    "binding, refused (420)": encode(
        Message(MessageClass.REQUEST, Method.BINDING, bytes(12), ((Attribute.PRIORITY, 1),))
    ),
}
ANSWERS: dict[str, Answer] = {
    "udp echo": lambda data, source, now: data,
    "binding": BindingResponder(unlimited()).answer,
    "binding, classic": BindingResponder(unlimited()).answer,
    "binding, two addresses": BindingResponder(unlimited(), GRID).answer,
    "binding, refused (420)": BindingResponder(unlimited()).answer,
}


def main() -> None:
    runtime = GreenRuntime()
    bare = 0.0
    for what, answer in ANSWERS.items():
        cost = measure(runtime, what, answer)
        bare = bare or cost
        line = {"what": what, "server_cpu_us": round(cost, 2), "ratio_to_echo": round(cost / bare, 2)}
        print(json.dumps(line), flush=True)


def measure(runtime: GreenRuntime, what: str, answer: Answer) -> float:
    """Runs the asker and returns CPU microseconds per request answered meanwhile."""
    served = [0]

    def receive(data: bytes, sender: Address) -> None:
        reply = answer(data, sender, runtime.now())
        if reply is not None:
            served[0] += 1
            socket.send(reply, sender)

    socket = runtime.open_datagram((HOST, 0), receive)
    asker = subprocess.Popen([sys.executable, __file__, what, str(socket.local[1])])
    runtime.event().wait(1.0)
    cpu, count = time.process_time(), served[0]
    runtime.event().wait(SECONDS)
    cost = (time.process_time() - cpu) / max(1, served[0] - count) * 1e6
    while asker.poll() is None:
        runtime.event().wait(0.1)
    socket.close()
    return cost


def ask(what: str, port: int) -> None:
    runtime = GreenRuntime()
    request = REQUESTS[what]
    sockets: list[DatagramSocket] = []
    for number in range(UNDER_WAY):

        def again(data: bytes, sender: Address, number: int = number) -> None:
            sockets[number].send(request, sender)

        sockets.append(runtime.open_datagram((HOST, 0), again))
        sockets[number].send(request, (HOST, port))
    runtime.event().wait(SECONDS + 2.0)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        ask(sys.argv[1], int(sys.argv[2]))
    else:
        main()
