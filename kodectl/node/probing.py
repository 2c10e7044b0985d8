"""`nat probe`: how this host is seen from outside, and who gets in.

One socket asks every server where it sees it: the mapping. A fresh socket for each server asks for answers from elsewhere: the
filter. All servers side by side, in two rounds, since the filters must be tested before any server's other address is sent to:

    1  meet every server from both sockets; test the filters; hairpin; IPv6; routers
    2  ask the servers again, their other addresses, and whether they do answer from there

What follows from what is seen is the business of `core.nat_evidence`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, NamedTuple

from kodectl.core.nat_evidence import conclude
from kodectl.core.nat_observations import Alternate, Evidence, HairpinTest
from kodectl.errors import KodectlError, LocalMisuse
from kodectl.node.classic import ClassicAnswer, ask_classic
from kodectl.node.hairpin import try_hairpin
from kodectl.node.inquiry import Inquiry
from kodectl.node.probe_views import Ipv6Answer, ProbeView, Sighting, probe_view
from kodectl.node.routers import Finders, Routers
from kodectl.node.stun_client import ask_over_tcp
from kodectl.node.subject import Subject
from kodectl.runtime.base import Runtime
from kodectl.wire.addresses import address_text, scope_of

MAX_SERVERS = 8
"""A third settles what two leave open; each costs the NAT up to five mappings, and some have few to give."""

TCP_LIMIT_S = 3.0
"""Two round trips. Over UDP an answer was waited for longer than one of them can then have been, so that a server that is
only slow is not taken for a network without UDP."""

IPV4, IPV6 = "0.0.0.0", "::"
"""The wildcards, which stand for the families."""


class ProbeTerms(NamedTuple):
    servers: tuple[tuple[str, int], ...]
    """Host and port; at least one."""
    timeout_s: float = 3.0
    """For a name to resolve, and for an answer over TCP."""
    deadline_s: float = 15.0
    """For everything. What is not known by then is null."""
    with_classic: bool = False


def probe(runtime: Runtime, terms: ProbeTerms, finders: Finders) -> ProbeView:
    """Waits, less than two seconds in the plain case. Raises LocalMisuse (no servers, or too many) and EnvironmentFault; that
    nobody answers is a view like any other. `finders`: how routers are found, by protocol; each of them is asked."""
    with Prober(runtime, terms, finders) as prober:
        return prober.run()


class Prober:
    """Keeps the mapping socket, so that one probe after another looks at the same mapping. `is_light`: without hairpin,
    routers and IPv6."""

    def __init__(self, runtime: Runtime, terms: ProbeTerms, finders: Finders, *, is_light: bool = False) -> None:
        if not 1 <= len(terms.servers) <= MAX_SERVERS:
            raise LocalMisuse(f"a probe asks 1 to {MAX_SERVERS} STUN servers, not {len(terms.servers)}")
        self._runtime = runtime
        self._terms = terms
        self._finders: Finders = {} if is_light else finders
        self._is_light = is_light
        self._sockets: dict[str, Inquiry] = {}

    def __enter__(self) -> Prober:
        return self

    def __exit__(self, *_: object) -> None:
        for socket in self._sockets.values():
            socket.close()

    def run(self) -> ProbeView:
        started = self._runtime.now()
        ends = started + self._terms.deadline_s
        with ExitStack() as opened:
            routers = Routers(self._runtime, self._finders)
            opened.callback(routers.close)
            look = _Look(self._runtime, self._terms, ends, opened, is_light=self._is_light)
            look.resolve()
            mapping = self._socket(look.family)
            if look.subjects:
                look.at_nat(mapping)
            answers = routers.wait(ends)
        now = self._runtime.now()
        evidence = look.evidence()._replace(
            local_port=mapping.local_port,
            gateways=tuple(answer.found for answer in answers if answer.found is not None),
            gateways_asked=bool(answers),
        )
        seen = Sighting(
            evidence, look.subjects, look.unresolved, answers, look.ipv6, look.classic, now >= ends, now - started
        )
        return probe_view(seen, conclude(evidence))

    def _socket(self, family: str) -> Inquiry:
        if family not in self._sockets:
            self._sockets[family] = Inquiry(self._runtime, family)
        return self._sockets[family]


class _Look:
    """One look at the servers, and what it showed. `opened` closes the sockets that it opens."""

    def __init__(self, runtime: Runtime, terms: ProbeTerms, ends: float, opened: ExitStack, *, is_light: bool) -> None:
        self._runtime = runtime
        self._terms = terms
        self._ends = ends
        self._opened = opened
        self._is_light = is_light
        self._network = runtime.local_network()
        self._own_ips = frozenset(self._network.addresses)
        self._ips: dict[tuple[str, int], list[str]] = {}
        self._hairpin: HairpinTest | None = None
        self._tcp_answers: set[str] = set()
        self.family = IPV4
        self.subjects: list[Subject] = []
        self.unresolved: list[str] = []
        source6 = self._network.source6
        self.ipv6 = Ipv6Answer(source6 if source6 and scope_of(source6) == "public" else None, None, None)
        self.classic: ClassicAnswer | None = None

    def resolve(self) -> None:
        """To one family: IPv4 where any server has it, for that is where the NATs are. One address is asked once."""
        servers = list(dict.fromkeys(self._terms.servers))
        self._side_by_side("resolve", ((self._resolve_one, server) for server in servers))
        if self._ips and not any(":" not in ip for ips in self._ips.values() for ip in ips):
            self.family = IPV6
        known = set()
        for host, port in servers:
            ips = self._ips.get((host, port), [])
            ip = next((ip for ip in ips if (":" in ip) == (self.family == IPV6)), None)
            if ip is not None and (ip, port) not in known:
                known.add((ip, port))
                self.subjects.append(Subject(self._runtime, address_text(host, port), (ip, port), self._own_ips))

    def _resolve_one(self, server: tuple[str, int]) -> None:
        try:
            self._ips[server] = self._runtime.resolve(server[0], min(self._terms.timeout_s, self._left_s()))
        except KodectlError:
            self.unresolved.append(server[0])

    def at_nat(self, mapping: Inquiry) -> None:
        asides = [(subject, self._open(self.family)) for subject in self.subjects]
        self._side_by_side(
            "first",
            [
                *((self._look_aside, aside) for aside in asides),
                (self._look_at_mapping, mapping),
                *([] if self._is_light else [(self._try_ipv6, None)]),
            ],
        )
        answered = [subject for subject in self.subjects if subject.has_answered]
        if not answered:
            self._try_tcp()
            return
        self._look_again(mapping, answered)
        if self._terms.with_classic:
            self._ask_classic(answered)

    def _look_aside(self, aside: tuple[Subject, Inquiry]) -> None:
        subject, socket = aside
        subject.meet_aside(socket, self._ends)
        subject.try_filter(socket, self._ends)

    def _look_at_mapping(self, mapping: Inquiry) -> None:
        self._side_by_side("mapping", ((subject.meet, mapping, self._ends) for subject in self.subjects))
        if self._is_light:
            return
        # What no more than half of the servers name may be somebody else's address.
        named = Counter(subject.mapped for subject in self.subjects if subject.mapped is not None)
        for subject in self.subjects:
            if subject.mapped is not None and named[subject.mapped] * 2 > named.total():
                partner = self._open(self.family)
                self._hairpin = try_hairpin(self._runtime, mapping, partner, subject, self._ends)
                return

    def _look_again(self, mapping: Inquiry, answered: Iterable[Subject]) -> None:
        scope = self._runtime.scope("second")
        for subject in answered:
            scope.spawn(f"again {subject.name}", subject.meet_again, mapping, self._ends)
            scope.spawn(f"other {subject.name}", subject.meet_alternate, mapping, scope, self._ends)
        scope.join()

    def _try_tcp(self) -> None:
        """All side by side; one answer is enough, and those that are still awaited then end by their own limit."""
        scope = self._runtime.scope("tcp")
        answers = self._runtime.mailbox(len(self.subjects))
        for subject in self.subjects:
            scope.spawn(subject.name, self._ask_over_tcp, subject, answers.put)
        for _ in self.subjects:
            if (name := answers.get()) is not None:
                self._tcp_answers.add(name)
                break
        scope.close()

    def _ask_over_tcp(self, subject: Subject, tell: Callable[[str | None], bool]) -> None:
        try:
            ask_over_tcp(self._runtime, subject.address, min(self._terms.timeout_s, TCP_LIMIT_S, self._left_s()))
        except KodectlError:
            tell(None)
        else:
            tell(subject.name)

    def _try_ipv6(self, _: object) -> None:
        """With the first server that has an IPv6 address: whether that works at all."""
        found = next(((ip, port) for (_host, port), ips in self._ips.items() for ip in ips if ":" in ip), None)
        if found is not None and self._network.source6 is not None:
            answer = self._open(IPV6).exchange(found, ends=self._ends)
            self.ipv6 = self.ipv6._replace(works=answer is not None, mapped=answer.mapped if answer else None)

    def _ask_classic(self, answered: Iterable[Subject]) -> None:
        """Of a server with two addresses, if there is one."""
        found = [(subject, subject.evidence()) for subject in answered]
        subject, seen = min(found, key=lambda pair: pair[1].alternate is not Alternate.VERIFIED)
        other = seen.other if seen.alternate is Alternate.VERIFIED else None
        self.classic = ask_classic(
            self._runtime, subject.name, subject.address, other, self._network.source, self._ends
        )

    def evidence(self) -> Evidence:
        """Without what is not seen here: routers, and the port of the mapping socket."""
        return Evidence(
            own_ips=self._own_ips,
            source_ip=self._network.source if self.family == IPV4 else self._network.source6,
            servers=tuple(subject.evidence() for subject in self.subjects),
            tcp_answers=frozenset(self._tcp_answers),
            hairpin=self._hairpin,
        )

    def _open(self, family: str) -> Inquiry:
        socket = Inquiry(self._runtime, family)
        self._opened.callback(socket.close)
        return socket

    def _left_s(self) -> float:
        return max(0.0, self._ends - self._runtime.now())

    def _side_by_side(self, name: str, jobs: Iterable[tuple[Any, ...]]) -> None:
        """Calls each function with its arguments, and waits until all have returned; each has limits of its own."""
        scope = self._runtime.scope(name)
        for number, (function, *arguments) in enumerate(jobs):
            scope.spawn(str(number), function, *arguments)
        scope.join()
