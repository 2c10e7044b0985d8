"""The candidates of both sides, as far as they are known: told, seen by servers, or found by a check."""

from __future__ import annotations

from collections.abc import Iterator

from kodectl.core.ice.checks import Check
from kodectl.core.ice.local import COMPONENT, Base, LocalCandidate
from kodectl.core.ice.pairs import CheckList
from kodectl.core.ice.requests import Requested
from kodectl.wire.candidates import UDP, Address, Candidate, CandidateType

MAX_REMOTES = 64
"""Candidates of the peer, told or found; with more, the limit of pairs has long been met."""


class CandidateBook:
    def __init__(self) -> None:
        self.locals: list[LocalCandidate] = []
        self._remotes: dict[Address, Candidate] = {}
        self._connections: dict[Base, Candidate] = {}
        """Bases that reach nobody but this one. They are no remote candidates: no other base reaches them."""

    @property
    def remotes(self) -> tuple[Candidate, ...]:
        return tuple(self._remotes.values())

    @property
    def connections(self) -> Iterator[tuple[LocalCandidate, Candidate]]:
        for base, remote in self._connections.items():
            local = self.based_at(base)
            if local is not None:
                yield local, remote

    # This side's

    def add_local(self, local: LocalCandidate) -> bool:
        """False for one that is there already, by its base and address (RFC 8445, section 5.1.3)."""
        if self._local_at(local.base, local.candidate.address) is not None:
            return False
        self.locals.append(local)
        return True

    def connect(self, local: LocalCandidate, remote: Candidate) -> None:
        self.add_local(local)
        self._connections[local.base] = remote

    def forget(self, base: Base, address: Address | None = None) -> None:
        """The base is gone, or one of its addresses."""
        self.locals = [
            local
            for local in self.locals
            if local.base is not base or (address is not None and local.candidate.address != address)
        ]
        if address is None:
            self._connections.pop(base, None)

    @property
    def based(self) -> list[LocalCandidate]:
        """What is paired: of each base its own candidate where there is one, which stands for the reflexive ones."""
        return sorted(self.locals, key=lambda local: local.candidate.address != local.base.address)

    def based_at(self, base: Base) -> LocalCandidate | None:
        return next((local for local in self.based if local.base is base), None)

    def seen_as(self, check: Check, mapped: Address) -> LocalCandidate:
        """The candidate at `mapped`, which may be a new one: peer-reflexive (section 7.2.5.3.1)."""
        known = self._local_at(check.base, mapped)
        if known is not None:
            return known
        based = check.pair.local.candidate
        foundation = f"p{based.foundation}"[:32]
        kind = CandidateType.PEER_REFLEXIVE
        found = Candidate(foundation, COMPONENT, based.transport, check.priority, mapped, kind, check.base.address)
        return LocalCandidate(found, check.base)

    def _local_at(self, base: Base, address: Address) -> LocalCandidate | None:
        for local in self.locals:
            if local.base is base and local.candidate.address == address:
                return local
        return None

    # The peer's

    def learn(self, candidate: Candidate, pairs: CheckList) -> None:
        """Told by the peer; pairs it. What was only known from a check is known better now."""
        known = self._remotes.get(candidate.address)
        if not candidate.is_usable or (known is None and len(self._remotes) >= MAX_REMOTES):
            return
        if known is not None and known.type is not CandidateType.PEER_REFLEXIVE:
            return
        self._remotes[candidate.address] = candidate
        if known is not None:
            pairs.told(candidate)
        pairs.form(self.based, [candidate])

    def sender_of(self, requested: Requested, local: LocalCandidate, sender: Address) -> Candidate | None:
        """The candidate that a request comes from, which nobody may have told of; None where there is no room for it."""
        if local.base in self._connections:
            return self._connections[local.base]
        known = self._remotes.get(sender)
        if known is not None:
            return known
        if requested.priority is None or len(self._remotes) >= MAX_REMOTES:
            return None
        # Any foundation that no other candidate has (section 7.3.1.3).
        foundation = f"p{len(self._remotes)}"
        found = Candidate(foundation, COMPONENT, UDP, requested.priority, sender, CandidateType.PEER_REFLEXIVE)
        if not found.is_usable:
            return None
        self._remotes[sender] = found
        return found

    def forget_remotes(self) -> None:
        self._remotes.clear()
