"""One server of a probe: what it was asked, and what it said."""

from __future__ import annotations

from kodectl.core.nat_observations import Alternate, Aside, Claim, FilterTest, ServerEvidence, fits, is_kin
from kodectl.core.silence import NOTHING_MEASURED
from kodectl.core.stun_transactions import BindingAnswer
from kodectl.node.filter_trial import BOTH, PORT, FilterResult, FilterTrial
from kodectl.node.inquiry import Inquiry
from kodectl.runtime.base import Address, Runtime, Scope
from kodectl.wire.stun import Change

ALTERNATE_SENDINGS = 8
"""To an address that a server names, until it has proved to be the server's. Fewer than to one that the user names: it may be
somebody's who has nothing to do with this. Where 20 % are lost each way, all are with a chance of 3e-4."""


class Subject:
    """The methods are the steps of the probe; each waits, at most until the time `ends`.

    `meet`, `meet_aside` and `try_filter` come first, and only when they are over for every server may `meet_alternate` send
    to what a server names (rule 5 of `core.nat_evidence`)."""

    def __init__(self, runtime: Runtime, name: str, address: Address, own_ips: frozenset[str]) -> None:
        self.name = name
        self.address = address
        self.software: str | None = None
        self.rtt_s: float | None = None
        self._runtime = runtime
        self._own_ips = own_ips
        self._claims: list[Claim] = []
        self._aside: Aside | None = None
        self._others: set[Address] = set()
        self._alternate = Alternate.NONE
        self._filter: FilterResult | None = None
        self._kept: dict[Change, bool | None] = {BOTH: None, PORT: None}

    @property
    def has_answered(self) -> bool:
        return bool(self._claims or self._aside)

    @property
    def mapped(self) -> Address | None:
        return self._claims[0].mapped if self._claims else None

    @property
    def names_several(self) -> bool:
        """Other addresses: each of its answers has another."""
        return len(self._others) > 1

    @property
    def other(self) -> Address | None:
        """The one that it names, every time, and that may be asked."""
        other = next(iter(self._others)) if len(self._others) == 1 else None
        return other if other is not None and fits(other, self.address, self._own_ips) else None

    def meet(self, mapping: Inquiry, ends: float) -> None:
        """The first question from the mapping socket."""
        answer = mapping.exchange(self.address, ends=ends)
        if answer is not None:
            self._heard(answer)
            self._claims.append(Claim(self.address, answer.mapped))

    def meet_aside(self, aside: Inquiry, ends: float) -> None:
        """The first question from a socket that nobody else is asked from."""
        answer = aside.exchange(self.address, ends=ends)
        if answer is not None:
            self._heard(answer)
            self._aside = Aside(aside.local_port, answer.mapped)

    def try_filter(self, aside: Inquiry, ends: float) -> None:
        if self._aside is None or not self._others:
            return
        self._alternate = Alternate.NOT_ASKED if self.other is not None else Alternate.UNFIT
        if self.other is not None:
            self._filter = FilterTrial(self._runtime, aside, self.address).run(ends)
            if self._filter is None:
                self._alternate = Alternate.NONE

    def meet_again(self, mapping: Inquiry, ends: float) -> None:
        """Twice. Who says something else cannot be believed the first time; who says three things makes them up."""
        for _ in range(2):
            answer = mapping.exchange(self.address, ends=ends)
            if answer is None:
                return
            self._heard(answer)
            self._claims.append(Claim(self.address, answer.mapped))

    def meet_alternate(self, mapping: Inquiry, scope: Scope, ends: float) -> None:
        """Asks the other address whether it is the server's; if so, what it and the server's other port see."""
        other = self.other
        if self._alternate is not Alternate.NOT_ASKED or other is None:
            return
        answer = mapping.exchange(other, ends=ends, sendings=ALTERNATE_SENDINGS)
        if answer is None:
            self._alternate = Alternate.SILENT if self._runtime.now() < ends else Alternate.NOT_ASKED
            return
        if not is_kin(other, answer.origin, answer.other, self.address):
            self._alternate = Alternate.INCONSISTENT
            return
        self._alternate = Alternate.VERIFIED
        self._claims.append(Claim(other, answer.mapped))
        # One after the other without a pause: the NAT gives them ports that follow each other, if it does so at all.
        for endpoint in ((other[0], self.address[1]), (self.address[0], other[1])):
            scope.spawn(f"ask {endpoint[0]}", self._meet_place, mapping, endpoint, ends)
        if answer.mapped == self.mapped:
            for change in (BOTH, PORT):
                scope.spawn(f"hold {self.name} to it", self._hold_to_it, mapping, change, ends)

    def _meet_place(self, mapping: Inquiry, endpoint: Address, ends: float) -> None:
        answer = mapping.exchange(endpoint, ends=ends)
        if answer is not None:
            self._claims.append(Claim(endpoint, answer.mapped))

    def _hold_to_it(self, mapping: Inquiry, change: Change, ends: float) -> None:
        """Whether it answers from elsewhere where that gets through, because the mapping socket has sent there."""
        test = self._filter and (self._filter.both if change == BOTH else self._filter.port)
        if test is None or test.sources:
            return
        answer = mapping.exchange(self.address, change, ends=ends)
        if answer is not None:
            changed = answer.source[0] != self.address[0] if change == BOTH else answer.source[1] != self.address[1]
            self._kept[change] = changed
        elif self._runtime.now() < ends:
            self._kept[change] = False

    def _heard(self, answer: BindingAnswer) -> None:
        self.software = self.software or answer.software
        self.rtt_s = answer.rtt_s if self.rtt_s is None else min(self.rtt_s, answer.rtt_s)
        if answer.other is not None:
            self._others.add(answer.other)

    def evidence(self) -> ServerEvidence:
        result = self._filter
        return ServerEvidence(
            name=self.name,
            address=self.address,
            claims=tuple(self._claims),
            aside=self._aside,
            alternate=self._alternate,
            other=min(self._others) if self._others else None,
            control=result.control if result else NOTHING_MEASURED,
            changed_both=result and self._with_kept(result.both, BOTH),
            changed_port=result and self._with_kept(result.port, PORT),
        )

    def _with_kept(self, test: FilterTest, change: Change) -> FilterTest:
        return FilterTest(test.sources, test.unanswered, self._kept[change])
