"""A node that is nobody's DHT server, as one behind a NAT is. Takes the arguments of kodectl."""

from __future__ import annotations

import sys
from dataclasses import replace


def serve_nobody() -> None:
    from kodectl.node.node import Node

    begin = Node.__init__

    def begin_as_client(self, runtime, settings, *others, **options):
        begin(self, runtime, replace(settings, dht_client=True), *others, **options)

    Node.__init__ = begin_as_client


if __name__ == "__main__":
    # As in `node run`: before anything that opens sockets is imported.
    from gevent import monkey

    monkey.patch_all()
    serve_nobody()
    from kodectl.cli.main import main

    sys.exit(main())
