"""Can two hosts behind the same NAT reach each other by its outer address? (RFC 4787, section 6; RFC 5780, section 3.4)"""

from __future__ import annotations

from kodectl.core.nat_observations import HairpinTest
from kodectl.core.silence import SENDINGS
from kodectl.node.inquiry import Inquiry
from kodectl.node.subject import Subject
from kodectl.runtime.base import Runtime
from kodectl.wire.addresses import scope_of

PAUSE_S = 0.05
"""The way goes to the router and back, and no further."""


def try_hairpin(
    runtime: Runtime, mapping: Inquiry, partner: Inquiry, subject: Subject, ends: float
) -> HairpinTest | None:
    """Two sockets of this host send to each other's outer address, as `subject` names them, so that no filter can be in the
    way. None where it names an address that cannot be outside."""
    here = subject.mapped
    if here is None or scope_of(here[0]) not in ("public", scope_of(subject.address[0])):
        return None
    answer = partner.exchange(subject.address, ends=ends)
    if answer is None or answer.mapped[0] != here[0]:
        return None
    knocked = runtime.event()
    token, partner_token = mapping.await_knock(knocked), partner.await_knock(knocked)
    sent = 0
    while sent < SENDINGS and runtime.now() < ends and not knocked.is_set():
        mapping.knock(answer.mapped, partner_token)
        partner.knock(here, token)
        sent += 1
        knocked.wait(min(PAUSE_S, max(0.0, ends - runtime.now())))
    return HairpinTest(knocked.is_set(), sent)
