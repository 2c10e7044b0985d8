"""What a route is: one declaration that registers it, checks what requests bring, and describes it.

A route is added as a value to the `ROUTES` of the module that answers it:

    def peers(service: Service, call: Call) -> PeersView:
        '''The connected peers.'''              # the first sentence is the summary in /openapi.json
        return service.node.peers(call.query["sort"])

    ROUTES = (Route("GET", "/api/network/peers", peers, {200: PeersView}, query=(one_of("sort", SORTS, "Order."),)),)

Query and body are checked before the function is called: a parameter that is not declared, or a field of the body that
its Struct does not have, is refused. An answer that is no JSON is written to `call.response` by the function, which then
returns None, and its type is a `Media`.
"""

from __future__ import annotations

import inspect
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from kodectl.api.counting import Answered
from kodectl.api.kept import Kept
from kodectl.api.problems import encode
from kodectl.api.requests import MAX_SMALL_BODY, Gate, Parameter, read_json, read_query
from kodectl.api.subscriptions import Subscriptions

if TYPE_CHECKING:
    import falcon

    from kodectl.node.node import Node


class Limit(NamedTuple):
    """How many requests of one kind run at a time."""

    what: str
    most: int
    covers_body: bool = False
    """Counted from before the body is read: it is large."""


class Media(NamedTuple):
    """An answer that is not JSON."""

    media_type: str
    description: str


class Service:
    """What the routes have of the process that they answer for. `stop` asks it to leave; it does not wait."""

    def __init__(self, node: Node, stop: Callable[[], None]) -> None:
        self.node = node
        self.stop = stop
        self.subscriptions = Subscriptions()
        self.answered: Answered = Counter()
        self.orders = 0
        """How many requests that may have changed something have been answered."""
        self._gates: dict[Limit, Gate] = {}

    def state(self) -> tuple[int, int]:
        """Another one whenever something has happened that views show at once; traffic and times are no such thing."""
        return self.node.events.news, self.orders

    def gate(self, limit: Limit) -> Gate:
        """The same for all routes that share `limit`."""
        return self._gates.setdefault(limit, Gate(limit.what, limit.most))


class Call(NamedTuple):
    """One request, after the checks: `path`, `query` and `body` hold what the route declares."""

    request: falcon.Request
    response: falcon.Response
    path: Mapping[str, str]
    query: Mapping[str, Any]
    body: Any


@dataclass(frozen=True)
class Route:
    """`answers`: the type of the answer by HTTP status; the first is the usual one, and the function sets another one
    itself. `problems`: the codes that this route alone answers, by status; those of every route are in
    `kodectl.api.openapi`."""

    method: str
    path: str
    answer: Callable[[Service, Call], object]
    answers: Mapping[int, Any]
    query: tuple[Parameter, ...] = ()
    body: Any = None
    body_limit: int = MAX_SMALL_BODY
    problems: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    limit: Limit | None = None
    """How many of its kind run at a time; one more is answered 503 `busy`."""
    needs_token: bool = True
    """Where the API asks for one at all. One that is given must be right, be it needed or not."""
    is_kept: bool = False
    """Its answer holds for a moment, for all who ask the same (`kodectl.api.kept`)."""


def told(route: Route) -> tuple[str, str]:
    """The first sentence of the function's docstring, and the rest."""
    text = " ".join(inspect.cleandoc(route.answer.__doc__ or "").split())
    match = re.match(r"(.+?\.)(?:\s+(.*))?$", text)
    return (match[1], match[2] or "") if match else (text, "")


def add_routes(app: falcon.App, routes: Iterable[Route], service: Service) -> None:
    by_path: dict[str, SimpleNamespace] = {}
    for route in routes:
        resource = by_path.setdefault(route.path, SimpleNamespace())
        setattr(resource, f"on_{route.method.lower()}", respond := responder(route, service))
        if route.method == "GET":
            resource.on_head = respond  # RFC 9110, section 9.3.2; falcon leaves the body out.
    for path, resource in by_path.items():
        app.add_route(path, resource)


def responder(route: Route, service: Service) -> Callable[..., None]:
    """What falcon calls for one method of one path."""
    status = next(iter(route.answers))
    if route.is_kept:
        return _kept_responder(route, service)
    around_all, around_answer = _gates(route.limit, service)
    is_order = route.method != "GET"

    def respond(request: falcon.Request, response: falcon.Response, **path: str) -> None:
        query = read_query(request.query_string, route.query)
        with around_all():
            body = None if route.body is None else read_json(request, route.body, route.body_limit)
            response.status = status
            try:
                with around_answer():
                    answer = route.answer(service, Call(request, response, path, query, body))
            finally:
                service.orders += is_order
            if answer is not None:
                response.data = encode(answer)

    return respond


def _kept_responder(route: Route, service: Service) -> Callable[..., None]:
    """For what has neither a body nor a limit: that is what views are."""
    status = next(iter(route.answers))
    kept = Kept()

    def respond(request: falcon.Request, response: falcon.Response, **path: str) -> None:
        query = read_query(request.query_string, route.query)
        state, now = (service.state(), *path.values(), *query.values()), time.monotonic()
        answer = kept.get(state, now)
        if answer is None:
            answer = encode(route.answer(service, Call(request, response, path, query, None)))
            kept.put(state, now, answer)
        response.status = status
        response.data = answer

    return respond


def _gates(limit: Limit | None, service: Service) -> tuple[Callable[[], AbstractContextManager[None]], ...]:
    """What the reading of the body with the answer goes through, and what the answer alone does."""
    if limit is None:
        return nullcontext, nullcontext
    enter = service.gate(limit).enter
    return (enter, nullcontext) if limit.covers_body else (nullcontext, enter)
