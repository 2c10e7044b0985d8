"""What a TURN server's refusals mean (RFC 8489, section 14.8; RFC 8656, section 19), and what mends them."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from kodectl.errors import KodectlError, NegativeAnswer, NotAuthorised, PeerFault
from kodectl.wire.addresses import address_text
from kodectl.wire.stun import StunError
from kodectl.wire.stun_attributes import Address


class Refusal(IntEnum):
    TRY_ALTERNATE = 300
    UNAUTHENTICATED = 401
    FORBIDDEN = 403
    ALLOCATION_MISMATCH = 437
    STALE_NONCE = 438
    FAMILY_NOT_SUPPORTED = 440
    WRONG_CREDENTIALS = 441
    TRANSPORT_NOT_SUPPORTED = 442
    FAMILY_MISMATCH = 443
    QUOTA_REACHED = 486
    INSUFFICIENT_CAPACITY = 508


class TurnRefused(PeerFault):
    """The server answered with an error; `number` is STUN's."""

    code = "turn_refused"

    def __init__(self, number: int, message: str, *, code: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, code=code, hint=hint)
        self.number = number


class Meaning(NamedTuple):
    code: str
    what: str
    hint: str


MEANINGS = {
    Refusal.FORBIDDEN: Meaning(
        "turn_forbidden", "does not relay for this user", "ask its operator, or take another server"
    ),
    Refusal.ALLOCATION_MISMATCH: Meaning(
        "turn_mismatch", "holds an older allocation of this socket", "try again from another port, or in ten minutes"
    ),
    Refusal.FAMILY_NOT_SUPPORTED: Meaning(
        "turn_family", "does not relay for this address family", "use the other family"
    ),
    Refusal.TRANSPORT_NOT_SUPPORTED: Meaning("turn_transport", "does not relay UDP", "take another server"),
    Refusal.QUOTA_REACHED: Meaning(
        "turn_quota",
        "has no more allocations for this user",
        "end other connections of the same user, wait ten minutes for those that were left, or raise the server's quota",
    ),
    Refusal.INSUFFICIENT_CAPACITY: Meaning(
        "turn_capacity", "has no relayed address left", "try later, or take another server"
    ),
}


def refusal(error: StunError, server: Address) -> KodectlError:
    """Of an allocation or its refresh."""
    if error.code in (Refusal.UNAUTHENTICATED, Refusal.WRONG_CREDENTIALS):
        return unauthorised(server)
    meaning = MEANINGS.get(Refusal(error.code)) if error.code in set(Refusal) else None
    where = f"the TURN server at {address_text(*server)}"
    if meaning is None:
        return TurnRefused(error.code, f"{where} refused: {error.code} {error.reason}".rstrip())
    return TurnRefused(error.code, f"{where} {meaning.what} ({error.code})", code=meaning.code, hint=meaning.hint)


def unauthorised(server: Address) -> NotAuthorised:
    return NotAuthorised(
        f"the TURN server at {address_text(*server)} does not take this user name and password",
        code="turn_unauthorised",
        hint="check both; credentials of limited duration may have expired",
    )


def credentials_wanted(server: Address) -> NotAuthorised:
    return NotAuthorised(
        f"the TURN server at {address_text(*server)} wants a user name and a password",
        code="turn_unauthorised",
        hint="name it as USER:PASS@HOST:PORT, or turn:USER:PASS@HOST",
    )


def no_answer(server: Address) -> NegativeAnswer:
    return NegativeAnswer(
        f"no answer from the TURN server at {address_text(*server)}",
        code="no_answer",
        hint="check its address and port, and that UDP gets through; over TCP: turn:HOST:PORT?transport=tcp",
    )


def peer_refusal(ip: str, answer: StunError) -> TurnRefused:
    words = f"the TURN server does not relay to {ip}: {answer.code} {answer.reason}".rstrip()
    return TurnRefused(answer.code, words, code="turn_forbidden_peer")
