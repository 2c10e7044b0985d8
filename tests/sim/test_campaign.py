"""Some of the networks of `tests/campaign.py`, which plays as many as there is time for."""

from __future__ import annotations

from itertools import cycle

import campaign
import pytest

from kodectl.core.gossip import Gossip

ALL_TROUBLES = 9
"""A seed with some of everything, and few nodes."""


@pytest.mark.parametrize("seed", [ALL_TROUBLES, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(30))])
def test_a_network_is_whole_again_when_the_weather_has_passed(seed: int) -> None:
    result = campaign.run(seed)
    assert result["found"] == []
    assert seed != ALL_TROUBLES or set(result["troubles"]) == set(campaign.KINDS_OF_TROUBLE)


def test_what_does_not_hold_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes that do not listen to what others have, nor to every second message, miss some."""
    turns = cycle((True, False))
    monkeypatch.setattr(Gossip, "allow", lambda gossip, peer_id, size, now: next(turns))
    monkeypatch.setattr(Gossip, "on_have", lambda gossip, peer_id, ids, now: None)
    assert any("has not come to" in what for what in campaign.run(ALL_TROUBLES)["found"])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [310])
def test_a_seed_gives_one_trace(seed: int) -> None:
    """310: which of two passages with one peer took a connection depended on where they lay in memory."""
    assert len({campaign.run(seed)["trace"] for _ in range(4)}) == 1
