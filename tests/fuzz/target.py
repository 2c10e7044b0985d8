"""What a target is: a function that takes any bytes, and raises only where something is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from kodectl.errors import WireError

T = TypeVar("T")


class Target(NamedTuple):
    """`run` lets pass what its decoder promises: a value or the documented error. `seeds`: to begin with."""

    name: str
    run: Callable[[bytes], None]
    seeds: Sequence[bytes]


def tried(decode: Callable[..., T], *given: object, errors: tuple[type[Exception], ...] = (WireError,)) -> T | None:
    """The value; None where one of the errors is raised that are promised."""
    try:
        return decode(*given)
    except errors:
        return None


def same(first: object, second: object) -> None:
    """A round trip gives what was there before."""
    if first != second:
        raise AssertionError(f"{first!r:.300} became {second!r:.300}")


def text_of(data: bytes) -> str:
    """As arguments of a command come in: what is no UTF-8 is there as surrogates."""
    return data.decode(errors="surrogateescape")
