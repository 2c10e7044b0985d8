"""/api/events: what happened since an event number, waiting for the next one if need be (long poll)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falcon.request import Request
from falcon.response import Response

from kodectl.api.problems import encode
from kodectl.api.requests import Gate, seconds, whole_number

if TYPE_CHECKING:
    from kodectl.node.node import Node

MAX_SEQ = 2**63 - 1
POLL_TIMEOUT_S = 0.0
"""Without `timeout` the answer comes at once, as from any other GET."""
MAX_POLL_TIMEOUT_S = 60.0
PAGE = 500
"""Events in one answer, unless `limit` asks for fewer; some 150 kB."""
MAX_POLLERS = 32
"""Long polls at a time: a quarter of the connections, so that they never shut out other requests."""


class EventsResource:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._pollers = Gate("long polls", MAX_POLLERS)

    def on_get(self, request: Request, response: Response) -> None:
        since = whole_number(request, "since", 0, 0, MAX_SEQ)
        limit = whole_number(request, "limit", PAGE, 1, PAGE)
        timeout_s = seconds(request, "timeout", POLL_TIMEOUT_S, MAX_POLL_TIMEOUT_S)
        with self._pollers.enter():
            response.data = encode(self._node.events.wait(since, timeout_s, limit))
