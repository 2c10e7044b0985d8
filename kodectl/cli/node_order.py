"""`kodectl node`: the commands that make a running node do something."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kodectl.cli.command import command, examples
from kodectl.cli.known_ids import CONNECTED_ID, TABLE_ID
from kodectl.cli.node_target import on_node
from kodectl.cli.options import Seconds, read_input, read_targets
from kodectl.cli.output import Outcome, Output
from kodectl.cli.wording import counted
from kodectl.errors import Degraded, KodectlError, LocalMisuse, NegativeAnswer, PeerFault
from kodectl.settings import MAX_BAN_S

if TYPE_CHECKING:
    from kodectl.cli.client import NodeClient
    from kodectl.node.views import ConnectView, PeerView

CONNECTED = ("connected", "already_connected")
_STAGES = {
    "locate": "while looking for it",
    "signal": "while telling it through its rendezvous nodes",
    "dial_back": "while waiting for its dial",
    "path": "while looking for a path through the NATs",
    "quic": "while beginning QUIC on the path that was found",
}
BAD_REMOTE = ("identity_mismatch", "handshake_failed", "protocol_error", "malformed")
"""Outcomes of a dial that say the other side is not what it claims to be; all others are a plain no."""
MAX_PAYLOAD = 4 * 1024 * 1024
"""Of a block; a transaction's limit is smaller, and the node's to tell."""


@command(
    "connect",
    epilog=examples(
        "kodectl node connect 'enode://...@203.0.113.5:30303?discport=30301'",
        "kodectl node connect 203.0.113.5:30303",
        "kodectl dht find-node ID --json | jq -r '.data.closest[].enode' | kodectl node connect -",
    ),
)
@click.argument("targets", nargs=-1, metavar="TARGET...", type=TABLE_ID)
@on_node(timeout_s=10, deadline_s=60)
def connect(output: Output, client: NodeClient, targets: tuple[str, ...]) -> Outcome | None:
    """Connect to nodes, and say why not.

    TARGET is an enode, a node id (looked up in the network), IP:PORT, or - for targets on stdin. The node keeps
    redialling what was connected in this way. Exit code 3: refused, timeout, banned, ...; 9: another identity answers;
    4: some of several targets. Among several, a target that cannot be read is told as `bad_target`."""
    if len(targets) == 1 and targets[0] != "-":
        view = _connect(client, targets[0])
        return Outcome(view, _connect_text(targets[0], view), failure=_connect_failure(targets[0], view))
    asked = connected = 0
    for target in read_targets(targets):
        view = _connect_or_say_why(client, target)
        output.emit(
            {"target": target, "outcome": view.outcome, "id": view.id, "detail": view.detail}, _line(target, view)
        )
        asked += 1
        connected += view.outcome in CONNECTED
    if connected < asked:
        some = Degraded if connected else NegativeAnswer
        raise some(f"{asked - connected} of {asked} targets are not connected", code="not_connected")
    return None


def _connect(client: NodeClient, target: str) -> ConnectView:
    from kodectl.node.views import ConnectView

    body = {"target": target, "timeout_s": client.timeout_s}
    return client.post("/api/network/connect", ConnectView, body, wait_s=client.timeout_s)


def _connect_or_say_why(client: NodeClient, target: str) -> ConnectView:
    """One of several: a target that is none must not keep the others from theirs."""
    from kodectl.node.views import ConnectView

    try:
        return _connect(client, target)
    except LocalMisuse as error:
        return ConnectView(outcome=error.code, id=None, peer=None, detail=error.message)


def _line(target: str, view: ConnectView) -> str:
    return f"{view.outcome}  {target}" + (f"  {view.detail}" if view.detail else "")


def _connect_text(target: str, view: ConnectView) -> str:
    if view.outcome not in CONNECTED:
        return ""
    already = "was connected already" if view.outcome == "already_connected" else "connected"
    where = f" at {view.peer.addr} over {_way_of(view.peer)}, {view.peer.client}" if view.peer else ""
    return f"{already}: {view.id or target}{where}"


def _way_of(peer: PeerView) -> str:
    if peer.path == "relay":
        return "a relay, until a direct path is found"
    return peer.transport.upper()


def _connect_failure(target: str, view: ConnectView) -> KodectlError | None:
    if view.outcome in CONNECTED:
        return None
    branch = PeerFault if view.outcome in BAD_REMOTE else NegativeAnswer
    said = f": {view.detail}" if view.detail else ""
    stage = f" ({_STAGES[view.stage]})" if view.stage in _STAGES else ""
    return branch(f"not connected to {target}, {view.outcome}{stage}{said}", code=view.outcome, hint=_mend_of(view))


def _mend_of(view: ConnectView) -> str | None:
    if view.outcome == "banned" and view.id:
        return f"kodectl node unban {view.id}"
    if view.stage == "locate" and view.id:
        return (
            f"see that it runs, in the same network, and is connected to somebody; then kodectl dht find-node {view.id}"
        )
    if view.stage in ("signal", "dial_back"):
        return "try again in some seconds: its record may name nodes that it has left; on its side: kodectl node status"
    if view.stage in ("path", "quic"):
        return "on both sides: kodectl nat probe; a relay is needed where it says so: any public node with --relay on"
    return None


@command("disconnect", epilog=examples("kodectl node disconnect 1f2e3d4c"))
@click.argument("peer_id", metavar="ID", type=CONNECTED_ID)
@on_node()
def disconnect(output: Output, client: NodeClient, peer_id: str) -> Outcome:
    """Disconnect a peer.

    ID is its node id, or the first 8 or more digits of it."""
    from kodectl.cli.client import path_of
    from kodectl.node.views import DisconnectView

    view = client.post(path_of("/api/network/disconnect", peer_id), DisconnectView)
    return Outcome(view, f"disconnected {view.id}")


@command("ban", epilog=examples("kodectl node ban 1f2e3d4c", "kodectl node ban 1f2e3d4c --for 3600"))
@click.argument("peer_id", metavar="ID", type=CONNECTED_ID)
@click.option(
    "--for",
    "seconds",
    type=Seconds(MAX_BAN_S),
    metavar="SECONDS",
    help="How long; without it until `node unban`.",
)
@on_node()
def ban(output: Output, client: NodeClient, peer_id: str, seconds: float | None) -> Outcome:
    """Disconnect a node and refuse it from now on.

    ID is its node id; of a connected peer the first 8 or more digits are enough."""
    from kodectl.cli.client import path_of
    from kodectl.node.views import BanView

    view = client.post(path_of("/api/network/ban", peer_id), BanView, {"seconds": seconds})
    return Outcome(view, f"banned {view.id} " + (f"until {view.until}" if view.until else "until it is lifted"))


@command("unban", epilog=examples("kodectl node unban 1f2e...64 digits"))
@click.argument("peer_id", metavar="ID")
@on_node()
def unban(output: Output, client: NodeClient, peer_id: str) -> Outcome:
    """Lift the ban of a node.

    ID is its whole node id."""
    from kodectl.cli.client import path_of
    from kodectl.node.views import BanView

    view = client.post(path_of("/api/network/unban", peer_id), BanView)
    return Outcome(view, f"{view.id} is not banned")


@command("rediscover", epilog=examples("kodectl node rediscover"))
@on_node()
def rediscover(output: Output, client: NodeClient) -> Outcome:
    """Look for other nodes now.

    The node asks its bootstrap nodes, announces itself on the LAN, and refreshes its routing table."""
    from kodectl.node.views import RediscoverView

    view = client.post("/api/network/rediscover", RediscoverView)
    return Outcome(view, f"asking {view.bootstrap_nodes} bootstrap nodes; {view.known_nodes} nodes are known")


@command(
    "broadcast",
    epilog=examples(
        "kodectl node broadcast --type transaction tx.bin", "printf hello | kodectl node broadcast --type transaction -"
    ),
)
@click.option("--type", "kind", type=click.Choice(["transaction", "block"]), required=True, help="What it is.")
@click.option("--mode", type=click.Choice(["gossip", "flood"]), default="gossip", show_default=True, help="How.")
@click.argument("file", metavar="FILE|-")
@on_node(timeout_s=30, deadline_s=60)
def broadcast(output: Output, client: NodeClient, kind: str, mode: str, file: str) -> Outcome:
    """Sign a payload and send it to the whole network.

    Exit code 4: no peer is connected yet; those that come get it with the next exchange of digests."""
    from kodectl.node.views import BroadcastView

    body = {"type": kind, "payload": _read_payload(file), "mode": mode}
    view = client.post("/api/network/broadcast", BroadcastView, body)
    if not view.sent_to:
        nobody = Degraded("no peer is connected to send it to", code="no_peers", hint="kodectl node connect TARGET")
        return Outcome(view, view.id, failure=nobody)
    return Outcome(view, f"{view.id}\n{view.type} sent by {view.mode} to {counted(view.sent_to, 'peer')}")


def _read_payload(file: str) -> bytes:
    payload = read_input(file, MAX_PAYLOAD + 1)
    if len(payload) > MAX_PAYLOAD:
        raise LocalMisuse(f"{file} has more than {MAX_PAYLOAD} bytes", code="payload_too_large")
    return payload
