"""What two nodes tell each other in secret on the way to a connection stands in no log, whatever its level."""

from __future__ import annotations

import gc
import logging

import pytest
from town import KINDS, town_of

from kodectl.wire.offers import Offer
from kodectl.wire.rpc import Relayed

SETTLE_LIMIT_S = 60.0
LOOK_S = 0.1
MOST_LOOKS = 50


def passwords() -> set[str]:
    """Of ICE and of relays: all that there are in this process."""
    return {str(one.password) for one in gc.get_objects() if isinstance(one, Offer | Relayed) and one.password}


def test_no_password_of_ice_or_of_a_relay_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "kodectl")
    secret: set[str] = set()
    with town_of() as town:
        one, other = (town.behind(town.box(number, **KINDS["symmetric"])) for number in (1, 2))
        assert town.world.run(lambda: town.settled(one, other), SETTLE_LIMIT_S)
        assert town.world.run(
            lambda: one.connectivity.rendezvous.is_told and other.connectivity.rendezvous.is_told, SETTLE_LIMIT_S
        )

        one.scope.spawn("connect", one.connect, other.identity.node_id.hex(), 20.0)
        for _ in range(MOST_LOOKS):
            town.world.run_for(LOOK_S)
            secret |= passwords()
            if other.identity.node_id in one.peering.links:
                break
        assert other.identity.node_id in one.peering.links
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert len(secret) >= 2
    assert len(said) > 1000
    assert not [password for password in secret if password in said]
