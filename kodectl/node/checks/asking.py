"""Who answers at an address, whoever that is supposed to be."""

from __future__ import annotations

from collections.abc import Sequence

from kodectl.core.sessions import ANY_ID
from kodectl.errors import KodectlError
from kodectl.node.errand import Terms, errand
from kodectl.runtime.base import Runtime, Stopped, TimedOut
from kodectl.wire.enode import Enode

MAX_ASKED = 8


def who_answers(runtime: Runtime, enodes: Sequence[Enode], limit_s: float) -> dict[Enode, bytes]:
    """The node ids that were proved over UDP, by where they were asked for; a node says nothing to who asks for another one, so
    they are asked for anybody. Waits until all have answered, `limit_s` at most."""
    asked = list(dict.fromkeys(enodes))[:MAX_ASKED]
    found: dict[Enode, bytes] = {}
    if not asked:
        return found
    answers = runtime.mailbox(len(asked))
    ends = runtime.now() + limit_s
    terms = Terms(bootstrap=(), network="", timeout_s=limit_s, deadline_s=limit_s)
    with errand(runtime, terms) as this:

        def ask(enode: Enode) -> None:
            try:
                address = (this.resolve(enode.host), enode.udp)
                answer = this.discovery.ask(ANY_ID, address, this.kademlia.ping_body(), this.limit_s())
            except (KodectlError, Stopped):
                answers.put((enode, None))
            else:
                answers.put((enode, answer.session.node_id))

        for enode in asked:
            this.scope.spawn(f"who is at {enode.host}", ask, enode)
        for _ in asked:
            try:
                enode, node_id = answers.get(max(0.0, ends - runtime.now()))
            except TimedOut:
                break
            if node_id is not None:
                found[enode] = node_id
    return found
