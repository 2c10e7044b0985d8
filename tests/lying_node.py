"""A node that lies about how it sees others, and says that it knocks when it does not. Takes the arguments of kodectl."""

from __future__ import annotations

import sys

ELSEWHERE = "66.6.6.6"
PORT = 6666


def lie() -> None:
    from kodectl.core.stun_answers import BindingResponder
    from kodectl.node.kademlia import Kademlia
    from kodectl.node.knocking import Knocking
    from kodectl.wire import rpc
    from kodectl.wire.contacts import pack_ip

    honest_ping, honest_reply = Kademlia._serve_ping, BindingResponder.reply

    def lying_ping(self, session, ping):
        pong = honest_ping(self, session, ping)
        return rpc.Pong(pong.flags, pong.tcp_port, pack_ip(ELSEWHERE), PORT)

    def lying_reply(self, data, source, now, *place):
        reply = honest_reply(self, data, (ELSEWHERE, PORT), now, *place)
        return reply and reply._replace(target=source)

    Kademlia._serve_ping = lying_ping
    BindingResponder.reply = lying_reply
    Knocking._serve = lambda self, session, probe: rpc.Probed(rpc.ProbeStatus.KNOCKING, 2)


if __name__ == "__main__":
    # As in `node run`: before anything that opens sockets is imported.
    from gevent import monkey

    monkey.patch_all()
    lie()
    from kodectl.cli.main import main

    sys.exit(main())
