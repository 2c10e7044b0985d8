"""What two sides agree to try, each by itself."""

from __future__ import annotations

from itertools import product

import pytest

from kodectl.core.nat import Behavior
from kodectl.core.traversal_plan import Plan, Side, SprayRole, plan
from kodectl.wire.offers import NatHint

ANY, ADDRESS, PORT = Behavior.ENDPOINT_INDEPENDENT, Behavior.ADDRESS_DEPENDENT, Behavior.ADDRESS_AND_PORT_DEPENDENT
PLACE = ("203.0.113.5", 30303)

OPEN = Side(NatHint(ANY, ANY), PLACE, PLACE)
FULL_CONE = Side(NatHint(ANY, ANY), None, PLACE)
RESTRICTED = Side(NatHint(ANY, ADDRESS), None, PLACE)
PORT_RESTRICTED = Side(NatHint(ANY, PORT), None, PLACE)
SYMMETRIC = Side(NatHint(PORT, PORT), None, PLACE)
IN_A_ROW = Side(NatHint(ADDRESS, PORT, port_step=2), None, PLACE)
BLOCKED = Side(NatHint(is_udp_blocked=True), None, PLACE)
UNKNOWN = Side(NatHint(), None, None)
KINDS = [OPEN, FULL_CONE, RESTRICTED, PORT_RESTRICTED, SYMMETRIC, IN_A_ROW, BLOCKED, UNKNOWN]

NOTHING = Plan()
MANY_SOCKETS, MANY_PORTS = Plan(spray=SprayRole.MANY_SOCKETS), Plan(spray=SprayRole.MANY_PORTS)


@pytest.mark.parametrize(
    ("initiator", "responder", "of_initiator", "of_responder"),
    [
        (OPEN, BLOCKED, Plan(responder_dials=True), Plan(responder_dials=True)),
        (FULL_CONE, BLOCKED, Plan(punches_tcp=True), Plan(punches_tcp=True)),
        (BLOCKED, BLOCKED, Plan(punches_tcp=True), Plan(punches_tcp=True)),
        (UNKNOWN, BLOCKED, NOTHING, NOTHING),
        (PORT_RESTRICTED, SYMMETRIC, MANY_PORTS, MANY_SOCKETS),
        (SYMMETRIC, PORT_RESTRICTED, MANY_SOCKETS, MANY_PORTS),
        (IN_A_ROW, PORT_RESTRICTED, Plan(predicts=True), NOTHING),
        (PORT_RESTRICTED, IN_A_ROW, NOTHING, Plan(predicts=True)),
        (RESTRICTED, SYMMETRIC, NOTHING, NOTHING),
        (SYMMETRIC, SYMMETRIC, NOTHING, NOTHING),
        (SYMMETRIC, IN_A_ROW, NOTHING, NOTHING),
        (PORT_RESTRICTED, PORT_RESTRICTED, NOTHING, NOTHING),
        (UNKNOWN, SYMMETRIC, NOTHING, NOTHING),
    ],
)
def test_both_come_to_plans_that_fit(initiator: Side, responder: Side, of_initiator: Plan, of_responder: Plan) -> None:
    assert plan(initiator, responder, is_initiator=True) == of_initiator
    assert plan(responder, initiator, is_initiator=False) == of_responder


@pytest.mark.parametrize(("initiator", "responder"), list(product(KINDS, KINDS)))
def test_nobody_acts_alone(initiator: Side, responder: Side) -> None:
    mine, theirs = plan(initiator, responder, is_initiator=True), plan(responder, initiator, is_initiator=False)
    assert (mine.responder_dials, mine.punches_tcp) == (theirs.responder_dials, theirs.punches_tcp)
    assert (mine.spray is None) == (theirs.spray is None)
    assert mine.spray is None or mine.spray is not theirs.spray
    assert not (mine.predicts and theirs.predicts)
