"""What servers, of which some may lie, say together about the mapping.

Each server says where it saw requests come from. Two stories explain what they say: the mapping is the same towards all of
them, or it depends on whom one talks to. A story makes liars of those that it does not fit:

* One mapping, X:p: whoever says anything else lies.
* A mapping for each destination: who says that two of his addresses saw the same lies; and so do two servers that say the
  same, because a liar does not know what the NAT showed to somebody else. (Where the ports of the NAT can be predicted
  he may guess it, and then only one of the two must be lying.)

A story is believed when it makes liars of fewer than half of the voices, and the other one, in each of its variants, of
more than half. So as long as no more than half of those who answer lie, what is believed is true, whatever they
say; and where the liars are half, mostly nothing is believed. (But for chance: a NAT that draws its ports draws the same one
twice in 64,000 times.) Servers of one network (/24, /64) are one voice, and one that says something else each time has none.

| voices | say | same mapping: liars | depends: liars | believed |
|---|---|---|---|---|
| 1 with one address | X:p | 0 | 0 | nothing: there is nothing to compare |
| 1 with two addresses | X:p twice | 0 | 1 | same |
| 1 with two addresses | X:p, X:q | 1 | 0 | depends |
| 2 | X:p, X:p | 0 | 2 (predictable: 1) | same (predictable: nothing) |
| 2 | X:p, X:q | 1 | 0 | nothing: one of them may lie |
| 2 with two addresses | X:p, X:q and X:r, X:s | 2 | 0 | depends |
| 3 | X:p, X:p, X:p | 0 | 3 (predictable: 2) | same |
| 3 | X:p, X:p, Y:q | 1 | 2 (predictable: 1) | same (predictable: nothing) |
| 3 | X:p, X:q, X:r | 2 | 0 | depends |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kodectl.core.nat_observations import Address, Alternate, ServerEvidence
from kodectl.core.table import subnet_of

PREDICTABLE_SPAN = 256
"""A server that sees the ports of two sockets as near as this, though they were chosen apart, can guess more of them. Ports
of a NAT that draws them are as near by chance once in 130 times."""

FICKLE = 3
"""Different answers to the same question."""


class Voice:
    """A server whose word counts, or several that share an address: what they say together."""

    def __init__(self, *servers: ServerEvidence) -> None:
        self.servers = servers
        self._by_endpoint: dict[Address, set[Address]] = {}
        for server in servers:
            for claim in server.claims:
                # Who is found elsewhere, and does not prove to be the server, is somebody else.
                if claim.endpoint[0] == server.address[0] or server.alternate is Alternate.VERIFIED:
                    self._by_endpoint.setdefault(claim.endpoint, set()).add(claim.mapped)
        self.said = frozenset().union(*self._by_endpoint.values())

    @property
    def is_steady(self) -> bool:
        """It says the same when it is asked the same again."""
        return all(len(said) == 1 for said in self._by_endpoint.values())

    @property
    def is_fickle(self) -> bool:
        """It says something else each time. A NAT that loses its mappings in the middle explains two answers, not three."""
        return any(len(said) >= FICKLE for said in self._by_endpoint.values())

    @property
    def is_uniform(self) -> bool:
        """It says that two of its addresses see the same: no NAT with a mapping for each destination shows that."""
        ips_by_mapped: dict[Address, set[str]] = {}
        for endpoint, said in self._by_endpoint.items():
            for mapped in said:
                ips_by_mapped.setdefault(mapped, set()).add(endpoint[0])
        return any(len(ips) > 1 for ips in ips_by_mapped.values())

    @property
    def depends_on_port(self) -> bool | None:
        """Whether two ports of one of its addresses see different mappings; None where no two were asked."""
        by_ip: dict[str, list[frozenset[Address]]] = {}
        for endpoint, said in self._by_endpoint.items():
            by_ip.setdefault(endpoint[0], []).append(frozenset(said))
        pairs = [said for said in by_ip.values() if len(said) > 1]
        return any(len(set(said)) > 1 for said in pairs) if pairs else None

    @property
    def ip(self) -> str | None:
        """The one outer address that it names; None when it names several."""
        ips = {mapped[0] for mapped in self.said}
        return next(iter(ips)) if len(ips) == 1 else None

    def ports(self) -> list[int]:
        """In the order in which its endpoints were asked."""
        return [min(said)[1] for said in self._by_endpoint.values()]


class Ballot(NamedTuple):
    """What the voices say. `depends`: whether the mapping depends on the destination; `said`: the mapping that is the same
    towards all, where it does not; `ip`: the outer address that more than half name."""

    voices: tuple[Voice, ...]
    depends: bool | None
    said: Address | None
    ip: str | None
    is_predictable: bool


def voices_of(servers: Iterable[ServerEvidence]) -> tuple[Voice, ...]:
    """Who says something else each time is not heard. Of the servers of one network only one is, the one that has most to
    say. A server whose other address is in the
    network of another one is one voice with that: it may be the same one, named twice, and if it is not, and only says so,
    then it cannot silence the other one."""
    heard: dict[str, ServerEvidence] = {}
    for server in sorted(servers, key=lambda server: server.alternate is not Alternate.VERIFIED):
        if server.claims and not Voice(server).is_fickle:
            heard.setdefault(_network_of(server.address), server)
    voices: list[tuple[set[str], list[ServerEvidence]]] = []
    for network, server in heard.items():
        networks, together = {network}, [server]
        if server.alternate is Alternate.VERIFIED and server.other is not None:
            networks.add(_network_of(server.other))
        for voice in [voice for voice in voices if voice[0] & networks]:
            voices.remove(voice)
            networks |= voice[0]
            together = [*voice[1], *together]
        voices.append((networks, together))
    return tuple(Voice(*together) for _, together in voices)


def count(servers: Sequence[ServerEvidence], local_port: int) -> Ballot:
    voices = voices_of(servers)
    is_predictable = any(_is_predictable(server, local_port) for server in servers)
    if_same = {mapped: _liars_if_same(voices, mapped) for voice in voices for mapped in voice.said}
    if not if_same:
        return Ballot(voices, None, None, None, is_predictable)
    said, liars = min(if_same.items(), key=lambda pair: pair[1])
    depends = _depends(len(voices), liars, _liars_if_depends(voices, is_predictable), _fickle(servers))
    return Ballot(voices, depends, said if depends is False else None, _ip_of(voices), is_predictable)


def _depends(voices: int, if_same: int, if_depends: int, fickle: int) -> bool | None:
    """The fickle lie in every story. If no more than half of all lie, no more than half of the others do: both ways of
    counting hold, and where the one leaves it open the other may not."""
    for known in (0, fickle):
        half = (voices + known) / 2
        same, other = if_same + known, if_depends + known
        if same < half < other:
            return False
        if other < half < same:
            return True
    return None


def _liars_if_same(voices: Sequence[Voice], mapped: Address) -> int:
    return sum(voice.said != {mapped} for voice in voices)


def _liars_if_depends(voices: Sequence[Voice], is_predictable: bool) -> int:
    """At least so many."""
    named = Counter(mapped for voice in voices for mapped in voice.said)
    possible = [voice for voice in voices if voice.is_steady and not voice.is_uniform]
    liars = len(voices) - len(possible)
    if is_predictable:
        shared = Counter(mapped for voice in possible for mapped in voice.said)
        return liars + max((count - 1 for count in shared.values()), default=0)
    return liars + sum(any(named[mapped] > 1 for mapped in voice.said) for voice in possible)


def _fickle(servers: Iterable[ServerEvidence]) -> int:
    return len({_network_of(server.address) for server in servers if Voice(server).is_fickle})


def _ip_of(voices: Sequence[Voice]) -> str | None:
    named = Counter(voice.ip for voice in voices if voice.ip is not None)
    ip, count = named.most_common(1)[0] if named else (None, 0)
    return ip if count * 2 > len(voices) else None


def _is_predictable(server: ServerEvidence, local_port: int) -> bool:
    """Ports that are those inside tell nobody the next one: they are chosen at random there."""
    if server.aside is None or server.mapped is None:
        return False
    (here, aside), mapped = server.aside, server.mapped
    is_preserved = aside[1] == here and mapped[1] == local_port
    return not is_preserved and abs(aside[1] - mapped[1]) <= PREDICTABLE_SPAN


def _network_of(address: Address) -> str:
    return subnet_of(address[0]) or address[0]
