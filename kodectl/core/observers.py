"""How others see this node: what each of them says, and what can be believed of it.

One observer is one voice, and all observers of one network are one voice together: who rents a /24 does not get to tell
this node where it is. An address is believed when observers of at least four networks have spoken and more than half of
those networks name it.

Those nearby, in the same private network, see this node from inside, however many they are: their words count only as
long as nobody has spoken from further away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from ipaddress import ip_address
from typing import NamedTuple

from kodectl.core.exchange import Reach, reach_of
from kodectl.core.nat import Behavior
from kodectl.core.table import subnet_of

Address = tuple[str, int]

MIN_GROUPS = 4
"""Distinct networks that must have spoken before a majority of them is believed."""
MIN_PORTS = 3
"""Different ports that show a mapping to depend on who is talked to; two may be the old and the new one."""
MAX_OBSERVERS = 64
VALIDITY_S = 600.0
"""A word that is older than that may be of another place: mappings and addresses change."""


class Word(NamedTuple):
    """What one observer said last."""

    group: str
    distance: Reach
    """Of the observer."""
    seen: Address
    at: float


class Belief(NamedTuple):
    """What follows. `ip` None: not enough networks, or no majority; `hint` is then what most of them say, and nothing to
    tell anybody else. `port`: of the UDP mapping, where more than half of the networks name the same for `ip`."""

    ip: str | None
    hint: str | None
    port: int | None
    mapping: Behavior | None
    groups: int
    dissent: int
    """Networks that name another address than the one believed."""


NOBODY = Belief(None, None, None, None, 0, 0)
"""Has said anything."""


class Observers:
    """The words about the discovery socket. Of those from furthest away, one family of addresses counts: that of the most
    voices."""

    def __init__(self) -> None:
        self._words: dict[bytes, Word] = {}

    def hear(self, node_id: bytes, observer_ip: str, seen: Address, now: float) -> Address | None:
        """What the observer said before. Observers on this very machine see loopback addresses, which are of no use to
        anybody else: they are not heard."""
        before = self._words.pop(node_id, None)
        if ip_address(seen[0].partition("%")[0]).is_loopback:
            return None
        if len(self._words) >= MAX_OBSERVERS:
            self._make_room()
        self._words[node_id] = Word(group_of(observer_ip), reach_of(observer_ip), seen, now)
        return before.seen if before is not None else None

    def _make_room(self) -> None:
        """The oldest of the network with the most goes: a crowd in one network pushes out nobody but its own."""
        sizes = Counter(word.group for word in self._words.values())
        most = max(sizes.values())
        del self._words[next(node_id for node_id, word in self._words.items() if sizes[word.group] == most)]

    def seen_by(self, node_id: bytes) -> Address | None:
        word = self._words.get(node_id)
        return word.seen if word is not None else None

    def heard_since(self, time: float) -> list[bytes]:
        return [node_id for node_id, word in self._words.items() if word.at >= time]

    def witnesses_since(self, time: float, hint: str | None) -> list[bytes]:
        """Who has spoken since then and stands where it matters: as far away as anybody, and seeing us at `hint`. What comes
        from others comes another way, and shows nothing about the one that strangers take."""
        words = {node_id: word for node_id, word in self._words.items() if word.at >= time}
        furthest = _furthest(words.values())
        return [
            node_id for node_id, word in words.items() if word.distance is furthest and hint in (None, word.seen[0])
        ]

    def is_further(self, ip: str, now: float) -> bool:
        """Than everybody whose word counts now."""
        return reach_of(ip) > _furthest(self._recent(now))

    def forget_before(self, time: float) -> None:
        self._words = {node_id: word for node_id, word in self._words.items() if word.at >= time}

    def groups(self, now: float) -> set[str]:
        """The networks whose word counts now."""
        return set(self._by_group(now))

    def belief(self, now: float) -> Belief:
        by_group = self._by_group(now)
        ips = Counter(word.seen[0] for word in by_group.values())
        if not ips:
            return NOBODY
        ip, count = ips.most_common(1)[0]
        hint = ip if count * 2 > len(by_group) else None
        believed = hint if len(by_group) >= MIN_GROUPS else None
        ports = Counter(word.seen[1] for word in by_group.values() if word.seen[0] == ip)
        port, mapping = _mapping(ports, len(by_group))
        return Belief(
            believed, hint, port if hint else None, mapping if hint else None, len(by_group), len(by_group) - count
        )

    def _by_group(self, now: float) -> dict[str, Word]:
        """The latest word of each network."""
        recent = self._recent(now)
        furthest = _furthest(recent)
        recent = [word for word in recent if word.distance is furthest]
        families = Counter(":" in word.seen[0] for word in recent)
        is_ipv6 = families[True] > families[False]
        latest = sorted((word for word in recent if (":" in word.seen[0]) == is_ipv6), key=lambda word: word.at)
        return {word.group: word for word in latest}

    def _recent(self, now: float) -> list[Word]:
        return [word for word in self._words.values() if now - word.at <= VALIDITY_S]


def _furthest(words: Iterable[Word]) -> Reach:
    return max((word.distance for word in words), default=Reach.LOOPBACK)


def _mapping(ports: Counter[int], groups: int) -> tuple[int | None, Behavior | None]:
    """`ports`: of one address, by how many networks name each."""
    port, count = ports.most_common(1)[0]
    if count >= 2 and count * 2 > groups:
        return port, Behavior.ENDPOINT_INDEPENDENT
    # The honest are more than half, and behind such a NAT no two of them see the same port. Two ports with several
    # voices each are a mapping that has just changed. Observers differ in their addresses, so no more follows.
    alone = sum(named == 1 for named in ports.values())
    if alone >= MIN_PORTS and alone * 2 > groups:
        return None, Behavior.ADDRESS_DEPENDENT
    return None, None


def group_of(ip: str) -> str:
    """The network that an observer speaks for: its /24 or /64, and itself where addresses are not scarce."""
    return subnet_of(ip) or ip
