"""`kodectl node run`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kodectl.cli.command import command, examples
from kodectl.cli.options import configuration_of, setting
from kodectl.cli.output import Output


@command(
    "run",
    epilog=examples(
        "kodectl node run",
        "kodectl node run --datadir /var/lib/kodectl --bootstrap enode://...@192.0.2.1:30303?discport=30301",
        "kodectl node run --datadir /tmp/b --listen 127.0.0.1:0 --discovery-port 0 --api 127.0.0.1:0 --no-lan",
    ),
)
@setting(
    "datadir",
    "listen",
    "discovery_port",
    "api",
    "api_token",
    "api_names",
    "bootstrap",
    "max_peers",
    "nat",
    "stun",
    "turn",
    "relay",
    "lan",
    "network",
    "validators",
)
@click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="First line: the passphrase of the node's key.",
)
@click.pass_context
def run(ctx: click.Context, passphrase_file: Path | None, **given: Any) -> None:
    """Run a node until SIGTERM, SIGINT or `kodectl node stop`.

    Prints where it can be reached as soon as it is ready; with --json one line of that, then what happens, one event a
    line. The log goes to stderr. The data directory is made if need be, and with it the node's identity."""
    # Before anything that opens sockets or starts threads is imported.
    from gevent import monkey

    monkey.patch_all()

    from kodectl.api.api import ApiSettings
    from kodectl.cli.quotas import parse_relay
    from kodectl.cli.serving import serve
    from kodectl.settings import NodeSettings
    from kodectl.store.keyfile import read_passphrase

    output = ctx.find_object(Output)
    assert output is not None, "the root group puts an Output into every context"
    output.log_format = output.log_format or configuration_of(ctx).get("log_format").value
    # A node tells each change of state without being asked to.
    output.verbosity += 1
    # What it tells about itself must hold wherever it is read.
    datadir = given["datadir"].absolute()
    listen_host, tcp_port = given["listen"]
    api_host, api_port = given["api"]
    settings = NodeSettings(
        datadir=datadir,
        listen_host=listen_host,
        tcp_port=tcp_port,
        udp_port=given["discovery_port"],
        bootstrap=given["bootstrap"],
        max_peers=given["max_peers"],
        lan=given["lan"],
        nat=given["nat"],
        stun=given["stun"],
        turn=given["turn"],
        relay=parse_relay(given["relay"]),
        network=given["network"],
        validators=given["validators"],
    )
    api_settings = ApiSettings(
        host=api_host,
        port=api_port,
        names=given["api_names"],
        token_required=given["api_token"] == "required",
        datadir=datadir,
    )
    serve(output, settings, api_settings, read_passphrase(passphrase_file) if passphrase_file else None)
