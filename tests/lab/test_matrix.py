"""Real nodes behind real NATs connect by id, with nothing but open nodes to help; see tests/matrix.py."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from matrix import KINDS, Machine, Network, connect, direct_within_s, laid, measure, part, verdict
from natlab import Kind, skip_without_lab

pytestmark = [pytest.mark.lab, skip_without_lab]

SHORT = (Kind.FULL_CONE, Kind.PORT_RESTRICTED, Kind.SYMMETRIC_SEQUENTIAL, Kind.BLOCKED)
CELLS = [
    (Kind.FULL_CONE, Kind.PORT_RESTRICTED),
    (Kind.PORT_RESTRICTED, Kind.PORT_RESTRICTED),
    (Kind.PORT_RESTRICTED, Kind.SYMMETRIC_SEQUENTIAL),
    (Kind.PORT_RESTRICTED, Kind.BLOCKED),
    (Kind.SYMMETRIC_SEQUENTIAL, Kind.FULL_CONE),
    (Kind.SYMMETRIC_SEQUENTIAL, Kind.SYMMETRIC_SEQUENTIAL),
    (Kind.BLOCKED, Kind.BLOCKED),
    (Kind.BLOCKED, Kind.SYMMETRIC_SEQUENTIAL),
]

Laid = tuple[Network, dict[Kind, tuple[Machine, Machine]]]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laid]:
    with laid(SHORT, tmp_path_factory.mktemp("matrix")) as one:
        yield one


@pytest.mark.parametrize(("here", "there"), CELLS, ids=lambda kind: kind.value)
def test_a_pair_connects_as_well_as_its_nats_allow(network: Laid, here: Kind, there: Kind) -> None:
    """As in the whole matrix, but for the time it may take: the machine may be busy."""
    _, machines = network
    one, other = machines[here][0], machines[there][1]
    expected = direct_within_s(here, there)
    outcome = connect(one, other, None if expected is None else 4 * expected)
    assert (outcome.direct_s is None) is (expected is None), outcome
    part(one, other)


def test_two_behind_one_nat_meet_inside(network: Laid) -> None:
    town, _ = network
    first = town.lab.behind(Kind.PORT_RESTRICTED)
    second = town.lab.behind(router=first.router)
    one, other = town.lay(first, "twin-1", "--nat", "none"), town.lay(second, "twin-2", "--nat", "none")
    town.settle([one, other])
    outcome = connect(one, other, 20.0)
    assert outcome.direct_s is not None
    peer = one.peer(other.id)
    assert peer is not None
    assert (peer["pair"]["local_type"], peer["pair"]["remote_type"]) == ("host", "host")
    assert peer["ip"] == second.ip


@pytest.mark.slow
def test_everybody_connects_to_everybody(tmp_path: Path) -> None:
    found = measure(KINDS, 1)
    assert {cell: text for cell in product(KINDS, KINDS) if (text := verdict(*cell, found[cell]))} == {}
