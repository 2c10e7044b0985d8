"""/api/events: what happened since an event number, waiting for the next one if need be (long poll)."""

from __future__ import annotations

from kodectl.api.requests import seconds, whole_number
from kodectl.api.routing import Call, Limit, Route, Service
from kodectl.node.views import EventsView

MAX_SEQ = 2**63 - 1
POLL_TIMEOUT_S = 0.0
"""Without `timeout` the answer comes at once, as from any other GET."""
MAX_POLL_TIMEOUT_S = 60.0
PAGE = 500
"""Events in one answer, unless `limit` asks for fewer; some 150 kB."""
POLLS = Limit("long polls", 32)
"""A quarter of the connections, so that they never shut out other requests."""


def events(service: Service, call: Call) -> EventsView:
    """What happened after an event number. With a timeout it waits for the first one."""
    query = call.query
    return service.node.events.wait(query["since"], query["timeout"], query["limit"])


ROUTES = (
    Route(
        "GET",
        "/api/events",
        events,
        {200: EventsView},
        query=(
            whole_number("since", 0, 0, MAX_SEQ, "The number of the last event that is known; go on with `next`."),
            whole_number("limit", PAGE, 1, PAGE, "How many events at most."),
            seconds("timeout", POLL_TIMEOUT_S, MAX_POLL_TIMEOUT_S, "How long to wait for the first one."),
        ),
        limit=POLLS,
    ),
)
