"""When to publish where this node can be asked for: soon after it changes, not with every change, and before it expires."""

from __future__ import annotations

from typing import NamedTuple

from kodectl.wire.contacts import Contact

Contacts = tuple[Contact, ...]

ENOUGH = 3
"""Rendezvous nodes with which it is worth publishing at once."""
SETTLE_S = 2.0
"""For more changes to come: links are made and lost several at a time, and each publication costs some 40 messages."""
LIFETIME_S = 3600.0
"""Of a record: who has died is not sought for longer."""
REFRESH_S = LIFETIME_S / 2
RETRY_S = 2.0
RETRY_CAP_S = 60.0
WITHDRAW_AFTER_S = 30.0
"""Of not being needed: what is known of the NAT may waver."""
WITHDRAWN_LIFETIME_S = REFRESH_S
"""Of the record that says "nowhere": as long as the last one that says more may be held somewhere."""


class Publication(NamedTuple):
    contacts: Contacts
    lifetime_s: float


class Publisher:
    """Decides; whoever publishes says what came of it by `done` or `failed`. `told`: what the last record says."""

    def __init__(self) -> None:
        self.told: Contacts = ()
        self._wanted: Contacts = ()
        self._due_at: float | None = None
        self._refresh_at = float("inf")
        self._failures = 0

    def want(self, contacts: Contacts, *, is_needed: bool, now: float) -> None:
        """`contacts` in an order that does not change by itself. While it is needed, none is nothing to tell: there is
        nobody to publish through either."""
        wanted = contacts if is_needed else ()
        if wanted == self._wanted:
            return
        self._wanted = wanted
        if wanted == self.told or (is_needed and not wanted):
            self._due_at = None
            return
        self._due_at = now + self._pause_s(is_needed)

    def _pause_s(self, is_needed: bool) -> float:
        if not is_needed:
            return WITHDRAW_AFTER_S
        return 0.0 if not self.told and len(self._wanted) >= ENOUGH else SETTLE_S

    def due(self, now: float) -> Publication | None:
        deadline = self.next_deadline()
        if deadline is None or now < deadline:
            return None
        return Publication(self._wanted, LIFETIME_S if self._wanted else WITHDRAWN_LIFETIME_S)

    def next_deadline(self) -> float | None:
        refresh_at = self._refresh_at if self._wanted else float("inf")
        deadline = min(self._due_at if self._due_at is not None else float("inf"), refresh_at)
        return deadline if deadline < float("inf") else None

    def done(self, publication: Publication, now: float) -> None:
        """`want` may have been called meanwhile."""
        self.told = publication.contacts
        self._failures = 0
        self._refresh_at = now + REFRESH_S if publication.contacts else float("inf")
        if self._wanted == self.told:
            self._due_at = None

    def failed(self, now: float) -> None:
        self._due_at = now + min(RETRY_CAP_S, RETRY_S * 2.0**self._failures)
        self._refresh_at = float("inf")
        self._failures = min(self._failures + 1, 8)
