"""What a request brings: parameters and bodies, checked and bounded, and how many of a kind run at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import falcon
import msgspec

from kodectl.errors import EnvironmentFault, LocalMisuse

T = TypeVar("T")

MAX_SMALL_BODY = 16 * 1024
"""Everything but a broadcast: an enode, or a DHT value of 1,000 bytes in base64, with room."""


def read_json(request: falcon.Request, shape: type[T], limit: int = MAX_SMALL_BODY) -> T:
    """The body decoded into `shape`. Raises LocalMisuse (body_too_large, malformed_body, incomplete_body)."""
    body = read_body(request, limit)
    try:
        return msgspec.json.decode(body or b"{}", type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LocalMisuse(f"the body: {_plain(str(error))}", code="malformed_body") from error


def read_body(request: falcon.Request, limit: int) -> bytes:
    """The bytes of the body; one that is announced as larger than `limit` is left unread."""
    announced = request.content_length or 0
    if announced > limit:
        raise too_large(limit)
    try:
        # Over a chunked body one byte more than allowed tells that there is more; the rest stays unread.
        body: bytes = request.env["wsgi.input"].read(limit + 1)
    except OSError as error:
        raise LocalMisuse("the body ended early or its chunks are malformed", code="incomplete_body") from error
    if len(body) > limit:
        raise too_large(limit)
    return body


def too_large(limit: int) -> LocalMisuse:
    return LocalMisuse(f"the body may have at most {limit} bytes here", code="body_too_large")


def _plain(message: str) -> str:
    """msgspec's message without the decoder's own words for the place."""
    return message.replace(" - at `$", " at `").replace("`.", "`")


def one_of(request: falcon.Request, name: str, allowed: tuple[str, ...]) -> str | None:
    """A query parameter out of a list."""
    value: str | None = request.get_param(name)
    if value is not None and value not in allowed:
        raise LocalMisuse(f"{name} is one of {', '.join(allowed)}, not {value!r}")
    return value


def whole_number(request: falcon.Request, name: str, default: int, low: int, high: int) -> int:
    text = request.get_param(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and low <= int(text) <= high):
        raise LocalMisuse(f"{name} is a whole number from {low} to {high}, not {text!r}")
    return int(text)


def seconds(request: falcon.Request, name: str, default: float, high: float) -> float:
    text = request.get_param(name)
    return default if text is None else check_seconds(text, name, high)


def check_seconds(value: str | float, name: str, high: float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    # Written so that NaN, which is not at least anything, is refused too.
    if not 0 <= number <= high:
        raise LocalMisuse(f"{name} is a number of seconds from 0 to {high:g}, not {value!r}")
    return number


class Gate:
    """At most `limit` requests of one kind at a time; one more is refused at once instead of queued."""

    def __init__(self, what: str, limit: int) -> None:
        self._what = what
        self._limit = limit
        self._inside = 0

    @contextmanager
    def enter(self) -> Iterator[None]:
        if self._inside >= self._limit:
            raise EnvironmentFault(
                f"the node serves {self._limit} {self._what} at a time already", code="busy", hint="try again shortly"
            )
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
