"""What a request brings: parameters and bodies, checked and bounded, and how many of a kind run at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl

import msgspec

from kodectl.errors import EnvironmentFault, LocalMisuse

if TYPE_CHECKING:
    import falcon

T = TypeVar("T")

MAX_SMALL_BODY = 16 * 1024
"""Everything but a broadcast: an enode, or a DHT value of 1,000 bytes in base64, with room."""
MAX_PARAMETERS = 16
"""In one query; no route has half as many."""
MAX_DIGITS = 20
"""Of a whole number: every one of 64 bits, and none that takes long to convert."""


class Parameter(NamedTuple):
    """A query parameter: what its text becomes, what it is when left out, and how it is described."""

    name: str
    parse: Callable[[str], Any]
    """Raises LocalMisuse."""
    default: Any
    schema: Mapping[str, Any]
    """JSON Schema of the text as a value."""
    description: str


def one_of(name: str, allowed: tuple[str, ...], description: str) -> Parameter:
    """A word out of a list; None when left out."""

    def parse(text: str) -> str:
        if text not in allowed:
            raise LocalMisuse(f"{name} is one of {', '.join(allowed)}, not {text!r}")
        return text

    return Parameter(name, parse, None, {"type": "string", "enum": list(allowed)}, description)


def whole_number(name: str, default: int, low: int, high: int, description: str) -> Parameter:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS and low <= int(text) <= high):
            raise LocalMisuse(f"{name} is a whole number from {low} to {high}, not {text!r}")
        return int(text)

    schema = {"type": "integer", "minimum": low, "maximum": high, "default": default}
    return Parameter(name, parse, default, schema, description)


def seconds(name: str, default: float, high: float, description: str) -> Parameter:
    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        # Written so that NaN, which is not at least anything, is refused too.
        if not 0 <= number <= high:
            raise LocalMisuse(f"{name} is a number of seconds from 0 to {high:g}, not {text!r}")
        return number

    schema = {"type": "number", "minimum": 0, "maximum": high, "default": default}
    return Parameter(name, parse, default, schema, description)


def read_query(query: str, parameters: tuple[Parameter, ...]) -> dict[str, Any]:
    """The value of every parameter. Raises LocalMisuse (usage) for one that does not exist or is given twice."""
    values = {parameter.name: parameter.default for parameter in parameters}
    if not query:
        return values
    known = {parameter.name: parameter for parameter in parameters}
    try:
        given = parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
    except ValueError as error:
        raise LocalMisuse(f"more than {MAX_PARAMETERS} query parameters") from error
    for name, text in given:
        parameter = known.pop(name, None)
        if parameter is None:
            raise LocalMisuse(_unknown(name, parameters))
        values[name] = parameter.parse(text)
    return values


def _unknown(name: str, parameters: tuple[Parameter, ...]) -> str:
    names = [parameter.name for parameter in parameters]
    if name in names:
        return f"the parameter {name} is given twice"
    return f"there is no parameter {name!r} here; there {'is ' + ', '.join(names) if names else 'are none'}"


def has_body(environ: Mapping[str, Any]) -> bool:
    return environ.get("CONTENT_LENGTH", "0").strip("0") != "" or "HTTP_TRANSFER_ENCODING" in environ


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
