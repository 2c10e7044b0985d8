"""The table of a box that translates: its bounds, and what it is by a log of what went out."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kodectl.core.nat import Behavior
from kodectl.errors import LocalMisuse
from kodectl.runtime.base import Address
from kodectl.sim.translation import MAX_CONTACTS, MAX_FORWARDS, MAX_MAPPINGS, PortRule, Translations

INNER = "192.168.1.2"
SERVER, OTHER_SERVER = "22.0.0.1", "22.1.0.1"
PORT, OTHER_PORT = 30_301, 30_302

FREE, ADDRESS, ENDPOINT = Behavior


class TestBounds:
    def table(self, **rules: Any) -> Translations:
        said = {"mapping": FREE, "filtering": ENDPOINT, "ports": PortRule.SEQUENTIAL, "timeout_s": 120.0}
        return Translations(**(said | rules), is_kept_by_inbound=False, rng=random.Random(1))

    def test_the_mapping_unused_for_longest_makes_room(self) -> None:
        table, remote = self.table(), (SERVER, 1)
        endpoints = [(f"10.0.{number // 250}.{number % 250}", 1) for number in range(MAX_MAPPINGS + 1)]
        ports = [table.outward(inner, remote, 1.0) for inner in endpoints[:-1]]
        table.outward(endpoints[0], remote, 2.0)
        assert table.outward(endpoints[-1], remote, 2.0) not in ports
        assert len(table) == len(table._by_port) == MAX_MAPPINGS
        assert table.inward(ports[0], remote, 2.0) == endpoints[0]
        assert table.inward(ports[1], remote, 2.0) is None

    def test_so_do_those_who_may_come_in(self) -> None:
        table, inner = self.table(), (INNER, 1)
        for number in range(MAX_CONTACTS + 1):
            port = table.outward(inner, (SERVER, number), 1.0)
        assert len(table._contacts) == MAX_CONTACTS
        assert table.inward(port, (SERVER, 0), 1.0) is None
        assert table.inward(port, (SERVER, 1), 1.0) == inner

    def test_expired_ones_leave_nothing(self) -> None:
        table = self.table(mapping=ENDPOINT)
        for number in range(3 * MAX_MAPPINGS):
            table.outward((INNER, 1), (SERVER, number % 60_000), number / 10)
        assert len(table._by_port) == len(table) <= 1_201
        assert len(table._contacts) <= 1_201

    def test_visitors_of_forwards_too(self) -> None:
        table = self.table()
        table.forward(1, (INNER, 1))
        for number in range(MAX_CONTACTS + 5):
            table.inward(1, (SERVER, number), 1.0)
        assert len(table._visitors) == MAX_CONTACTS

    def test_forwards_are_few(self) -> None:
        table = self.table()
        for number in range(1, MAX_FORWARDS + 1):
            table.forward(number, (INNER, number))
        table.forward(1, (INNER, 2))
        with pytest.raises(LocalMisuse):
            table.forward(MAX_FORWARDS + 1, (INNER, 1))


class Sent(NamedTuple):
    at_s: float
    inner: Address
    remote: Address
    port: int


def part(behavior: Behavior, remote: Address) -> object:
    return {FREE: None, ADDRESS: remote[0], ENDPOINT: remote}[behavior]


ENDPOINTS = st.tuples(st.sampled_from([INNER, "192.168.1.3"]), st.sampled_from([1, 2, 65_535]))
REMOTES = st.tuples(st.sampled_from([SERVER, OTHER_SERVER]), st.sampled_from([PORT, OTHER_PORT]))
EVENTS = st.lists(st.tuples(st.sampled_from([0.0, 1.0, 40.0, 70.0]), ENDPOINTS, REMOTES, REMOTES), max_size=25)


@given(
    mapping=st.sampled_from(list(Behavior)),
    filtering=st.sampled_from(list(Behavior)),
    ports=st.sampled_from(list(PortRule)),
    events=EVENTS,
)
def test_a_box_does_what_its_log_of_outgoing_packets_says(
    mapping: Behavior, filtering: Behavior, ports: PortRule, events: list[tuple[float, Address, Address, Address]]
) -> None:
    """RFC 4787 told as one sentence about a log: what goes out keeps its port as long as the last like it is recent, and
    what comes in needs somebody who recently sent there."""
    timeout_s, now, log = 100.0, 0.0, []
    table = Translations(
        mapping=mapping,
        filtering=filtering,
        ports=ports,
        timeout_s=timeout_s,
        is_kept_by_inbound=False,
        rng=random.Random(1),
    )
    for pause_s, inner, remote, visitor in events:
        now += pause_s
        recent = [sent for sent in log if sent.at_s + timeout_s > now]
        port = table.outward(inner, remote, now)
        alike = {s.port for s in recent if (s.inner, part(mapping, s.remote)) == (inner, part(mapping, remote))}
        assert alike <= {port}
        others = {s.port for s in recent if (s.inner, part(mapping, s.remote)) != (inner, part(mapping, remote))}
        assert port not in others
        log.append(Sent(now, inner, remote, port))
        for outer_port in {sent.port for sent in log}:
            wanted = {
                s.inner
                for s in [*recent, log[-1]]
                if s.port == outer_port and part(filtering, s.remote) == part(filtering, visitor)
            }
            assert {table.inward(outer_port, visitor, now)} == (wanted or {None})
