"""Limits of relaying, as they are typed."""

from __future__ import annotations

QUOTAS = {
    "allocations": "allocations",
    "user": "user_allocations",
    "network": "network_allocations",
    "bytes": "bytes_per_s",
    "packets": "packets_per_s",
    "total-bytes": "total_bytes_per_s",
    "total-packets": "total_packets_per_s",
}
"""By what they are called: the fields of RelayLimits."""
MAX_DIGITS = 15
"""A petabyte."""


def parse_quota(text: str) -> tuple[str, int]:
    """NAME=NUMBER, to a field of RelayLimits and its value. Raises ValueError."""
    name, _, number = text.partition("=")
    if name not in QUOTAS or not (number.isascii() and number.isdigit()) or len(number) > MAX_DIGITS or not int(number):
        raise ValueError(f"NAME=NUMBER, with one of {', '.join(QUOTAS)}")
    return QUOTAS[name], int(number)


def check_relay(text: str) -> str:
    """The text itself, if `parse_relay` reads it. Raises ValueError."""
    parse_relay(text)
    return text


def parse_relay(text: str) -> tuple[tuple[str, int], ...] | None:
    """on, off, or limits: None is off, and what is not named keeps its default. Raises ValueError."""
    if text == "off":
        return None
    if text == "on":
        return ()
    try:
        return tuple(parse_quota(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"on, off, or limits as {error}, between commas") from error
