"""`kodectl node`: the commands that wait for a running node, probe it, or see it off."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from kodectl.cli.command import command, examples
from kodectl.cli.node_target import on_node
from kodectl.cli.options import Parsed
from kodectl.cli.output import Outcome, Output
from kodectl.errors import DeadlineReached, KodectlError, NegativeAnswer, NodeUnreachable

if TYPE_CHECKING:
    from kodectl.cli.client import NodeClient
    from kodectl.node.views import StatusView

LOOK_EVERY_S = 0.2
"""Between two looks at a condition: soon enough for people and scripts, 0.1 % of a core for the node."""
PATH_OF_PROBE = {"live": "/livez", "ready": "/readyz", "startup": "/startupz"}
MAX_PEERS_WANTED = 10_000


@dataclass(frozen=True)
class Condition:
    """What to wait for, on the status of a node that runs; None stands for one that does not."""

    text: str
    holds: Callable[[StatusView | None], bool]


@dataclass(frozen=True)
class Waited:
    condition: str
    waited_s: float


def parse_condition(text: str) -> Condition:
    if text == "ready":
        return Condition(text, lambda status: status is not None and status.state == "ready")
    if text == "stopped":
        return Condition(text, lambda status: status is None)
    if text == "reachable":
        return Condition(text, _is_reachable)
    name, _, count = text.partition("=")
    is_number = count.isascii() and count.isdigit() and len(count) <= 6
    if name == "peers" and is_number and 1 <= int(count) <= MAX_PEERS_WANTED:
        return Condition(text, lambda status: status is not None and status.peers >= int(count))
    raise ValueError(f"ready, peers=N (1 to {MAX_PEERS_WANTED}), reachable or stopped")


def _is_reachable(status: StatusView | None) -> bool:
    return status is not None and bool(status.nat.reachable_udp or status.nat.reachable_tcp)


CONDITION = Parsed(parse_condition, "condition", ("ready", "peers=", "reachable", "stopped"))


@command("wait", epilog=examples("kodectl node wait --for ready", "kodectl node wait --for peers=8 --deadline 120"))
@click.option(
    "--for", "condition", type=CONDITION, required=True, metavar="ready|peers=N|reachable|stopped", help="What."
)
@on_node(deadline_s=60)
def wait(output: Output, client: NodeClient, condition: Condition) -> Outcome:
    """Wait until the node is ready, has peers, or has left.

    A node that does not run yet is waited for too. Exit code 8: not before the deadline; 5: no node has answered."""
    began = time.monotonic()
    until = began + click.get_current_context().params["deadline_s"]
    seen = False
    while True:
        status = _status_if_running(client)
        seen = seen or status is not None
        if condition.holds(status) and not (status is None and _is_leaving(client)):
            waited = Waited(condition.text, round(time.monotonic() - began, 3))
            return Outcome(waited, f"{condition.text} after {waited.waited_s:.1f} s")
        if time.monotonic() + LOOK_EVERY_S > until:
            raise _gave_up(client, condition, seen)
        output.progress(f"waiting for {condition.text}: " + ("no node yet" if status is None else status.state))
        time.sleep(LOOK_EVERY_S)


def _status_if_running(client: NodeClient) -> StatusView | None:
    from kodectl.node.views import StatusView

    try:
        return client.get("/api/network/status", StatusView)
    except NodeUnreachable:
        return None


def _is_leaving(client: NodeClient) -> bool:
    """A node takes its socket away before its process has ended."""
    from kodectl.store.datadir import is_held

    return client.endpoint.unix is not None and is_held(client.endpoint.unix.parent)


def _gave_up(client: NodeClient, condition: Condition, seen: bool) -> KodectlError:
    if not seen:
        return NodeUnreachable(f"no node has answered at {client.endpoint}", hint="kodectl node run")
    return DeadlineReached(f"the deadline passed before {condition.text}", hint="kodectl node status")


@command("stop", epilog=examples("kodectl node stop", "kodectl node stop --no-wait"))
@click.option("--wait/--no-wait", "waits", default=True, help="Until the process has left.", show_default=True)
@on_node(deadline_s=20)
def stop(output: Output, client: NodeClient, waits: bool) -> Outcome:
    """Ask the node to leave.

    It says goodbye to its peers and saves its state."""
    from kodectl.api.views import StopView

    until = time.monotonic() + click.get_current_context().params["deadline_s"]
    view = client.post("/api/node/stop", StopView)
    if not waits:
        return Outcome(view, "stopping")
    while _status_if_running(client) is not None or _is_leaving(client):
        if time.monotonic() + LOOK_EVERY_S > until:
            raise DeadlineReached("the node has not left before the deadline", hint="it still may; or kill it")
        time.sleep(LOOK_EVERY_S)
    return Outcome(view, "stopped")


@command("health", epilog=examples("kodectl node health ready", "HEALTHCHECK CMD kodectl node health live"))
@click.argument("probe", type=click.Choice(list(PATH_OF_PROBE)), default="ready")
@on_node()
def health(output: Output, client: NodeClient, probe: str) -> Outcome:
    """Ask the node whether it is well.

    live: its tasks run; startup: it has begun; ready: it takes part. Exit code 3, with the checks that fail."""
    from kodectl.node.views import HealthView

    view = client.get(PATH_OF_PROBE[probe], HealthView)
    text = "\n".join(f"{'ok' if check.ok else 'FAILED'}  {check.name}: {check.detail}" for check in view.checks)
    if view.ok:
        return Outcome(view, text)
    failing = ", ".join(f"{check.name} ({check.detail})" for check in view.checks if not check.ok)
    return Outcome(view, text, failure=NegativeAnswer(f"the node is not {probe}: {failing}", code="unhealthy"))
