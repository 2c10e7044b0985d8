"""One side of a TCP punch, as a program: `tcp_punch_peer.py PORT LIMIT_S`, and the other side's `IP PORT` on stdin.

Prints its port when it listens; then how it went, with what the other side has said over the connection."""

from __future__ import annotations

import json
import sys

from kodectl.node.tcp_punch import TcpPunch
from kodectl.runtime.base import ConnectFailed, Stream
from kodectl.runtime.green import GreenRuntime

WORD_SIZE = 8


def main() -> None:
    port, limit_s = int(sys.argv[1]), float(sys.argv[2])
    runtime = GreenRuntime()
    by_listener: list[Stream] = []
    punches: list[TcpPunch] = []

    def accept(stream: Stream) -> None:
        if any(punch.accepted(stream) for punch in punches):
            by_listener.append(stream)
        else:
            stream.close()

    runtime.listen(("0.0.0.0", port), accept)
    print(port, flush=True)
    ip, target_port = sys.stdin.readline().split()
    punch = TcpPunch(runtime, runtime.scope("punch"), port, [(ip, int(target_port))])
    punches.append(punch)
    began = runtime.now()
    punch.start(limit_s)
    told: dict[str, object] = {"event": "failed"}
    try:
        stream = punch.wait()
        took_s = runtime.now() - began
        word = runtime.random_bytes(WORD_SIZE // 2).hex().encode()
        stream.write(word)
        heard = stream.read_exactly(WORD_SIZE)
        stream.write(heard)
        echoed = stream.read_exactly(WORD_SIZE) == word
        way = "listener" if stream in by_listener else "dial"
        told = {"event": "connected", "ms": round(1_000 * took_s, 1), "way": way, "echoed": echoed}
    except ConnectFailed as failure:
        told["why"] = str(failure)
    print(json.dumps({**told, "attempts": punch.attempts}), flush=True)


main()
