"""What the peer's requests are answered: by whom they are for, what proves them, and who of the two controls."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kodectl.core.ice.checks import Credentials, Role
from kodectl.core.ice.requests import ROLE_CONFLICT, Requested, answer, is_for, read_request, refusal
from kodectl.wire.candidates import Address
from kodectl.wire.stun import Message


class Answered(NamedTuple):
    """`requested`: what more is to follow from it; None where nothing is."""

    reply: bytes | None
    requested: Requested | None = None


class Answering:
    """Knows the credentials of now, and those of before a restart: the peer may not have heard of it yet, and the paths
    there are go by them."""

    def __init__(self, role: Role, credentials: Credentials, random_bytes: Callable[[int], bytes]) -> None:
        self.role = role
        self.credentials = credentials
        self._former: Credentials | None = None
        self._random_bytes = random_bytes

    def restart(self, credentials: Credentials, *, is_used: bool) -> None:
        """`is_used`: something has come of the credentials of now. Else those of before are what the paths go by."""
        if self._former is None or is_used:
            self._former = self.credentials
        self.credentials = credentials

    def forget_former(self) -> None:
        self._former = None

    def is_named(self, ufrag: str) -> bool:
        return ufrag == self.credentials.ufrag or (self._former is not None and ufrag == self._former.ufrag)

    def take(self, data: bytes, message: Message, sender: Address) -> Answered:
        """A request as it came; it may change the role."""
        if self._former is not None and is_for(message, self._former):
            return self._take_former(data, message, sender, self._former)
        requested = read_request(data, message, self.credentials)
        if not isinstance(requested, Requested):
            return Answered(requested)
        if not self._agrees_on_roles(requested):
            return Answered(refusal(message, ROLE_CONFLICT, "Role Conflict", self.credentials))
        return Answered(answer(message, sender, self.credentials), requested)

    def turn(self, is_controlling: bool, *, new_tie_breaker: bool = False) -> None:
        tie_breaker = int.from_bytes(self._random_bytes(8)) if new_tie_breaker else self.role.tie_breaker
        self.role = Role(is_controlling, tie_breaker)

    @staticmethod
    def _take_former(data: bytes, message: Message, sender: Address, former: Credentials) -> Answered:
        """It asks for consent, or whether a path is alive."""
        requested = read_request(data, message, former)
        return Answered(answer(message, sender, former) if isinstance(requested, Requested) else requested)

    def _agrees_on_roles(self, requested: Requested) -> bool:
        """RFC 8445, section 7.3.1.1; false: the peer has to change its role."""
        theirs = requested.role
        if theirs is None or theirs.is_controlling != self.role.is_controlling:
            return True
        is_ours = self.role.tie_breaker >= theirs.tie_breaker
        if is_ours == self.role.is_controlling:
            return False
        self.turn(is_ours)
        return True
