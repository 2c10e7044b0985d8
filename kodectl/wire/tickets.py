"""One side of an ICE session as one line, to be carried to the other side by people or programs.

{"ufrag": "...", "pwd": "...", "candidates": ["candidate:...", ...]}         and for people the same in base64url
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from kodectl.errors import WireError
from kodectl.wire.candidates import Candidate, decode_candidate, encode_candidate, require_credentials

MAX_TICKET = 65_536
"""Characters; a hundred candidates have some ten thousand."""
MAX_CANDIDATES = 100
"""More make more pairs than ICE checks; the rest is left off."""


class Ticket(NamedTuple):
    ufrag: str
    password: str
    candidates: tuple[Candidate, ...]


def ticket_object(ufrag: str, password: str, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """What is written as JSON."""
    return {"ufrag": ufrag, "pwd": password, "candidates": [encode_candidate(candidate) for candidate in candidates]}


def encode_ticket(ufrag: str, password: str, candidates: Sequence[Candidate]) -> str:
    """For people: letters, digits, - and _."""
    packed = json.dumps(ticket_object(ufrag, password, candidates), separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def decode_ticket(text: str) -> Ticket:
    """From either form. A candidate that does not read is passed over: others may do. Raises WireError."""
    if len(text) > MAX_TICKET:
        raise WireError(f"ticket of more than {MAX_TICKET} characters", code="ticket_malformed")
    try:
        found = json.loads(text if text.lstrip().startswith("{") else _unpacked(text.strip()))
    except (ValueError, RecursionError) as error:
        raise WireError("a ticket is a line of `kodectl nat punch`, or JSON", code="ticket_malformed") from error
    if not isinstance(found, dict):
        raise WireError("a ticket is a JSON object", code="ticket_malformed")
    ufrag, password, lines = found.get("ufrag"), found.get("pwd"), found.get("candidates")
    if not (isinstance(ufrag, str) and isinstance(password, str) and isinstance(lines, list)):
        raise WireError("a ticket has the texts ufrag and pwd, and the list candidates", code="ticket_malformed")
    try:
        require_credentials(ufrag, password)
    except WireError as error:
        raise WireError(error.message, code="ticket_malformed") from error
    return Ticket(ufrag, password, tuple(_readable(lines[:MAX_CANDIDATES])))


def _unpacked(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise ValueError from error


def _readable(lines: list[Any]) -> list[Candidate]:
    candidates = []
    for line in lines:
        try:
            candidates.append(decode_candidate(line if isinstance(line, str) else ""))
        except WireError:
            continue
    return candidates
